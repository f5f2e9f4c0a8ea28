"""The parts of a file in the order they lie in it, and the check that a footer describes a possible file.

A *segment* is one chunk's pages, Bloom filter, column index or offset index. Both walks copy or seal the segments in
the order of their offsets, without gaps, so that decrypting restores the order and the offsets of the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from itertools import chain, islice
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from pipecrypt.errors import FormatError, LimitError, UnsupportedError
from pipecrypt.parquet.carry.reading import WINDOW_BYTES
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups, check_counts, locate_pages, row_count
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, StoredFooter
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnMetaData, RowGroup
from pipecrypt.parquet.wire.modules import check_module
from pipecrypt.parquet.wire.thrift import Struct

__all__ = [
    "INDEX_FIELDS",
    "MAX_INDEX_BYTES",
    "UNDECLARED_BYTES",
    "Part",
    "RowsAndBatches",
    "Segment",
    "SegmentKind",
    "Segments",
    "check_opened_structure",
    "check_structure",
    "chunk_parts",
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

    @property
    def is_offset_index(self) -> bool:
        """Whether it is an offset index."""
        return self.kind == _OFFSET_INDEX


_PAGES: Final = int(SegmentKind.PAGES)  # a look-up in an enumeration's class is a slow one
_OFFSET_INDEX: Final = int(SegmentKind.OFFSET_INDEX)
_KINDS: Final = tuple(SegmentKind)
_start_of: Final = itemgetter(0)  # of a part


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
        ends = chain(map(_start_of, islice(self._parts, 1, None)), (self._body_end,))
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
    ends = chain(map(_start_of, islice(parts, 1, None)), (body_end,))
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
    for kind, (offset_field, length_field) in INDEX_FIELDS.items():
        offset, length = entry.integer(offset_field), entry.integer(length_field)
        if offset is not None and length:
            yield _part(kind, chunk, offset, length)


# By kind, where an entry says where an index begins, and how long it is.
INDEX_FIELDS: Final = {
    int(SegmentKind.COLUMN_INDEX): (ColumnChunk.COLUMN_INDEX_OFFSET, ColumnChunk.COLUMN_INDEX_LENGTH),
    int(SegmentKind.OFFSET_INDEX): (ColumnChunk.OFFSET_INDEX_OFFSET, ColumnChunk.OFFSET_INDEX_LENGTH),
}


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


RowsAndBatches: TypeAlias = tuple[int, int]  # how many rows and row groups a file has


def check_structure(stored: StoredFooter, name: str) -> RowsAndBatches | None:
    """Check what can be checked of a file's structure without a key; return its counts, None where they are hidden.

    What must hold: (1) an encrypted footer is one module, which fills its place. Of a readable footer: (2) the file
    has a row count, not negative; (3) an encrypted file has no more row groups and columns than ordinals number; (4)
    each row group has one chunk for each leaf column of the schema; (5) a row group that names its ordinal lies at
    it; (6) row groups have row counts, not negative, whose sum is the file's; (7) each part that a chunk names lies
    in the body, and over no other part. A chunk whose metadata is hidden is left out of (7).

    Args:
        stored: the footer, which can still be opened afterwards.
        name: what errors call the file.

    Raises:
        FormatError: one of these does not hold, or something is malformed.
        LimitError: (3) does not hold, or there are more chunks than memory should hold.
        UnsupportedError: a chunk lies in another file, or its offset index before its pages.
    """
    if stored.metadata is None:
        if stored.sealed is None:
            raise AssertionError("a footer that is not encrypted is readable")
        check_module(stored.sealed.stored, f"footer of {name}")  # (1)
        return None
    footer, is_encrypted = stored.metadata, stored.sealed is not None
    row_groups = RowGroups(footer, name, is_sealed=is_encrypted)
    if is_encrypted:
        check_counts(len(row_groups), len(row_groups.leaves), name)  # (3)
    return _check_row_groups(footer, row_groups, row_groups.chunks, stored.body_end, name)


def check_opened_structure(opened: OpenedFile) -> RowsAndBatches:
    """Check the structure of a file that is open, as `check_structure` does, whatever its footer mode.

    Args:
        opened: the file; opening made sure of (1) and (3). Where it lacks a key, hidden metadata is left out.

    Raises:
        FormatError: something does not hold.
        LimitError: there are more chunks than memory should hold.
        UnsupportedError: a chunk lies in another file, or its offset index before its pages.
        AccessError: a key is missing or was refused.
        IntegrityError: metadata was not written with its key at its place.
    """
    return _check_row_groups(opened.footer, opened.row_groups, opened.open_row_group, opened.body_end, opened.name)


def _check_row_groups(
    footer: Struct, row_groups: RowGroups, chunks_of: Callable[[int], list[Chunk]], body_end: int, name: str
) -> RowsAndBatches:
    row_groups.check_size()
    rows, found = row_count(footer, name), 0  # (2)
    parts: list[Part] = []
    for index in row_groups.ordinals:
        for chunk in chunks_of(index):  # (4)
            if chunk.metadata.entries or not chunk.is_sealed:
                parts += chunk_parts(chunk)
        ordinal = row_groups.struct(index).integer(RowGroup.ORDINAL)
        if ordinal is not None and ordinal != index:  # (5)
            raise FormatError(f"{name} row group {index} says that it is number {ordinal}")
        found += row_groups.rows(index)  # (6)
        row_groups.release(index)
    if found != rows:  # (6)
        raise FormatError(f"{name} has {rows} rows, its row groups have {found}")
    order_segments(parts, body_end, row_groups)  # (7)
    return rows, len(row_groups)
