"""The commands about configurations: init writes one; run, plan and config do, show and check what it says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from pipecrypt.cli.options import AcceptFuture, NewKeystoreOption, command, credentials
from pipecrypt.cli.render import aligned, count, fact_lines, show, write
from pipecrypt.errors import ConflictError, StorageError, UsageError
from pipecrypt.formats.options import DETECTABLE_DELIMITERS

if TYPE_CHECKING:
    from pipecrypt.config.run import ConfigPlan
    from pipecrypt.runs.plan.preview import PlanReport, SchemaDrift

__all__ = ["config_app", "init", "plan", "run"]

_SHOWN = 10
_MOST_TYPES = 50
_CONFLICT = 5
_MAX_SOURCES = 20
_HOUR_SECONDS = 3600
_DAY_HOURS = 24
_CONFIG_NAME = "pipecrypt.yaml"
_KEYSTORE_NAME = "keys.json"
_KEY_NAME = "main"
_CONFIG = """\
# A pipecrypt configuration: what is read, where it goes, what is encrypted under which key.
# Check it with `pipecrypt config check pipecrypt.yaml`, run it with `pipecrypt run pipecrypt.yaml`.
# Relative paths start from the directory of this file, wherever pipecrypt is started.
# ${VAR} and ${VAR:-default} stand for environment variables, $$ for a dollar sign.

source:
  url: ./data/**/*.parquet      # a file, a directory or a glob; a path or any fsspec URL (s3://..., gs://..., az://...)
  # options: {}                 # storage options for fsspec

sink:
  url: ./encrypted/             # every source file goes to the same relative path below it

encrypt:
  default: main                 # the key of every column that no entry below lists; leave out: those stay plaintext
  # columns:                    # names, nested paths (customer.email), roots (customer) or globs ("card_*")
  #   - { match: [email, ssn, "card_*"], key: main }
  footer: plaintext             # or encrypted: hides schema, row counts and statistics from readers without keys
  data_keys: batch              # or file: one data key per column and file, for Spark

keys:                           # names for key references
  main: keystore://./keys.json#main

run:
  workers: 1                    # files encrypted at once, each in a process of its own
