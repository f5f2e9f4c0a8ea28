"""Verify what was signed: a dataset, some of it, or one file.

Everything is read from storage once, with keys twice, and compared on several threads. Memory holds the list of signed
files, one piece of a file for each thread, and the findings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.statement.findings import FindingKind, refusal
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY
from pipecrypt.dataset.verify.inspection import Unlocking
from pipecrypt.dataset.verify.report import PolicySummary, VerifyReport
from pipecrypt.dataset.verify.target import VerifyTarget, find_target
from pipecrypt.dataset.verify.version_check import RunFiles, VersionCheck, Watcher
from pipecrypt.dataset.version import is_current
from pipecrypt.errors import (
    ConflictError,
    IntegrityError,
    NotInPlaceError,
    SourceNotFoundError,
    StorageError,
    VerificationError,
)
from pipecrypt.store.lease import LeaseHolder, LeaseWatch
from pipecrypt.store.location import Location

__all__ = ["RecheckPolicy", "Watcher", "verify"]


_STOPPED: Final = "a run was stopped here: run again with --resume, or pipecrypt clean; then verify again"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecheckPolicy:
    """How long a verification looks again where a run is at work.

    Args:
        seconds: how long it waits, in all, for a run that holds the lock of the dataset.
        pause_seconds: between two looks.
        restarts: how many versions may appear while it looks.
        sleep: waits, in seconds.
    """

    seconds: float = 30.0
    pause_seconds: float = 0.5
    restarts: int = 10
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False)


def verify(
    location: Location,
    requirements: Requirements,
    *,
    globs: Sequence[str] = (),
    unlocking: Unlocking | None = None,
    workers: int,
    watcher: Watcher,
    run_files: RunFiles = lambda *_: {},
    recheck: RecheckPolicy = RecheckPolicy(),
) -> VerifyReport:
    """Return the report on what a caller named, if all that is numbered here holds.

    1. Enough trusted keys signed the statement, and it is fresh (`verify_envelope`); its list of files is the signed
       one.
    2. Every signed file is at its place, where readers look, and no other (`VersionCheck.run`). One that waits to be
       moved there is a finding, whatever lies at its place.
    3. Each file has the signed size, digests, footer, rows and KEK ids, and is encrypted as was promised; with keys,
       each of its modules has the tag that it was encrypted with (`Inspector.inspect`).
    4. Below `_pipecrypt/`, names are those that pipecrypt gives, and tables are those that a run, which trusted keys
       vouch for, wrote for a version still to come (`VersionCheck.run`). Looked at where all files count.
    5. Every file could be checked to the end.

    Runs may be at work meanwhile. What is not as it was signed is looked at again; where the statement was replaced,
    all begins anew; while somebody holds the lock of the dataset, it waits for a while.

    What the caller still owes: to use the same bytes. A storage that others can write to may change a moment later;
    readers check while they read.

    Args:
        location: a dataset, a directory or a file in one, or a file with its statement beside it.
        requirements: what must hold of the statement.
        globs: which files of a dataset count; all, if there is none.
        unlocking: checks tags too; None without keys.
        workers: how many files are read at once.
        watcher: told how far it is.
        run_files: what runs noted about files that no version lists yet; the default believes no journal.
        recheck: how long it looks again.

    Raises:
        VerificationError: 2, 3 or 4 does not hold; with the report.
        IntegrityError: 1 does not hold, as its own class.
        SourceNotFoundError: nothing is there, nothing was signed there, or no file matches the globs.
        UsageError: what was named cannot be verified.
        MissingExtraError: all digests that were signed need a package that is not installed.
        NotInPlaceError: a run is at work, which explains all that was found; with the report.
        ConflictError: there were new versions again and again.
        PipecryptError: 5 does not hold, and nothing else was found: what kept the first file from being checked.
    """
    started = time.perf_counter()
    for _ in range(recheck.restarts):
        target = find_target(location, requirements, globs)  # 1
        check = VersionCheck(target, unlocking, run_files, workers, watcher)
        check.run()  # 2, 3, 4
        is_latest, holder = _settle(check, target, recheck)
        if not is_latest:
            continue
        report = _report(check, target, time.perf_counter() - started)
        _conclude(check, report, holder)  # 5
        return report
    raise ConflictError(
        f"{location.display} has got a new version each time it was looked at",
        hint="verify again when its runs are done",
    )


def _settle(check: VersionCheck, target: VerifyTarget, recheck: RecheckPolicy) -> tuple[bool, LeaseHolder | None]:
    """Look again until nothing is found, or nothing is at work that could explain it.

    Returns:
        Whether the statement is still the one that is there; and who is at work, still.
    """
    waited, began = 0.0, time.monotonic()
    lock = None if target.is_single_file else LeaseWatch(target.location().child(LOCK_DIRECTORY))
    while check.tally.doubtful():
        before = _holder(lock)
        check.run_again()
        if not is_current(target.files, target.version):
            return False, None
        if not check.tally.doubtful():
            break
        holder = before or _holder(lock)
        if holder is None or max(waited, time.monotonic() - began) >= recheck.seconds:
            return True, holder
        recheck.sleep(recheck.pause_seconds)
        waited += recheck.pause_seconds
    return True, None


def _holder(lock: LeaseWatch | None) -> LeaseHolder | None:
    """Return who is writing to the dataset. An attacker may pretend to: that makes no verification pass."""
    try:
        return None if lock is None else lock.living()
    except (ConflictError, IntegrityError, StorageError) as error:
        _logger.info("cannot tell whether a run is at work: %s", error.message)
        return None


def _report(check: VersionCheck, target: VerifyTarget, seconds: float) -> VerifyReport:
    version, tally = target.version, check.tally
    manifest = version.manifest
    return VerifyReport(
        root=version.name,
        dataset_id=manifest.dataset_id,
        version=manifest.version,
        created=manifest.created,
        expires=manifest.expires,
        key_ids=version.key_ids,
        policy=PolicySummary.of(manifest.policy),
        digests=check.inspector.digests,
        tags_checked=check.inspector.unlocking is not None,
        whole_dataset=target.is_whole,
        signed_files=len(version.entries),
        files=tally.files,
        bytes=tally.bytes,
        seconds=seconds,
        findings=tally.findings(),
        unchecked=tally.unchecked(),
        unchecked_files=tally.failures,
        unfinished_files=tally.unfinished,
    )


def _conclude(check: VersionCheck, report: VerifyReport, holder: LeaseHolder | None) -> None:
    name, failure = report.root, check.tally.first_failure()
    if report.findings and holder is not None and check.is_in_motion():
        raise NotInPlaceError(
            f"{name}: {holder.who!a} is at work there, and {len(report.findings)} files are not in their places yet",
            report=report,
        )
    if report.findings:
        kinds = {finding.kind for finding in report.findings}
        hint = _STOPPED if kinds <= {FindingKind.NOT_IN_PLACE, FindingKind.LEFT_OVER} else None
        raise VerificationError(refusal(report.findings, name=name).message, hint=hint, report=report)
    if failure is not None:
        raise failure
    if not check.due and not report.whole_dataset:
        hint = "globs are relative to the dataset, and * does not match /"
        raise SourceNotFoundError(f"{name}: no file matches, so nothing was verified", hint=hint)
