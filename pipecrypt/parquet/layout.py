"""The parts of a file in the order they lie in it, and where each goes. Reading and sealing them is left to the walks.

A *segment* is one chunk's pages, Bloom filter, column index or offset index. Both walks copy or seal the segments in
the order of their offsets, without gaps, so that decrypting restores the order and the offsets of the original.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import chain, islice
from typing import Final, NamedTuple, TypeAlias

from pipecrypt.errors import FormatError, LimitError, UnsupportedError
from pipecrypt.parquet.chunks import Chunk, RowGroups, locate_pages
from pipecrypt.parquet.footer import MAGIC_BYTES
from pipecrypt.parquet.pages import PageBounds
from pipecrypt.parquet.readahead import WINDOW_BYTES
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnMetaData
from pipecrypt.parquet.wire.thrift import Struct, WireType

__all__ = [
    "MAX_INDEX_BYTES",
    "UNDECLARED_BYTES",
    "ChunkMove",
    "IndexPlaces",
    "Part",
    "Segment",
    "SegmentKind",
    "Segments",
    "chunk_parts",
    "last_changes",
    "looked_at",
    "order_segments",
    "read_windows",
]


# Indexes and Bloom filters are read whole. No known writer makes Bloom filters of more than 128 MiB.
MAX_INDEX_BYTES: Final = 130 << 20
# How far behind a chunk's declared end its last page may reach (PARQUET-816: by a dictionary page's header).
UNDECLARED_BYTES: Final = 64 * 1024


class SegmentKind(IntEnum):
    """What a segment holds."""

    PAGES = 0
    BLOOM_FILTER = 1
    COLUMN_INDEX = 2
    OFFSET_INDEX = 3


_FIRST_INDEX: Final = int(SegmentKind.COLUMN_INDEX)

# A segment before its neighbours are known, in the order in which parts are sorted: start, length as the footer says
# (0 for a Bloom filter of unknown length), row group, column, kind. Of plain integers, so that Python's garbage
# collector need not look at the many that a large file has.
Part: TypeAlias = tuple[int, int, int, int, int]


class Segment(NamedTuple):
    """One part of the body. A tuple, and without its chunk: a large file has many.

    Args:
        kind: what it holds.
        row_group: ordinal of the row group.
        column: ordinal of the leaf column.
        start: offset in the input.
        declared_bytes: its length as the footer says; None for a Bloom filter of unknown length.
        room_bytes: up to the next segment or the footer; at least `declared_bytes`.
    """

    kind: SegmentKind
    row_group: int
    column: int
    start: int
    declared_bytes: int | None
    room_bytes: int

    @property
    def place(self) -> tuple[int, int, int]:
        """What tells it from all others: row group, column, kind."""
        return self.row_group, self.column, self.kind

    @property
    def is_index(self) -> bool:
        """Whether it is a column or offset index."""
        return self.kind >= _FIRST_INDEX


class ChunkMove(NamedTuple):
    """Where a chunk's pages were and where they are now.

    Args:
        old_start: offset of the first page in the input.
        new_start: offset in the output.
        bounds: of its pages; only start and end of a chunk that was copied.
        is_copy: the pages are the same bytes as before.
    """

    old_start: int
    new_start: int
    bounds: PageBounds
    is_copy: bool = False

    def inverse(self) -> ChunkMove:
        """Return the move back."""
        bounds = PageBounds(self.bounds.new, self.bounds.old, self.bounds.has_dictionary)
        return ChunkMove(self.new_start, self.old_start, bounds, self.is_copy)

    def moved(self, offset: int) -> int | None:
        """Return where an offset into the chunk is now, its end included; None if it is no page's boundary."""
        old, new = self.bounds.old, self.bounds.new
        relative = offset - self.old_start
        if self.is_copy:
            return relative + self.new_start if 0 <= relative <= old[-1] else None
        index = bisect_left(old, relative)
        return self.new_start + new[index] if index < len(old) and old[index] == relative else None

    def moved_page(self, offset: int) -> tuple[int, int]:
        """Return where the page at an offset into the input is now, and by how many bytes it grew.

        Raises:
            IndexError: no page begins there.
        """
        old, new = self.bounds.old, self.bounds.new
        relative = offset - self.old_start
        if self.is_copy and 0 <= relative < old[-1]:
            return relative + self.new_start, 0
        index = bisect_left(old, relative)
        if old[index] != relative:
            raise IndexError
        # IndexError also where the offset is the end of the last page.
        return self.new_start + new[index], (new[index + 1] - new[index]) - (old[index + 1] - relative)

    @property
    def total_growth(self) -> int:
        """By how many bytes all pages grew."""
        return self.bounds.new[-1] - self.bounds.old[-1]

    def first_data_page(self) -> int:
        """Return the new offset of a sealed or opened chunk's first data page, or the chunk's end if it has none."""
        return self.new_start + self.bounds.new[1 if self.bounds.has_dictionary else 0]


