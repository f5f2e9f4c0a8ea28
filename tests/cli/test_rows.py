from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from pipecrypt.cli.look import RowFormat, format_rows
from pipecrypt.formats.csv import open_csv
from pipecrypt.formats.options import ReadOptions


def _text(names: Sequence[str], batches: Sequence[Sequence[dict[str, Any]]], kind: RowFormat) -> str:
    values = [[tuple(row[name] for name in names) for row in batch] for batch in batches]
    return "".join(format_rows(names, values, kind))


_ROWS = [[{"n": 1, "t": "a"}, {"n": 200, "t": None}], [{"n": 3, "t": 'b,"c"\nd'}]]


def test_table_aligns_numbers_to_the_right_and_escapes_line_ends() -> None:
    assert _text(["n", "t"], _ROWS, RowFormat.TABLE).splitlines() == [
        "  n  t",
        "  1  a",
        "200  null",
        '3  b,"c"\\nd',
    ]


def test_table_counts_wide_characters_twice_and_disarms_control_sequences() -> None:
    rows = [[{"a": "\x1b[31mred", "b": 1}, {"a": "日本", "b": 2}]]

    lines = _text(["a", "b"], rows, RowFormat.TABLE).splitlines()

    assert lines[1:] == ["\\x1b[31mred  1", "日本         2"]


def test_table_cuts_long_cells_and_other_formats_do_not() -> None:
    rows = [[{"a": "x" * 100}]]

    assert max(map(len, _text(["a"], rows, RowFormat.TABLE).splitlines())) == 60
    assert "x" * 100 in _text(["a"], rows, RowFormat.CSV)
    assert "x" * 100 in _text(["a"], rows, RowFormat.JSON)


@pytest.mark.parametrize("unit", ["\x1b", "日", "e\u0301", "\u202e", "\u20e3"])
def test_a_cell_takes_at_most_60_columns_whatever_it_holds(unit: str) -> None:
    rows = [[{"a": unit * 100, "b": "end"}, {"a": "x" * 60, "b": "end"}]]

    _, hostile, plain = _text(["a", "b"], rows, RowFormat.TABLE).splitlines()

    assert plain == "x" * 60 + "  end"
    assert _columns(hostile) == len(plain)
    assert hostile.isprintable()


def _columns(line: str) -> int:
    return sum(
        0 if unicodedata.category(each) in {"Mn", "Me"} else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in line
    )


def test_json_is_one_array_with_one_row_a_line() -> None:
    text = _text(["n", "t"], _ROWS, RowFormat.JSON)

    assert json.loads(text) == [row for batch in _ROWS for row in batch]
    assert len(text.splitlines()) == 5


def test_csv_reads_back() -> None:
    read = list(csv.reader(io.StringIO(_text(["n", "t"], _ROWS, RowFormat.CSV))))

    assert read == [["n", "t"], ["1", "a"], ["200", ""], ["3", 'b,"c"\nd']]


def test_csv_tells_an_empty_text_from_a_null() -> None:
    rows = [[{"a": "", "b": None}, {"a": None, "b": Decimal("1.10")}]]

    assert _text(["a", "b"], rows, RowFormat.CSV) == 'a,b\n"",\n,1.10\n'


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 3], [1, None, 3]),
        ([None, 1.5, None, None], [None, 1.5, None, None]),
        ([True, None], [True, None]),
        # Of texts, a single column cannot tell a null from an empty one; neither is lost.
        (["a", None, "", "b"], ["a", "", "", "b"]),
    ],
)
def test_a_null_in_a_single_csv_column_is_a_row_for_our_own_reader_and_for_others(
    values: list[Any], expected: list[Any]
) -> None:
    text = _text(["a"], [[{"a": value} for value in values]], RowFormat.CSV)

    rows = open_csv(io.BytesIO(text.encode()).read, "rows.csv", ReadOptions())
    assert [value for batch in rows for value in batch.column("a").to_pylist()] == expected
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(values)


def test_no_rows() -> None:
    assert _text(["a", "b"], [], RowFormat.TABLE) == "a  b\n"
    assert json.loads(_text(["a"], [], RowFormat.JSON)) == []
    assert _text(["a", "b"], [], RowFormat.CSV) == "a,b\n"


def test_rows_stream() -> None:
    def endless() -> Any:
        while True:
            yield [(1,)]

    for kind in RowFormat:
        pieces = iter(format_rows(["a"], endless(), kind))
        assert next(pieces)
        assert next(pieces)
