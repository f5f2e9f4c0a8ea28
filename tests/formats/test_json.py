"""JSON lines: types as Arrow infers them, no number rounded, no nesting too deep, rows named by their line."""

from __future__ import annotations

import io
import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.json as pj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import BadRowError, FormatError, UnsupportedError
from pipecrypt.formats.json import MAX_DEPTH, is_too_deep, open_json
from pipecrypt.formats.options import ReadOptions
from tests.formats.world import json_stream, table_of, written


def _lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("block_bytes", [400, 1 << 20])
def test_inference_is_arrows_own(block_bytes: int) -> None:
    data = _lines(
        *[{"n": n, "x": n / 3, "s": f"é{n}", "t": "2020-01-01 x", "l": [n], "o": {"a": n}} for n in range(100)]
    )

    expected = pj.read_json(io.BytesIO(data)).combine_chunks()
    assert table_of(json_stream(data, block_bytes=block_bytes)).combine_chunks().equals(expected)
    # Parquet has no seconds, and its own name for the values of lists.
    read = written(json_stream(data, block_bytes=block_bytes), 30)
    assert read.cast(expected.schema).combine_chunks().equals(expected)


def test_texts_that_look_like_times_stay_texts() -> None:
    rows = [
        {"d": "2020-01-01", "z": "2020-01-01T00:00:00+02:00", "l": ["2020-01-01 00"], "o": {"t": "2020-01-01 00:00"}},
        {"d": "2020-01-01 00:00:00", "z": "x", "l": [], "o": {"t": None}},
    ]

    assert table_of(json_stream(_lines(*rows))).to_pylist() == rows
    assert table_of(json_stream(_lines(*rows), block_bytes=20)).to_pylist() == rows
    assert table_of(json_stream(_lines({"d": "x"}, {"d": "2020-01-01"}))).to_pylist() == [
        {"d": "x"},
        {"d": "2020-01-01"},
    ]
    read = table_of(json_stream(_lines(rows[0]), d="timestamp[s]"))
    assert read["d"].to_pylist() == [datetime(2020, 1, 1)]


@pytest.mark.parametrize(
    "number", ["9007199254740993", "-9007199254740993", "9223372036854775809", "123456789012345678901"]
)
@pytest.mark.parametrize(
    "row", ['{"n": %s}', '{"n": [1.5, %s]}', '{"o": {"n": %s}, "s": "x"}', '{"l": [{"n": %s}]}', '{"n": 0.%s5}']
)
@pytest.mark.parametrize("block_bytes", [10, 1 << 20])
def test_numbers_that_a_double_would_round_make_bad_rows(number: str, row: str, block_bytes: int) -> None:
    first = (row % "1.5" if "0." not in row else '{"n": 1.5}').encode()
    wrong = (row % number.lstrip("-") if "0." in row else row % number).encode()
    if "0." in row and len(number.lstrip("-")) < 17:
        wrong = wrong.replace(b"5}", b"55}")
    data = b"\n".join([first, wrong, first, b""])

    with pytest.raises(BadRowError, match=r"x\.json:2: field \w has a number that a double would round"):
        table_of(json_stream(data, block_bytes=block_bytes))
    stream = json_stream(data, skip=True, block_bytes=block_bytes)
    assert len(table_of(stream)) == 2
    assert stream.bad_rows == 1


def test_numbers_that_are_what_they_were() -> None:
    rows = [
        {"i": 2**63 - 1, "d": 0.1 + 0.2, "e": 1e300, "s": "9007199254740993.5", "w": 2.0**53},
        {"i": -(2**63), "d": 5e-324, "e": 2, "s": "12345678901234567890", "w": 2**53},
        {"i": 9007199254740993, "d": -0.0, "e": 1.7976931348623157e308, "s": "1.50", "w": 9.5},
    ]

    for block_bytes in (10, 1 << 20):
        assert table_of(json_stream(_lines(*rows), block_bytes=block_bytes, i="int64")).to_pylist() == rows
    wanted = "9007199254740993.25"
    read = table_of(json_stream(b'{"n": 1.5}\n{"n": %s}\n' % wanted.encode(), n="decimal128(38,2)"))
    assert read["n"].to_pylist() == [Decimal("1.50"), Decimal(wanted)]
    assert table_of(json_stream(b'{"n": 1.5}\n{"n": 9007199254740993}\n', n="double")).num_rows == 2


def test_words_of_arrow_beside_long_numbers() -> None:
    with pytest.raises(BadRowError):
        table_of(json_stream(b'{"n": 1.5, "m": Inf}\n{"n": 9007199254740993, "m": Inf}\n'))


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "i": st.integers(-(2**63), 2**63 - 1),
                "x": st.floats(allow_nan=False, allow_infinity=False),
                "m": st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False)),
                "s": st.text(max_size=8),
                "l": st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 300),
    st.booleans(),
)
def test_rows_are_those_of_pythons_json(rows: list[dict[str, object]], block_bytes: int, ascii_only: bool) -> None:
    data = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()

    try:
        read = table_of(json_stream(data, block_bytes=block_bytes)).to_pylist()
    except BadRowError:
        return

    # In a column of doubles a whole number is one too; it is the same number.
    assert read == rows


