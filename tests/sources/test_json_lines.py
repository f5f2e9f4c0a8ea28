from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.json as pj
import pytest

from pipecrypt.errors import BadRowError, FormatError, UnsupportedError
from tests.sources.world import json_stream, table_of, written


def _lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("block_bytes", [400, 1 << 20])
def test_inference_is_arrows_own(block_bytes: int) -> None:
    data = _lines(
        *[{"n": n, "x": n / 3, "s": f"é{n}", "t": "2020-01-01 00:00:00", "l": [n], "o": {"a": n}} for n in range(100)]
    )

    expected = pj.read_json(io.BytesIO(data)).combine_chunks()
    assert table_of(json_stream(data, block_bytes=block_bytes)).combine_chunks().equals(expected)
    # Parquet has no seconds, and its own name for the values of lists.
    read = written(json_stream(data, block_bytes=block_bytes), 30)
    assert read.cast(expected.schema).combine_chunks().equals(expected)


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
