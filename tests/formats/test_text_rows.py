from __future__ import annotations

import io
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.errors import BadRowError, FormatError
from pipecrypt.formats import csv
from pipecrypt.formats.batches import open_batches
from pipecrypt.formats.options import BadRows, ReadOptions, SourceFormat
from pipecrypt.formats.text_rows import bisect_rows
from tests.formats.world import csv_stream, json_stream, table_of

_PLANTED = "PLANTED"


@given(st.lists(st.booleans(), max_size=50))
def test_sifting_finds_exactly_the_bad_rows(are_good: list[bool]) -> None:
    rows = [(index, index + 1) for index in range(len(are_good))]

    good: list[int] = []
    bad: list[int] = []
    order: list[int] = []
    for parsed, index in bisect_rows(
        rows, lambda start, end: [*range(start, end)] if all(are_good[start:end]) else None
    ):
        good += parsed or []
        bad += [] if index is None else [index]
        order += parsed or ([] if index is None else [index])

    assert good == [index for index, is_good in enumerate(are_good) if is_good]
    assert bad == [index for index, is_good in enumerate(are_good) if not is_good]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        (f"{_PLANTED},x", "column a does not fit int64"),
        ("1,x,3", "3 fields instead of 2"),
        ("1", "1 field instead of 2"),
        (f'"{_PLANTED}\n{_PLANTED}",x', "column a does not fit int64"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("block_bytes", [20, 50, 1 << 20])
@pytest.mark.parametrize("before", [1, 30])
def test_csv_rows_are_named_by_line_and_column(
    bad_row: str, reason: str, line_end: str, block_bytes: int, before: int
) -> None:
    rows = ["a,b", '1,"quoted', 'line"', *["2,y"] * before, "", bad_row, "3,z", "4,z"]
    data = line_end.join(rows).encode()
    line = len(rows) - 2
    types = {"a": "int64"}

    with pytest.raises(BadRowError) as caught:
        table_of(csv_stream(data, block_bytes=block_bytes, types=types))
    assert caught.value.message.startswith(f"x.csv:{line}: {reason}")
    assert _PLANTED not in caught.value.message + caught.value.hint

    stream = csv_stream(data, block_bytes=block_bytes, types=types, skip=True)
    assert table_of(stream).column("a").to_pylist() == [1, *[2] * before, 3, 4]
    assert stream.bad_rows == 1


def test_a_block_that_does_not_fit_the_inferred_type_says_so() -> None:
    data = b"n,amount\n" + b"1,2\n" * 10 + b"1,2.5\n"

    with pytest.raises(BadRowError) as caught:
        table_of(csv_stream(data, block_bytes=20))
    assert caught.value.message.startswith("x.csv:12: column amount does not fit int64")
    assert "give the type" in caught.value.hint
    assert table_of(csv_stream(data, block_bytes=20, types={"amount": "double"})).num_rows == 11


def test_many_bad_rows_of_both_kinds_are_left_out() -> None:
    rows = [f"{n},x" if n % 3 else ("bad,x" if n % 2 else f"{n},x,y") for n in range(1000)]
    stream = csv_stream("\n".join(["a,b", *rows]).encode(), block_bytes=500, types={"a": "int64"}, skip=True)

    assert table_of(stream).column("a").to_pylist() == [n for n in range(1000) if n % 3]
    assert stream.bad_rows == 334


def test_all_rows_may_be_bad() -> None:
    stream = csv_stream(b"a,b\n1\n2\n", skip=True)

    assert table_of(stream).num_rows == 0
    assert stream.bad_rows == 2


def test_the_trailing_delimiter_counts_as_no_field() -> None:
    with pytest.raises(BadRowError, match=re.escape("x.csv:3: 3 fields instead of 2")):
        table_of(csv_stream(b"a|b|\n1|2|\n1|2|3|\n", delimiter="|", trailing_delimiter=True))


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        (f'{{"a": "{_PLANTED}", "b": "x"}}', "field a does not fit int64"),
        (f'{{"a": 1, "b": "{_PLANTED}"', "the line is not JSON"),
        ("[1]", "the line is not a JSON object"),
        ('{"a": 1.5}', "field a does not fit int64"),
        ('{"a": 1, "a": 2}', "a field does not fit"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("block_bytes", [30, 60, 1 << 20])
def test_json_rows_are_named_by_line_and_field(bad_row: str, reason: str, line_end: str, block_bytes: int) -> None:
    rows = ['{"a": 1, "b": "x"}', "", *['{"a": 2, "b": "y"}'] * 10, bad_row, '{"a": 3}']
    data = line_end.join(rows).encode()

    with pytest.raises(FormatError) as caught:
        table_of(json_stream(data, block_bytes=block_bytes, a="int64"))
    assert caught.value.message.startswith(f"x.json:13: {reason}")
    assert _PLANTED not in caught.value.message + caught.value.hint

    stream = json_stream(data, block_bytes=block_bytes, skip=True, a="int64")
    assert table_of(stream).column("a").to_pylist() == [1, *[2] * 10, 3]
    assert stream.bad_rows == 1


def test_a_json_field_that_comes_late_makes_the_row_bad() -> None:
    data = b'{"a": 1}\n' * 10 + b'{"a": 2, "c": 3}\n{"a": 4}\n'

    with pytest.raises(BadRowError, match=r"x\.json:11: field c is not in the first rows"):
        table_of(json_stream(data, block_bytes=30))
    stream = json_stream(data, block_bytes=30, skip=True)
    assert table_of(stream).column("a").to_pylist() == [1] * 10 + [4]
    assert stream.bad_rows == 1
    assert table_of(json_stream(data)).schema.names == ["a", "c"]


def test_half_encoded_json_is_a_bad_row() -> None:
    data = b'{"a": "x"}\n{"a": "\xff"}\n{"a": "y"}\n'

    with pytest.raises(BadRowError, match=r"x\.json:2: "):
        table_of(json_stream(data))
    assert table_of(json_stream(data, skip=True)).to_pydict() == {"a": ["x", "y"]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_many_rows_of_a_wrong_shape_are_found_in_one_parse(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{row},"x\n{row}"' if row % 3 else f"{row},x,y" for row in range(3000)]
    data = ("a,b" + end + end.join(rows)).encode()
    parses: list[int] = []
    read = csv.pc.read_csv
    monkeypatch.setattr(csv.pc, "read_csv", lambda *arguments: parses.append(1) or read(*arguments))
    stream = open_batches(io.BytesIO(data), "x.csv", SourceFormat.CSV, options=ReadOptions(on_bad_rows=BadRows.SKIP))
    table = pa.Table.from_batches(list(stream), stream.schema)
    assert table["a"].to_pylist() == [row for row in range(3000) if row % 3]
    assert stream.bad_rows == 1000
    assert len(parses) < 20
