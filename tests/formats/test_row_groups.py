from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import BadRowError, UnsupportedError
from pipecrypt.formats.batches import batches_of, open_batches
from pipecrypt.formats.options import Codec, EncodeOptions, SourceFormat
from pipecrypt.formats.row_groups import ParquetFit, encode_row_groups
from tests.formats.world import csv_stream, table_of, written

_CSV = b"a,b\n" + b"".join(b"%d,text %d\n" % (n, n) for n in range(20000))


def _columns() -> dict[str, pa.Array]:
    return {
        "dictionary": pa.array(["a", "b", None] * 100).dictionary_encode(),
        "ordered": pa.DictionaryArray.from_arrays(pa.array([0, 1, None] * 100, pa.int8()), ["x", "y"], ordered=True),
        "decimal": pa.array([Decimal("1.50"), None, Decimal("-3.25")] * 100, pa.decimal128(12, 2)),
        "decimal256": pa.array([Decimal("1.50"), None, Decimal("-3.25")] * 100, pa.decimal256(50, 2)),
        "zone": pa.array([datetime(2020, 1, 1, tzinfo=UTC), None, None] * 100, pa.timestamp("us", "Europe/Berlin")),
        "large": pa.array(["x", None, "z"] * 100, pa.large_string()),
        "list": pa.array([[1, None], [], None] * 100, pa.list_(pa.int16())),
        "large_list": pa.array([["a"], [], None] * 100, pa.large_list(pa.string())),
        "fixed": pa.array([[1, 2], [3, 4], None] * 100, pa.list_(pa.int8(), 2)),
        "struct": pa.array([{"a": 1, "b": ["x"]}, {"a": None, "b": None}, None] * 100),
        "map": pa.array([[("k", 1)], [], None] * 100, pa.map_(pa.string(), pa.int64())),
        "null": pa.nulls(300),
        "half": pa.array([1.5, None, 2.0] * 100, pa.float16()),
        "duration": pa.array([1, None, 2] * 100, pa.duration("us")),
        "uuid": pa.array([bytes(16), None, bytes(16)] * 100, pa.uuid()),
        "time": pa.array([1, None, 2] * 100, pa.time64("ns")),
        "bytes": pa.array([b"\0", None, b""] * 100, pa.large_binary()),
    }


@pytest.mark.parametrize("name", _columns())
@pytest.mark.parametrize("batch_rows", [7, 100, 1000])
def test_types_round_trip_as_arrows_own_writer_has_them(name: str, batch_rows: int) -> None:
    table = pa.table({name: _columns()[name]}, metadata={"k": "v"})
    sink = io.BytesIO()
    pq.write_table(table, sink)

    read = written(batches_of(table.to_batches(max_chunksize=30)), batch_rows)

    expected = pq.read_table(sink)
    assert read.schema.equals(expected.schema, check_metadata=True)
    assert read.to_pylist() == expected.to_pylist() == table.to_pylist()


_VIEWS = {
    "string": (pa.string_view(), ["x", None, "long " * 10]),
    "binary": (pa.binary_view(), [b"x", None, b"long " * 10]),
    "list": (pa.list_view(pa.int8()), [[1], None, []]),
    "large_list": (pa.large_list_view(pa.string_view()), [["x", None], None, ["y"]]),
    "nested": (pa.struct([("a", pa.list_(pa.string_view()))]), [{"a": ["x"]}, None, {"a": None}]),
    "map": (pa.map_(pa.string_view(), pa.string_view()), [[("k", "v")], None, []]),
}


@pytest.mark.parametrize("name", _VIEWS)
@pytest.mark.parametrize("writes_views", [True, False])
def test_views_keep_their_values_whatever_the_writer_can(
    name: str, writes_views: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, values = _VIEWS[name]
    table = pa.table({"c": pa.array(values, kind), "n": [1, 2, 3]})
    if not writes_views:
        monkeypatch.setattr("pipecrypt.formats.row_groups._can_be_written", lambda field: "view" not in str(field.type))

    read = written(batches_of(table), 2)

    assert read.to_pylist() == table.to_pylist()
    assert writes_views or "view" not in str(read.schema)


_TEXT = pa.struct([("a", pa.string_view())])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (_TEXT, [{"a": "x"}, {"a": None}, None, {"a": "y"}, {"a": "long " * 10}]),
        (pa.struct([("s", _TEXT)]), [{"s": {"a": name}} for name in "abcde"]),
        (pa.list_(_TEXT), [[{"a": "x"}], None, [], [{"a": "y"}, {"a": "z"}], [{"a": None}]]),
        (pa.map_(pa.string(), _TEXT), [[("k", {"a": name})] for name in "abcde"]),
    ],
    ids=str,
)
def test_views_inside_of_other_types_are_cut_into_row_groups(kind: pa.DataType, values: list[object]) -> None:
    table = pa.table({"c": pa.array(values, kind)})

    read = written(batches_of(table), 2)

    assert read.to_pylist() == table.to_pylist()
    assert "view" not in str(read.schema)


