"""The report of a run for operators: collected from its events in bounded memory, kept as JSON below the dataset.

It lies in `_pipecrypt/runs/<run id>/report.json`, one object with `"version": 1`. It says nothing secret and is signed
by nobody. Whoever may write there may have written anything, so reading bounds every size and refuses what is unknown.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final, TypeVar

from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, run_path
from pipecrypt.errors import FormatError, InterruptedRunError, PipecryptError, SourceNotFoundError, UsageError
from pipecrypt.parquet.report import KeyBytes
from pipecrypt.runs.report.events import (
    NO_STAGES,
    BytesDone,
    Event,
    FileDone,
    RunFinished,
    RunStarted,
    TaskRetried,
    sum_parts,
)
from pipecrypt.runs.report.run_id import is_run_id
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = [
    "MAX_KEYS",
    "MAX_REPORT_BYTES",
    "MAX_SAMPLES",
    "MAX_SLOWEST",
    "MAX_TEXT",
    "Outcome",
    "RunCollector",
    "RunCounts",
    "RunReport",
    "Sample",
    "SlowFile",
    "decode_report",
    "encode_report",
    "read_report",
    "report_path",
    "store_report",
]

MAX_SAMPLES: Final = 600
MAX_SLOWEST: Final = 20
MAX_KEYS: Final = 1000
MAX_TEXT: Final = 4096
_OTHER_KEYS: Final = "other keys"


class Outcome(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Sample:
    """How far the run was at a moment.

    Args:
        at_ms: milliseconds since its start.
        bytes_done: of the inputs.
    """

    at_ms: int
    bytes_done: int


@dataclass(frozen=True, slots=True)
class SlowFile:
    """One of the files that took longest.

    Args:
        path: its first output below the sink.
        duration_ms: milliseconds, from opening to having published.
        source_bytes: size of the input.
    """

    path: str
    duration_ms: int
    source_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """What was done; each a number from 0.

    Args:
        planned_files: sources that were to be done.
        planned_bytes: their size.
        files: outputs published.
        source_bytes: size of the inputs that are done.
        sink_bytes: size of the outputs.
        rows: rows of all tables.
        bad_rows: rows that were left out.
        batches: row groups.
        data_keys: data keys made or opened.
        service_calls: calls to key services.
        statements: signed statements published.
        retries: attempts at files that were lost.
    """

    planned_files: int = 0
    planned_bytes: int = 0
    files: int = 0
    source_bytes: int = 0
    sink_bytes: int = 0
    rows: int = 0
    bad_rows: int = 0
    batches: int = 0
    data_keys: int = 0
    service_calls: int = 0
    statements: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """The report of a run.

    Args:
        run_id: see run_id.
        operation: `encrypt` or `decrypt`.
        started: in UTC.
        ended: in UTC.
        duration_ms: by a clock that nobody sets.
        outcome: how it ended.
        error_type: the class of the error; None where there was none.
        error: its message; of errors that are not pipecrypt's own, which may hold anything, only the class is kept.
        counts: what was done.
        samples: bytes done over time, at most 600, ascending.
        stages_ms: milliseconds by stage, summed over the files: with several workers, more than the run took.
        bytes_by_key: pages under each master key, and in plaintext.
        slowest: at most 20 files, the slowest first.
    """

    run_id: str
    operation: str
    started: datetime
    ended: datetime
    duration_ms: int
    outcome: Outcome
    error_type: str | None
    error: str | None
    counts: RunCounts
    samples: tuple[Sample, ...]
    stages_ms: tuple[tuple[str, int], ...]
    bytes_by_key: tuple[KeyBytes, ...]
    slowest: tuple[SlowFile, ...]


class RunCollector:
    """Takes a run's events, in one thread, and makes its report. Memory does not grow with the number of files.

    Args:
        run_id: of the run, which begins now.
        operation: `encrypt` or `decrypt`.
        now: the time, with its zone.
        clock: seconds that only go forward.
    """

    def __init__(self, run_id: str, operation: str, *, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        """Begin."""
        self._run_id, self._operation, self._now, self._clock = run_id, operation, now, clock
        self._started, self._began = now().astimezone(UTC), clock()
        self._counts = Counter[str]()
        self._samples = [Sample(0, 0)]
        self._gap_ms = 0
        self._bytes_done = 0
        self._stages = NO_STAGES
        self._by_key = Counter[str | None]()
        self._slowest: list[tuple[int, int, SlowFile]] = []

    def take(self, event: Event) -> None:
        """Take in what happened."""
        if isinstance(event, BytesDone):
            self._bytes_done += event.bytes
            self._sample()
        elif isinstance(event, FileDone):
            self._take_file(event)
        elif isinstance(event, TaskRetried):
            self._counts["retries"] += 1
            self._bytes_done = max(self._bytes_done - event.bytes_undone, 0)
        elif isinstance(event, RunStarted):
            self._counts["planned_files"], self._counts["planned_bytes"] = event.files, event.bytes
        elif isinstance(event, RunFinished):
            self._counts["statements"] = len(event.summary.signed)

    def report(self, error: BaseException | None = None) -> RunReport:
        """Return the report of the run, which ends now.

        Args:
            error: what ended it; None where it finished.
        """
        duration_ms = self._elapsed_ms()
        samples = self._samples if self._samples[-1].at_ms == duration_ms else [*self._samples, self._last(duration_ms)]
        ordered = sorted(self._by_key.items(), key=lambda item: (item[0] is None, item[0] or ""))
        is_ours = isinstance(error, PipecryptError)
        return RunReport(
            run_id=self._run_id,
            operation=self._operation,
            started=self._started,
            ended=self._now().astimezone(UTC),
            duration_ms=duration_ms,
            outcome=_outcome(error),
            error_type=None if error is None else type(error).__name__[:MAX_TEXT],
            error=_bounded(str(error)) if is_ours else None,
            counts=RunCounts(**self._counts),
            samples=tuple(samples),
            stages_ms=tuple((name, round(getattr(self._stages, f"{name}_seconds") * 1000)) for name in _STAGES),
            bytes_by_key=tuple(KeyBytes(reference, count) for reference, count in ordered),
            slowest=tuple(file for _, _, file in sorted(self._slowest, reverse=True)),
        )

    def _elapsed_ms(self) -> int:
        return max(round((self._clock() - self._began) * 1000), self._samples[-1].at_ms)

    def _last(self, at_ms: int) -> Sample:
        return Sample(at_ms, self._bytes_done)

    def _sample(self) -> None:
        at_ms = self._elapsed_ms()
        if at_ms - self._samples[-1].at_ms <= self._gap_ms:
            return
        self._samples.append(self._last(at_ms))
        if len(self._samples) >= MAX_SAMPLES:
            # Every second one goes, and later ones come at most as close as the rest now is.
            self._samples = self._samples[::2]
            self._gap_ms = max(2 * self._gap_ms, at_ms // (MAX_SAMPLES // 2))

    def _take_file(self, event: FileDone) -> None:
        self._counts["files"] += len(event.parts)
        self._counts.update(sum_parts(event.parts))
        self._stages += event.stages
        for each in event.bytes_by_key:
            reference = None if each.key_reference is None else _bounded(each.key_reference)
            is_known = reference in self._by_key or len(self._by_key) < MAX_KEYS - 2
            self._by_key[reference if is_known or reference is None else _OTHER_KEYS] += each.page_bytes
        if event.parts:
            self._rank(event)

    def _rank(self, event: FileDone) -> None:
        duration_ms = round(sum(part.seconds for part in event.parts) * 1000)
        source_bytes = sum(part.source_bytes for part in event.parts)
        file = SlowFile(_bounded(event.parts[0].path), duration_ms, source_bytes)
        item = (duration_ms, -self._counts["files"], file)  # of equals, the first one met stays
        if len(self._slowest) < MAX_SLOWEST:
            heapq.heappush(self._slowest, item)
        else:
            heapq.heappushpop(self._slowest, item)


def _bounded(text: str) -> str:
    # Names that are no Unicode, which a file system may hold, are no JSON either.
    return text.encode(errors="backslashreplace").decode()[:MAX_TEXT]


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return Outcome.FINISHED
    return Outcome.INTERRUPTED if isinstance(error, InterruptedRunError | KeyboardInterrupt) else Outcome.FAILED


_log = logging.getLogger(__name__)
_VERSION: Final = 1
# The texts of 1,000 keys and 20 files, none of them short, and what else there is.
MAX_REPORT_BYTES: Final = 8 << 20
_STAGES: Final = ("open", "read", "work", "write", "publish")
_NAME: Final = "report.json"
_MEMBERS: Final = tuple(each.name for each in fields(RunReport))
_Record = TypeVar("_Record", Sample, SlowFile, RunCounts, KeyBytes)


def report_path(run_id: str) -> str:
    """Return the path of a run's report below its dataset."""
    return run_path(run_id, _NAME)


