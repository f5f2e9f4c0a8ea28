"""Verify what was signed: a dataset, some of it, or one file. One file's comparison is left to file_inspection.

Everything is read from storage once, with keys twice, and compared on several threads. Memory holds the list of signed
files, one piece of a file for each thread, and the findings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pipecrypt.dataset.opening.file_digests import computable
from pipecrypt.dataset.opening.requirements import Requirements
from pipecrypt.dataset.opening.signed_sources import SignedSource
from pipecrypt.dataset.opening.staged_files import listed_staged_files
from pipecrypt.dataset.verifying.file_inspection import Inspected, Inspector, Unlocking
from pipecrypt.dataset.verifying.known_digests import LazyKnownDigests
from pipecrypt.dataset.verifying.missing_or_extra import Presence, signed_source
from pipecrypt.dataset.verifying.report import PolicySummary, VerifyReport
from pipecrypt.dataset.verifying.tally import Tally
from pipecrypt.dataset.verifying.target import DatasetPart, FileInDataset, SingleFile, find_target
from pipecrypt.dataset.verifying.worker_threads import Done, Tell, work_through
from pipecrypt.errors import SourceNotFoundError, VerificationError
from pipecrypt.manifest.compare import NOTHING_KNOWN, KnownDigests
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
    files, target = find_target(location, requirements, globs)  # 1
    tally = Tally()
    task = _file_task(target, files, tally) if isinstance(target, SingleFile) else _dataset_task(target, files, tally)
    inspector = Inspector(
        digests=computable(task.manifest.digests),
        max_bytes=task.max_bytes,
        known=task.known,
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
    known: Callable[[], KnownDigests]


def _dataset_task(target: DatasetPart | FileInDataset, files: LocatedFiles, tally: Tally) -> _Task:
    dataset = target.dataset
    sources: Iterable[SignedSource]
    if isinstance(target, DatasetPart):
        presence = Presence(dataset, files.location(dataset.root), target.selection, tally)
        due, sources, is_whole = list(presence.signed()), presence.sources(), target.selection.is_everything
    else:
        entry = dataset.entries.get(target.path)
        due, sources, is_whole = [] if entry is None else [entry], _file_in_dataset(target, files, tally), False
    return _Task(
        name=dataset.name,
        manifest=dataset.verified.manifest,
        key_ids=dataset.verified.key_ids,
        sources=sources,
        is_whole=is_whole,
        signed_files=len(dataset.entries),
        due_files=len(due),
        due_bytes=sum(entry.size_bytes for entry in due),
        max_bytes=max((entry.size_bytes for entry in dataset.entries.values()), default=0),
        known=LazyKnownDigests(dataset, files).known,
    )


def _file_task(target: SingleFile, files: LocatedFiles, tally: Tally) -> _Task:
    signed = target.signed
    return _Task(
        name=signed.name,
        manifest=signed.manifest,
        key_ids=signed.key_ids,
        sources=signed_source(signed, files.location(target.path), tally),
        is_whole=True,
        signed_files=1,
        due_files=1,
        due_bytes=signed.entry.size_bytes,
        max_bytes=signed.entry.size_bytes,
        known=lambda: NOTHING_KNOWN,
    )


def _file_in_dataset(target: FileInDataset, files: LocatedFiles, tally: Tally) -> Iterator[SignedSource]:
    dataset, path = target.dataset, target.path
    if path not in dataset.entries:
        tally.find(extra(path))
        return
    due, signed = {path: dataset.entries[path]}, dataset.file(path)
    staged = listed_staged_files(files.location(dataset.root), dataset.verified.manifest.run, due).get(path)
    if staged is not None:
        yield SignedSource(staged, signed)
    else:
        yield from signed_source(signed, files.location(f"{dataset.root}/{path}"), tally)


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
