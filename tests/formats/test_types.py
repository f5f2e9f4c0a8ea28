"""Types: those that texts have, and those that users name."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipecrypt.errors import BadRowError, UsageError
from pipecrypt.formats.type_names import parse_type, parse_types
from tests.formats.world import csv_stream, table_of

_SECOND = timedelta(seconds=1)


def _read(texts: list[str], **options: object) -> pa.Table:
    """Return a column of texts, none of which needs quotes."""
    data = "".join(f"{row},{text}\n" for row, text in enumerate(texts)).encode()
    return table_of(csv_stream(b"row,x\n" + data, delimiter=",", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "007", "00001", "0000", "+4700000001", "+1", "-0", "-007", "1234567890123456", "99999999999999999999",
        "0x1F", "1_000", "1 000", " 12", "12 ", "\t1", "1e5", "1E5", "1d5", "12e3456", ".5", "5.", "1.5e3", "+1.5",
        "00.5", "1.2.3", "0.1234567890123456", "12345678901234.56", "1234567890123456.5", "NaN", "nan", "-NaN", "inf",
        "-inf", "Infinity", "NA", "N/A", "n/a", "null", "NULL", "None", "#N/A", "TrUe", "yes", "t", "1-2-3", "2020-1-2",
        "20200102", "2020-02-30", "0000-01-01", "01.02.2020", "12:30", "24:00:00", "12:30:00.5", "2020-01-01T00",
        "2020-01-01 00:00", "2020-01-01T00:00:00+02:00", "2020-01-01T00:00:00+00:00", "2020-01-01T00:00:00.5+01",
        "2020-01-01t00:00:00", "2020-01-01T24:00:00", "1677-01-01 00:00:00.1234567", "2020-01-01  00:00:00",
        "\u0661\u0662", "\uff11", "\u2212" + "1", "5\u00a0", "$5", "5%", "--1", "-", "1,5".replace(",", "\u201a"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], ["5"], ["5.5"], ["2020-01-01"]])
def test_what_is_not_unambiguous_stays_text(text: str, before: list[str]) -> None:
    if text == "20200102":
        assert _read([text])["x"].to_pylist() == [20200102]
        return
    table = _read([*before, text])

    assert table.schema.field("x").type == pa.string()
    assert table["x"].to_pylist() == [*before, text]


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "-2", "0", "999999999999999"], "int64", [1, -2, 0, 999999999999999]),
        (["true", "false", ""], "bool", [True, False, None]),
        (["FALSE", "TRUE"], "bool", [False, True]),
        (["12.50", "7.25", "0.00"], "double", [12.5, 7.25, 0.0]),
        (["1.0", "2.25", "-0.5"], "double", [1.0, 2.25, -0.5]),
        (["1", "2.25", "-0.5", ""], "double", [1.0, 2.25, -0.5, None]),
        (["1815-12-10", "0001-01-01"], "date32[day]", [date(1815, 12, 10), date(1, 1, 1)]),
        (["23:59:59", "00:00:00"], "time32[s]", [time(23, 59, 59), time(0)]),
        (["2020-01-01 10:00:00"], "timestamp[s]", [datetime(2020, 1, 1, 10)]),
        (["9999-12-31T23:59:59.5"], "timestamp[ms]", [datetime(9999, 12, 31, 23, 59, 59, 500000)]),
        (["2020-01-01T10:00:00.000001"], "timestamp[us]", [datetime(2020, 1, 1, 10, 0, 0, 1)]),
    ],
)
def test_what_is_unambiguous_has_a_type(texts: list[str], kind: str, values: list[object]) -> None:
    table = _read(texts)

    assert str(table.schema.field("x").type) == kind
    assert table["x"].to_pylist() == values


def test_utc_is_the_only_zone() -> None:
    assert str(_read(["2020-01-01T10:00:00Z"] * 2).schema.field("x").type) == "timestamp[s, tz=UTC]"
    assert _read(["2020-01-01T10:00:00Z", "2020-01-01T10:00:00"]).schema.field("x").type == pa.string()


@pytest.mark.parametrize(
    "texts",
    [
        ["1.10", "1.1"],
        ["1", "1.0"],
        ["1", "true"],
        ["true", "True"],
        ["2020-01-01T00:00:00", "2020-01-01 00:00:00"],
        ["2020-01-01 00:00:00.10", "2020-01-01 00:00:00.1"],
        ["2020-01-01", "2020-01-01 00:00:00"],
        ["1.5", "1,5".replace(",", ";")],
        ["0", "-0"],
    ],
)
def test_two_texts_of_one_value_stay_two(texts: list[str]) -> None:
    assert _read(texts)["x"].to_pylist() == texts
    assert _read(texts[::-1])["x"].to_pylist() == texts[::-1]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("5", "007"),
        ("5", "+47"),
        ("5", "1234567890123456"),
        ("5", "0x1F"),
        ("5", " 5"),
        ("5", "5.5"),
        ("5", "NA"),
        ("5", "-0"),
        ("5.25", "1e5"),
        ("5.25", "NaN"),
        ("5.25", "inf"),
        ("5.20", "5.2"),
        ("5.25", "05.25"),
        ("true", "True"),
        ("true", "1"),
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00+02:00"),
        ("2020-01-01 00:00:00", "2020-01-01"),
        ("12:30:00", "12:30"),
    ],
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_later_row_is_refused_by_its_number_and_never_changed(first: str, later: str, quote: str) -> None:
    rows = [first] * 200
    rows[150] = f"{quote}{later}{quote}"

    with pytest.raises(BadRowError) as caught:
        _read(rows, block_bytes=100)
    assert caught.value.message.startswith("x.csv:152: column x does not fit")
    assert "--type x=string" in caught.value.hint
    assert len(later) < 3 or later not in caught.value.message + caught.value.hint

    stream = csv_stream("\n".join(["x", *rows]).encode(), delimiter=",", block_bytes=100, skip=True)
    assert len(table_of(stream)) == 199
    assert stream.bad_rows == 1
    table = _read(rows, block_bytes=100, types={"x": "string"})
    assert table["x"].to_pylist() == [*rows[:150], later, *rows[151:]]


def test_fractions_may_take_another_shape_as_long_as_all_rows_fit_it() -> None:
    grown = ["1.5", "2.5"] * 100 + ["2.25", "3.0", "0.125"] * 20

    assert _read(grown, block_bytes=100)["x"].to_pylist() == [float(text) for text in grown]
    with pytest.raises(BadRowError, match=r"x\.csv:262: "):
        _read([*grown, "1.50"], block_bytes=100)
    with pytest.raises(BadRowError, match=r"x\.csv:202: "):
        _read(["1.5", "2.5"] * 100 + ["2.50", "2.55"] * 20, block_bytes=100)


def test_words_for_null_count_only_where_they_are_given() -> None:
    assert _read(["1", "NA", ""])["x"].to_pylist() == ["1", "NA", ""]
    assert _read(["1", "NA", "2"], null_values=("NA",))["x"].to_pylist() == [1, None, 2]
    assert _read(["1", "NA", ""], types={"x": "int8"})["x"].to_pylist() == [1, None, None]


@pytest.mark.parametrize("point", [",", "^", "]", "\\", "-"])
def test_other_decimal_points(point: str) -> None:
    data = f"a;b\n1{point}50;1.5\n2{point}25;2.5\n".encode()

    table = table_of(csv_stream(data, delimiter=";", decimal_point=point))

    assert table.to_pydict() == {"a": [1.5, 2.25], "b": ["1.5", "2.5"]}


def test_no_frame_library_is_loaded_to_find_types() -> None:
    script = """
