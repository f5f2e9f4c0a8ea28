"""The walk over a table that encrypting and decrypting share: each segment sealed, opened or copied, in their order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable

from pipecrypt.parquet.carry.writing import Body
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups
from pipecrypt.parquet.footer.segments import INDEX_FIELDS, Segment, SegmentKind, Segments, read_windows
from pipecrypt.parquet.pages.moves import BLOOM_FILTER_HEADER_BYTES, ChunkMove, bloom_filter_bytes, move_offset_index
from pipecrypt.parquet.pages.sealing import PageBounds
from pipecrypt.parquet.wire.fields import ColumnMetaData
from pipecrypt.parquet.wire.modules import ModuleType
from pipecrypt.parquet.wire.thrift import WireType

__all__ = ["TableWalk", "index_module"]


def _index_place(kind: int, column: int, offset: int, length: int) -> tuple[int, int, int, int, int]:
    offset_field, length_field = INDEX_FIELDS[kind]
    return column, offset_field, offset, length_field, length


def index_module(segment: Segment) -> ModuleType:
    """Return the type of the module that a column or offset index is sealed as."""
    return ModuleType.OFFSET_INDEX if segment.is_offset_index else ModuleType.COLUMN_INDEX


class TableWalk(ABC):
    """Carries a table's segments to the output, in the order of their offsets and without gaps.

    Args:
        body: the output; the table's file is its input.
        row_groups: of the table; what moves is written back into them.
    """

    def __init__(self, body: Body, row_groups: RowGroups) -> None:
        """Carry nothing yet."""
        self._body = body
        self._row_groups = row_groups
        self._moves: dict[tuple[int, int], ChunkMove] = {}
        # How many segments still change the metadata of a row group's chunks; indexes change only entries.
        self._due: Counter[int] = Counter()
        # By row group: kind, column, offset and length of each index. Indexes come last, when row groups are closed.
        self._indexes: dict[int, array[int]] = {}

    def run(self, segments: Segments) -> None:
        """Carry all segments."""
        self._begin(segments)
        # What the system copies is not looked at; indexes, and the parts of columns that are encrypted, are.
        self._body.read_ahead(
            read_windows(filter(self._is_looked_at, segments) if self._body.copies_files else segments)
        )
        for segment in segments.drain():
            self._carry_next(segment)
        self._place_indexes()

    def _begin(self, segments: Iterable[Segment]) -> None:
        self._due.update(segment.row_group for segment in segments if not segment.is_index)
        for index in self._row_groups.ordinals:
            if not self._due[index]:
                self._close(index)

    def _carry_next(self, segment: Segment) -> None:
        if segment.is_index:
            self._carry_index(segment)
            return
        self._carry(segment, self._open(segment.row_group)[segment.column])
        self._due[segment.row_group] -= 1
        if not self._due[segment.row_group]:
            self._close(segment.row_group)

    def _place_indexes(self) -> None:
        for index, numbers in self._indexes.items():
            self._row_groups.place_indexes(index, map(_index_place, *(numbers[at::4] for at in range(4))))

    def _is_looked_at(self, segment: Segment) -> bool:
        return segment.is_index or self._is_sealed(segment)

    @abstractmethod
    def _is_sealed(self, segment: Segment) -> bool:
        """Return whether a segment's column is encrypted."""

    @abstractmethod
    def _open(self, row_group: int) -> list[Chunk]:
        """Return the chunks of a row group, ready to be carried."""

    @abstractmethod
    def _carry_pages(self, segment: Segment, chunk: Chunk) -> ChunkMove:
        """Seal or open the pages of an encrypted column's chunk."""

    @abstractmethod
    def _copied_bytes(self, segment: Segment, chunk: Chunk) -> int:
        """Copy the pages of a plaintext column's chunk; return how many bytes they take."""

    @abstractmethod
    def _relocate(self, chunk: Chunk, move: ChunkMove) -> None:
        """Write into a chunk's metadata where its pages are now."""

    @abstractmethod
    def _bloom_filter(self, segment: Segment, chunk: Chunk) -> tuple[int, bytes]:
        """Return how long an encrypted column's Bloom filter was, and what becomes of it."""

    def _read_index(self, _segment: Segment, data: bytes) -> bytes:
        """Return an index in plaintext: as it is, unless it is encrypted."""
        return data

    def _index_to_write(self, _segment: Segment, data: bytes) -> bytes:
        """Return what is written of an index in plaintext that names the new places: the same, unless it is sealed."""
        return data

    @abstractmethod
    def _finish(self, row_group: int, moves: list[ChunkMove]) -> None:
        """End changing a row group of which all is carried but its indexes."""

    def _carry(self, segment: Segment, chunk: Chunk) -> None:
        if segment.kind is SegmentKind.BLOOM_FILTER:
            self._carry_bloom_filter(segment, chunk)
            return
        move = self._carry_pages(segment, chunk) if self._is_sealed(segment) else self._copy_pages(segment, chunk)
        self._moves[chunk.ordinals] = move
        self._relocate(chunk, move)

    def _copy_pages(self, segment: Segment, chunk: Chunk) -> ChunkMove:
        new_start = self._body.position
        self._body.begin_digest()
        bounds = array("q", (0, self._copied_bytes(segment, chunk)))
        self._body.end_digest(segment.place)
        return ChunkMove(segment.start, new_start, PageBounds(bounds, bounds, has_dictionary=False), is_copy=True)

    def _carry_bloom_filter(self, segment: Segment, chunk: Chunk) -> None:
        body, position = self._body, self._body.position
        if self._is_sealed(segment):
            length, bloom = self._bloom_filter(segment, chunk)
            body.write(bloom)
            body.done(length)
        else:
            length = self._plain_bloom_bytes(segment, chunk)
            body.begin_digest()
            body.copy(segment.start, length)
            body.end_digest(segment.place)
        chunk.metadata.set(ColumnMetaData.BLOOM_FILTER_OFFSET, WireType.I64, position)
        if segment.declared_bytes is not None:
            chunk.metadata.set(ColumnMetaData.BLOOM_FILTER_LENGTH, WireType.I32, body.position - position)

    def _plain_bloom_bytes(self, segment: Segment, chunk: Chunk) -> int:
        if segment.declared_bytes is not None:
            return segment.declared_bytes
        start = self._body.read(segment.start, min(segment.room_bytes, BLOOM_FILTER_HEADER_BYTES))
        return bloom_filter_bytes(start, segment.room_bytes, chunk)[1]

    def _carry_index(self, segment: Segment) -> None:
        length = segment.declared_bytes or 0
        data = self._new_index(segment, bytes(self._body.read(segment.start, length)))
        if segment.is_offset_index and not self._row_groups.is_open(segment.row_group):
            self._moves.pop((segment.row_group, segment.column), None)  # nothing asks again
        self._write_index(segment, data)

    def _new_index(self, segment: Segment, data: bytes) -> bytes:
        """Return what becomes of an index, as it was read."""
        place = (segment.row_group, segment.column)
        data = self._read_index(segment, data)
        move = self._moves.get(place)
        if segment.is_offset_index and move is not None and not (move.is_copy and move.old_start == move.new_start):
            data = move_offset_index(data, move, lambda: self._row_groups.what(*place))
        return self._index_to_write(segment, data)

    def _write_index(self, segment: Segment, data: bytes) -> None:
        numbers = self._indexes.setdefault(segment.row_group, array("q"))
        numbers.extend((segment.kind, segment.column, self._body.position, len(data)))
        self._body.write(data)
        self._body.done(segment.declared_bytes or 0)

    def _close(self, index: int) -> None:
        chunks = self._open(index)
        self._finish(index, [self._moves[chunk.ordinals] for chunk in chunks if chunk.ordinals in self._moves])
        self._row_groups.close(index)