def test_non_null_fields_stay_what_they_are() -> None:
    kind = pa.struct([pa.field("a", pa.string(), nullable=False)])
    schema = pa.schema([pa.field("n", pa.int8(), nullable=False), pa.field("s", kind, nullable=False)])
    table = pa.table({"n": [1], "s": [{"a": "x"}]}, schema=schema)

    assert written(batches_of(table)).schema == schema


def test_categories_of_polars_are_dictionaries() -> None:
    series = pl.Series(["a", "b", None] * 10)
    frame = pl.DataFrame({"c": series.cast(pl.Categorical), "e": series.cast(pl.Enum(["a", "b"])), "s": series})

    read = written(batches_of(frame), 7)

    assert pl.DataFrame(read).equals(frame)
    assert [pa.types.is_dictionary(field.type) for field in read.schema] == [True, True, False]


def test_run_ends_are_decoded() -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["x", None]))

    read = written(batches_of(pa.table({"c": runs})), 3)

    assert read.to_pydict() == {"c": ["x", "x", None, None, None]}


@pytest.mark.parametrize(
    "kind",
    [
        pa.month_day_nano_interval(),
        pa.dense_union([pa.field("a", pa.int8())]),
        pa.sparse_union([pa.field("a", pa.int8())]),
        pa.list_(pa.month_day_nano_interval()),
        pa.struct([]),
        pa.list_(pa.run_end_encoded(pa.int32(), pa.int8())),
        pa.dictionary(pa.int32(), pa.list_(pa.int8())),
        pa.struct([pa.field("a", pa.dense_union([pa.field("a", pa.int8())]), nullable=False)]),
    ],
    ids=str,
)
def test_types_without_equal_are_named_before_the_first_row_group(kind: pa.DataType) -> None:
    schema = pa.schema({"good": pa.int8(), "wrong": kind})

    with pytest.raises(UnsupportedError, match="column wrong"):
        next(encode_row_groups(batches_of(iter([]), schema)))
    with pytest.raises(UnsupportedError, match="column wrong"):
        ParquetFit(schema)