import io, sys
from pipecrypt.formats.batches import open_batches
from pipecrypt.formats.options import SourceFormat
data = b"a,b,c,d,e,f\\n1,2.5,true,2020-01-01,2020-01-01 00:00:00,12:00:00\\n,,,,,\\n"
stream = open_batches(io.BytesIO(data), "x", SourceFormat.CSV)
assert sum(len(batch) for batch in stream) == 2
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


_NUMBERS = st.one_of(
    st.from_regex(r"[-+ ]?0{0,2}[0-9]{1,18}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,3}\.[0-9]{0,3}", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1000, 1000).map(lambda value: f"{value:.2f}"),
    st.integers(-100, 100).map(str),
    st.sampled_from(["", "true", "false", "NA", "1e5", "0x10", "2020-01-01", "2020-01-01 00:00:00"]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(_NUMBERS, min_size=1, max_size=12), st.integers(4, 40))
@example(["1.5", "1.50"], 4)
@example(["5", "007"], 4)
def test_no_two_texts_of_a_column_become_one_value(texts: list[str], block_bytes: int) -> None:
    try:
        values = _read(texts, block_bytes=block_bytes)["x"].to_pylist()
    except BadRowError:
        return

    pairs = set(zip(texts, map(_exact, values), strict=True))
    assert len(pairs) == len(set(texts)) == len({value for _, value in pairs})
    for text, value in zip(texts, values, strict=True):
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert Decimal(text) == Decimal(repr(value))
        elif isinstance(value, str):
            assert value == text


def _exact(value: object) -> tuple[str, str]:
    """Return what tells values apart, also -0.0 from 0.0 and 1 from 1.0."""
    return type(value).__name__, repr(value)


_LEAVES = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(),
    pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(16), pa.date32(),
    pa.date64(), pa.time32("s"), pa.time64("ns"), pa.duration("us"), pa.timestamp("ms"), pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("s", "+01:00"), pa.decimal128(12, 2), pa.decimal256(50, -2),
]  # fmt: skip