"""


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it does not exist.")] = Path(),
    new_keystore: NewKeystoreOption = False,
) -> None:
    """Write a commented configuration and a keystore with one key; overwrites nothing."""
    from pipecrypt.keys.keystores import NewKeystore, create_key

    config, keystore = directory / _CONFIG_NAME, directory / _KEYSTORE_NAME
    _check_absent(config, keystore)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make directory {directory}: {str(error.strerror).lower()}") from None
    # The keystore first: it asks for a passphrase, and without one there is nothing to configure.
    made = NewKeystore(replaces_lost=new_keystore)
    reference = f"keystore://{quote(str(keystore.absolute()))}#{_KEY_NAME}"
    entry = create_key(reference, "aes256", credentials(), keystore=made)
    _write_new(config)
    document = {"config": str(config), "keystore": str(keystore), "key": entry}
    show(document, lambda: _next_lines(config, keystore))


def _next_lines(config: Path, keystore: Path) -> list[str]:
    written = shlex.quote(str(config))
    return [
        f"wrote {config}",
        f"wrote {keystore} with key {_KEY_NAME}; keep a copy of it: without it the data is lost",
        "next:",
        f"  edit {written}: the source is {config.parent / 'data'} until you say otherwise",
        f"  pipecrypt config check {written}",
        f"  pipecrypt run {written}",
    ]


def _check_absent(*paths: Path) -> None:
    for path in paths:
        if path.exists() or path.is_symlink():
            raise ConflictError(f"{path} exists already", hint="choose another directory, or move the file away")


def _write_new(path: Path) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_CONFIG)
    except FileExistsError:
        _check_absent(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {str(error.strerror).lower()}") from None


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
    accept_future_statement: AcceptFuture = False,
) -> int:
    """Encrypt what a configuration names."""
    from pipecrypt.cli.progress import run_lines, show_progress
    from pipecrypt.config.run import run_config

    if dry_run:
        if plan is not None:
            raise UsageError("a saved plan was looked at when it was made", hint="leave out --dry-run, or --plan")
        return _show_plan(
            config, overwrite=overwrite, resume=resume, workers=workers, accept_future_statement=accept_future_statement
        )
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
            accept_future_statement=accept_future_statement,
        )
    show(summary, lambda: run_lines(summary))
    return 0


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML configuration.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Save the plan, for pipecrypt run --plan FILE.")
    ] = None,
    accept_future_statement: AcceptFuture = False,
) -> int:
    """Show what a run would do: files, keys, calls, conflicts; opens no key, and writes nothing to the sink."""
    return _show_plan(config, out=out, accept_future_statement=accept_future_statement)


def _show_plan(
    config: Path,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    accept_future_statement: bool = False,
) -> int:
    """Show what a run would do, and return the exit code: 5 if it would fail for what the sink holds."""
    from pipecrypt.config.run import plan as plan_run
    from pipecrypt.runs.plan.preview import save_plan

    report = plan_run(
        config, overwrite=overwrite, resume=resume, workers=workers, accept_future_statement=accept_future_statement
    )
    if out is not None:
        save_plan(report, out)
    show(report, lambda: _plan_lines(report))
    return _CONFLICT if report.conflicts else 0


def _plan_lines(report: PlanReport) -> Iterator[str]:
    yield f"{count(report.to_do, 'file')} to encrypt, {report.source_bytes:,} bytes; {report.skipped:,} done before"
    facts = {
        "batches": "unknown before they are read" if report.batches is None else f"{report.batches:,}",
        "replaced": f"{len(report.replaced):,}",
        "removed": f"{len(report.removed):,}",
        "workers": f"{report.workers:,}",
        "key service calls": f"about {report.wrapping_calls:,}, and {report.signing_calls:,} or more to sign",
    }
    yield from fact_lines(facts)
    for reference, columns in report.columns_by_key:
        yield f"  {count(columns, 'column')} {'in plaintext' if reference is None else 'under ' + reference}"
    if report.delimiter is not None:
        yield f"  delimiter of the first source: {_delimiter_word(report.delimiter)}"
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
    show(plan, lambda: _check_lines(plan))


@command(config_app, "schema")
def schema() -> None:
    """Print the JSON Schema of configurations, for editors."""
    from pipecrypt.config.model import config_schema

    write(dumps(config_schema(), indent=2) + "\n")


def _check_lines(plan: ConfigPlan) -> Iterator[str]:
    """Yield what a configuration would do."""
    yield f"{plan.config} is valid"
    facts = {
        "source": plan.source,
        "sink": plan.sink,
        "mode": plan.mode,
        "footer": f"{plan.footer}, under {plan.footer_key_reference}",
        "data keys": "one for all columns" if plan.uniform else f"one per column and {plan.data_keys}",
        "workers": str(plan.workers),
        "signed by": ", ".join(plan.sign) or None,
        "signed as": _signed_as(plan) if plan.sign else None,
    }
    yield from fact_lines(facts)
    if plan.sources is not None:
        yield ""
        yield f"{count(len(plan.sources), 'source')}, {sum(each.size_bytes for each in plan.sources):,} bytes"
        shown = [(each.path, f"{each.size_bytes:,}") for each in plan.sources[:_MAX_SOURCES]]
        yield from aligned(shown, right=(1,), indent="  ")
        if len(plan.sources) > _MAX_SOURCES:
            yield f"  and {len(plan.sources) - _MAX_SOURCES:,} more"
    if plan.columns is not None:
        yield ""
        between = "" if plan.delimiter is None else f", delimiter: {_delimiter_word(plan.delimiter)}"
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


def _delimiter_word(delimiter: str) -> str:
    """Return how to call a delimiter: `comma`, `tab`; the character where it has no name here."""
    return "space" if delimiter == " " else DETECTABLE_DELIMITERS.get(delimiter, delimiter)
