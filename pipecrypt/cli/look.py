"""The commands that look at data: cat, inspect. Reading it is left to reading and parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import (
    JSONFlag,
    LogFormatOption,
    LogLevelOption,
    Prefix,
    credentials,
    join_names,
    parse_aad_prefix,
    split_names,
)
from pipecrypt.cli.render import OUTPUT, note, show, write, write_data
from pipecrypt.cli.rows import RowFormat, format_rows
from pipecrypt.cli.summaries import file_lines
from pipecrypt.cli.trust_options import DatasetID, MinVersion, Threshold, Trust, Verify, read_checks
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import KeyNotFoundError

if TYPE_CHECKING:
    from pipecrypt.parquet.inspect import FileSummary
    from pipecrypt.reading.rows import Rows

__all__ = ["cat", "inspect"]


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
    trust: Trust = None,
    threshold: Threshold = 1,
    verify: Verify = VerifyMode.READ,
    min_version: MinVersion = 1,
    dataset_id: DatasetID = None,
    aad_prefix: Prefix = None,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Print rows; without --columns, those columns that the keys open."""
    from pipecrypt.reading.rows import read_rows
    from pipecrypt.storage.location import Location

    opens = credentials()
    with read_rows(
        Location(path),
        keys=tuple(key or ()),
        columns=split_names(columns) if columns else None,
        limit=limit,
        aad_prefix=parse_aad_prefix(aad_prefix),
        checks=read_checks(
            trust, opens, threshold=threshold, verify=verify, min_version=min_version, dataset_id=dataset_id
        ),
        credentials=opens,
    ) as rows:
        for text in rows.unchecked:
            note(text)
        _tell_locked(rows, path)
        chosen = RowFormat.JSON if OUTPUT.as_json else row_format
        # A table is for people; what a program reads is not escaped for a locale.
        out = write_data if chosen is RowFormat.CSV else write
        for text in format_rows(rows.column_names, rows.value_batches(), chosen):
            out(text)


def _tell_locked(rows: Rows, path: str) -> None:
    if not rows.locked_columns:
        return
    if not rows.column_names:
        raise KeyNotFoundError(f"all columns of {path} are encrypted, and no given key opens one")
    note(f"left out, for want of a key: {join_names(rows.locked_columns)}")


def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="File, directory or glob; a path or an fsspec URL.")],
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Show how files are encrypted, without any key."""
    from pipecrypt.dataset.listing import ENCRYPTED_FILES
    from pipecrypt.parquet.inspect import inspect_file
    from pipecrypt.storage.listing import list_sources
    from pipecrypt.storage.location import Location
    from pipecrypt.storage.source import open_range_source

    summaries: list[FileSummary] = []
    for source in list_sources(Location(path), ENCRYPTED_FILES):
        with open_range_source(source) as file:
            summaries.append(inspect_file(file))
    document = summaries[0] if len(summaries) == 1 else {"files": summaries}
    show(document, lambda: (line for summary in summaries for line in (*file_lines(summary), "")))
