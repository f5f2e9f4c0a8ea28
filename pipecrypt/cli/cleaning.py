"""The command `pipecrypt clean`. What is removed is left to pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import JSONFlag, LogLevelOption
from pipecrypt.cli.render import count, show

if TYPE_CHECKING:
    from pipecrypt.runs.journal.cleaning import CleanSummary

__all__ = ["clean"]

_MAX_PATHS = 20


def clean(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="The directory that runs write to; a path or URL.")],
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long a killed run may still be resumed: 24h, 7d.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
) -> None:
    """Remove what killed runs left behind; never what a running one, or a signed version, needs."""
    from pipecrypt.runs.journal.cleaning import clean as clean_sink
    from pipecrypt.runs.journal.cleaning import parse_grace

    summary = clean_sink(sink, grace=parse_grace(grace), dry_run=dry_run)
    show(summary, lambda: _lines(summary))


def _lines(summary: CleanSummary) -> list[str]:
    would = "would remove" if summary.is_dry_run else "removed"
    lines = [f"{would} {count(len(summary.removed), 'file')}, {summary.removed_bytes:,} bytes"]
    lines += [f"  {path}" for path in summary.removed[:_MAX_PATHS]]
    if len(summary.removed) > _MAX_PATHS:
        lines.append(f"  and {len(summary.removed) - _MAX_PATHS:,} more")
    if summary.put_in_place:
        lines.append("a version was signed, and its files are moved to their places")
    lines += [f"kept run {run}, which can be resumed" for run in summary.kept_runs]
    return lines