def _nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        inner.map(lambda kind: pa.list_(kind, 3)),
        inner.map(lambda kind: pa.list_(pa.field("item", kind, nullable=pa.types.is_null(kind)))),
        inner.map(lambda kind: pa.dictionary(pa.int8(), kind, ordered=True)),
        st.lists(inner, max_size=3, min_size=1).map(
            lambda kinds: pa.struct([(f"f{i}", k) for i, k in enumerate(kinds)])
        ),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    )


@given(st.recursive(st.sampled_from(_LEAVES), _nested, max_leaves=5))
def test_what_arrow_prints_is_read(kind: pa.DataType) -> None:
    assert parse_type(str(kind)) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Int64", pa.int64()),
        ("double", pa.float64()),
        ("decimal(12,2)", pa.decimal128(12, 2)),
        ("date", pa.date32()),
        ("timestamp", pa.timestamp("us")),
        ("timestamp[us,UTC]", pa.timestamp("us", "UTC")),
        (" list < string > ", pa.list_(pa.string())),
        ("dictionary<string>", pa.dictionary(pa.int32(), pa.string())),
        ("dictionary<string, int8>", pa.dictionary(pa.int8(), pa.string())),
        ("map<string, list<int8>>", pa.map_(pa.string(), pa.list_(pa.int8()))),
        (
            "struct<a: int64, b: struct<c: date32>>",
            pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.date32())]))]),
        ),
    ],
)
def test_short_forms_are_read(text: str, kind: pa.DataType) -> None:
    assert parse_type(text) == kind


@pytest.mark.parametrize(
    "text",
    ["", "in64", "int64 int64", "decimal128", "decimal128(99,2)", "decimal128(a)", "timestamp[xs]", "list<", "list<>",
     "struct<int64>", "map<string>", "int64(3)", "time32[ns]", "dictionary<>", "fixed_size_list<int8>", "list<" * 100,
     "(", "<>", "fixed_size_binary[x]", "struct<a: int64", "timestamp[us, UTC, x]"],
)  # fmt: skip
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_type(text)


def test_errors_suggest_and_name_the_column() -> None:
    with pytest.raises(UsageError, match=r"column age: .*did you mean int64\?"):
        parse_types({"name": "string", "age": "imt64"})
