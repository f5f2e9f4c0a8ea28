"""Which kind a source becomes: chosen once for all whose names tell the same, but for files that were looked into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.kinds.encrypt import Encryption
from pipecrypt.runs.kinds.ingest import Ingestion
from pipecrypt.runs.kinds.table import KindChooser
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location


def _chooser(policy: Policy) -> KindChooser:
    return KindChooser(EncryptSpec(source=Location("raw"), sink=Location("out"), policy=policy))


def test_sources_whose_names_tell_the_same_share_a_kind(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"PAR1")
    (tmp_path / "rows").write_bytes(b"ARROW1")
    chooser = _chooser(Policy(default="static:///k.json#pii"))

    tables = [chooser.choose(Location(f"raw/{name}"), None) for name in ("a.parquet", "x/b.parquet")]
    texts = [chooser.choose(Location(f"raw/{name}"), None) for name in ("a.tsv", "b.tsv", "b.tsv.gz", ".tsv.csv")]
    found = [chooser.choose(Location(str(tmp_path / name)), None) for name in ("table", "rows")]

    assert tables[0] is tables[1]
    assert isinstance(tables[0], Encryption)
    assert texts[0] is texts[1]
    assert [each.reading.compression.value for each in texts if isinstance(each, Ingestion)] == ["none"] * 2 + [
        "gzip",
        "none",
    ]
    assert [each.reading.options.csv.delimiter for each in texts if isinstance(each, Ingestion)] == ["\t"] * 3 + [None]
    assert [type(each) for each in found] == [Encryption, Ingestion]


def test_a_source_whose_size_tells_nothing_of_its_rows_is_reckoned_as_a_large_one() -> None:
    policy = Policy(default="static:///k.json#pii")
    chooser, few = _chooser(policy), _chooser(replace(policy, batch_rows=1000))
    small, large = 1 << 20, 1 << 40
    most = chooser.choose(Location("raw/a.csv"), None).memory_bytes(large)
    assert 200 << 20 < most < 400 << 20
    for name in ("a.csv.gz", "a.json.zst", "a.arrow", "a.orc"):
        assert chooser.choose(Location(f"raw/{name}"), None).memory_bytes(small) == most
    text = chooser.choose(Location("raw/a.csv"), None)
    assert 8 * small < text.memory_bytes(small) < most
    assert few.choose(Location("raw/a.csv.gz"), None).memory_bytes(small) < most // 2
    assert chooser.choose(Location("raw/a.parquet"), None).memory_bytes(large) < most


def test_compressed_chunks_are_reckoned_with_the_row_groups_they_are_built_in() -> None:
    policy = Policy(default="static:///k.json#pii", mode="chunks", chunk_bytes=1 << 20)
    choosers = (_chooser(replace(policy, compression=each)) for each in ("none", "zstd"))
    plain, built = (chooser.choose(Location("a"), None) for chooser in choosers)
    assert built.memory_bytes(1 << 40) - plain.memory_bytes(1 << 40) == 128 << 20
    assert built.memory_bytes(1000) == plain.memory_bytes(1000) + 1000


def test_files_in_chunks_share_a_kind_whatever_they_are_called() -> None:
    chooser = _chooser(Policy(default="static:///k.json#pii", mode="chunks"))
    kinds = [chooser.choose(Location(f"raw/{name}"), None) for name in ("a", "b", "c.bin", "d.bin")]
    assert isinstance(kinds[0], BlobEncryption)
    assert kinds[0] is kinds[1]
    assert kinds[2] is kinds[3]
