"""Files written batch by batch: equal to what was handed over, published on a clean exit, not there otherwise."""

from __future__ import annotations

import gc
import os
import pkgutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import (
    ColumnNotFoundError,
    FormatError,
    InterruptedRunError,
    SinkNotEmptyError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from pipecrypt.reading.pyarrow_keys import decryption_properties
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.writer import Feed, ParquetWriter, encrypt_batches
from tests.runs.conftest import World, own_threads

TABLE = pa.table({"id": range(1000), "email": [f"user{row}@example.org" for row in range(1000)]})


def read(path: Path, world: World) -> pq.ParquetFile:
    properties = decryption_properties([world.key], credentials=world.credentials)
    return pq.ParquetFile(path, decryption_properties=properties)


def open_writer(world: World, name: str = "x.parquet", **options: object) -> ParquetWriter:
    policy = Policy(columns={"email": world.key}, batch_rows=300)
    return ParquetWriter(world.out / name, TABLE.schema, policy, credentials=world.credentials, **options)  # type: ignore[arg-type]


def test_batches_are_gathered_and_published_on_a_clean_exit(world: World) -> None:
    with open_writer(world) as writer:
        for batch in TABLE.slice(0, 500).to_batches(max_chunksize=7):
            writer.write_batch(batch)
        writer.write_table(TABLE.slice(500, 200))
        writer.write(TABLE.slice(700))
        writer.add_key_value_metadata({"origin": "test"})
        assert world.tree() == {name: data for name, data in world.tree().items() if name.startswith(".")}
        assert writer.is_open
        assert writer.summary is None
    file = read(world.out / "x.parquet", world)
    assert file.read().equals(TABLE)
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [300, 300, 300, 100]
    assert file.metadata.metadata[b"origin"] == b"test"
    assert writer.summary is not None
    assert (writer.summary.rows, writer.summary.batches, writer.summary.data_keys) == (1000, 4, 5)
    assert writer.summary.service_calls == 1
    assert list(world.tree()) == ["x.parquet"]
    writer.close()  # again
    with pytest.raises(UsageError):
        writer.write_batch(TABLE)
    with pytest.raises(UsageError):
        writer.add_key_value_metadata({"too": "late"})


@pytest.mark.parametrize("name", ["pipecrypt.chunks", b"pipecrypt.layout", "pipecrypt."])
def test_names_of_our_own_are_refused_as_metadata(world: World, name: str | bytes) -> None:
    with open_writer(world) as writer, pytest.raises(UsageError):
        writer.add_key_value_metadata({name: "x"})


class _CallerError(Exception):
    pass


def test_an_exception_leaves_nothing(world: World) -> None:
    def write() -> None:
        with open_writer(world) as writer:
            writer.write_table(TABLE)
            raise _CallerError

    with pytest.raises(_CallerError):
        write()
    assert world.tree() == {}
    assert not world.out.exists()
    assert own_threads() == []


def test_a_writer_that_is_forgotten_leaves_nothing(world: World) -> None:
    writer = open_writer(world)
    writer.write_table(TABLE)
    del writer
    gc.collect()
    assert world.tree() == {}
    assert own_threads() == []


@pytest.mark.parametrize(
    "place", ["pipecrypt.runs.kinds.ingest.MemorySource", "pipecrypt.formats.row_groups._Encoder.encode"]
)
def test_a_writer_may_be_forgotten_on_a_thread_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    original, is_open, is_dropped = pkgutil.resolve_name(place), threading.Event(), threading.Event()
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def collect_first(*arguments: object) -> object:
        if is_open.is_set():
            is_dropped.wait(10)
            gc.collect()
        return original(*arguments)

    monkeypatch.setattr(place, collect_first)
    writer = open_writer(world)
    is_open.set()
    writer.write_table(TABLE)
    cycle: list[object] = [writer]
    cycle.append(cycle)
    del writer, cycle
    is_dropped.set()
    deadline = time.monotonic() + 20
    while own_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert own_threads() == []
    assert unraisable == []
    assert world.tree() == {}


def test_a_forked_child_leaves_its_parents_file(world: World) -> None:
    script = f"""
import os, sys, pyarrow as pa, pipecrypt as pc
table, policy = pa.table({{"id": range(1000)}}), pc.Policy(default={world.key!r}, batch_rows=100)
with pc.ParquetWriter({str(world.out / "x.parquet")!r}, table.schema, policy) as writer:
    writer._job._output.files._publications[0].write(b"")  # the temporary file is there
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        del writer
        sys.exit(0)
    writer.write_table(table)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, env=world.environ, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(world.tree()) == ["x.parquet"]


def test_a_process_that_ends_without_closing_leaves_nothing(world: World) -> None:
    script = f"""
import pyarrow as pa, pipecrypt as pc
table, policy = pa.table({{"id": range(1000)}}), pc.Policy(default={world.key!r}, batch_rows=100)
writer = pc.ParquetWriter({str(world.out / "x.parquet")!r}, table.schema, policy)
writer.write_table(table)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, env=world.environ, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert world.tree() == {}


def test_no_rows_give_a_file_with_the_schema(world: World) -> None:
    with open_writer(world):
        pass
    assert read(world.out / "x.parquet", world).schema_arrow.equals(TABLE.schema)


def test_frames_of_other_libraries(world: World) -> None:
    with open_writer(world) as writer:
        writer.write_batch(pd.DataFrame({"id": [1], "email": ["x"]}).astype({"email": "str"}))
        writer.write_batch(pl.DataFrame({"id": [2], "email": ["y"]}).cast({"email": pl.String}))
    assert read(world.out / "x.parquet", world).read().to_pydict() == {"id": [1, 2], "email": ["x", "y"]}


def test_what_does_not_fit_is_refused_at_once(world: World) -> None:
    with pytest.raises(ColumnNotFoundError):
        ParquetWriter(world.out / "x", TABLE.schema, Policy(columns={"mail": world.key}), credentials=world.credentials)
    union = pa.schema([("u", pa.dense_union([pa.field("a", pa.int8())]))])
    with pytest.raises(UnsupportedError):
        ParquetWriter(world.out / "x", union, Policy(default=world.key), credentials=world.credentials)
    with pytest.raises(UsageError):
        ParquetWriter(
            world.out / "x", TABLE.schema, Policy(default=world.key, mode="chunks"), credentials=world.credentials
        )
    with pytest.raises(UsageError):
        ParquetWriter(world.out / "x", TABLE.schema, None, credentials=world.credentials)  # type: ignore[arg-type]
    with open_writer(world):
        pass
    with pytest.raises(SinkNotEmptyError):
        open_writer(world)
    with open_writer(world, overwrite=True) as writer:
        with pytest.raises(UsageError):
            writer.write_batch(pa.table({"id": [1]}))
        with pytest.raises(UsageError):
            writer.write_batch(TABLE, row_group_size=5)
    for size in (0, -5, True, 1.5):
        with pytest.raises(UsageError):
            encrypt_batches(
                TABLE,
                world.out / "y.parquet",
                Policy(default=world.key),
                max_file_bytes=size,  # type: ignore[arg-type]
                credentials=world.credentials,
            )
    assert own_threads() == []


# What a forked process does with the writer of its parent: leaves it as it is, lets go of it, ends as scripts end.
IN_CHILD = {
    "write": "refused(lambda: [writer.write_batch(BATCH) for _ in range(20)])",
    "close": "refused(writer.close)",
    "forget": "del writer; gc.collect()",
    "end": "sys.exit(0)",
}
FORKING = """
import gc, os, sys, warnings
import pyarrow as pa
import pipecrypt as pc

warnings.simplefilter("ignore")
BATCH = pa.record_batch({{"a": [os.urandom(1000) for _ in range(1000)]}})
policy = pc.Policy(default=sys.argv[2], batch_rows=1000)
writer = pc.ParquetWriter(sys.argv[1], BATCH.schema, policy)

def refused(action):
    try:
        action()
    except pc.errors.UsageError:
        return
    os._exit(1)

for _ in range(20):
    writer.write_batch(BATCH)
while not any(name.endswith(".tmp") for name in os.listdir(os.path.dirname(sys.argv[1]))):
    writer.write_batch(BATCH)
child = os.fork()
if not child:
    {action}
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
writer.close()
assert writer.summary.rows >= 20_000
"""


@pytest.mark.parametrize("action", IN_CHILD)
def test_a_forked_process_leaves_the_writer_of_its_parent_alone(action: str, world: World) -> None:
    script = FORKING.format(action=IN_CHILD[action])
    world.out.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-c", script, str(world.out / "x.parquet"), world.key],
        check=True,
        timeout=60,
        env={**os.environ, **world.environ},
    )
    assert read(world.out / "x.parquet", world).metadata.num_rows >= 20_000


