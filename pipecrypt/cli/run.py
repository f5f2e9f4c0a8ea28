"""The commands that a configuration describes: run, plan, config check, config schema."""

from __future__ import annotations

from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import (
    AcceptFuture,
    command,
    credentials,
)
from pipecrypt.cli.render import aligned, count, show, write
from pipecrypt.errors import UsageError
from pipecrypt.formats.options import DETECTABLE_DELIMITERS

if TYPE_CHECKING:
    from pipecrypt.config.run import ConfigPlan
    from pipecrypt.runs.plan.preview import PlanReport, SchemaDrift

__all__ = ["config_app", "plan", "run", "show_plan"]

_SHOWN = 10
_MOST_TYPES = 50
_CONFLICT = 5
_MAX_SOURCES = 20
_HOUR_SECONDS = 3600
_DAY_HOURS = 24


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML configuration.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that was not finished, if any.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Encrypt all sources again, also those that were done before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done, as plan does.")] = False,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Do the tasks of this saved plan, and no others.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Instead of run.workers.")] = None,
    accept_future: AcceptFuture = False,
) -> int:
    """Encrypt what a configuration names."""
    from pipecrypt.cli.progress import run_lines, show_progress
    from pipecrypt.config.run import run_config

    if dry_run:
        if plan is not None:
            raise UsageError("a saved plan was looked at when it was made", hint="leave out --dry-run, or --plan")
        return show_plan(config, overwrite=overwrite, resume=resume, workers=workers, accept_future=accept_future)
    opens = credentials()  # asks whether there is a terminal, which a bar hides
    with show_progress() as on_event:
        summary = run_config(
            config,
            overwrite=overwrite,
            resume=resume,
            workers=workers,
            credentials=opens,
            on_event=on_event,
            plan=plan,
            accept_future_statement=accept_future,
        )
    show(summary, lambda: run_lines(summary))
    return 0


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML configuration.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Save the plan, for pipecrypt run --plan FILE.")
    ] = None,
    accept_future: AcceptFuture = False,
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
    from pipecrypt.config.run import plan as plan_run
    from pipecrypt.runs.plan.saved_plan import save_plan

    report = plan_run(
        config, overwrite=overwrite, resume=resume, workers=workers, accept_future_statement=accept_future
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
    differences = {"lacks": drift.missing, "adds": drift.added, "has other types of": drift.retyped}
    parts = [f"{what} {', '.join(paths)}" for what, paths in differences.items() if paths]
    return "; ".join(parts) or "has its columns in another order, or under other keys"


config_app = typer.Typer(help="Check configurations.", rich_markup_mode=None, add_completion=False)


@command(config_app, "check")
def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML configuration.")],
    offline: Annotated[bool, typer.Option("--offline", help="Look at no key, no source and no sink.")] = False,
) -> None:
    """Check a configuration and show what it would do; opens no key and writes nothing."""
    from pipecrypt.config.run import check_config

    plan = check_config(config, offline=offline)
    show(plan, lambda: plan_lines(plan))


@command(config_app, "schema")
def schema() -> None:
    """Print the JSON Schema of configurations, for editors."""
    from pipecrypt.config.model import config_schema

    write(dumps(config_schema(), indent=2) + "\n")


def plan_lines(plan: ConfigPlan) -> Iterator[str]:
    """Yield what a configuration would do."""
    yield f"{plan.config} is valid"
    facts = {
        "source": plan.source,
        "sink": plan.sink,
        "mode": plan.mode,
        "footer": f"{plan.footer}, under {plan.footer_key_reference}",
        "data keys": "one for all columns" if plan.uniform else f"one per column and {plan.data_keys}",
        "workers": str(plan.workers),
        **({"signed by": ", ".join(plan.sign), "signed as": _signed_as(plan)} if plan.sign else {}),
    }
    yield from aligned(list(facts.items()), indent="  ")
    if plan.sources is not None:
        yield ""
        yield f"{count(len(plan.sources), 'source')}, {sum(each.size_bytes for each in plan.sources):,} bytes"
        shown = [(each.path, f"{each.size_bytes:,}") for each in plan.sources[:_MAX_SOURCES]]
        yield from aligned(shown, right=(1,), indent="  ")
        if len(plan.sources) > _MAX_SOURCES:
            yield f"  and {len(plan.sources) - _MAX_SOURCES:,} more"
    if plan.columns is not None:
        yield ""
        between = "" if plan.delimiter is None else f", delimiter: {delimiter_word(plan.delimiter)}"
        yield f"columns of the first source{between}"
        rows = [
            (each.path, each.type or "", each.key or "-", each.key_reference or "plaintext") for each in plan.columns
        ]
        table = [("column", "type", "key", "key reference"), *rows]
        has_types = any(each.type for each in plan.columns)
        yield from aligned(table if has_types else [(row[0], *row[2:]) for row in table], indent="  ")


def _signed_as(plan: ConfigPlan) -> str:
    if plan.valid_for_seconds is None:
        return f"digests with {plan.digest}, valid for ever"
    days, hours = divmod(plan.valid_for_seconds // _HOUR_SECONDS, _DAY_HOURS)
    validity = [count(days, "day")] * bool(days) + [count(hours, "hour")] * bool(hours)
    return f"digests with {plan.digest}, valid for {' and '.join(validity)}"


def delimiter_word(delimiter: str) -> str:
    """Return how to call a delimiter: `comma`, `tab`; the character where it has no name here."""
    return "space" if delimiter == " " else DETECTABLE_DELIMITERS.get(delimiter, delimiter)
