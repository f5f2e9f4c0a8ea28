"""Sources that are no Parquet become encrypted Parquet: equal to pyarrow's own reading, whole or not there."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import (
    BadRowError,
    ColumnNotFoundError,
    ConflictError,
    FormatError,
    KeyServiceError,
    PolicyError,
    SinkNotEmptyError,
    UsageError,
)
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.reading.pyarrow_keys import decryption_properties
from pipecrypt.runs.files import decrypt, encrypt
from pipecrypt.runs.output import numbered, unnumbered
from pipecrypt.runs.report.events import BytesDone, Event, FileDone
from pipecrypt.runs.spec.options import Reading
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.writer import encrypt_batches
from pipecrypt.vocabulary.ranges import MemorySource
from tests.runs.conftest import World, own_threads

CSV = "id,email,price\n" + "".join(f"{row},user{row}@example.org,{row / 4}\n" for row in range(1000))


def read(path: Path, world: World) -> pa.Table:
    return pq.read_table(path, decryption_properties=decryption_properties([world.key], credentials=world.credentials))


def write_sources(directory: Path) -> pa.Table:
    directory.mkdir(parents=True)
    table = pa.csv.read_csv(io.BytesIO(CSV.encode()))
    (directory / "a.csv").write_text(CSV)
    (directory / "b.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    pa.feather.write_feather(table, directory / "c.feather")
    with pa.OSFile(str(directory / "d.arrows"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=99)
    pa.orc.write_table(table, directory / "e.orc")
    (directory / "f.jsonl").write_text("".join(pa_json(row) + "\n" for row in table.to_pylist()))
    pq.write_table(table, directory / "g.parquet")
    (directory / "README.md").write_text("not a table")
    return table


def pa_json(row: dict[str, object]) -> str:
    return "{" + ", ".join(f'"{name}": {value!r}'.replace("'", '"') for name, value in row.items()) + "}"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_directory_of_every_format(world: World, workers: int) -> None:
    source = world.root / "mixed"
    table = write_sources(source)
    policy = Policy(columns={"email": world.key}, batch_rows=300)
    events: list[Event] = []
    summary = encrypt(source, world.out, policy, workers=workers, credentials=world.credentials, on_event=events.append)
    assert [part.path for part in summary.parts] == [f"{letter}.parquet" for letter in "abcdefg"]
    for part in summary.parts:
        assert read(world.out / part.path, world).equals(table), part.path
        assert pq.read_table(world.out / part.path, columns=["id"]).equals(table.select(["id"]))
        assert part.source_bytes > 0
    assert [part.batches for part in summary.parts] == [4] * 6 + [1]
    assert summary.service_calls <= workers
    assert summary.source_bytes == sum(each.bytes for each in events if isinstance(each, BytesDone))
    assert sum(len(each.parts) for each in events if isinstance(each, FileDone)) == 7
    assert world.leftovers() == []
    decrypt(world.out, world.root / "plain", [world.key], workers=workers, credentials=world.credentials)
    assert pq.read_table(world.root / "plain" / "a.parquet").equals(table)


def test_files_roll_over_at_a_size(world: World) -> None:
    write_sources(world.root / "mixed")
    policy = Policy(default=world.key, batch_rows=50, compression="none")
    summary = encrypt(
        world.root / "mixed" / "a.csv",
        world.out / "x.parquet",
        policy,
        max_file_bytes=8000,
        credentials=world.credentials,
    )
    names = [f"x-{index:05}.parquet" for index in range(summary.files)]
    assert summary.files > 3
    assert sorted(world.tree()) == names == [part.path for part in summary.parts]
    tables = [read(world.out / name, world) for name in names]
    assert pa.concat_tables(tables).equals(pa.csv.read_csv(io.BytesIO(CSV.encode())))
    assert all((world.out / name).stat().st_size > 8000 for name in names[:-1])
    assert summary.source_bytes == len(CSV)
    for name in names:  # each is bound to its own name
        sealed = read_sealed_footer(MemorySource((world.out / name).read_bytes(), name))
        assert (sealed.algorithm.aad_prefix or b"").endswith(b"/" + name.encode())


@pytest.mark.parametrize(
    ("path", "index", "expected"),
    [
        ("a/x.parquet", 3, "a/x-00003.parquet"),
        ("x", 0, "x-00000"),
        ("v1.0/x", 7, "v1.0/x-00007"),
        (".hidden", 1, ".hidden-00001"),
        ("x.parquet", 123456, "x-123456.parquet"),
    ],
)
def test_numbered_names(path: str, index: int, expected: str) -> None:
    assert numbered(path, index) == expected
    assert unnumbered(expected) == path


def test_names_that_number_nothing() -> None:
    assert [unnumbered(name) for name in ("x.parquet", "x-1.parquet", "part-2024.parquet", "")] == [None] * 4


def test_more_files_than_a_process_may_have_open(world: World) -> None:
    write_sources(world.root / "mixed")
    policy = Policy(default=world.key, batch_rows=2, compression="none")
    open_at_once = []

    def count(event: object) -> None:
        if isinstance(event, BytesDone):
            open_at_once.append(len(os.listdir("/proc/self/fd")))

    summary = encrypt(
        world.root / "mixed" / "a.csv",
        world.out / "x.parquet",
        policy,
        max_file_bytes=1,
        on_event=count,
        credentials=world.credentials,
    )
    assert summary.files > 100
    assert max(open_at_once) < min(open_at_once) + 20


@pytest.mark.parametrize("limit", [0, -1, True, "1 MB"])
def test_sizes_that_no_file_has(world: World, limit: object) -> None:
    sink, policy = world.out / "x.parquet", Policy(default=world.key)
    with pytest.raises(UsageError):
        encrypt(world.raw, sink, policy, max_file_bytes=limit, credentials=world.credentials)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        encrypt_batches(
            pa.table({"id": [1]}),
            sink,
            policy,
            max_file_bytes=limit,  # type: ignore[arg-type]
            credentials=world.credentials,
        )


def test_standard_output_is_one_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.root)
    write_sources(world.root / "mixed")
    before, policy = sorted(world.root.iterdir()), Policy(default=world.key)
    with pytest.raises(UsageError):
        encrypt(world.root / "mixed" / "a.csv", "-", policy, max_file_bytes=8000, credentials=world.credentials)
    assert sorted(world.root.iterdir()) == before


def test_a_source_may_not_be_named_like_a_part_of_another(world: World) -> None:
    write_sources(world.root / "mixed")
    pq.write_table(pa.table({"id": [1]}), world.root / "mixed" / "a-00001.parquet")
    policy = Policy(default=world.key)
    with pytest.raises(UsageError):
        encrypt(world.root / "mixed", world.out, policy, max_file_bytes=8000, credentials=world.credentials)
    encrypt(world.root / "mixed", world.out, policy, credentials=world.credentials)


def test_a_bad_row_is_named_and_nothing_is_left(world: World) -> None:
    bad = world.root / "bad.csv"
    bad.write_text(CSV + "1,only two\n" + "2,x@example.org,7\n")
    with pytest.raises(BadRowError, match=r"bad\.csv:1002"):
        encrypt(bad, world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)
    assert world.tree() == {}
    assert own_threads() == []

    summary = encrypt(
        bad,
        world.out / "x.parquet",
        Policy(default=world.key),
        reading=Reading(on_bad_rows="skip"),
        credentials=world.credentials,
    )
    assert (summary.rows, summary.bad_rows, summary.parts[0].bad_rows) == (1001, 1, 1)


def test_a_failure_in_the_last_of_several_files_publishes_none(world: World) -> None:
    bad = world.root / "bad.csv"
    bad.write_text(CSV + "x\n")
    policy = Policy(default=world.key, batch_rows=50, compression="none")
    with pytest.raises(BadRowError):
        encrypt(bad, world.out / "x.parquet", policy, max_file_bytes=8000, credentials=world.credentials)
    assert world.tree() == {}


def test_what_is_given_wins_over_the_name(world: World) -> None:
    odd = world.root / "odd.txt"
    odd.write_text("1;2,5\n3;4,5\n")
    reading = Reading(
        format="csv", delimiter=";", decimal_point=",", names=["a", "b"], header=False, types={"a": "int8"}
    )
    encrypt(odd, world.out / "x.parquet", Policy(default=world.key), reading=reading, credentials=world.credentials)
    expected = pa.table({"a": pa.array([1, 3], pa.int8()), "b": [2.5, 4.5]})
    assert read(world.out / "x.parquet", world).equals(expected)


def test_names_that_tell_nothing_are_looked_into(world: World) -> None:
    write_sources(world.root / "mixed")
    for name in ("c.feather", "e.orc", "g.parquet"):
        odd = world.root / "odd"
        odd.write_bytes((world.root / "mixed" / name).read_bytes())
        encrypt(odd, world.out / name, Policy(default=world.key), overwrite=True, credentials=world.credentials)
        assert len(read(world.out / name, world)) == 1000


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("x.log", "hello", FormatError),
        ("x.csv", "", FormatError),
        ("x.csv.gz", "no gzip", FormatError),
        ("x.parquet.gz", "x", FormatError),
        ("x.orc", "ORC but no more", FormatError),
        ("x.arrow", "ARROW1", FormatError),
        ("x.jsonl", "{", FormatError),
    ],
)
def test_what_is_no_such_file(world: World, name: str, text: str, error: type[Exception]) -> None:
    (world.root / name).write_text(text)
    with pytest.raises(error):
        encrypt(world.root / name, world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)
    assert world.tree() == {}


def test_a_column_that_is_not_there(world: World) -> None:
    write_sources(world.root / "mixed")
    policy = Policy(columns={"e-mail": world.key})
    with pytest.raises(ColumnNotFoundError) as caught:
        encrypt(world.root / "mixed" / "a.csv", world.out / "x.parquet", policy, credentials=world.credentials)
    assert "email" in caught.value.hint
    assert world.tree() == {}


def test_two_sources_of_one_name(world: World) -> None:
    for name in ("a.csv", "a.jsonl"):
        (world.root / "two").mkdir(exist_ok=True)
        (world.root / "two" / name).write_text("{}")
    with pytest.raises(UsageError):
        encrypt(world.root / "two", world.out, Policy(default=world.key), credentials=world.credentials)


def test_from_and_to_another_storage(world: World) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe_file("/raw/day=1/a.csv", CSV.encode())
    encrypt("memory://raw", "memory://out/", Policy(default=world.key), credentials=world.credentials)
    (world.root / "a.parquet").write_bytes(memory.cat_file("/out/day=1/a.parquet"))
    assert read(world.root / "a.parquet", world).equals(pa.csv.read_csv(io.BytesIO(CSV.encode())))
    memory.store.clear()


def test_a_source_that_changes_while_it_is_read(world: World) -> None:
    source = world.root / "a.csv"
    source.write_text(CSV * 2)

    def append(event: Event) -> None:
        if isinstance(event, BytesDone):
            source.write_text(CSV)

    with pytest.raises((ConflictError, FormatError)):
        encrypt(
            source, world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials, on_event=append
        )
    assert world.tree() == {}


def test_a_file_that_is_there(world: World) -> None:
    source = world.root / "a.csv"
    source.write_text(CSV)
    encrypt(source, world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)
    with pytest.raises(SinkNotEmptyError):
        encrypt(source, world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)


def test_what_contradicts_itself() -> None:
    with pytest.raises(UsageError):
        Reading(format="bytes")
    with pytest.raises(UsageError):
        Reading(format="excel")
    with pytest.raises(UsageError):
        Reading(on_bad_rows="ignore")
    with pytest.raises(UsageError):
        Reading(delimiter="ab")
    for wrong in (
        {"mode": "pages"},
        {"batch_rows": 0},
        {"batch_rows": 1.5},
        {"compression": "gzip"},
        {"mode": "chunks", "compression": "snappy"},
        {"mode": "chunks", "chunk_bytes": 17},
        {"mode": "chunks", "uniform": True},
        {"mode": "chunks", "columns": {"a": "keystore://k#a"}},
    ):
        with pytest.raises(UsageError):
            Policy(**{"default": "keystore://k#a", **wrong})  # type: ignore[arg-type]
    with pytest.raises(PolicyError):
        Policy(columns={"a": "keystore://k#a"}, mode="chunks")


def test_a_key_service_that_fails_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> object:
        raise KeyServiceError("no")

    monkeypatch.setattr("pipecrypt.keys.session.KeySession.new_data_key", fail)
    (world.root / "a.csv").write_text(CSV)
    with pytest.raises(KeyServiceError):
        encrypt(world.root / "a.csv", world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)
    assert world.tree() == {}
    assert own_threads() == []