def write_until_it_fails(writer: ParquetWriter) -> None:
    for _ in range(10_000):
        writer.write_table(TABLE)


def test_an_error_of_the_thread_reaches_the_caller(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr("pipecrypt.store.publication.LocalPublication._append", fail)
    writer = open_writer(world)
    with pytest.raises(StorageError):
        write_until_it_fails(writer)
    assert not writer.is_open
    with pytest.raises(UsageError):
        writer.write_table(TABLE)
    assert world.tree() == {}

    writer = open_writer(world, "y.parquet")
    writer.write_table(TABLE)
    with pytest.raises(StorageError):
        writer.close()
    assert world.tree() == {}
    assert own_threads() == []


def test_encrypt_batches_takes_readers_iterables_and_frames(world: World) -> None:
    policy = Policy(default=world.key, batch_rows=300)
    for name, reader in (
        ("reader", TABLE.to_reader(max_chunksize=11)),
        ("iterable", (batch for batch in TABLE.to_batches(max_chunksize=50))),
        ("table", TABLE),
        ("stream", pl.from_arrow(TABLE)),
    ):
        summary = encrypt_batches(reader, world.out / name, policy, credentials=world.credentials)
        assert (summary.files, summary.rows, summary.batches, summary.service_calls) == (1, 1000, 4, 1)
        file = read(world.out / name, world)
        assert file.read().cast(TABLE.schema).equals(TABLE)


def test_encrypt_batches_that_fails_leaves_nothing(world: World) -> None:
    def batches() -> object:
        yield from TABLE.to_batches(max_chunksize=10)
        raise _CallerError

    with pytest.raises(_CallerError):
        encrypt_batches(batches(), world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)
    with pytest.raises(UsageError):
        encrypt_batches([], world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)
    with pytest.raises(UsageError):
        encrypt_batches(7, world.out / "x.parquet", Policy(default=world.key), credentials=world.credentials)
    assert world.tree() == {}
    encrypt_batches(
        [], world.out / "x.parquet", Policy(default=world.key), schema=TABLE.schema, credentials=world.credentials
    )
    assert len(read(world.out / "x.parquet", world).read()) == 0


def test_encrypt_batches_rolls_over(world: World) -> None:
    policy = Policy(default=world.key, batch_rows=100, compression="none")
    summary = encrypt_batches(
        TABLE, world.out / "x.parquet", policy, max_file_bytes=5000, credentials=world.credentials
    )
    assert summary.files > 2
    assert list(world.tree()) == [part.path for part in summary.parts]


def test_a_feed_that_is_left_ends_its_reader() -> None:
    feed = Feed(TABLE.schema)
    assert feed.put("one")
    feed.abort()
    with pytest.raises(InterruptedRunError):
        list(feed)
    feed.close()
    assert not feed.put("two")


def test_a_damaged_row_group_is_none_of_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.runs.kinds.ingest.MemorySource", lambda data, name: _Broken(name))
    writer = open_writer(world)
    writer.write_table(TABLE)
    with pytest.raises(FormatError):
        writer.close()
    assert world.tree() == {}


class _Broken:
    size_bytes = 3

    def __init__(self, name: str) -> None:
        self.name = name

    def read_range(self, start: int, length: int) -> memoryview:
        return memoryview(bytes(length))