def test_given_types_are_read_and_stay_when_absent() -> None:
    data = _lines({"a": "1.50"}, {"a": "2.25", "b": 1})

    table = table_of(json_stream(data, a="decimal128(5,2)", b="int8", c="timestamp[us, UTC]"))

    assert table.schema == pa.schema({"a": pa.decimal128(5, 2), "b": pa.int8(), "c": pa.timestamp("us", "UTC")})
    assert table.column("b").to_pylist() == [None, 1]


def test_what_was_only_null_is_text() -> None:
    first = {"a": None, "l": [], "o": {"b": None}}
    data = _lines(first, {"a": "x", "l": ["y"], "o": {"b": "z"}})

    table = table_of(json_stream(data, block_bytes=30))

    assert table.to_pylist() == [first, {"a": "x", "l": ["y"], "o": {"b": "z"}}]


def test_rows_that_contradict_each_other_in_the_first_block() -> None:
    data = _lines({"a": 1}, {"a": "x"}, {"a": 2, "b": True})

    with pytest.raises(BadRowError, match=r"x\.json:2: field a does not fit int64"):
        table_of(json_stream(data))
    assert table_of(json_stream(data, skip=True)).to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": True}]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_needs_types(data: bytes) -> None:
    with pytest.raises(FormatError):
        json_stream(data)
    assert written(json_stream(data, a="int8")).schema == pa.schema({"a": pa.int8()})


@pytest.mark.parametrize("data", [b'[{"a": 1}]', b'\n  [\n{"a": 1}\n]\n', b"1\n2\n", b"a,b\n1,2\n"])
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        table_of(json_stream(data))


def test_types_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="field a"):
        json_stream(_lines({"a": 1}), a="dictionary<string>")


_TEXTS = st.text(alphabet='ab"\\[]{}\n,:', max_size=8)
_VALUES = st.recursive(
    _TEXTS | st.integers() | st.none(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(_TEXTS, each, max_size=3),
    max_leaves=12,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}\n"


@given(st.lists(_VALUES, min_size=1, max_size=4), st.sampled_from([None, 2]))
def test_the_depth_is_exact_whatever_texts_hold(values: list[Any], indent: int | None) -> None:
    data = "\n".join(json.dumps(value, indent=indent) for value in values).encode()
    depth = max(map(_depth, values))
    with pytest.MonkeyPatch.context() as patch:
        for limit in (depth - 1, depth):
            patch.setattr("pipecrypt.formats.json.MAX_DEPTH", limit)
            assert is_too_deep(data) == (depth > limit)


def test_texts_cannot_hide_a_level() -> None:
    assert is_too_deep(b'{"a":' + b'["]",' * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH + b"}")
    assert not is_too_deep(b'{"a":"' + b"[" * 1000 + b'"}')


@pytest.mark.parametrize(
    "deep", [_nested(200_000), b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"\n", b"[" * 200_000 + b"\n"]
)
def test_deep_rows_are_bad_rows_and_end_no_process(deep: bytes) -> None:
    with pytest.raises(FormatError):
        json_stream(b" " + deep)
    with pytest.raises(BadRowError):
        table_of(json_stream(b'{"a":[]}\n' + deep))
    stream = json_stream(b'{"b":1}\n' + deep + b'{"b":2}\n', skip=True)
    assert table_of(stream).to_pydict() == {"b": [1, 2]}
    assert stream.bad_rows == 1


def test_rows_as_deep_as_parquet_are_read_and_deeper_ones_named() -> None:
    levels = MAX_DEPTH - 2  # the schema and the leaf are levels too
    assert len(written(json_stream(b'{"a":' * levels + b"1" + b"}" * levels + b"\n"))) == 1
    with pytest.raises(UnsupportedError):
        written(json_stream(_nested(MAX_DEPTH)))
    with pytest.raises(FormatError):
        json_stream(_nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'{"a": 1e400}\n', 1),
        (b'\n{"a": -1e400}\n', 2),
        (b'{"a": 1}\n{"a": 1e400}\n', 2),
        (b'{"a": 1.5}\n{"a": 1e999}\n', 2),
        (b'{"a": [1.5]}\n{"a": [1e400]}\n', 2),
        (b'{"a": {"b": 1e400}}\n', 1),
    ],
)
def test_a_number_beyond_a_double_is_named_with_its_line(data: bytes, line: int) -> None:
    with pytest.raises(FormatError) as caught:
        list(open_json(io.BytesIO(data).read, "rows.json", ReadOptions()))
    assert caught.value.message.startswith(f"rows.json:{line}: ")
    assert caught.value.message.endswith("field a has a number beyond the range of a double")
