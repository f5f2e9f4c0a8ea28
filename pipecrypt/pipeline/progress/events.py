"""What a run tells while it works. Showing it is left to cli.

Order: RunStarted; for each file FileStarted, any number of BytesDone, FileDone, several files mixed, and TaskRetried
where a file begins anew; RunFinished. A run that fails ends with its exception instead. A verification tells
FileChecked where a run tells FileDone, and ends with its report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pipecrypt.dataset.sign.records import SignableFile
from pipecrypt.keys.grants import Grant
from pipecrypt.parquet.report import KeyBytes
from pipecrypt.pipeline.progress.stages import NO_STAGES, StageSeconds
from pipecrypt.pipeline.progress.summary import Part, Summary

__all__ = [
    "BytesDone",
    "Event",
    "FileChecked",
    "FileDone",
    "FileStarted",
    "RunFinished",
    "RunStarted",
    "TaskRetried",
    "ignore",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The plan is made.

    Args:
        files: how many there are.
        bytes: size of all inputs.
    """

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FileStarted:
    """A file is being worked on.

    Args:
        path: as in its part.
    """

    path: str


@dataclass(frozen=True, slots=True)
class BytesDone:
    """More of the input is done, of whichever file.

    Args:
        bytes: how much more.
    """

    bytes: int


@dataclass(frozen=True, slots=True)
class TaskRetried:
    """The worker at a file died, and the file is done again.

    Args:
        path: as in its part.
        attempt: the number of the attempt that follows, from 2.
        reason: what became of the worker.
        bytes_undone: how much of what BytesDone told will be told again.
    """

    path: str
    attempt: int
    reason: str
    bytes_undone: int


@dataclass(frozen=True, slots=True)
class FileDone:
    """A source file is done, and what it became is published.

    Args:
        task_id: of the task.
        parts: the record of each file published.
        signable: what a signature will say about each; empty where nothing is signed.
        grants: KEKs made since the file before, wrapped for further master keys.
        stages: what the time went into.
        bytes_by_key: how much was encrypted under each master key, and stays in plaintext.
        clear: paths of the leaf columns that stay in plaintext in one of its files.
        attempt: the directory of the attempt, where its files wait for the driver; None: they are at their places.
    """

    task_id: str
    parts: tuple[Part, ...]
    signable: tuple[SignableFile, ...] = ()
    grants: tuple[Grant, ...] = ()
    stages: StageSeconds = NO_STAGES
    bytes_by_key: tuple[KeyBytes, ...] = ()
    clear: tuple[tuple[str, ...], ...] = ()
    attempt: str | None = None


@dataclass(frozen=True, slots=True)
class FileChecked:
    """A file was compared with what was signed about it, or could not be.

    Args:
        path: below the dataset.
        findings: how many there are about it.
    """

    path: str
    findings: int


@dataclass(frozen=True, slots=True)
class RunFinished:
    """All files are published.

    Args:
        summary: the record of the run.
    """

    summary: Summary


Event: TypeAlias = RunStarted | FileStarted | BytesDone | TaskRetried | FileDone | FileChecked | RunFinished


def ignore(event: Event) -> None:
    """Take an event and do nothing with it."""
