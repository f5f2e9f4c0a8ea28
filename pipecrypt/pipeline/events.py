"""What a run tells while it works. Showing it is left to cli.

Order: RunStarted; for each file FileStarted, any number of BytesDone, FileDone, several files mixed; RunFinished. What
is tried once more tells FileRetried, and begins again with FileStarted. A run that fails ends with its exception
instead. A verification tells FileChecked where a run tells FileDone, and ends with its report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pipecrypt.dataset.signing.records import SignableFile
from pipecrypt.keys.grants import Grant
from pipecrypt.parquet.report import KeyBytes
from pipecrypt.pipeline.stages import NO_STAGES, StageSeconds
from pipecrypt.pipeline.summary import Part, Summary

__all__ = [
    "BytesDone",
    "Event",
    "FileChecked",
    "FileDone",
    "FileRetried",
    "FileStarted",
    "RunFinished",
    "RunStarted",
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
class FileRetried:
    """A file's attempt was lost, and it is tried once more.

    Args:
        path: as in its part.
        reason: what happened, without secrets.
        bytes_lost: how many BytesDone of it count no more.
    """

    path: str
    reason: str
    bytes_lost: int = 0


@dataclass(frozen=True, slots=True)
class FileDone:
    """A source file is done, and what it became is published.

    Args:
        parts: the record of each file published.
        signable: what a signature will say about each; empty where nothing is signed.
        grants: KEKs made since the file before, wrapped for further master keys.
        stages: what the time went into.
        bytes_by_key: how much was encrypted under each master key, and stays in plaintext.
    """

    parts: tuple[Part, ...]
    signable: tuple[SignableFile, ...] = ()
    grants: tuple[Grant, ...] = ()
    stages: StageSeconds = NO_STAGES
    bytes_by_key: tuple[KeyBytes, ...] = ()


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


Event: TypeAlias = RunStarted | FileStarted | BytesDone | FileRetried | FileDone | FileChecked | RunFinished


def ignore(event: Event) -> None:
    """Take an event and do nothing with it."""