def last_changes(segments: Iterable[Segment]) -> Counter[int]:
    """Return for each row group how many segments change the metadata of its chunks; indexes change only entries."""
    return Counter(segment.row_group for segment in segments if not segment.is_index)


_PAGES: Final = int(SegmentKind.PAGES)  # a look-up in an enumeration's class is a slow one
_OFFSET_INDEX: Final = int(SegmentKind.OFFSET_INDEX)
_KINDS: Final = tuple(SegmentKind)


class Segments:
    """All segments of a file in the order of their offsets, made one at a time: a large file has many.

    Args:
        parts: sorted, and checked not to overlap.
        body_end: where the footer begins.
    """

    __slots__ = ("_body_end", "_parts")

    def __init__(self, parts: list[Part], body_end: int) -> None:
        """Keep the parts."""
        self._parts = parts
        self._body_end = body_end

    def __iter__(self) -> Iterator[Segment]:
        """Iterate over all segments."""
        ends = chain((part[0] for part in islice(self._parts, 1, None)), (self._body_end,))
        for (start, declared_bytes, row_group, column, code), end in zip(self._parts, ends, strict=False):
            yield Segment(_KINDS[code], row_group, column, start, declared_bytes or None, end - start)

    def drain(self) -> Iterator[Segment]:
        """Iterate over all segments, and drop each part as it is done."""
        parts, self._parts = self._parts, []
        parts.reverse()
        while parts:
            start, declared_bytes, row_group, column, code = parts.pop()
            end = parts[-1][0] if parts else self._body_end
            yield Segment(_KINDS[code], row_group, column, start, declared_bytes or None, end - start)


def order_segments(parts: list[Part], body_end: int, row_groups: RowGroups) -> Segments:
    """Return all segments by offset; `parts` is sorted, and must not be used again.

    Raises:
        FormatError: a segment lies outside the body or overlaps another.
        UnsupportedError: an offset index lies before the pages that it points to.
    """
    parts.sort()
    pages = {(row_group, column) for _, _, row_group, column, kind in parts if kind == _PAGES}
    ends = chain((part[0] for part in islice(parts, 1, None)), (body_end,))
    early: tuple[int, int] | None = None
    for (start, declared_bytes, row_group, column, kind), end in zip(parts, ends, strict=False):
        if start < MAGIC_BYTES or end - start < declared_bytes:
            raise _misplaced(row_groups.what(row_group, column))
        if kind == _PAGES:
            pages.discard((row_group, column))
        elif kind == _OFFSET_INDEX and (row_group, column) in pages:
            early = row_group, column
    if early is not None:
        raise UnsupportedError(f"{row_groups.what(*early)} has its offset index before its pages")
    return Segments(parts, body_end)


def looked_at(segments: Iterable[Segment], is_sealed: Callable[[int], bool]) -> Iterable[Segment]:
    """Yield the segments whose bytes are looked at: indexes, and the parts of columns that are encrypted."""
    return (segment for segment in segments if segment.is_index or is_sealed(segment.column))


