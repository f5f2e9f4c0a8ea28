"""The command verify. What it checks is left to pipeline and dataset, its report as text to verdicts."""

from __future__ import annotations

from typing import Annotated

import typer

from pipecrypt.cli.options import (
    DatasetID,
    JSONFlag,
    LogFormatOption,
    LogLevelOption,
    MinVersion,
    Threshold,
    Trust,
    credentials,
)
from pipecrypt.cli.render import OUTPUT, show, show_refusal
from pipecrypt.cli.verify import brief_error, finding_lines, refusal_document, refusal_of, report_document, report_lines
from pipecrypt.errors import IntegrityError, NotInPlaceError, UsageError

__all__ = ["verify"]


def verify(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Dataset, a directory or file in one, or a file beside its statement."),
    ],
    trust: Trust = None,
    threshold: Threshold = 1,
    min_version: MinVersion = 1,
    dataset_id: DatasetID = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--files", metavar="GLOB", help="Only files that match, relative to PATH; may be repeated."),
    ] = None,
    decrypt: Annotated[bool, typer.Option("--decrypt", help="Open every encrypted page too, with --key.")] = False,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEYREF", help="Key reference; may be given several times.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Accept what is there now and remember it; or forget what was removed.")
    ] = False,
    no_remember: Annotated[
        bool, typer.Option("--no-remember", help="Neither compare with the version seen before nor remember this one.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Files read at once; default: one for each processor, four if remote."),
    ] = None,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> int:
    """Check that a dataset is what was signed, without any key."""
    from pipecrypt.cli.progress import show_progress
    from pipecrypt.runs.verifying import verify as verify_dataset

    if decrypt != bool(key):
        raise UsageError("--decrypt and --key go together", hint="give both, or none to check without keys")
    try:
        opens = credentials()  # asks whether there is a terminal, which a bar hides
        with show_progress() as on_event:
            report = verify_dataset(
                path,
                trust or None,
                threshold=threshold,
                min_version=min_version,
                dataset_id=dataset_id,
                files=files,
                keys=key,
                remember=not no_remember,
                forget=forget,
                workers=workers,
                credentials=opens,
                on_event=on_event,
            )
    except (IntegrityError, NotInPlaceError) as error:
        refusal = refusal_of(error, path)
        shown = error if OUTPUT.as_json else brief_error(refusal, error)
        return show_refusal(refusal_document(refusal), lambda: finding_lines(refusal), shown)
    show(report_document(report), lambda: report_lines(report))
    return 0
