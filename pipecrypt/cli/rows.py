"""Lay rows out as a table, as JSON or as CSV, while they stream in. Reading them is left to reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeAlias

from pipecrypt.cli.render import aligned, clipped, json_text, json_value, text_value
from pipecrypt.errors import UsageError

__all__ = ["RowFormat", "format_rows"]

Row: TypeAlias = Sequence[Any]
_MAX_CELL = 60
_CSV_SPECIAL = frozenset('",\r\n')


class RowFormat(StrEnum):
    """How `cat` writes rows."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def format_rows(names: Sequence[str], batches: Iterable[Sequence[Row]], kind: RowFormat) -> Iterator[str]:
    """Return pieces of text, one for each batch or more.

    Args:
        names: the columns, in order.
        batches: rows, each with a value for every name.
        kind: table: cells are cut at 60 columns of a terminal and each batch aligned for itself. json: one array,
            one row a line. csv: RFC 4180 with a header and plain line ends; a null is empty, an empty text is `""`.
            Where there is a single column, both are `""`: readers take an empty line for no row at all.
    """
    return _FORMATS[kind](names, batches)


def _table(names: Sequence[str], batches: Iterable[Sequence[Row]]) -> Iterator[str]:
    head = [[clipped(name, _MAX_CELL) for name in names]]
    right: tuple[int, ...] = ()
    for batch in batches:
        right = _numeric(names, batch) if head else right
        cells = [[_cell(value) for value in row] for row in batch]
        yield "".join(line + "\n" for line in aligned(head + cells, right=right))
        head = []
    yield "".join(line + "\n" for line in aligned(head))


def _numeric(names: Sequence[str], batch: Sequence[Row]) -> tuple[int, ...]:
    """Return which columns hold numbers, as far as the first batch shows."""
    columns = ([row[at] for row in batch if row[at] is not None] for at in range(len(names)))
    return tuple(index for index, values in enumerate(columns) if values and all(map(_is_number, values)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _cell(value: object) -> str:
    text = text_value(value)
    return "null" if text is None else clipped(text, _MAX_CELL)


def _json(names: Sequence[str], batches: Iterable[Sequence[Row]]) -> Iterator[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"column name {twice[0]!r} stands twice, which JSON objects cannot show", hint="use --format table or csv"
        )
    separator = "[\n"
    for batch in batches:
        for row in batch:
            yield separator + json_text(dict(zip(names, map(json_value, row), strict=True)))
            separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def _csv(names: Sequence[str], batches: Iterable[Sequence[Row]]) -> Iterator[str]:
    yield _csv_line(names)
    for batch in batches:
        yield "".join(_csv_line(list(map(text_value, row))) for row in batch)


def _csv_line(fields: Sequence[str | None]) -> str:
    # The line of a null alone would be empty. Quoted, it is a null to readers in every column but one of texts.
    return (",".join(map(_csv_field, fields)) or '""') + "\n"


def _csv_field(text: str | None) -> str:
    if text is None:
        return ""
    if text and _CSV_SPECIAL.isdisjoint(text) and text == text.strip():
        return text
    return '"' + text.replace('"', '""') + '"'


_FORMATS: Mapping[RowFormat, Callable[[Sequence[str], Iterable[Sequence[Row]]], Iterator[str]]] = {
    RowFormat.TABLE: _table,
    RowFormat.JSON: _json,
    RowFormat.CSV: _csv,
}
