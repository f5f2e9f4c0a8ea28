"""The parts of a file in the order they lie in it, and where each goes. Reading and sealing them is left to the walks.

A *segment* is one chunk's pages, Bloom filter, column index or offset index. Both walks copy or seal the segments in
the order of their offsets, without gaps, so that decrypting restores the order and the offsets of the original.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.parquet.chunks import Chunk, locate_pages
from pipecrypt.parquet.footer import MAGIC_BYTES
from pipecrypt.parquet.names import ColumnChunk, ColumnMetaData
from pipecrypt.parquet.pages import PageBounds
from pipecrypt.parquet.thrift import Struct, WireType

__all__ = ["ChunkMove", "Segment", "SegmentKind", "order_segments", "place_index", "with_bloom_filter"]


class SegmentKind(IntEnum):
    """What a segment holds."""

    PAGES = 0
    BLOOM_FILTER = 1
    COLUMN_INDEX = 2
    OFFSET_INDEX = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of the body.

    Args:
        kind: what it holds.
        chunk: whose.
        start: offset in the input.
        declared_bytes: its length as the footer says; None for a Bloom filter of unknown length.
        room_bytes: up to the next segment or the footer; at least `declared_bytes`.
    """

    kind: SegmentKind
    chunk: Chunk
    start: int
    declared_bytes: int | None
    room_bytes: int


@dataclass(frozen=True, slots=True)
class ChunkMove:
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


def with_bloom_filter(segments: Iterable[Segment]) -> frozenset[tuple[int, int]]:
    """Return row group and column of the chunks whose metadata changes once more after their pages were written."""
    blooms = (part.chunk for part in segments if part.kind is SegmentKind.BLOOM_FILTER)
    return frozenset((chunk.row_group, chunk.column) for chunk in blooms)


def order_segments(row_groups: Iterable[Iterable[Chunk]], body_end: int, name: str) -> list[Segment]:
    """Return all segments by offset.

    Raises:
        FormatError: a segment lies outside the body or overlaps another.
        UnsupportedError: an offset index lies before the pages that it points to.
    """
    found = [segment for chunks in row_groups for chunk in chunks for segment in _chunk_segments(chunk)]
    found.sort(key=lambda part: (part.start, part.declared_bytes or 0, part.chunk.row_group, part.chunk.column))
    segments, seen = [], set()
    for index, part in enumerate(found):
        end = found[index + 1].start if index + 1 < len(found) else body_end
        room = end - part.start
        if part.start < MAGIC_BYTES or room < (part.declared_bytes or 0):
            raise FormatError(f"{part.chunk.what} has parts outside the file or over each other")
        place = (part.chunk.row_group, part.chunk.column)
        if part.kind is SegmentKind.PAGES:
            seen.add(place)
        elif part.kind is SegmentKind.OFFSET_INDEX and place not in seen and locate_pages(part.chunk).declared_bytes:
            raise UnsupportedError(f"{part.chunk.what} has its offset index before its pages")
        segments.append(Segment(part.kind, part.chunk, part.start, part.declared_bytes, room))
    return segments


def _chunk_segments(chunk: Chunk) -> Iterable[Segment]:
    place = locate_pages(chunk)
    # A chunk of no bytes has no place; its offsets point anywhere and stay as they are.
    if place.declared_bytes > 0:
        yield Segment(SegmentKind.PAGES, chunk, place.start, place.declared_bytes, 0)
    elif place.num_values > 0:
        raise FormatError(f"{chunk.what} has values but no bytes")
    metadata, entry = chunk.metadata, chunk.entry
    bloom = metadata.integer(ColumnMetaData.BLOOM_FILTER_OFFSET)
    if bloom is not None:
        length = metadata.integer(ColumnMetaData.BLOOM_FILTER_LENGTH)
        yield _segment(SegmentKind.BLOOM_FILTER, chunk, bloom, length)
    for kind, offset_field, length_field in (
        (SegmentKind.COLUMN_INDEX, ColumnChunk.COLUMN_INDEX_OFFSET, ColumnChunk.COLUMN_INDEX_LENGTH),
        (SegmentKind.OFFSET_INDEX, ColumnChunk.OFFSET_INDEX_OFFSET, ColumnChunk.OFFSET_INDEX_LENGTH),
    ):
        offset, length = entry.integer(offset_field), entry.integer(length_field)
        if offset is not None and length:
            yield _segment(kind, chunk, offset, length)


def _segment(kind: SegmentKind, chunk: Chunk, start: int, length: int | None) -> Segment:
    if start < MAGIC_BYTES or (length is not None and length <= 0):
        raise FormatError(f"{chunk.what} has parts outside the file or over each other")
    return Segment(kind, chunk, start, length, 0)


def place_index(entry: Struct, kind: SegmentKind, offset: int, length: int) -> None:
    """Write an index's place into its chunk's entry."""
    if kind is SegmentKind.OFFSET_INDEX:
        entry.set(ColumnChunk.OFFSET_INDEX_OFFSET, WireType.I64, offset)
        entry.set(ColumnChunk.OFFSET_INDEX_LENGTH, WireType.I32, length)
    else:
        entry.set(ColumnChunk.COLUMN_INDEX_OFFSET, WireType.I64, offset)
        entry.set(ColumnChunk.COLUMN_INDEX_LENGTH, WireType.I32, length)
