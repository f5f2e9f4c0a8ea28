"""Which kind a source becomes: chosen once for all whose names tell the same, but for files that were looked into."""

from __future__ import annotations

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


def test_files_in_chunks_share_a_kind_whatever_they_are_called() -> None:
    chooser = _chooser(Policy(default="static:///k.json#pii", mode="chunks"))
    kinds = [chooser.choose(Location(f"raw/{name}"), None) for name in ("a", "b", "c.bin", "d.bin")]
    assert isinstance(kinds[0], BlobEncryption)
    assert kinds[0] is kinds[1]
    assert kinds[2] is kinds[3]
