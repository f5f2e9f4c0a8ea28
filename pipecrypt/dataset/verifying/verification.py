"""Verify what was signed: a dataset, some of it, or one file. One file's comparison is left to file_inspection.

Everything is read from storage once, with keys twice, and compared on several threads. Memory holds the list of signed
files, one piece of a file for each thread, and the findings.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pipecrypt.dataset.opening.file_digests import computable
from pipecrypt.dataset.opening.requirements import Requirements
from pipecrypt.dataset.opening.signed_sources import SignedSource
from pipecrypt.dataset.verifying.file_inspection import Inspected, Inspector, Unlocking
from pipecrypt.dataset.verifying.known_digests import Attribution
from pipecrypt.dataset.verifying.missing_or_extra import Presence, signed_source
from pipecrypt.dataset.verifying.report import PolicySummary, VerifyReport
from pipecrypt.dataset.verifying.tally import Tally
from pipecrypt.dataset.verifying.target import DatasetPart, FileInDataset, SingleFile, find_subject
from pipecrypt.dataset.verifying.worker_threads import Done, Tell, work_through
from pipecrypt.errors import SourceNotFoundError, VerificationError
from pipecrypt.manifest.compare import NOTHING_KNOWN
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.findings import extra
from pipecrypt.manifest.model import Manifest
from pipecrypt.storage.location import Location
from pipecrypt.storage.small_files import LocatedFiles

__all__ = ["Watcher", "verify"]


class Watcher(Protocol):
    """Is told how far a verification is, on the thread that called it. What it raises stops the verification."""

    def started(self, files: int, total_bytes: int) -> None:
        """So many files are to be checked, and so many bytes read."""

    def file_started(self, path: str) -> None:
        """A file is being read."""

    def bytes_done(self, count: int) -> None:
        """So many more bytes are done, of whichever file."""

    def file_checked(self, path: str, findings: int) -> None:
        """A file was compared, or could not be; so many findings are about it."""


def verify(
    location: Location,
    requirements: Requirements,
    *,
    globs: Sequence[str] = (),
    unlocking: Unlocking | None = None,
    workers: int,
    watcher: Watcher,
) -> VerifyReport:
    """Return the report on what a caller named, if all that is numbered here holds.

    1. Enough trusted keys signed the statement, and it is fresh (`verify_envelope`); its list of files is the signed
       one.
    2. Every signed file is there, and no other (`Presence.sources`).
    3. Each file has the signed size, digests, footer, rows and KEK ids, and is encrypted as was promised; with keys,
       each of its modules has the tag that it was encrypted with (`Inspector.inspect`).
    4. Every file could be checked to the end.

    What the caller still owes: to use the same bytes. A storage that others can write to may change a moment later;
    readers that check while they read are left to the rooms above.

    Args:
        location: a dataset, a directory or a file in one, or a file with its statement beside it.
        requirements: what must hold of the statement.
        globs: which files of a dataset count; all, if there is none.
        unlocking: checks tags too; None without keys.
        workers: how many files are read at once.
        watcher: told how far it is.

    Raises:
        VerificationError: 2 or 3 does not hold; with the report.
        IntegrityError: 1 does not hold, as its own class.
        SourceNotFoundError: nothing is there, nothing was signed there, or no file matches the globs.
        UsageError: what was named cannot be verified.
        MissingExtraError: all digests that were signed need a package that is not installed.
        PipecryptError: 4 does not hold, and nothing else was found: what kept the first file from being checked.
    """
    started = time.perf_counter()
    files, subject = find_subject(location, requirements, globs)  # 1
    tally = Tally()
    if isinstance(subject, DatasetPart):
        task = _dataset_task(subject, files, tally)
    else:
        task = _file_task(subject, files, tally)
    inspector = Inspector(
        digests=computable(task.manifest.digests),
        max_bytes=task.max_bytes,
        known=task.attribution.known if task.attribution is not None else lambda: NOTHING_KNOWN,
        unlocking=unlocking,
    )
    _carry_out(task, inspector, tally, workers, watcher)  # 2, 3
    report = _report(task, inspector, tally, time.perf_counter() - started)
    _conclude(task, report, tally)  # 4
    return report


@dataclass(frozen=True, slots=True)
class _Task:
    name: str
    manifest: Manifest
    key_ids: tuple[str, ...]
    sources: Iterable[SignedSource]
    is_whole: bool
    signed_files: int
    due_files: int
    due_bytes: int
    max_bytes: int
    attribution: Attribution | None


def _dataset_task(part: DatasetPart, files: LocatedFiles, tally: Tally) -> _Task:
    dataset = part.dataset
    presence = Presence(dataset, files.location(dataset.root), part.selection, tally)
    count = total_bytes = 0
    for entry in presence.signed():
        count, total_bytes = count + 1, total_bytes + entry.size_bytes
    return _Task(
        name=dataset.name,
        manifest=dataset.verified.manifest,
        key_ids=dataset.verified.key_ids,
        sources=presence.sources(),
        is_whole=part.selection.is_everything,
        signed_files=len(dataset.entries),
        due_files=count,
        due_bytes=total_bytes,
        max_bytes=_largest(dataset.entries.values()),
        attribution=Attribution(dataset, files),
    )


def _file_task(subject: FileInDataset | SingleFile, files: LocatedFiles, tally: Tally) -> _Task:
    if isinstance(subject, SingleFile):
        signed, entries = subject.signed, [subject.signed.entry]
        return _Task(
            name=signed.name,
            manifest=signed.manifest,
            key_ids=signed.key_ids,
            sources=_one_source(subject, files, tally),
            is_whole=True,
            signed_files=1,
            due_files=1,
            due_bytes=signed.entry.size_bytes,
            max_bytes=_largest(entries),
            attribution=None,
        )
    dataset, entry = subject.dataset, subject.dataset.entries.get(subject.path)
    return _Task(
        name=dataset.name,
        manifest=dataset.verified.manifest,
        key_ids=dataset.verified.key_ids,
        sources=_one_source(subject, files, tally),
        is_whole=False,
        signed_files=len(dataset.entries),
        due_files=1 if entry is not None else 0,
        due_bytes=entry.size_bytes if entry is not None else 0,
        max_bytes=_largest(dataset.entries.values()),
        attribution=Attribution(dataset, files),
    )


def _one_source(subject: FileInDataset | SingleFile, files: LocatedFiles, tally: Tally) -> Iterator[SignedSource]:
    if isinstance(subject, SingleFile):
        yield from signed_source(subject.signed, files.location(subject.path), tally)
    elif subject.path in subject.dataset.entries:
        location = files.location(f"{subject.dataset.root}/{subject.path}")
        yield from signed_source(subject.dataset.file(subject.path), location, tally)
    else:
        tally.find(extra(subject.path))


def _largest(entries: Iterable[FileEntry]) -> int:
    return max((entry.size_bytes for entry in entries), default=0)


@dataclass(frozen=True, slots=True)
class _Started:
    path: str


def _carry_out(task: _Task, inspector: Inspector, tally: Tally, workers: int, watcher: Watcher) -> None:
    passes = 2 if inspector.unlocking is not None else 1
    watcher.started(task.due_files, passes * task.due_bytes)
    for news in work_through(task.sources, partial(_inspect, inspector), workers=workers):
        if isinstance(news, Done):
            tally.take(news.result)
            watcher.file_checked(news.result.path, len(news.result.findings))
        elif isinstance(news, _Started):
            watcher.file_started(news.path)
        else:
            watcher.bytes_done(news)


def _inspect(inspector: Inspector, file: SignedSource, tell: Tell[_Started | int]) -> Inspected:
    tell(_Started(file.signed.entry.path))
    due = file.signed.entry.size_bytes * (1 if inspector.unlocking is None else 2)
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        tell(count)

    inspected = inspector.inspect(file.signed, file.source, on_bytes)
    # What was not read, as the footer in the second pass, is done as well.
    if done < due:
        tell(due - done)
    return inspected


def _report(task: _Task, inspector: Inspector, tally: Tally, seconds: float) -> VerifyReport:
    manifest = task.manifest
    return VerifyReport(
        root=task.name,
        dataset_id=manifest.dataset_id,
        version=manifest.version,
        created=manifest.created,
        expires=manifest.expires,
        key_ids=task.key_ids,
        policy=PolicySummary.of(manifest.policy),
        digests=inspector.digests,
        tags_checked=inspector.unlocking is not None,
        whole_dataset=task.is_whole,
        signed_files=task.signed_files,
        files=tally.files,
        bytes=tally.bytes,
        seconds=seconds,
        findings=tally.findings(),
        unchecked=tally.unchecked(),
        unchecked_files=tally.failures,
    )


def _conclude(task: _Task, report: VerifyReport, tally: Tally) -> None:
    failure = tally.first_failure()
    if report.findings:
        first, more = report.findings[0], len(report.findings) - 1
        text = f"{task.name}: {first.path!a}: {first.kind.value}: {first.detail}"
        raise VerificationError(text + (f", and {more} more" if more else ""), report=report)
    if failure is not None:
        raise failure
    if not task.due_files and not task.is_whole:
        hint = "globs are relative to the dataset, and * does not match /"
        raise SourceNotFoundError(f"{task.name}: no file matches, so nothing was verified", hint=hint)
