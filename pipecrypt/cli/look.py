"""The commands that look at data: cat prints rows, inspect shows how files are encrypted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pipecrypt.cli.options import (
    DatasetID,
    MinVersion,
    Prefix,
    Threshold,
    TrustedKeys,
    Verify,
    credentials,
    join_names,
    split_names,
)
from pipecrypt.cli.render import (
    OUTPUT,
    aligned,
    clipped,
    fact_lines,
    json_text,
    json_value,
    note,
    show,
    text_value,
    write,
    write_data,
)
from pipecrypt.dataset.trust import Trust, VerifyMode
from pipecrypt.errors import KeyNotFoundError, UsageError

if TYPE_CHECKING:
    from pipecrypt.parquet.footer.inspect import ColumnSummary, FileSummary, KeySummary
    from pipecrypt.reading.rows import Rows

__all__ = ["RowFormat", "cat", "file_lines", "format_rows", "inspect"]

_MAX_CELL = 60
_CSV_SPECIAL = frozenset('",\r\n')
_UNKNOWN = "unknown"


class RowFormat(StrEnum):
    """How `cat` writes rows."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def cat(
    path: Annotated[str, typer.Argument(metavar="FILE", help="One Parquet file, encrypted or not.")],
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEYREF", help="Key reference; may be given several times.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B.C",
            help="Names, nested paths, roots or globs; '\"a, b\"' is one name; may be given several times.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many rows.")] = None,
    row_format: Annotated[RowFormat, typer.Option("--format", help="How rows are written.")] = RowFormat.TABLE,
    trust: TrustedKeys = None,
    threshold: Threshold = 1,
    verify: Verify = VerifyMode.READ,
    min_version: MinVersion = 1,
    dataset_id: DatasetID = None,
    aad_prefix: Prefix = None,
) -> None:
    """Print rows; without --columns, those columns that the keys open."""
    from pipecrypt.dataset.requirements import checks_of
    from pipecrypt.reading.rows import read_rows
    from pipecrypt.store.location import Location
    from pipecrypt.vocabulary.context import parse_aad_prefix

    opens = credentials()
    given = Trust(trust or None, threshold=threshold, verify=verify, min_version=min_version, dataset_id=dataset_id)
    with read_rows(
        Location(path),
        keys=tuple(key or ()),
        columns=split_names(columns) if columns else None,
        limit=limit,
        aad_prefix=None if aad_prefix is None else parse_aad_prefix(aad_prefix),
        checks=checks_of(given, os.environ, opens),
        credentials=opens,
    ) as rows:
        for text in rows.unchecked:
            note(text)
        _note_locked_columns(rows, path)
        chosen = RowFormat.JSON if OUTPUT.as_json else row_format
        # A table is for people; what a program reads is not escaped for a locale.
        out = write_data if chosen is RowFormat.CSV else write
        for text in format_rows(rows.column_names, rows.batches(), chosen):
            out(text)


def _note_locked_columns(rows: Rows, path: str) -> None:
    if not rows.locked_columns:
        return
    if not rows.column_names:
        raise KeyNotFoundError(f"all columns of {path} are encrypted, and no given key opens one")
    note(f"left out, for want of a key: {join_names(rows.locked_columns)}")


def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="File, directory or glob; a path or an fsspec URL.")],
) -> None:
    """Show how files are encrypted, without any key."""
    from pipecrypt.dataset.listing import ENCRYPTED_FILES
    from pipecrypt.parquet.footer.inspect import inspect_file
    from pipecrypt.store.listing import list_sources
    from pipecrypt.store.location import Location
    from pipecrypt.store.open import open_range_source

    summaries: list[FileSummary] = []
    for source in list_sources(Location(path), ENCRYPTED_FILES):
        with open_range_source(source) as file:
            summaries.append(inspect_file(file))
    document = summaries[0] if len(summaries) == 1 else {"files": summaries}
    show(document, lambda: (line for summary in summaries for line in (*file_lines(summary), "")))


Row: TypeAlias = Sequence[Any]


def format_rows(names: Sequence[str], batches: Iterable[Sequence[Row]], kind: RowFormat) -> Iterator[str]:
    """Return pieces of text, one for each batch or more.

    Args:
        names: the columns, in order.
        batches: rows, each with a value for every name.
        kind: table: cells are cut at 60 columns of a terminal and each batch aligned for itself. json: one array,
            one row a line. csv: RFC 4180 with a header and plain line ends; a null is empty, an empty text is `""`.
            Where there is a single column, both are `""`: readers take an empty line for no row at all.
    """
    write_rows = {RowFormat.TABLE: _table, RowFormat.JSON: _json, RowFormat.CSV: _csv}[kind]
    return write_rows(names, batches)


def _table(names: Sequence[str], batches: Iterable[Sequence[Row]]) -> Iterator[str]:
    head = [[clipped(name, _MAX_CELL) for name in names]]
    right: tuple[int, ...] = ()
    for batch in batches:
        right = _numeric(names, batch) if head else right
        texts = [["null" if value is None else text_value(value) or "" for value in row] for row in batch]
        cells = [[clipped(text, _MAX_CELL) for text in row] for row in texts]
        yield "".join(line + "\n" for line in aligned(head + cells, right=right))
        head = []
    yield "".join(line + "\n" for line in aligned(head))


def _numeric(names: Sequence[str], batch: Sequence[Row]) -> tuple[int, ...]:
    """Return which columns hold numbers, as far as the first batch shows."""
    kinds = ({type(row[at]) for row in batch if row[at] is not None} for at in range(len(names)))
    return tuple(index for index, each in enumerate(kinds) if each and each <= {int, float, Decimal})


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


def file_lines(summary: FileSummary) -> Iterator[str]:
    """Yield what a file shows without any key."""
    yield summary.name
    footer_key, overhead = summary.footer_key, summary.overhead_bytes
    plaintext_bytes = summary.size_bytes - (overhead or 0)
    share = f" ({100 * (overhead or 0) / plaintext_bytes:.2f} %)" if plaintext_bytes > 0 else ""
    facts = {
        "size": f"{summary.size_bytes:,} bytes",
        "encryption": summary.algorithm or "none",
        "footer": summary.footer_mode,
        "footer key": _key(footer_key) if footer_key else None,
        "rows": _number(summary.rows),
        "batches": _number(summary.batches),
        "data keys": f"one per column and {summary.data_keys}" if summary.data_keys else None,
        "overhead": None if overhead is None else f"{overhead:,} bytes{share}",
        "dataset id": summary.dataset_id,
        "bound path": summary.path,
        "AAD prefix": summary.aad_prefix if summary.dataset_id is None else None,
        "written by": summary.created_by,
    }
    yield from fact_lines(facts)
    if summary.columns:
        yield ""
        head = ("column", "type", "bytes", "encrypted under")
        rows = [(each.path, each.type, f"{each.stored_bytes:,}", _column_keys(each)) for each in summary.columns]
        yield from aligned([head, *rows], right=(2,), indent="  ")
    yield ""
    readers = [(each.reader, each.verdict, each.reason) for each in summary.readers]
    yield from aligned([("reader", "opens", "why"), *readers], indent="  ")


def _column_keys(column: ColumnSummary) -> str:
    if not column.encrypted:
        return "-"
    named = [_key(each) for each in column.keys] + (["the footer key"] if column.with_footer_key else [])
    return ", ".join(named)


def _key(key: KeySummary) -> str:
    if key.master_key_id is not None:
        return key.master_key_id
    return f"key metadata {key.key_metadata}" if key.key_metadata else "a key without key metadata"


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"
