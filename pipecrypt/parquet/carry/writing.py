"""Carry bytes from sources to a sink in one pass, writing behind.

Two reused buffers: one is filled while a thread writes the other. Fresh buffers would cost page faults, which take
longer than encrypting. Plaintext that stays so is copied by the system where source and sink are files, and otherwise
written from where it was read to. Every write passes through that one thread, so bytes stay in order. The same thread
digests what stays plaintext, where that is wanted: so digesting takes place beside encrypting. Of a short file all is
written when it ends, and no thread is started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias, TypeGuard

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.parquet.carry.reading import ReadAhead, allocate_buffer
from pipecrypt.parquet.protocols import AppendSink, CopiesRanges
from pipecrypt.vocabulary.ranges import RangeSource, traits_of

__all__ = ["Body", "copies_ranges", "ignore_bytes"]

_FLUSH_BYTES = 4 << 20  # not Final, as carry/reading.WINDOW_BYTES
_REPORT_BYTES: Final = 1 << 20
_BUFFER_BYTES: Final = 6 << 20
_MOST_WRITES: Final = 8


def ignore_bytes(count: int) -> None:
    """Take progress and do nothing with it."""


def copies_ranges(sink: AppendSink) -> TypeGuard[CopiesRanges]:
    """Return whether a sink has that power; asked once a file, so not by `isinstance`, which looks at all names."""
    return hasattr(sink, "copy_range")


@dataclass(slots=True)
class _Copy:
    """A range of the input's file, to be copied."""

    descriptor: int
    start: int
    length: int


_Place: TypeAlias = tuple[int, int, int]  # of what is digested: row group, column, kind
# A piece of the output, in order; where a digest ends, the place of what is digested; None where a digest begins.
_Part: TypeAlias = bytes | memoryview | _Copy | _Place | None


class DigestTaker(Protocol):
    """Takes digests as they become known, on the thread that writes; its errors stop writing."""

    @property
    def algorithm(self) -> DigestAlgorithm:
        """What the digests are made with."""

    def put(self, place: _Place, hex_digest: str) -> None:
        """Take the digest of what lies at a place, in hex.

        Raises:
            IntegrityError: it is not the one that is due.
        """


