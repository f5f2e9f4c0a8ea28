"""What a run tells while it works, and what it has done: events, the record of each file, the sums of a run.

Order: RunStarted; for each file FileStarted, any number of BytesDone, FileDone, several files mixed, and TaskRetried
where a file begins anew; RunFinished. A run that fails ends with its exception instead. A verification tells
FileChecked where a run tells FileDone, and ends with its report.

Reading and writing overlap with the work of a file, on threads of their own. What counts is how long the work waited
for them, so the stages of a file add up to its time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from pipecrypt.dataset.sign.records import SignableFile, SignedStatement
from pipecrypt.parquet.report import FileReport, KeyBytes

if TYPE_CHECKING:
    from pipecrypt.keys.grants import Grant
else:
    Grant = object  # grants come with cryptography, which takes long to import; a hint must be there all the same

__all__ = [
    "NO_STAGES",
    "PART_COUNTS",
    "BytesDone",
    "Event",
    "FileChecked",
    "FileDone",
    "FileStarted",
    "Part",
    "RunFinished",
    "RunStarted",
    "StageClock",
    "StageSeconds",
    "Summary",
    "TaskRetried",
    "bytes_by_key",
    "ignore",
    "sum_parts",
]

_MEGABYTE: Final = 1_000_000


# The counts in a part; sums of them are in summaries, reports and journals. Journals that are there already have these
# and no others: a new one must be optional where the journal is read (journal/block.py).
PART_COUNTS: Final = ("source_bytes", "sink_bytes", "rows", "batches", "data_keys", "service_calls", "bad_rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The record of one output file.

    Args:
        path: the file's path below the sink, with `/`; its name where the sink is one file.
        source_bytes: size of the input.
        sink_bytes: size of the output.
        rows: rows of the table.
        batches: row groups.
        data_keys: data keys made or opened.
        service_calls: calls to key services that this file caused, or others beside it; later files of the same worker
            share their result.
        seconds: time from opening the input to having published the output.
        bad_rows: rows of the input that did not fit and were left out.
    """

    path: str
    source_bytes: int
    sink_bytes: int
    rows: int
    batches: int
    data_keys: int
    service_calls: int
    seconds: float
    bad_rows: int = 0

    @classmethod
    def found(cls, path: str, size_bytes: int) -> Self:
        """Return the record of a file that is there, of which nothing else is known."""
        return cls(path=path, seconds=0.0, **dict.fromkeys(PART_COUNTS, 0) | {"sink_bytes": size_bytes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The record of a run: the sums of its parts.

    Args:
        operation: `encrypt` or `decrypt`.
        files: files published.
        source_bytes: size of all inputs.
        sink_bytes: size of all outputs.
        rows: rows of all tables.
        batches: row groups of all files.
        data_keys: data keys made or opened.
        service_calls: calls to key services.
        seconds: wall-clock time of the run.
        megabytes_per_second: input over that time, in 1,000,000 bytes.
        parts: one for each file, in the order of their paths.
        bad_rows: rows of all inputs that did not fit and were left out.
        signed: the statements that were published; none where nothing was signed.
        run_id: of a run that wrote a directory; None for any other.
        skipped: files that an earlier run had done.
        replaced: outputs that were written again, because their sources had changed.
        removed: outputs that were removed, because their sources were gone.
    """

    operation: str
    files: int
    source_bytes: int
    sink_bytes: int
    rows: int
    batches: int
    data_keys: int
    service_calls: int
    seconds: float
    megabytes_per_second: float
    parts: tuple[Part, ...]
    bad_rows: int = 0
    signed: tuple[SignedStatement, ...] = ()
    run_id: str | None = None
    skipped: int = 0
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, operation: str, parts: Sequence[Part], seconds: float, *, signed: tuple[SignedStatement, ...] = ()
    ) -> Self:
        """Add up the parts of a run that took `seconds`; what it left alone is left to the caller."""
        sums: dict[str, Any] = sum_parts(parts)
        return cls(
            operation=operation,
            files=len(parts),
            seconds=seconds,
            megabytes_per_second=sums["source_bytes"] / _MEGABYTE / seconds if seconds > 0 else 0.0,
            parts=tuple(parts),
            signed=signed,
            **sums,
        )


def sum_parts(parts: Sequence[Part]) -> dict[str, int]:
    """Return the sum of each count over several files."""
    return {name: sum(getattr(part, name) for part in parts) for name in PART_COUNTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """Seconds of one file, or the sums of several.

    Args:
        open_seconds: until input and output were open.
        read_seconds: waiting for the input.
        work_seconds: encrypting or decrypting, and all that is not told apart.
        write_seconds: waiting for the output, and for the digests made on the way there.
        publish_seconds: making the output appear.
    """

    open_seconds: float = 0.0
    read_seconds: float = 0.0
    work_seconds: float = 0.0
    write_seconds: float = 0.0
    publish_seconds: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        """Return the sums."""
        return StageSeconds(
            open_seconds=self.open_seconds + other.open_seconds,
            read_seconds=self.read_seconds + other.read_seconds,
            work_seconds=self.work_seconds + other.work_seconds,
            write_seconds=self.write_seconds + other.write_seconds,
            publish_seconds=self.publish_seconds + other.publish_seconds,
        )


NO_STAGES: Final = StageSeconds()


class StageClock:
    """Takes the time of one file's stages, beginning now.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin to open."""
        self._clock = clock
        self._began = self._opened = self._worked = clock()
        self._read_seconds = self._write_seconds = 0.0

    def opened(self) -> None:
        """Note that input and output are open."""
        self._opened = self._worked = self._clock()

    def worked(self, reports: Sequence[FileReport], *, read_seconds: float = 0.0) -> None:
        """Note that the outputs are complete, and not published.

        Args:
            reports: what the engine did, for each output.
            read_seconds: waiting for the input elsewhere than in the engine.
        """
        self._worked = self._clock()
        self._read_seconds = read_seconds + sum(report.read_seconds for report in reports)
        self._write_seconds = sum(report.write_seconds for report in reports)

    def seconds(self) -> float:
        """Return the seconds until now."""
        return self._clock() - self._began

    def published(self) -> StageSeconds:
        """Return the stages of the file, whose outputs were published."""
        waited = self._read_seconds + self._write_seconds
        return StageSeconds(
            open_seconds=self._opened - self._began,
            read_seconds=self._read_seconds,
            work_seconds=max(self._worked - self._opened - waited, 0.0),
            write_seconds=self._write_seconds,
            publish_seconds=self._clock() - self._worked,
        )


def bytes_by_key(reports: Sequence[FileReport]) -> tuple[KeyBytes, ...]:
    """Return how much is under each master key in several outputs together."""
    counts = Counter[str | None]()
    for report in reports:
        for each in report.bytes_by_key:
            counts[each.key_reference] += each.page_bytes
    return tuple(KeyBytes(reference, page_bytes) for reference, page_bytes in counts.items())


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
        grants: KEKs wrapped for further master keys: all that its process has made for the run, so that no file is
            noted before those that open it. Whoever collects them leaves out those that were told before.
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
