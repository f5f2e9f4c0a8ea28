"""Files that are read by range: what storage offers and the engine reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeGuard, runtime_checkable

from pipecrypt.errors import FormatError

__all__ = [
    "DescribedSource",
    "MemorySource",
    "RangeSource",
    "SourceTraits",
    "differing_ranges",
    "is_described",
    "read_each",
    "read_into",
    "traits_of",
]

_COMPARED_BYTES: Final = 4096
_RANGE_BYTES: Final = 16


class RangeSource(Protocol):
    """A file of known size, read by byte range."""

    @property
    def name(self) -> str:
        """What errors call this file."""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`; the view is valid until the next call.

        Raises:
            FormatError: the file is shorter than that.
            StorageError: the storage failed.
        """


@dataclass(frozen=True, slots=True)
class SourceTraits:
    """How a source is best read; without any, front to back, in long ranges, on one thread.

    Args:
        seeks_cheaply: thousands of small reads are fine, as on a local disk; else each may be a request.
        reads_in_flight: how many reads other threads may do at once, and are useful: none of bytes in memory, one of a
            local file, several of a store.
        descriptor: the open file, where the system can copy from it.
        part_bytes: set where the source shows a part of a larger file, in its place, with gaps around it: size of the
            file that the part alone would be.
    """

    seeks_cheaply: bool = False
    reads_in_flight: int = 0
    descriptor: int | None = None
    part_bytes: int | None = None


_NO_TRAITS = SourceTraits()


@runtime_checkable
class DescribedSource(RangeSource, Protocol):
    """A RangeSource that says how it is best read, and fills the buffers of others."""

    @property
    def traits(self) -> SourceTraits:
        """How it is best read."""

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        """Return the bytes of each range (start, length), which stay valid; raises what `read_range` raises."""


def is_described(source: RangeSource) -> TypeGuard[DescribedSource]:
    """Return whether a source is a DescribedSource; asked several times a file, so not by `isinstance`."""
    return hasattr(source, "read_many") and hasattr(source, "read_into") and hasattr(source, "traits")


def traits_of(source: RangeSource) -> SourceTraits:
    """Return how a source is best read."""
    return source.traits if is_described(source) else _NO_TRAITS


def read_into(source: RangeSource, start: int, out: memoryview) -> None:
    """Fill `out` with a source's bytes from `start`, without a copy where the source can."""
    if is_described(source):
        source.read_into(start, out)
    else:
        out[:] = source.read_range(start, len(out))


def read_each(source: DescribedSource, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
    """Return the bytes of each range, read one after another: `read_many` of a source that reads none side by side."""
    found = [memoryview(bytearray(length)) for _, length in ranges]
    for (start, _), out in zip(ranges, found, strict=True):
        source.read_into(start, out)
    return found


class MemorySource:
    """A whole file in a buffer, which is not copied.

    Args:
        data: the file.
        name: what errors call it.
    """

    __slots__ = ("_data", "name", "size_bytes")

    traits = SourceTraits(seeks_cheaply=True)

    def __init__(self, data: bytes | bytearray | memoryview, name: str) -> None:
        """Look at the buffer."""
        self._data = memoryview(data).cast("B")
        self.name = name
        self.size_bytes = len(self._data)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`.

        Raises:
            FormatError: the file is shorter than that.
        """
        if start < 0 or length < 0 or start + length > self.size_bytes:
            raise FormatError(f"{self.name} has {self.size_bytes} bytes, but bytes {start} to {start + length} are due")
        return self._data[start : start + length]

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`."""
        out[:] = self.read_range(start, len(out))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length)."""
        return [self.read_range(start, length) for start, length in ranges]


def differing_ranges(old: bytes, new: bytes) -> Iterator[tuple[int, int]]:
    """Yield the ranges (start, end) of `new` that `old` does not have there, to a few bytes and in ascending order."""
    begun: int | None = None
    start, length = 0, len(new)
    while start < length:
        end = min(start + _COMPARED_BYTES, length)
        if begun is None and new[start:end] == old[start:end]:  # a footer has long parts that stay the same
            start = end
            continue
        for at in range(start, end, _RANGE_BYTES):
            is_same = new[at : min(at + _RANGE_BYTES, end)] == old[at : min(at + _RANGE_BYTES, end)]
            if is_same and begun is not None:
                yield begun, at
                begun = None
            elif not is_same and begun is None:
                begun = at
        start = end
    if begun is not None:
        yield begun, length