def encode_report(report: RunReport) -> bytes:
    """Return a report as JSON."""
    document = asdict(report) | {
        "version": _VERSION,
        "started": report.started.isoformat(),
        "ended": report.ended.isoformat(),
        "stages_ms": dict(report.stages_ms),
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def store_report(sink: Location, report: RunReport, *, is_free: bool = False) -> None:
    """Store a report in the sink. A run ends as it ended: what goes wrong here is logged.

    Args:
        sink: the directory that the run wrote.
        report: of the run.
        is_free: whether it is the first one of the run, and the storage keeps writers apart; see `Store.write`.
    """
    try:
        place = open_store(sink.child(report_path(report.run_id)))
        with place.write(overwrite=True, is_free=is_free) as publication:
            publication.write(encode_report(report))
            publication.publish()
    except PipecryptError as error:
        _log.warning("the report of run %s is not kept: %s", report.run_id, error.message)


def decode_report(data: bytes, name: str) -> RunReport:
    """Return a report that `encode_report` wrote; errors call it `name`.

    Raises:
        FormatError: it is malformed, or of another version.
    """
    try:
        return _report(parse_document(data, max_bytes=MAX_REPORT_BYTES))
    except DocumentError as error:
        raise FormatError(
            f"the run report {name} is malformed: {error}", hint="another program, or a newer version, wrote it"
        ) from error


def read_report(dataset: Location, run_id: str | None) -> RunReport:
    """Read the report of a run below a dataset.

    Args:
        dataset: the directory.
        run_id: of the run; None for the latest that left a report.

    Raises:
        UsageError: the text is not a run id.
        SourceNotFoundError: there is no such report.
        FormatError: it is malformed.
        StorageError: the storage refused or failed.
    """
    if run_id is not None and not is_run_id(run_id):
        raise UsageError(f"{run_id!r} is not a run id", hint="a run id looks like 20261128T020000Z-0a1b2c3d")
    for each in [run_id] if run_id is not None else _run_ids(dataset):
        place = dataset.child(report_path(each))
        data = open_store(place).read_small(max_bytes=MAX_REPORT_BYTES)
        if data is not None:
            report = decode_report(data, place.display)
            if report.run_id != each:
                raise FormatError(f"the run report {place.display} is of another run")
            return report
    what = "a run report" if run_id is None else f"the report of run {run_id}"
    raise SourceNotFoundError(f"{what} is not below {dataset.display}", hint="pipecrypt run leaves one in its sink")


def _run_ids(dataset: Location) -> list[str]:
    """Return the runs that left a report, the latest first."""
    runs = open_store(dataset).list(RUNS_DIRECTORY, lambda directory: len(directory) < 2)
    found = (entry.path.split("/") for entry in runs)
    names = {parts[0] for parts in found if parts[1:] == [_NAME]}
    return sorted(filter(is_run_id, names), reverse=True)


def _report(document: Document) -> RunReport:
    if document.integer("version") != _VERSION:
        raise DocumentError("another version than 1")
    document.only("version", *_MEMBERS)
    run_id, outcome = document.text("run_id", max_characters=64), document.text("outcome", max_characters=16)
    if not is_run_id(run_id) or outcome not in list(Outcome):
        raise DocumentError("no run id, or no outcome")
    samples = _decode_all(Sample, document, "samples", MAX_SAMPLES + 1)
    if any(a.at_ms > b.at_ms for a, b in pairwise(samples)):
        raise DocumentError("samples are not in order")
    stages = document.document("stages_ms")
    stages.only(*_STAGES)
    return RunReport(
        run_id=run_id,
        operation=document.text("operation", max_characters=64),
        started=_time(document, "started"),
        ended=_time(document, "ended"),
        duration_ms=document.count("duration_ms"),
        outcome=Outcome(outcome),
        error_type=document.text_or_null("error_type", max_characters=MAX_TEXT),
        error=document.text_or_null("error", max_characters=MAX_TEXT),
        counts=_decode(RunCounts, document.document("counts")),
        samples=samples,
        stages_ms=tuple((name, stages.count(name)) for name in _STAGES),
        bytes_by_key=_decode_all(KeyBytes, document, "bytes_by_key", MAX_KEYS),
        slowest=_decode_all(SlowFile, document, "slowest", MAX_SLOWEST),
    )


def _time(document: Document, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(document.text(name, max_characters=64))
        if moment.tzinfo is None:
            raise DocumentError(f"{name} has no zone")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise DocumentError(f"{name} is not a time") from error


# How a member of each type is read.
_READERS: Final[Mapping[Any, Callable[[Document, str], Any]]] = {
    "int": lambda document, name: document.count(name),
    "str": lambda document, name: document.text(name, max_characters=MAX_TEXT),
    "str | None": lambda document, name: document.text_or_null(name, max_characters=MAX_TEXT),
}


def _decode_all(kind: type[_Record], document: Document, name: str, max_count: int) -> tuple[_Record, ...]:
    return tuple(_decode(kind, each) for each in document.documents(name, max_count=max_count))


def _decode(kind: type[_Record], document: Document) -> _Record:
    """Return a dataclass of counts and texts, whose members are those of the document, and no others."""
    members = fields(kind)
    document.only(*(each.name for each in members))
    return kind(**{each.name: _READERS[each.type](document, each.name) for each in members})
