"""The command verify: a report or a refusal as text, and as its JSON twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipecrypt.cli.options import DatasetID, MinVersion, Threshold, TrustedKeys, credentials
from pipecrypt.cli.render import OUTPUT, aligned, count, fact_lines, show, show_refusal
from pipecrypt.dataset.statement.findings import Finding, FindingKind, finding_of
from pipecrypt.dataset.trust import Trust
from pipecrypt.errors import IntegrityError, NotInPlaceError, UsageError, VerificationError

if TYPE_CHECKING:
    from pipecrypt.dataset.verify.report import PolicySummary, VerifyReport

__all__ = ["finding_lines", "report_document", "report_lines", "verify"]

_MAX_FINDINGS = 50
_MAX_NAMES = 20
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_THOUSAND = 1000
_MEGABYTE = 1_000_000


def verify(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Dataset, a directory or file in one, or a file beside its statement."),
    ],
    trust: TrustedKeys = None,
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
        typer.Option(min=1, max=256, help="Files read at once; default: one for each processor, 16 or more if remote."),
    ] = None,
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
                Trust(trust or None, threshold=threshold, min_version=min_version, dataset_id=dataset_id),
                files=files,
                keys=key,
                remember=not no_remember,
                forget=forget,
                workers=workers,
                credentials=opens,
                on_event=on_event,
            )
    except (IntegrityError, NotInPlaceError) as error:
        return _show_refusal(error, path)
    show(report_document(report), lambda: report_lines(report))
    return 0


def _show_refusal(error: IntegrityError | NotInPlaceError, path: str) -> int:
    """Write what was found, in a dataset or already in its statement, and return the exit code."""
    if isinstance(error, VerificationError | NotInPlaceError):
        report: VerifyReport = error.report
        return show_refusal(report_document(report), lambda: finding_lines(path, report.findings, report), error)
    finding, shown = finding_of(error, path), error
    if finding.kind is FindingKind.FROM_FUTURE and not OUTPUT.as_json:
        # The lines say already how far the two clocks are apart.
        shown = type(error)(f"{path}: the statement is from the future", hint=error.hint)
    document = {"verified": False, "root": path, "findings": [finding]}
    return show_refusal(document, lambda: finding_lines(path, [finding]), shown)


def report_document(report: VerifyReport) -> dict[str, Any]:
    """Return the JSON twin of a report."""
    return {"verified": not report.findings, **dataclasses.asdict(report)}


def report_lines(report: VerifyReport) -> Iterator[str]:
    """Yield what was verified."""
    facts = (
        _files(report),
        _size(report.bytes),
        f"dataset {report.dataset_id}",
        f"version {report.version}",
        f"signed by {', '.join(report.key_ids)}",
    )
    yield f"verified: {', '.join(facts)}"
    yield from _facts(report)


def finding_lines(path: str, findings: Sequence[Finding], report: VerifyReport | None = None) -> Iterator[str]:
    """Yield what was found, grouped by kind.

    Args:
        path: what was verified, as the caller wrote it.
        findings: at least one.
        report: None where the statement itself was refused, so that no file was looked at.
    """
    yield f"not verified: {count(len(findings), 'finding')} in {path}"
    for kind in FindingKind:
        if of_kind := [finding for finding in findings if finding.kind is kind]:
            yield from ("", f"{kind.value}: {len(of_kind):,}")
            yield from aligned([(each.path, each.detail) for each in of_kind[:_MAX_FINDINGS]], indent="  ")
            if len(of_kind) > _MAX_FINDINGS:
                yield f"  and {len(of_kind) - _MAX_FINDINGS:,} more; --json names all"
    if report is not None:
        yield from ("", f"checked {_files(report)}, {_size(report.bytes)}")
        yield from _facts(report)
        yield from _unchecked_lines(report)


def _unchecked_lines(report: VerifyReport) -> Iterator[str]:
    if not report.unchecked_files:
        return
    yield ""
    yield f"could not be checked: {report.unchecked_files:,}"
    yield from aligned([(each.path or report.root, each.message) for each in report.unchecked], indent="  ")
    if report.unchecked_files > len(report.unchecked):
        yield f"  and {report.unchecked_files - len(report.unchecked):,} more"


def _facts(report: VerifyReport) -> Iterator[str]:
    megabytes_per_second = report.bytes / max(report.seconds, 1e-9) / _MEGABYTE
    tags = "and the tag of every encrypted page" if report.tags_checked else "tags of pages need keys: --decrypt"
    tables = count(report.unfinished_files, "table")
    unfinished = f"{tables} of a run that has not published its version, in _pipecrypt/"
    facts = {
        "signed": report.created.isoformat(),
        "expires": "never" if report.expires is None else report.expires.isoformat(),
        "promised": _promise(report.policy),
        "compared": f"{', '.join(report.digests)}; {tags}",
        "unfinished": unfinished if report.unfinished_files else None,
        "time": f"{report.seconds:.2f} s, {megabytes_per_second:,.1f} MB/s",
    }
    yield from fact_lines(facts)


def _promise(policy: PolicySummary) -> str:
    shown = ", ".join(policy.columns[:_MAX_NAMES])
    more = f" and {len(policy.columns) - _MAX_NAMES:,} more" if len(policy.columns) > _MAX_NAMES else ""
    columns = f"; encrypted columns: {shown}{more}" if policy.columns else ""
    others = "all other columns" if policy.columns else "all columns"
    return f"footers {policy.footer}{columns}; {others} {policy.others}"


def _files(report: VerifyReport) -> str:
    if report.files == report.signed_files:
        return count(report.files, "file")
    return f"{report.files:,} of {count(report.signed_files, 'file')}"


def _size(number: float) -> str:
    for unit in _UNITS:
        if number < _THOUSAND or unit == _UNITS[-1]:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= _THOUSAND
    raise AssertionError("the last unit takes every number")
