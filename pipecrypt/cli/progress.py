"""What people and programs see of a run: progress on standard error while it goes on, and the lines of its summary.

Progress is a bar on a terminal, plain lines elsewhere, JSON lines under `--json`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from pipecrypt.cli.render import OUTPUT, aligned, count, write_event, write_progress
from pipecrypt.runs.report.events import BytesDone, Event, FileChecked, FileDone, FileStarted, RunStarted, TaskRetried
from pipecrypt.runs.report.run_id import current_run_id
from pipecrypt.vocabulary.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from pipecrypt.dataset.sign.records import SignedStatement
    from pipecrypt.runs.report.events import Summary

__all__ = ["run_lines", "show_progress"]

_LINE_SECONDS = 5.0
_JSON_SECONDS = 1.0
_MB = 1_000_000
_MOST_NAMES = 3
_NUMBER = re.compile(r"-\d{5,}(?=(\.[^./]*)?\Z)")
_DONE = {"encrypt": "encrypted", "decrypt": "decrypted"}
_MAX_SOURCES = 20


Clock: TypeAlias = Callable[[], float]


@contextmanager
def show_progress(clock: Clock = time.monotonic) -> Iterator[Callable[[Event], None]]:
    """Yield what a run is to call with its events; show them until the block ends."""
    if OUTPUT.as_json:
        yield _JSONLines(clock).on_event
    elif sys.stderr.isatty():
        with _bar(clock) as bar:
            yield bar.on_event
    else:
        yield _PlainLines(clock).on_event


class _Counts:
    """How far a run is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self.files = self.bytes = self.files_done = self.bytes_done = 0

    def add(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.files, self.bytes = event.files, event.bytes
        elif isinstance(event, BytesDone):
            self.bytes_done += event.bytes
        elif isinstance(event, TaskRetried):
            self.bytes_done = max(self.bytes_done - event.bytes_undone, 0)
        elif isinstance(event, FileDone | FileChecked):
            self.files_done += 1

    def seconds_due(self, interval: float) -> float | None:
        """Return for how long the run goes on, if a line is due after so many seconds since the last one."""
        now = self._clock()
        if now - self._last < interval:
            return None
        self._last = now
        return now - self._began

    def bytes_per_second(self, seconds: float) -> float:
        return self.bytes_done / max(seconds, 1e-9)

    def seconds_left(self, seconds: float) -> float | None:
        rate = self.bytes_per_second(seconds)
        return max(self.bytes - self.bytes_done, 0) / rate if rate > 0 else None


class _PlainLines(_Counts):
    """One line every few seconds, for logs."""

    def on_event(self, event: Event) -> None:
        self.add(event)
        if isinstance(event, TaskRetried):
            write_progress(_retrying(event))
        if (seconds := self.seconds_due(_LINE_SECONDS)) is not None:
            percent = 100 * self.bytes_done // self.bytes if self.bytes else 100
            left = self.seconds_left(seconds)
            write_progress(
                f"{percent} %, {self.files_done} of {self.files} files, "
                f"{self.bytes_done / _MB:,.0f} of {self.bytes / _MB:,.0f} MB, "
                f"{self.bytes_per_second(seconds) / _MB:,.0f} MB/s"
                + ("" if left is None else f", {left:,.0f} s left")
                + f", {seconds:,.0f} s so far"
            )


class _JSONLines(_Counts):
    """One object a line: files as they start and end, and the bytes once a second."""

    def on_event(self, event: Event) -> None:
        self.add(event)
        if isinstance(event, RunStarted):
            self._write("run_started", files=event.files, bytes=event.bytes)
        elif isinstance(event, FileStarted):
            self._write("file_started", path=event.path)
        elif isinstance(event, FileDone):
            for part in event.parts:
                self._write("file_done", path=part.path, rows=part.rows, sink_bytes=part.sink_bytes)
        elif isinstance(event, TaskRetried):
            self._write("task_retried", path=event.path, attempt=event.attempt, reason=event.reason)
        elif isinstance(event, FileChecked):
            self._write("file_checked", path=event.path, findings=event.findings)
        elif isinstance(event, BytesDone) and (seconds := self.seconds_due(_JSON_SECONDS)) is not None:
            left = self.seconds_left(seconds)
            self._write(
                "progress",
                files=self.files,
                files_done=self.files_done,
                bytes=self.bytes,
                bytes_done=self.bytes_done,
                megabytes_per_second=round(self.bytes_per_second(seconds) / _MB, 1),
                seconds=round(seconds, 1),
                seconds_left=None if left is None else round(left, 1),
            )

    def _write(self, event_name: str, **members: object) -> None:
        run_id = current_run_id()
        named = {} if run_id is None else {"run_id": run_id}
        write_event(event_name, **named, **members)


class _Bar(_Counts):
    """A bar with rate and time left, and the names of some files at work."""

    def __init__(self, clock: Clock, progress: Progress) -> None:
        super().__init__(clock)
        self._progress = progress
        self._task = progress.add_task("", total=None, files="0/0", at_work="")
        self._at_work: dict[str, None] = {}

    def on_event(self, event: Event) -> None:
        self.add(event)
        if isinstance(event, TaskRetried):
            self._progress.console.print(printable(_retrying(event)), markup=False, highlight=False)
        if isinstance(event, FileStarted):
            self._at_work[event.path] = None
        elif isinstance(event, FileChecked | TaskRetried):
            self._at_work.pop(event.path, None)
        elif isinstance(event, FileDone):
            for part in event.parts:
                # A file that is rolled over began under the name without a number.
                began = part.path if part.path in self._at_work else _NUMBER.sub("", part.path)
                self._at_work.pop(began, None)
        names = [printable(path) for path in self._at_work]
        self._progress.update(
            self._task,
            completed=self.bytes_done,
            total=self.bytes or None,
            files=f"{self.files_done}/{self.files}",
            at_work=", ".join(names[:_MOST_NAMES])
            + (f" and {len(names) - _MOST_NAMES} more" * (len(names) > _MOST_NAMES)),
        )


def _retrying(event: TaskRetried) -> str:
    return f"retrying {event.path}, attempt {event.attempt}: its worker {event.reason}"


@contextmanager
def _bar(clock: Clock) -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    columns = (
        TextColumn("{task.fields[files]} files"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TimeElapsedColumn(),
        # No markup: a name may hold brackets. What does not fit is cut off.
        TextColumn("{task.fields[at_work]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    # `transient`: the bar makes room for the summary; an error stands where the bar was.
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        OUTPUT.set_aside = lambda: _stopped(progress)
        try:
            yield _Bar(clock, progress)
        finally:
            OUTPUT.set_aside = nullcontext


@contextmanager
def _stopped(progress: Progress) -> Iterator[None]:
    progress.stop()
    try:
        yield
    finally:
        progress.start()


def run_lines(summary: Summary) -> Iterator[str]:
    """Yield what a run did."""
    if summary.skipped and not (summary.files or summary.signed or summary.removed):
        are, them = ("is", "it") if summary.skipped == 1 else ("are", "them")
        yield f"nothing to do: {count(summary.skipped, 'file')} {are} as an earlier run left {them}"
        return
    done = _DONE.get(summary.operation, summary.operation)
    yield (
        f"{done} {count(summary.files, 'file')} in {summary.seconds:.2f} s, "
        f"{summary.megabytes_per_second:,.1f} MB/s of input"
    )
    # What is None has no line.
    counts = {
        "source bytes": summary.source_bytes,
        "sink bytes": summary.sink_bytes,
        "rows": summary.rows,
        "done by an earlier run": summary.skipped or None,
        "replaced": len(summary.replaced) or None,
        "removed": len(summary.removed) or None,
        "bad rows left out": summary.bad_rows or None,
        "batches": summary.batches,
        "data keys": summary.data_keys,
        "key service calls": summary.service_calls,
    }
    shown = [(name, f"{value:,}") for name, value in counts.items() if value is not None]
    yield from aligned(shown, right=(1,), indent="  ")
    yield from _signed_lines(summary.signed)


def _signed_lines(signed: Sequence[SignedStatement]) -> Iterator[str]:
    for statement in signed[:_MAX_SOURCES]:
        until = "" if statement.expires is None else f", until {statement.expires.isoformat()}"
        yield f"signed {statement.path}, version {statement.version}{until}"
    if len(signed) > _MAX_SOURCES:
        yield f"and {len(signed) - _MAX_SOURCES:,} more"
    for key_id in signed[0].key_ids if signed else ():
        yield f"  by key {key_id}"
