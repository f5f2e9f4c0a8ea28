"""The command verify: a report or a refusal as text, and as its JSON twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipecrypt.cli.options import (
    DatasetID,
    MinVersion,
    Threshold,
    TrustedKeys,
    credentials,
)
from pipecrypt.cli.render import OUTPUT, aligned, count, show, show_refusal
from pipecrypt.dataset.statement.findings import Finding, FindingKind, finding_of
from pipecrypt.dataset.trust import Trust
from pipecrypt.errors import IntegrityError, NotInPlaceError, UsageError, VerificationError

if TYPE_CHECKING:
    from pipecrypt.dataset.verify.report import PolicySummary, VerifyReport

__all__ = [
    "Refusal",
    "brief_error",
    "finding_lines",
    "refusal_document",
    "refusal_of",
    "report_document",
    "report_lines",
    "verify",
]

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
        typer.Option(min=1, max=256, help="Files read at once; default: one for each processor, four if remote."),
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
        refusal = refusal_of(error, path)
        shown = error if OUTPUT.as_json else brief_error(refusal, error)
        return show_refusal(refusal_document(refusal), lambda: finding_lines(refusal), shown)
    show(report_document(report), lambda: report_lines(report))
    return 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was found, in a dataset or already in its statement.

    Args:
        name: what was verified, as the caller wrote it.
        findings: at least one.
        report: None where the statement itself was refused, so that no file was looked at.
    """

    name: str
    findings: tuple[Finding, ...]
    report: VerifyReport | None


def refusal_of(error: IntegrityError | NotInPlaceError, path: str) -> Refusal:
    """Return the refusal that an error of a verification of `path` stands for."""
    if isinstance(error, VerificationError | NotInPlaceError):
        report: VerifyReport = error.report
        return Refusal(path, report.findings, report)
    return Refusal(path, (finding_of(error, path),), None)


def brief_error(refusal: Refusal, error: IntegrityError | NotInPlaceError) -> IntegrityError | NotInPlaceError:
    """Return the error to show below the lines of a refusal, which say already how far two clocks are apart."""
    if refusal.report is not None or refusal.findings[0].kind is not FindingKind.FROM_FUTURE:
        return error
    return type(error)(f"{refusal.name}: the statement is from the future", hint=error.hint)


def report_document(report: VerifyReport) -> dict[str, Any]:
    """Return the JSON twin of a report."""
    return {"verified": not report.findings, **dataclasses.asdict(report)}


def refusal_document(refusal: Refusal) -> dict[str, Any]:
    """Return the JSON twin of a refusal."""
    if refusal.report is not None:
        return report_document(refusal.report)
    return {"verified": False, "root": refusal.name, "findings": list(refusal.findings)}


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


def finding_lines(refusal: Refusal) -> Iterator[str]:
    """Yield what was found, grouped by kind."""
    findings, report = refusal.findings, refusal.report
    yield f"not verified: {count(len(findings), 'finding')} in {refusal.name}"
    for kind in FindingKind:
        of_kind = [finding for finding in findings if finding.kind is kind]
        if of_kind:
            yield from _kind_lines(kind, of_kind)
    if report is not None:
        yield ""
        yield f"checked {_files(report)}, {_size(report.bytes)}"
        yield from _facts(report)
        yield from _unchecked_lines(report)


def _kind_lines(kind: FindingKind, findings: Sequence[Finding]) -> Iterator[str]:
    yield ""
    yield f"{kind.value}: {len(findings):,}"
    yield from aligned([(finding.path, finding.detail) for finding in findings[:_MAX_FINDINGS]], indent="  ")
    if len(findings) > _MAX_FINDINGS:
        yield f"  and {len(findings) - _MAX_FINDINGS:,} more; --json names all"


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
    facts = {
        "signed": report.created.isoformat(),
        "expires": "never" if report.expires is None else report.expires.isoformat(),
        "promised": _promise(report.policy),
        "compared": f"{', '.join(report.digests)}; {tags}",
        **({"unfinished": _unfinished(report.unfinished_files)} if report.unfinished_files else {}),
        "time": f"{report.seconds:.2f} s, {megabytes_per_second:,.1f} MB/s",
    }
    yield from aligned(list(facts.items()), indent="  ")


def _unfinished(files: int) -> str:
    return f"{count(files, 'table')} of a run that has not published its version, in _pipecrypt/"


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
