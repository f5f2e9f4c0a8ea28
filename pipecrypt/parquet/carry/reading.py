"""Read a source: ahead of a walk on threads of its own, several ranges at once, or from memory.

Reading a local file takes a fifth of the time of encrypting it, and is done by the system while Python does the rest.
Three reused buffers: one is filled, one is read from, and out of the third the window before may still be written.
A single short window is read when it is asked for: starting a thread takes longer.
From a store several windows are on their way at once, each with a buffer more, because an answer takes its time.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Final

from pipecrypt.vocabulary.ranges import DescribedSource, RangeSource, is_described, traits_of

__all__ = [
    "WINDOW_BYTES",
    "Gatherer",
    "ReadAhead",
    "allocate_buffer",
]

_LARGE_PAGE_BYTES: Final = 2 << 20


def allocate_buffer(length: int) -> memoryview:
    """Return a fresh writable buffer of at least `length` bytes; it is freed when nobody refers to it."""
    if length < _LARGE_PAGE_BYTES:
        return memoryview(bytearray(length))
    # Private: shared memory, which Python takes otherwise, comes in small pages, each of which is a fault.
    area = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(area)


# Not Final, because compiled code has such constants in it, and tests try small windows.
WINDOW_BYTES = 4 << 20
_SHORT_BYTES: Final = 256 << 10
_NOTHING: Final = memoryview(b"")
# What is read at once where nothing is read ahead: each read may be a request to a store.
_UNPLANNED_BYTES: Final = 16 << 20


class ReadAhead:
    """Serves ranges of a source, those inside of the planned windows from memory.

    Args:
        source: the input.
        leave: called when a window was read from for the last time; returns the write that may still use it, whose
            end is awaited before the window's buffer is filled again.
    """

    def __init__(self, source: RangeSource, leave: Callable[[], Future[None] | None] = lambda: None) -> None:
        """Plan nothing yet."""
        self._source = source
        self._leave = leave
        # A source that cannot be read on other threads is read as it is asked.
        self._depth = traits_of(source).reads_in_flight
        self._into = source if self._depth and is_described(source) else None
        self._windows: deque[tuple[int, int]] = deque()
        self._free: deque[tuple[memoryview, Future[None] | None]] = deque([(_NOTHING, None)] * (self._depth + 1))
        self._current = _NOTHING
        self._start, self._view = 0, _NOTHING
        self._gathered, self._gathered_start, self._gathered_end = bytearray(), 0, 0
        # Start, buffer, and what waits for the bytes.
        self._pending: deque[tuple[int, memoryview, Callable[[], memoryview]]] = deque()
        self._threads = ThreadPoolExecutor(max(1, self._depth), thread_name_prefix="pipecrypt-read")

    def plan(self, windows: Iterable[tuple[int, int]]) -> None:
        """Begin to read windows (start, end), in ascending order, as the walk comes to them."""
        if self._into is not None:
            self._windows.extend(windows)
            is_alone = self._depth == 1 and not self._pending and len(self._windows) == 1
            self._fetch_next(takes_no_thread=is_alone and self._windows[0][1] - self._windows[0][0] <= _SHORT_BYTES)

    def read(self, start: int, length: int) -> memoryview:
        """Return a range of the input, valid until the next read."""
        end = start + length
        while True:
            at = start - self._start
            if at >= 0 and at + length <= len(self._view):
                return self._view[at : at + length]
            if self._gathers(start) or self._start <= start < self._start + len(self._view):
                return self._gather(start, end)
            if not self._pending or start < self._pending[0][0]:
                return self._source.read_range(start, length)
            self._advance()

    def read_some(self, start: int, least: int, most: int) -> memoryview:
        """Return `least` bytes from `start`, and up to `most` if they are at hand; valid until the next read."""
        at = start - self._start
        if at < 0 or at + least > len(self._view):
            if not self._is_planned(start):
                return self._source.read_range(start, max(least, min(most, _UNPLANNED_BYTES)))
            whole = self.read(start, least)
            at = start - self._start
            if at < 0 or at + least > len(self._view):
                return whole
        return self._view[at : at + most]

    def lend(self, start: int, most: int) -> memoryview | None:
        """Return up to `most` bytes from `start`, valid until `leave` is called; None where they are in no window."""
        if start >= self._start + len(self._view) and self._is_planned(start):
            self.read(start, 1)
        at = start - self._start
        return self._view[at : at + most] if 0 <= at < len(self._view) else None

    def _is_planned(self, start: int) -> bool:
        is_ahead = bool(self._pending) and start >= self._pending[0][0]
        return is_ahead or self._gathers(start) or self._start <= start < self._start + len(self._view)

    def _gathers(self, start: int) -> bool:
        return self._gathered_start <= start < self._gathered_end

    def _gather(self, start: int, end: int) -> memoryview:
        """Return a range that crosses windows, from a buffer of its own; it may begin where the range before did."""
        if not self._gathers(start):
            self._gathered_start = self._gathered_end = start
        origin = self._gathered_start
        if end - origin > len(self._gathered):
            # A new one, because the caller may still look at the one before.
            grown = bytearray((end - origin) + (end - origin) // 8)
            grown[: self._gathered_end - origin] = memoryview(self._gathered)[: self._gathered_end - origin]
            self._gathered = grown
        gathered = memoryview(self._gathered)
        while self._gathered_end < end:
            at = self._gathered_end - self._start
            if at >= len(self._view) and self._pending:
                self._advance()
                continue
            if not 0 <= at < len(self._view):  # what lies between windows was not planned
                return self._source.read_range(start, end - start)
            piece = self._view[at : at + end - self._gathered_end]
            gathered[self._gathered_end - origin : self._gathered_end - origin + len(piece)] = piece
            self._gathered_end += len(piece)
        return gathered[start - origin : end - origin]

    def _advance(self) -> None:
        if self._pending:
            start, buffer, filled = self._pending[0]
            view = filled()
            self._pending.popleft()
            self._free.append((self._current, self._leave()))
            self._start, self._view, self._current = start, view, buffer
            self._fetch_next()

    def close(self) -> None:
        """Wait for the reads under way, so that the source can be closed."""
        self._windows.clear()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _fetch_next(self, *, takes_no_thread: bool = False) -> None:
        while self._windows and self._into is not None and len(self._pending) < self._depth:
            start, end = self._windows.popleft()
            # The buffer used last, unless it is still written from: one is never touched where nothing is lent.
            buffer, last_use = self._free.popleft() if self._free[-1][1] else self._free.pop()
            if end - start > len(buffer):
                # At once, not again for each larger window.
                buffer = allocate_buffer(end - start if takes_no_thread else max(end - start, WINDOW_BYTES))
            fill = partial(_fill, self._into, start, buffer[: end - start], last_use)
            self._pending.append((start, buffer, fill if takes_no_thread else self._threads.submit(fill).result))


def _fill(source: DescribedSource, start: int, out: memoryview, last_use: Future[None] | None) -> memoryview:
    if last_use is not None:
        wait((last_use,))  # whoever began that write hears of its errors
    source.read_into(start, out)
    return out


class Gatherer:
    """Ranges of one source, each in memory of its own.

    Args:
        source: the file.
    """

    __slots__ = ("_lock", "_source")

    def __init__(self, source: RangeSource) -> None:
        """Fetch nothing yet."""
        self._source = source
        self._lock = threading.Lock()

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length), in the order given.

        Raises:
            FormatError: the file is shorter than that.
            StorageError: the storage failed.
        """
        windows = _merged(ranges)
        if is_described(self._source):
            fetched = list(self._source.read_many(windows))
        else:
            with self._lock:
                fetched = [memoryview(bytes(self._source.read_range(start, length))) for start, length in windows]
        if len(windows) == 1 and len(ranges) == 1:
            return fetched
        starts = [start for start, _ in windows]
        found = []
        for start, length in ranges:
            index = bisect_right(starts, start) - 1
            at = start - starts[index]
            found.append(fetched[index][at : at + length])
        return found


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    windows: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if windows and start <= sum(windows[-1]):
            first, known = windows[-1]
            windows[-1] = (first, max(known, start + length - first))
        else:
            windows.append((start, length))
    return windows