class Body:
    """The output as it grows; a context manager, inside which the sink must not be touched by others.

    Args:
        sink: the output.
        on_bytes: told how many bytes of the input were done.
        digests: takes the digests of what is marked; None: nothing is digested.

    Attributes:
        position: how much was appended to the output, in bytes.
        read_seconds: how long the input was waited for.
        write_seconds: how long the output was waited for.
    """

    def __init__(self, sink: AppendSink, on_bytes: Callable[[int], None], digests: DigestTaker | None = None) -> None:
        """Begin at the start of the output, with no input."""
        self._ahead: ReadAhead | None = None
        self._sink = sink
        # What is digested must be seen, and nearly all that is copied is digested.
        self._copies = sink if digests is None and copies_ranges(sink) else None
        self._on_bytes = on_bytes
        self._buffers = [memoryview(b""), memoryview(b"")]
        self._room = self._buffers[0]
        self._begun = self._filled = 0  # the part of the buffer that is not part of the output yet
        self._descriptor: int | None = None
        self._digests = digests
        self._digester: Digester | None = None  # of the part that is being written
        self._parts: list[_Part] = []  # for the next write
        self._unwritten = self._done = 0
        self._is_lent = False
        self._writes: deque[Future[None]] = deque()
        self._last_write: Future[None] | None = None
        self._spare_use: Future[None] | None = None  # the write that the other buffer is, or was, needed for
        self._has_failed = False
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipecrypt-write")
        self.position = 0
        self.read_seconds = self.write_seconds = 0.0

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
                self._write_all()
            else:
                self._has_failed = True  # what waits is dropped: its errors would hide the one that is on its way
        finally:
            self._close_ahead()
            self._writer.shutdown(wait=True)

    def open_input(self, source: RangeSource) -> None:
        """Read from `source` from now on."""
        self.close_input()
        self._ahead = ReadAhead(source, self._leave_window)
        self._descriptor = None if self._copies is None else traits_of(source).descriptor

    def close_input(self) -> None:
        """Wait for reads and copies under way, so that the input can be closed."""
        if self._descriptor is not None:
            self._descriptor = None
            if any(isinstance(part, _Copy) for part in self._parts):
                self._write_all()
            self._wait()
        self._close_ahead()

    def _close_ahead(self) -> None:
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
        began = perf_counter()
        view = self._input.read(start, length)
        self.read_seconds += perf_counter() - began
        return view

    def read_some(self, start: int, least: int, most: int) -> memoryview:
        """Return `least` bytes from `start`, and up to `most` if they are at hand; valid until the next read."""
        began = perf_counter()
        view = self._input.read_some(start, least, most)
        self.read_seconds += perf_counter() - began
        return view

    def done(self, count: int) -> None:
        """Count how many bytes of the input were done; they are reported in large steps, and when the input ends."""
        self._done += count
        if self._done >= _REPORT_BYTES:
            self._report()

    def _report(self) -> None:
        done, self._done = self._done, 0
        self._on_bytes(done)

    def reserve(self, length: int, *, overlap: int = 0) -> memoryview:
        """Return room for `length` bytes at the end of the output; `commit` says how many were used.

        With `overlap`, so many bytes come before the room, which the caller gives back as they were: the end of what
        was committed before, or bytes that are not part of the output.
        """
        needed = overlap + length
        if self._filled + needed > len(self._room):
            if self._filled:
                self._flush()
            if needed > len(self._room):
                self._room = self._buffers[0] = allocate_buffer(max(needed + needed // 8, _BUFFER_BYTES))
        if overlap and self._filled == self._begun:
            self._begun = self._filled = self._filled + overlap
        return self._room[self._filled - overlap : self._filled + length]

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
            began = perf_counter()
            self._write_parts([data])  # here, because the caller may change it afterwards
            self.write_seconds += perf_counter() - began
            self.position += length
            return
        if length:
            self.reserve(length)[:] = data
            self.commit(length)

    def append(self, data: memoryview) -> None:
        """Append bytes that stay as they are until what `flush` returns is done."""
        if data:
            self._end_part()
            self._parts.append(data)
            self.position += len(data)
            self._unwritten += len(data)

    def flush(self) -> Future[None]:
        """Begin to write all that was appended so far; return what is done when it is written."""
        self._flush()
        if self._last_write is None:  # nothing was appended
            self._last_write = self._writer.submit(lambda: None)
        return self._last_write

    def copy(self, start: int, length: int) -> None:
        """Append a range of the input as it is."""
        if self._descriptor is not None:
            self._copy_file(self._descriptor, start, length)
            return
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

    def begin_digest(self) -> None:
        """Digest what is appended from now on, up to `end_digest`; nothing happens where no digests are wanted."""
        self._mark(None)

    def end_digest(self, place: _Place) -> None:
        """End the digest, which is that of `place`."""
        self._mark(place)

    def settle(self) -> None:
        """Report what was done, and wait until all that was appended is written, and so all digests were put."""
        self._report()
        self._write_all()

    def _mark(self, place: _Place | None) -> None:
        if self._digests is not None:
            self._end_part()
            self._parts.append(place)

    @property
    def copies_files(self) -> bool:
        """Whether what is copied need not be read ahead."""
        return self._descriptor is not None

    def _copy_file(self, descriptor: int, start: int, length: int) -> None:
        for at in range(start, start + length, _FLUSH_BYTES):
            piece = min(_FLUSH_BYTES, start + length - at)
            self._end_part()
            last = self._parts[-1] if self._parts else None
            if isinstance(last, _Copy) and last.start + last.length == at:
                last.length += piece
            else:
                self._parts.append(_Copy(descriptor, at, piece))
            self.done(piece)
            self.position += piece
            self._unwritten += piece
            if self._unwritten >= _FLUSH_BYTES:
                self._flush()

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
        return self._last_write

    def _end_part(self) -> None:
        if self._filled > self._begun:
            self._parts.append(self._room[self._begun : self._filled])
            self._begun = self._filled

    def _flush(self) -> None:
        self._end_part()
        if not self._parts:
            return
        write = self._last_write = self._writer.submit(self._write_parts, self._parts)
        self._writes.append(write)
        self._parts, self._unwritten = [], 0
        if self._filled:
            self._buffers.reverse()
            self._room = self._buffers[0]
            self._begun = self._filled = 0
            free, self._spare_use = self._spare_use, write
            if free is not None:
                self._await(free)
        # Copies need no buffer, so several may wait: sealing goes on meanwhile.
        while self._writes and (len(self._writes) > _MOST_WRITES or self._writes[0].done()):
            self._await(self._writes.popleft())

    def _write_all(self) -> None:
        """Write what is left, and wait for it; the first write needs no thread then, since nothing goes on beside."""
        self._end_part()
        if self._last_write is not None or not self._parts:
            self._flush()
            self._wait()
            return
        parts, self._parts, self._unwritten = self._parts, [], 0
        self._begun = self._filled = 0
        began = perf_counter()
        self._write_parts(parts)
        self.write_seconds += perf_counter() - began

    def _wait(self) -> None:
        while self._writes:
            self._await(self._writes.popleft())

    def _await(self, write: Future[None]) -> None:
        began = perf_counter()
        write.result()
        self.write_seconds += perf_counter() - began

    def _write_parts(self, parts: Sequence[_Part]) -> None:
        if self._has_failed:
            return  # nothing may follow a gap
        try:
            for part in parts:
                if part is None or isinstance(part, tuple):
                    self._switch_digest(part)
                elif not isinstance(part, _Copy):
                    if self._digester is not None:
                        self._digester.update(part)
                    self._sink.write(part)
                elif self._copies is not None:
                    self._copies.copy_range(part.descriptor, part.start, part.length)
        except BaseException:
            self._has_failed = True
            raise

    def _switch_digest(self, place: _Place | None) -> None:
        digester, self._digester = self._digester, None
        if self._digests is not None and place is None:
            self._digester = Digester(self._digests.algorithm)
        elif self._digests is not None and place is not None and digester is not None:
            self._digests.put(place, digester.hexdigest())
