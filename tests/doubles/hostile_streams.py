"""Byte streams that misbehave, for tests of whatever reads or writes them.

Sources fit `parquet.protocols.RangeSource`, sinks fit `AppendSink`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipecrypt.errors import FormatError, StorageError

__all__ = [
    "BytesSink",
    "BytesSource",
    "FailingSink",
    "FailingSource",
    "RecordingSource",
    "bit_flips",
    "truncations",
]


class BytesSource:
    """A well-behaved source over bytes; `data` may be exchanged to change the file under its reader.

    Args:
        data: the content.
        name: what errors call it.
    """

    def __init__(self, data: bytes | bytearray, name: str = "bytes.parquet") -> None:
        """Keep a reference to `data`."""
        self.data = data
        self.name = name
        self._buffer = bytearray()

    @property
    def size_bytes(self) -> int:
        """Size of the content."""
        return len(self.data)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return a range in a buffer that the next call overwrites, so that a view kept too long is noticed."""
        if start < 0 or length < 0 or start + length > len(self.data):
            raise FormatError(f"{self.name} has no bytes {start} to {start + length}")
        self._buffer[:] = b"\xa5" * len(self._buffer)
        if len(self._buffer) < length:
            self._buffer = bytearray(length)
        view = memoryview(self._buffer)[:length]
        view[:] = self.data[start : start + length]
        return view


class RecordingSource(BytesSource):
    """A source that remembers the ranges it was asked for."""

    def __init__(self, data: bytes | bytearray, name: str = "bytes.parquet") -> None:
        """Begin with no range."""
        super().__init__(data, name)
        self.ranges: list[tuple[int, int]] = []

    def read_range(self, start: int, length: int) -> memoryview:
        """Return a range and remember it."""
        self.ranges.append((start, length))
        return super().read_range(start, length)


class FailingSource(BytesSource):
    """A source whose n-th read fails.

    Args:
        data: the content.
        fail_at: number of the read that fails, from 1; 0 switches the fault off.
    """

    def __init__(self, data: bytes | bytearray, fail_at: int) -> None:
        """Begin with no read done."""
        super().__init__(data)
        self.reads = 0
        self._fail_at = fail_at

    def read_range(self, start: int, length: int) -> memoryview:
        """Return a range, or fail."""
        self.reads += 1
        if self.reads == self._fail_at:
            raise StorageError(f"cannot read {self.name}: planned fault")
        return super().read_range(start, length)


class BytesSink:
    """A well-behaved sink; `data` is what was written."""

    def __init__(self) -> None:
        """Begin empty."""
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append a copy."""
        self.data += data


class FailingSink(BytesSink):
    """A sink that is full after some bytes.

    Args:
        room_bytes: how much fits; a write beyond is cut short and fails, as on a full disk.
    """

    def __init__(self, room_bytes: int) -> None:
        """Begin empty."""
        super().__init__()
        self._room_bytes = room_bytes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append what fits, and fail on the rest."""
        room = self._room_bytes - len(self.data)
        super().write(memoryview(data)[:room])
        if len(data) > room:
            raise StorageError("cannot write to this sink: no space left on device")


def truncations(data: bytes, lengths: Sequence[int] | None = None) -> Iterator[bytes]:
    """Yield `data` cut to every shorter length, or to the given ones."""
    for length in range(len(data)) if lengths is None else lengths:
        yield data[:length]


def bit_flips(data: bytes, offsets: Sequence[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, data with one bit of that byte flipped) for every offset, or for the given ones.

    The bit changes with the offset, so that all eight are tried on any longer input.
    """
    for offset in range(len(data)) if offsets is None else offsets:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << (offset % 8)
        yield offset, bytes(flipped)