@pytest.mark.parametrize("batch_rows", [1, 3, 4, 7, 10, 11, 100])
@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_row_groups_have_exactly_their_rows(batch_rows: int, chunk: int) -> None:
    table = pa.table({"n": range(10)})

    groups = list(encode_row_groups(batches_of(table.to_batches(chunk)), EncodeOptions(batch_rows=batch_rows)))

    counts = [pq.read_metadata(pa.BufferReader(group)).num_rows for group in groups]
    assert counts == [batch_rows] * (10 // batch_rows) + [10 % batch_rows] * bool(10 % batch_rows)
    for group in groups:
        metadata = pq.read_metadata(pa.BufferReader(group))
        assert metadata.num_row_groups == 1
        assert metadata.row_group(0).column(0).statistics.has_min_max


def test_dictionaries_may_differ_from_batch_to_batch() -> None:
    kind = pa.dictionary(pa.int32(), pa.string())
    columns = [pa.array(values).cast(kind) for values in (["a", "b"], ["c", "a"], ["b", None])]
    batches = [
        pa.record_batch({"c": column, "l": pa.ListArray.from_arrays(pa.array([0, 2, 2]), column)}) for column in columns
    ]

    for batch_rows in (1, 3, 4, 6):
        read = written(batches_of(batches), batch_rows)
        assert read.column("c").to_pylist() == ["a", "b", "c", "a", "b", None]
        assert read.column("l").to_pylist() == [["a", "b"], [], ["c", "a"], [], ["b", None], []]
        assert read.schema.field("c").type == kind


def test_the_column_whose_values_do_not_fit_is_named() -> None:
    table = pa.table({"n": [1], "wrong": pa.array([1 << 61], pa.timestamp("s"))})

    with pytest.raises(UnsupportedError, match="column wrong"):
        written(batches_of(table))


def test_no_rows_keep_the_schema() -> None:
    empty = _columns()["dictionary"].slice(0, 0)
    (group,) = encode_row_groups(batches_of(pa.table({"c": empty, "n": pa.array([], pa.int8())})))

    assert pq.read_metadata(pa.BufferReader(group)).num_row_groups == 0
    assert pq.read_schema(pa.BufferReader(group)) == pa.schema({"c": empty.type, "n": pa.int8()})


@pytest.mark.parametrize(
    ("codec", "name"), [(Codec.ZSTD, "ZSTD"), (Codec.SNAPPY, "SNAPPY"), (Codec.NONE, "UNCOMPRESSED")]
)
def test_the_codec_is_obeyed(codec: Codec, name: str) -> None:
    (group,) = encode_row_groups(batches_of(pa.table({"n": [1]})), EncodeOptions(compression=codec))

    assert pq.read_metadata(pa.BufferReader(group)).row_group(0).column(0).compression == name


def test_only_columns_that_gain_by_it_have_a_dictionary() -> None:
    numbers = range(3000)
    table = pa.table(
        {
            "unique": numbers,
            "few": [f"text {n % 3}" for n in numbers],
            "l": pa.array([[n] for n in numbers]),
            "kept": pa.array([f"{n}" for n in numbers]).dictionary_encode(),
        }
    )
    groups = list(encode_row_groups(batches_of(table), EncodeOptions(batch_rows=1000)))

    assert len(groups) == 3
    for group in groups:
        row_group = pq.read_metadata(pa.BufferReader(group)).row_group(0)
        columns = [row_group.column(index) for index in range(4)]
        assert [column.has_dictionary_page for column in columns] == [False, True, False, True]
    assert (
        pa.concat_tables([pq.read_table(pa.BufferReader(group)) for group in groups]).to_pydict() == table.to_pydict()
    )


def test_slices_are_not_copied() -> None:
    batch = pa.record_batch({"n": pa.array(range(100_000))})
    before = pa.total_allocated_bytes()

    groups = encode_row_groups(batches_of([batch]), EncodeOptions(batch_rows=50_000, compression=Codec.NONE))
    next(groups)
    groups.close()

    assert (
        table_of(batches_of([batch])).column("n").chunk(0).buffers()[1].address == batch.column(0).buffers()[1].address
    )
    assert pa.total_allocated_bytes() <= before


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("pipecrypt-")}


@pytest.mark.parametrize("consumed", [0, 1, 3])
def test_closing_early_leaves_no_thread(consumed: int) -> None:
    stream = csv_stream(_CSV, block_bytes=5000)
    groups = encode_row_groups(stream, EncodeOptions(batch_rows=100))
    for _ in range(consumed):
        next(groups)
    assert bool(_threads()) == bool(consumed)
    groups.close()
    stream.close()

    assert not _threads()


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
def test_an_exception_in_the_consumer_leaves_no_thread(reason: type[BaseException]) -> None:
    def consume() -> None:
        groups = encode_row_groups(csv_stream(_CSV, block_bytes=5000), EncodeOptions(batch_rows=100))
        try:
            for _ in groups:
                raise reason
        finally:
            groups.close()

    with pytest.raises(reason):
        consume()
    assert not _threads()


def test_an_error_while_reading_comes_out_and_leaves_no_thread() -> None:
    groups = encode_row_groups(csv_stream(_CSV + b"x,y\n", block_bytes=5000), EncodeOptions(batch_rows=100))

    seen: list[int] = []
    with pytest.raises(BadRowError, match=r"x\.csv:20002"):
        seen.extend(pq.read_metadata(pa.BufferReader(group)).num_rows for group in groups)
    assert 0 < sum(seen) < 20000
    assert not _threads()


def test_a_stream_that_is_closed_unread_leaves_no_thread() -> None:
    stream = open_batches(io.BytesIO(_CSV), "x", SourceFormat.CSV)
    next(iter(stream))
    stream.close()

    assert not _threads()


def _deep(levels: int) -> pa.DataType:
    kind = pa.int64()
    for _ in range(levels):
        kind = pa.struct([("x", kind)])
    return kind


@pytest.mark.parametrize("kind", [_deep(120), pa.binary(0)])
def test_what_no_reader_takes_is_refused_by_its_column(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedError) as raised:
        ParquetFit(pa.schema([("odd", kind)]))
    assert "odd" in raised.value.message
    assert len(raised.value.message) < 300


def test_tensors_are_written() -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 3, 4)))
    table = pa.table({"tensor": tensors})
    assert written(batches_of(table)).equals(table)
