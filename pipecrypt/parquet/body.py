"""Carry bytes from a source to a sink in one pass, with one reused buffer. What the bytes mean is left to the walks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipecrypt.parquet.protocols import AppendSink, RangeSource

__all__ = ["Body", "ignore_bytes"]

_COPY_BYTES: Final = 8 << 20


def ignore_bytes(count: int) -> None:
    """Take progress and do nothing with it."""


class Body:
    """The bytes between a file's magic and its footer.

    Args:
        source: the input.
        sink: the output.
        on_bytes: told how many bytes of the input were done.
    """

    __slots__ = ("_buffer", "_on_bytes", "_sink", "_source", "position")

    def __init__(self, source: RangeSource, sink: AppendSink, on_bytes: Callable[[int], None]) -> None:
        """Begin at the start of the output."""
        self._source = source
        self._sink = sink
        self._on_bytes = on_bytes
        self._buffer = bytearray()
        self.position = 0

    def read(self, start: int, length: int) -> memoryview:
        """Return a range of the input, valid until the next read."""
        return self._source.read_range(start, length)

    def write(self, data: bytes | memoryview) -> None:
        """Append to the output."""
        self._sink.write(data)
        self.position += len(data)

    def copy(self, start: int, length: int) -> None:
        """Append a range of the input as it is."""
        for offset in range(start, start + length, _COPY_BYTES):
            piece = min(_COPY_BYTES, start + length - offset)
            self.write(self.read(offset, piece))
            self._on_bytes(piece)

    def done(self, count: int) -> None:
        """Report progress of bytes that `copy` did not report."""
        self._on_bytes(count)

    def scratch(self, length: int) -> memoryview:
        """Return the reused buffer, at least `length` bytes long; it holds what was written to it before."""
        # Fresh buffers cost page faults, more than encrypting does, so the buffer only ever grows.
        if len(self._buffer) < length:
            self._buffer = bytearray(length + length // 8)
        return memoryview(self._buffer)
