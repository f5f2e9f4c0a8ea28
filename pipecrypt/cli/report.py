"""The command that shows how a run went: report. The page is left to report_page, reading the report to pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import JSONFlag, LogFormatOption, LogLevelOption
from pipecrypt.cli.render import aligned, show
from pipecrypt.errors import OutputError

if TYPE_CHECKING:
    from pipecrypt.runs.report.report import RunReport

__all__ = ["report"]

_MB = 1_000_000


def report(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The directory that a run wrote.")],
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="Of this run; default: the latest.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts; replaces FILE.")
    ] = None,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Show how a run went: counts, time by stage, bytes by key, slowest files."""
    from pipecrypt.runs.report.report import read_report
    from pipecrypt.store.location import Location

    found = read_report(Location(path), run_id)
    if html is None:
        show(found, lambda: _lines(found))
        return
    _write_page(html, found)
    show({"run_id": found.run_id, "html": str(html)}, lambda: [f"wrote {html}"])


def _write_page(html: Path, found: RunReport) -> None:
    from pipecrypt.cli.report import report_page

    try:
        html.write_text(report_page(found), encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "failed").lower()
        raise OutputError(
            f"{html} cannot be written: {reason}", hint="give a file in a directory that exists"
        ) from error


def _lines(found: RunReport) -> Iterator[str]:
    counts = found.counts
    yield f"run {found.run_id}: {found.operation}, {found.outcome.value}, {found.duration_ms / 1000:,.1f} s"
    if found.error_type is not None:
        yield f"  {found.error_type}: {found.error or 'the message is not kept'}"
    facts = [
        ("started", f"{found.started:%Y-%m-%d %H:%M:%S} UTC"),
        ("ended", f"{found.ended:%Y-%m-%d %H:%M:%S} UTC"),
        ("files", f"{counts.files:,} published, of {counts.planned_files:,} sources"),
        ("source bytes", f"{counts.source_bytes:,} of {counts.planned_bytes:,}"),
        ("sink bytes", f"{counts.sink_bytes:,}"),
        ("rows", f"{counts.rows:,}"),
        ("bad rows left out", f"{counts.bad_rows:,}"),
        ("batches", f"{counts.batches:,}"),
        ("data keys", f"{counts.data_keys:,}"),
        ("key service calls", f"{counts.service_calls:,}"),
        ("statements signed", f"{counts.statements:,}"),
        ("retries", f"{counts.retries:,}"),
    ]
    yield from aligned(facts, indent="  ")
    yield "time by stage, of all files"
    yield from aligned([(name, f"{value / 1000:,.1f} s") for name, value in found.stages_ms], right=(1,), indent="  ")
    if found.bytes_by_key:
        yield "bytes by master key"
        rows = [(each.key_reference or "plaintext", f"{each.page_bytes:,}") for each in found.bytes_by_key]
        yield from aligned(rows, right=(1,), indent="  ")
    if found.slowest:
        yield "slowest files"
        files = [
            (each.path, f"{each.duration_ms / 1000:,.1f} s", f"{each.source_bytes / _MB:,.1f} MB")
            for each in found.slowest
        ]
        yield from aligned(files, right=(1, 2), indent="  ")
