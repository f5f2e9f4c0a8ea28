"""The command `pipecrypt plan`, and what `run --dry-run` shows. Looking is left to pipeline."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import AcceptFuture, JSONFlag, LogFormatOption, LogLevelOption
from pipecrypt.cli.render import aligned, count, show
from pipecrypt.cli.run import delimiter_word

if TYPE_CHECKING:
    from pipecrypt.runs.plan.plan_report import PlanReport, SchemaDrift

__all__ = ["plan", "show_plan"]

_SHOWN = 10
_MOST_TYPES = 50
_CONFLICT = 5


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML configuration.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Save the plan, for pipecrypt run --plan FILE.")
    ] = None,
    accept_future: AcceptFuture = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> int:
    """Show what a run would do: files, keys, calls, conflicts; opens no key, and writes nothing to the sink."""
    return show_plan(config, out=out, accept_future=accept_future)


def show_plan(
    config: Path,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    accept_future: bool = False,
) -> int:
    """Show what a run would do, and return the exit code: 5 if it would fail for what the sink holds."""
    from pipecrypt.config.load import load_config
    from pipecrypt.config.spec import build_request, hints_about_paths
    from pipecrypt.runs.plan.plan_report import report_plan
    from pipecrypt.runs.plan.saved_plan import save_plan

    loaded = load_config(config, os.environ)
    with hints_about_paths(loaded):
        report = report_plan(
            build_request(loaded, overwrite=overwrite, resumes=resume, workers=workers, accepts_future=accept_future)
        )
    if out is not None:
        save_plan(report, out)
    show(report, lambda: _lines(report))
    return _CONFLICT if report.conflicts else 0


def _lines(report: PlanReport) -> Iterator[str]:
    yield f"{count(report.to_do, 'file')} to encrypt, {report.source_bytes:,} bytes; {report.skipped:,} done before"
    facts = {
        "batches": "unknown before they are read" if report.batches is None else f"{report.batches:,}",
        "replaced": f"{len(report.replaced):,}",
        "removed": f"{len(report.removed):,}",
        "workers": f"{report.workers:,}",
        "key service calls": f"about {report.wrapping_calls:,}, and {report.signing_calls:,} or more to sign",
    }
    yield from aligned(list(facts.items()), indent="  ")
    for reference, columns in report.columns_by_key:
        yield f"  {count(columns, 'column')} {'in plaintext' if reference is None else 'under ' + reference}"
    if report.delimiter is not None:
        yield f"  delimiter of the first source: {delimiter_word(report.delimiter)}"
    if report.types:
        yield "  types of the first source, inferred where source.types does not give them:"
        yield from aligned(list(report.types[:_MOST_TYPES]), indent="    ")
        if len(report.types) > _MOST_TYPES:
            yield f"    and {len(report.types) - _MOST_TYPES:,} more columns"
    if report.skipped:
        yield "  what was done before is what the sink says, not verified"
    for conflict in report.conflicts:
        yield f"conflict: {conflict}"
    for drift in report.drifts[:_SHOWN]:
        yield f"{drift.source}: {_difference(drift)}"
    if report.drifting > _SHOWN:
        yield f"and {report.drifting - _SHOWN:,} more sources that differ"


def _difference(drift: SchemaDrift) -> str:
    if drift.problem is not None:
        return drift.problem
    told = {"lacks": drift.missing, "adds": drift.added, "has other types of": drift.retyped}
    parts = [f"{what} {', '.join(paths)}" for what, paths in told.items() if paths]
    return "; ".join(parts) or "has its columns in another order, or under other keys"
