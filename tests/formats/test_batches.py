"""Every format as a stream of batches, from files, pipes and damaged bytes; and objects of callers."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc
import pytest
from pyarrow import feather, orc

from pipecrypt.errors import FormatError, StorageError, UnsupportedError, UsageError
from pipecrypt.formats.batches import batches_of, open_batches
from pipecrypt.formats.compression import Compression
from pipecrypt.formats.options import SourceFormat
from tests.formats.world import Pipe, compress, pipe, table_of, written

_PACKED = [each for each in Compression if each is not Compression.NONE]


def _table(rows: int = 3000) -> pa.Table:
    return pa.table(
        {
            "n": pa.array(range(rows), pa.int64()),
            "s": [f"text {n % 7}" if n % 5 else None for n in range(rows)],
            "l": [[n, n + 1] for n in range(rows)],
            "d": pa.array([n % 100 for n in range(rows)]).cast(pa.decimal128(22, 2)),
            "t": pa.array(range(rows), pa.timestamp("us", "UTC")),
        }
    )


def _ipc(table: pa.Table, *, stream: bool, rows: int = 700, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def _csv(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pc.write_csv(table.select(["n", "s"]), sink)
    return sink.getvalue()


def _json(table: pa.Table) -> bytes:
    return b"".join(b'{"n": %d, "l": [%d]}\n' % (n, n) for n in table.column("n").to_pylist())


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("source_format", [SourceFormat.CSV, SourceFormat.JSON, SourceFormat.ARROW])
@pytest.mark.parametrize("members", [1, 2])
def test_every_compression_of_a_format_is_read(
    source_format: SourceFormat, compression: Compression, members: int
) -> None:
    make = {
        SourceFormat.CSV: _csv,
        SourceFormat.JSON: _json,
        SourceFormat.ARROW: lambda table: _ipc(table, stream=True),
    }
    data = make[source_format](_table())
    plain = table_of(open_batches(io.BytesIO(data), "x", source_format))
    half = len(data) // 2
    parts = [data] if members == 1 else [data[:half], data[half:]]
    packed = b"".join(compress(part, compression) for part in parts)

    for file in (io.BytesIO(packed), pipe(packed)):
        stream = open_batches(file, "x", source_format, compression=compression)
        assert written(stream, 1000).combine_chunks().equals(plain.combine_chunks())


@pytest.mark.parametrize("compression", _PACKED)
def test_every_truncation_of_a_compressed_source_is_an_error(compression: Compression) -> None:
    packed = compress(b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(40)), compression)

    for length in range(len(packed)):
        with pytest.raises(FormatError):
            table_of(open_batches(io.BytesIO(packed[:length]), "x", SourceFormat.CSV, compression=compression))


@pytest.mark.parametrize("compression", _PACKED)
def test_damage_and_rubbish_behind_are_errors(compression: Compression) -> None:
    packed = compress(b"a\n" + b"1\n" * 1000, compression)

    for data in (packed + b"rubbish, rubbish", b"a\n1\n", b"\0" * 100):
        with pytest.raises(FormatError):
            table_of(open_batches(io.BytesIO(data), "x", SourceFormat.CSV, compression=compression))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_ipc_is_read_from_files_and_pipes(stream: bool, compression: str | None) -> None:
    data = _ipc(_table(), stream=stream, compression=compression)

    assert written(open_batches(io.BytesIO(data), "x", SourceFormat.ARROW)).equals(_table())
    assert written(open_batches(pipe(data), "x", SourceFormat.ARROW)).equals(_table())


@pytest.mark.parametrize("stream", [True, False])
def test_dictionaries_of_ipc_round_trip(stream: bool) -> None:
    table = pa.table({"c": pa.array(["a", "b", None, "a"] * 500).dictionary_encode()})

    for file in (io.BytesIO(_ipc(table, stream=stream)), pipe(_ipc(table, stream=stream))):
        assert written(open_batches(file, "x", SourceFormat.ARROW), 300).combine_chunks().equals(table)


def test_feather(tmp_path: Path) -> None:
    feather.write_feather(_table(), tmp_path / "x")
    with (tmp_path / "x").open("rb") as file:
        assert written(open_batches(file, "x", SourceFormat.ARROW)).equals(_table())

    with pytest.raises(UnsupportedError):
        open_batches(io.BytesIO(b"FEA1" + bytes(100)), "x", SourceFormat.ARROW)


@pytest.mark.parametrize("data", [b"", b"ARROW1\0\0", b"ARROW1\0\0" + b"x" * 100, b"rubbish", b"a,b\n1,2\n"])
def test_what_is_no_ipc_is_refused(data: bytes) -> None:
    for file in (io.BytesIO(data), pipe(data)):
        with pytest.raises(FormatError):
            table_of(open_batches(file, "x", SourceFormat.ARROW))


def test_truncated_ipc_files_are_errors() -> None:
    data = _ipc(_table(10).select(["n"]), stream=False, rows=5)

    for length in range(0, len(data), 3):
        for file in (io.BytesIO(data[:length]), pipe(data[:length])):
            with pytest.raises(FormatError):
                table_of(open_batches(file, "x", SourceFormat.ARROW))


def test_damaged_ipc_never_crashes() -> None:
    data = bytearray(_ipc(_table(50).select(["s", "l"]), stream=True))

    for at in range(0, len(data), 5):
        damaged = bytes(data[:at]) + bytes([data[at] ^ 0xFF]) + bytes(data[at + 1 :])
        with contextlib.suppress(FormatError, UnsupportedError):
            written(open_batches(io.BytesIO(damaged), "x", SourceFormat.ARROW))


@pytest.mark.parametrize("compression", ["uncompressed", "zstd"])
def test_orc_is_read_by_stripe(compression: str) -> None:
    sink = io.BytesIO()
    table = _table(20000).drop_columns(["t"])
    orc.write_table(table, sink, compression=compression, stripe_size=50_000, batch_size=1000)

    stream = open_batches(io.BytesIO(sink.getvalue()), "x", SourceFormat.ORC)
    assert written(stream, 6000).equals(orc.read_table(io.BytesIO(sink.getvalue())))
    stripes = orc.ORCFile(io.BytesIO(sink.getvalue())).nstripes
    assert len(list(open_batches(io.BytesIO(sink.getvalue()), "x", SourceFormat.ORC))) == stripes
    assert stripes > 1 or compression == "zstd"


def test_orc_needs_a_file_that_seeks() -> None:
    with pytest.raises(FormatError):
        open_batches(pipe(b"ORC"), "x", SourceFormat.ORC)
    with pytest.raises(FormatError):
        open_batches(io.BytesIO(b"ORC"), "x", SourceFormat.ORC, compression=Compression.GZIP)
    with pytest.raises(FormatError):
        open_batches(io.BytesIO(b"ORC and no more"), "x", SourceFormat.ORC)


@pytest.mark.parametrize("source_format", [SourceFormat.CSV, SourceFormat.JSON, SourceFormat.ARROW])
@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP])
def test_a_failing_store_is_no_damaged_file(source_format: SourceFormat, compression: Compression) -> None:
    class Failing(Pipe):
        def read(self, size: int = -1, /) -> bytes:
            raise PermissionError(13, "denied")

    with pytest.raises(StorageError):
        open_batches(Failing(b""), "x", source_format, compression=compression)  # type: ignore[arg-type]


def test_the_file_stays_open() -> None:
    for source_format, data in [
        (SourceFormat.CSV, b"a\n1\n"),
        (SourceFormat.ARROW, _ipc(_table(), stream=True)),
        (SourceFormat.ARROW, _ipc(_table(), stream=False)),
    ]:
        file = io.BytesIO(data)
        table_of(open_batches(file, "x", source_format))
        assert not file.closed
    sink = io.BytesIO()
    orc.write_table(_table(10), sink)
    table_of(open_batches(sink, "x", SourceFormat.ORC))
    assert not sink.closed


_TABLE = pa.table({"n": [1, 2, 3], "s": ["a", None, "c"]})


@pytest.mark.parametrize(
    "value",
    [
        _TABLE,
        _TABLE.to_batches()[0],
        _TABLE.to_batches(max_chunksize=2),
        iter([_TABLE, _TABLE.slice(0, 0)]),
        pl.DataFrame(_TABLE),
        [pl.DataFrame(_TABLE)],
        _TABLE.to_pandas(),
        _TABLE.to_struct_array().combine_chunks(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_tables_of_any_library(value: object) -> None:
    assert table_of(batches_of(value)).to_pydict() == _TABLE.to_pydict()


def test_readers_and_relations_are_read_once() -> None:
    assert table_of(batches_of(_TABLE.to_reader())).equals(_TABLE)
    with duckdb.connect() as connection:
        relation = connection.sql("select range as n from range(5000)")
        assert written(batches_of(relation)).column("n").to_pylist() == list(range(5000))


def test_a_given_schema_is_asked_for_and_kept() -> None:
    schema = pa.schema({"n": pa.int64(), "s": pa.large_string()})

    assert table_of(batches_of(pl.DataFrame(_TABLE), schema)).schema == schema
    assert written(batches_of(iter([]), schema)).schema == schema
    assert table_of(batches_of(pd.DataFrame({"n": [1]}))).to_pydict() == {"n": [1]}


def test_the_batch_of_another_schema_is_named() -> None:
    good, bad = _TABLE.to_batches()[0], pa.record_batch({"n": [1.5], "s": ["x"]})

    with pytest.raises(UsageError, match="batch 3 has another schema: column n is double, not int64"):
        table_of(batches_of([good, good, bad]))
    with pytest.raises(UsageError, match="batch 1 has another schema: its columns are n, s, not n"):
        table_of(batches_of([good], pa.schema({"n": pa.int64()})))
    with pytest.raises(UsageError, match="item 2, a str, is not a record batch"):
        table_of(batches_of([good, "x"]))


@pytest.mark.parametrize("value", [1, "x", b"x", {"a": [1]}, [], pa.array([1]), pa.chunked_array([[1]]), object()])
def test_what_is_no_table_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        batches_of(value)


def test_generators_stay_on_their_thread_and_are_closed() -> None:
    threads = set()
    closed = []

    def generate() -> Iterator[pa.RecordBatch]:
        try:
            for _ in range(10):
                threads.add(threading.get_ident())
                yield from _TABLE.to_batches()
        finally:
            closed.append(True)

    assert len(written(batches_of(generate()), 4)) == 30
    assert threads == {threading.get_ident()}
    stream = batches_of(generate())
    next(iter(stream))
    stream.close()
    assert closed == [True, True]


def test_errors_of_a_callers_generator_are_its_own() -> None:
    def generate() -> Iterator[pa.RecordBatch]:
        yield from _TABLE.to_batches()
        raise KeyError("x")

    with pytest.raises(KeyError):
        written(batches_of(generate()))
    with pytest.raises(KeyError):
        written(batches_of(pa.RecordBatchReader.from_batches(_TABLE.schema, generate())))


def test_values_that_do_not_fit_the_asked_schema_are_an_error() -> None:
    schema = pa.schema({"n": pa.int8(), "s": pa.string()})

    with pytest.raises(UsageError):
        table_of(batches_of(pl.DataFrame({"n": [1000], "s": ["x"]}), schema))
