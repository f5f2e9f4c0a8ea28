"""Carry bytes from sources to a sink in one pass, writing behind. What the bytes mean is left to the walks.

Two reused buffers: one is filled while a thread writes the other. Fresh buffers would cost page faults, which take
longer than encrypting. Plaintext is written from where it was read to. Every write passes through that one thread, so
bytes stay in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from pipecrypt.parquet.buffers import allocate_buffer
from pipecrypt.parquet.protocols import AppendSink, RangeSource
from pipecrypt.parquet.readahead import ReadAhead

__all__ = ["Body", "ignore_bytes"]

_FLUSH_BYTES: Final = 4 << 20
_REPORT_BYTES: Final = 1 << 20
_BUFFER_BYTES: Final = 6 << 20


def ignore_bytes(count: int) -> None:
    """Take progress and do nothing with it."""


class Body:
    """The output as it grows; a context manager, inside which the sink must not be touched by others.

    Args:
        sink: the output.
        on_bytes: told how many bytes of the input were done.
    """

    __slots__ = (
        "_ahead",
        "_begun",
        "_buffers",
        "_done",
        "_filled",
        "_is_lent",
        "_on_bytes",
        "_parts",
        "_pending",
        "_room",
        "_sink",
        "_unwritten",
        "_writer",
        "position",
    )

    def __init__(self, sink: AppendSink, on_bytes: Callable[[int], None]) -> None:
        """Begin at the start of the output, with no input."""
        self._ahead: ReadAhead | None = None
        self._sink = sink
        self._on_bytes = on_bytes
        self._buffers = [memoryview(b""), memoryview(b"")]
        self._room = self._buffers[0]
        self._begun = self._filled = 0  # the part of the buffer that is no part of the output yet
        self._parts: list[memoryview] = []  # of the output, in order, for the next write
        self._unwritten = self._done = 0
        self._is_lent = False
        self._pending: Future[None] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipecrypt-write")
        self.position = 0

    def __enter__(self) -> Self:
        """Return the body."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left or, after an error, wait for the write under way, so that the sink can be discarded."""
        try:
            if error is None:
                self._report()
                self._flush()
                self._wait()
        finally:
            self.close_input()
            self._writer.shutdown(wait=True)

    def open_input(self, source: RangeSource) -> None:
        """Read from `source` from now on."""
        self.close_input()
        self._ahead = ReadAhead(source, self._leave_window)

    def close_input(self) -> None:
        """Wait for the read under way, so that the input can be closed."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    @property
    def _input(self) -> ReadAhead:
        if self._ahead is None:
            raise AssertionError("no input is open")
        return self._ahead

    def read_ahead(self, windows: Iterable[tuple[int, int]]) -> None:
        """Begin to read windows (start, end), in ascending order, before they are asked for."""
        self._input.plan(windows)

    def read(self, start: int, length: int) -> memoryview:
        """Return a range of the input, valid until the next read."""
        return self._input.read(start, length)

    def read_some(self, start: int, least: int, most: int) -> memoryview:
        """Return `least` bytes from `start`, and up to `most` if they are at hand; valid until the next read."""
        return self._input.read_some(start, least, most)

    def done(self, count: int) -> None:
        """Count how many bytes of the input were done; they are reported in large steps, and when the input ends."""
        self._done += count
        if self._done >= _REPORT_BYTES:
            self._report()

    def _report(self) -> None:
        done, self._done = self._done, 0
        self._on_bytes(done)

    def reserve(self, length: int) -> memoryview:
        """Return room for `length` bytes at the end of the output; `commit` says how many were used."""
        if self._filled + length > len(self._room):
            self._flush()
            if length > len(self._room):
                self._room = self._buffers[0] = allocate_buffer(max(length + length // 8, _BUFFER_BYTES))
        return self._room[self._filled : self._filled + length]

    def commit(self, length: int) -> None:
        """Append the first `length` bytes of the room that `reserve` returned."""
        self._filled += length
        self.position += length
        self._unwritten += length
        if self._unwritten >= _FLUSH_BYTES:
            self._flush()

    def write(self, data: bytes | memoryview) -> None:
        """Append to the output."""
        length = len(data)
        if length >= _FLUSH_BYTES:  # long enough to be written from where it is
            self._flush()
            self._wait()
            self._sink.write(data)
            self.position += length
            return
        self.reserve(length)[:] = data
        self.commit(length)

    def copy(self, start: int, length: int) -> None:
        """Append a range of the input as it is."""
        end = start + length
        while start < end:
            data = self._input.lend(start, end - start)
            if data is None:
                data = self.read_some(start, 1, min(_FLUSH_BYTES, end - start))
                self.write(data)
            else:
                self._append(data)
            self.done(len(data))
            start += len(data)

    def _append(self, lent: memoryview) -> None:
        self._end_part()
        self._parts.append(lent)
        self._is_lent = True
        self.position += len(lent)
        self._unwritten += len(lent)
        if self._unwritten >= _FLUSH_BYTES:
            self._flush()

    def _leave_window(self) -> Future[None] | None:
        if not self._is_lent:
            return None
        self._is_lent = False
        if self._parts:
            self._flush()
        return self._pending

    def _end_part(self) -> None:
        if self._filled > self._begun:
            self._parts.append(self._room[self._begun : self._filled])
            self._begun = self._filled

    def _flush(self) -> None:
        self._end_part()
        self._wait()
        if self._parts:
            self._pending = self._writer.submit(_write_parts, self._sink, self._parts)
            self._parts, self._unwritten = [], 0
            self._buffers.reverse()
            self._room = self._buffers[0]
            self._begun = self._filled = 0

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()


def _write_parts(sink: AppendSink, parts: list[memoryview]) -> None:
    for part in parts:
        sink.write(part)