def read_windows(segments: Iterable[Segment]) -> Iterable[tuple[int, int]]:
    """Yield the ranges (start, end) to read at once; a segment lies in one of them, or fills several."""
    start = end = 0
    for segment in segments:
        # A Bloom filter of unknown length is read as it is found.
        needed = min(segment.room_bytes, (segment.declared_bytes or 0) + UNDECLARED_BYTES)
        if start == end or segment.start > end or segment.start + needed - start > WINDOW_BYTES:
            if end > start:
                yield start, end
            start = segment.start
        end = segment.start + needed
        while end - start > WINDOW_BYTES:
            yield start, start + WINDOW_BYTES
            start += WINDOW_BYTES
    if end > start:
        yield start, end


def chunk_parts(chunk: Chunk) -> Iterable[Part]:
    """Yield the parts of a chunk.

    Raises:
        FormatError: a part has an impossible place.
    """
    place = locate_pages(chunk)
    # A chunk of no bytes has no place; its offsets point anywhere and stay as they are.
    if place.declared_bytes > 0:
        yield place.start, place.declared_bytes, chunk.row_group, chunk.column, _PAGES
    elif place.num_values > 0:
        raise FormatError(f"{chunk.what} has values but no bytes")
    metadata, entry = chunk.metadata, chunk.entry
    bloom = metadata.integer(ColumnMetaData.BLOOM_FILTER_OFFSET)
    if bloom is not None:
        length = metadata.integer(ColumnMetaData.BLOOM_FILTER_LENGTH)
        yield _part(int(SegmentKind.BLOOM_FILTER), chunk, bloom, length)
    for kind, offset_field, length_field in _INDEX_FIELDS:
        offset, length = entry.integer(offset_field), entry.integer(length_field)
        if offset is not None and length:
            yield _part(kind, chunk, offset, length)


_INDEX_FIELDS: Final = (
    (int(SegmentKind.COLUMN_INDEX), ColumnChunk.COLUMN_INDEX_OFFSET, ColumnChunk.COLUMN_INDEX_LENGTH),
    (int(SegmentKind.OFFSET_INDEX), ColumnChunk.OFFSET_INDEX_OFFSET, ColumnChunk.OFFSET_INDEX_LENGTH),
)


def _part(kind: int, chunk: Chunk, start: int, length: int | None) -> Part:
    if start < MAGIC_BYTES or (length is not None and length <= 0):
        raise _misplaced(chunk.what)
    if length is not None and length > MAX_INDEX_BYTES:
        raise LimitError(
            f"{chunk.what} has an index or Bloom filter of {length} bytes; at most {MAX_INDEX_BYTES} are read"
        )
    return start, length or 0, chunk.row_group, chunk.column, kind


def _misplaced(what: str) -> FormatError:
    return FormatError(f"{what} has parts outside the file or over each other")


class IndexPlaces:
    """Where indexes were written, until the footer is: they come last, when their row groups are closed already."""

    def __init__(self) -> None:
        """Know no index."""
        self._places: dict[int, array[int]] = {}

    def add(self, segment: Segment, offset: int, length: int) -> None:
        """Remember an index's place."""
        kind, row_group, column, *_ = segment
        numbers = self._places.get(row_group)
        if numbers is None:
            numbers = self._places[row_group] = array("q")
        numbers.extend((column, kind, offset, length))

    def write(self, row_groups: RowGroups) -> None:
        """Write all places into the closed row groups."""
        for index, numbers in self._places.items():
            entries = row_groups.edit_indexes(index)
            for at in range(0, len(numbers), 4):
                _place_index(entries[numbers[at]], numbers[at + 1 : at + 4])
            row_groups.close_indexes(index)


def _place_index(entry: Struct, place: Sequence[int]) -> None:
    kind, offset, length = place
    if kind == SegmentKind.OFFSET_INDEX:
        entry.set(ColumnChunk.OFFSET_INDEX_OFFSET, WireType.I64, offset)
        entry.set(ColumnChunk.OFFSET_INDEX_LENGTH, WireType.I32, length)
    else:
        entry.set(ColumnChunk.COLUMN_INDEX_OFFSET, WireType.I64, offset)
        entry.set(ColumnChunk.COLUMN_INDEX_LENGTH, WireType.I32, length)
