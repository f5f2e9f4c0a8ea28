"""One table sealed by several processes: others seal row groups into memory, one writes all of them, in their order.

How long a row group becomes is known once it is sealed, and where it lies once all before it are. So a row group is
sealed first, then its bytes are appended to the file. Who sealed it is told where that was, and then seals what names
places: its metadata and its indexes. Only who has the file writes to it, so there is no gap, and what digests or counts
all that is written sees it in order. Each process makes the data keys of its own row groups: no key leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeAlias

from pipecrypt.crypto.digest import digest
from pipecrypt.parquet.carry.room import RoomBody, RoomFullError
from pipecrypt.parquet.carry.writing import Body
from pipecrypt.parquet.footer.columns import choose_keys
from pipecrypt.parquet.footer.entries import Originals
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups
from pipecrypt.parquet.footer.segments import (
    Part,
    Segment,
    SegmentKind,
    Segments,
    chunk_parts,
    order_segments,
    read_windows,
)
from pipecrypt.parquet.footer.stored import read_plain_footer
from pipecrypt.parquet.pages.integrity import SegmentDigests
from pipecrypt.parquet.pages.moves import ChunkMove
from pipecrypt.parquet.policy import EncryptionPolicy, KeyScope
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.parquet.table.keys import WritingKeys
from pipecrypt.parquet.table.sealing_walk import SealingWalk
from pipecrypt.parquet.wire.fields import ColumnMetaData
from pipecrypt.parquet.wire.modules import FileAAD
from pipecrypt.parquet.wire.thrift import WireType, encode_struct
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "FileLayout",
    "FileStart",
    "NextRowGroup",
    "PlacedRowGroup",
    "RowGroupHelpers",
    "RowGroupSealer",
    "SealedRowGroup",
    "SharedWalk",
    "may_share",
]

_LEAST_ROW_GROUPS: Final = 3
_MOST_COLUMNS: Final = 4096
_MOST_PARTS: Final = 250_000
_MOST_TAIL_BYTES: Final = 64 << 20  # of Bloom filters and indexes behind the row groups: they wait in memory
_LEAST_SEALED: Final = 4  # of what pages take, one part in so many must be encrypted: copying is not shared

Bloom: TypeAlias = tuple[int, bytes | None, int]  # column, what is stored, None where it is copied; length as it was
OriginalValues: TypeAlias = dict[tuple[int, int, int], int | None]


class FileStart(NamedTuple):
    """What all who seal one file must agree on.

    Args:
        aad_prefix: of the file.
        file_unique: its random id.
    """

    aad_prefix: bytes | None
    file_unique: bytes


class SealedRowGroup(NamedTuple):
    """A row group that is sealed, and has no place yet.

    Args:
        row_group: its ordinal.
        lengths: of each of its segments, how long it is now and how long it was.
        blooms: of its Bloom filters that lie behind all row groups.
    """

    row_group: int
    lengths: tuple[tuple[int, int], ...]
    blooms: tuple[Bloom, ...]


class PlacedRowGroup(NamedTuple):
    """What follows of a row group once it has its place.

    Args:
        row_group: its ordinal.
        encoded: the row group as the footer has it, but for where its indexes are.
        indexes: what is stored of its indexes, by column and kind.
        originals: what the way back cannot tell.
        data_keys: how many were made.
    """

    row_group: int
    encoded: bytes
    indexes: dict[tuple[int, int], bytes]
    originals: OriginalValues
    data_keys: int


# Hands out a row group that fits into so many bytes, so many behind the last one, which the writer seals itself.
NextRowGroup: TypeAlias = Callable[[int, int], int | None]


class RowGroupHelpers(Protocol):
    """Others who seal row groups. What goes wrong with one of them is raised by each method."""

    def begin(self, start: FileStart, next_row_group: NextRowGroup) -> None:
        """Let whoever helps, now or later, seal what `next_row_group` returns."""

    def poll(self) -> None:
        """Give row groups to who has nothing to do."""

    def sealed(self, row_group: int) -> tuple[SealedRowGroup, memoryview] | None:
        """Wait for a row group that was handed out, and return it with its bytes; None where it did not fit."""

    def written(self, row_group: int, write: Future[None]) -> None:
        """Let the memory of a row group be used again when `write` is done."""

    def place(self, row_group: int, start: int, blooms: Mapping[int, int]) -> None:
        """Say where a row group begins, and its Bloom filters that lie elsewhere, by column."""

    def placed(self, row_group: int) -> PlacedRowGroup:
        """Wait for what follows of a row group that was given a place."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """How the parts of a file lie: row groups one behind the other, then Bloom filters, then indexes.

    Args:
        stretches: the segments of each row group that has any, in the order of the file.
        tail: all that comes behind them.
        blooms: the Bloom filters of it, by row group.
        indexes: the indexes of it, likewise.
    """

    stretches: dict[int, list[Segment]]
    tail: list[Segment]
    blooms: dict[int, list[Segment]]
    indexes: dict[int, list[Segment]]

    @classmethod
    def of(cls, segments: Segments) -> FileLayout | None:
        """Return how a file lies; None where it lies otherwise, as hardly any does."""
        ordered = list(segments)
        ends = [at for at, segment in enumerate(ordered, 1) if segment.kind is SegmentKind.PAGES]
        end = ends[-1] if ends else 0
        stretches: dict[int, list[Segment]] = {}
        last = -1
        for segment in ordered[:end]:
            if segment.is_index or (segment.row_group != last and segment.row_group in stretches):
                return None
            last = segment.row_group
            stretches.setdefault(last, []).append(segment)
        tail = ordered[end:]
        kinds = [segment.is_index for segment in tail]
        if kinds != sorted(kinds):
            return None
        layout = cls(stretches, tail, {}, {})
        for segment in tail:
            (layout.indexes if segment.is_index else layout.blooms).setdefault(segment.row_group, []).append(segment)
        return layout


def may_share(layout: FileLayout, keys: WritingKeys, policy: EncryptionPolicy, columns: int) -> bool:
    """Return whether others may seal row groups of a file, and there is enough to seal."""
    if policy.uniform or policy.data_keys is not KeyScope.BATCH:
        return False  # a data key that reaches over several row groups would have to cross to other processes
    pages = [each for stretch in layout.stretches.values() for each in stretch if each.kind is SegmentKind.PAGES]
    sealed = sum(each.declared_bytes or 0 for each in pages if keys.is_sealed(each.column))
    return (
        len(layout.stretches) >= _LEAST_ROW_GROUPS
        and columns <= _MOST_COLUMNS
        and len(pages) + len(layout.tail) <= _MOST_PARTS
        and sum(each.declared_bytes or each.room_bytes for each in layout.tail) <= _MOST_TAIL_BYTES
        and sealed * _LEAST_SEALED >= sum(each.declared_bytes or 0 for each in pages)
    )


class SharedWalk(SealingWalk):
    """Carries a table of which others seal row groups; the others it seals itself, as it would alone.

    What it seals next is its own, and others are given what lies behind that, so that it seldom waits for one of them.
    """

    def __init__(
        self,
        body: Body,
        row_groups: RowGroups,
        *,
        keys: WritingKeys,
        aad: FileAAD,
        digests: SegmentDigests | None,
        originals: Originals,
        layout: FileLayout,
        helpers: RowGroupHelpers,
    ) -> None:
        """Hand nothing out yet."""
        super().__init__(body, row_groups, keys=keys, aad=aad, digests=digests, originals=originals)
        self._layout = layout
        self._helpers = helpers
        self._order = list(layout.stretches)
        self._handed = set[int]()  # what others seal
        # How far, in the order of the file, this process has claimed what it seals, and others were given something.
        self._claimed = self._edge = -1
        self._starts: dict[int, int] = {}  # of those that others sealed
        self._blooms: dict[tuple[int, int], Bloom] = {}
        self._bloom_places: dict[int, dict[int, int]] = {}
        self._placed: dict[int, PlacedRowGroup] = {}

    def run_shared(self, segments: Segments, start: FileStart) -> None:
        """Carry all segments."""
        self._begin(segments)
        self._claim_own()
        self._helpers.begin(start, self._next_for_others)
        for at, row_group in enumerate(self._order):
            self._helpers.poll()
            if at == self._claimed:
                self._claim_own()
            elif self._append_sealed(row_group):
                continue
            for segment in self._layout.stretches[row_group]:
                self._carry_next(segment)
        for segment in self._layout.tail:
            self._carry_behind(segment)
        for row_group in self._starts:
            self._take_placed(row_group)
        self._place_indexes()

    def _claim_own(self) -> None:
        at = self._claimed + 1
        while at < len(self._order) and self._order[at] in self._handed:
            at += 1
        self._claimed = at
        if at < len(self._order):
            stretch = self._layout.stretches[self._order[at]]
            looked_at = filter(self._is_looked_at, stretch) if self._body.copies_files else iter(stretch)
            self._body.read_ahead(read_windows(looked_at))

    def _next_for_others(self, room_bytes: int, skip: int) -> int | None:
        begin = min(max(self._edge, self._claimed) + 1 + skip, len(self._order))
        # At the end of the file others take, from the end, what was left for this process.
        for at in chain(range(begin, len(self._order)), range(begin - 1, self._claimed, -1)):
            row_group = self._order[at]
            if row_group not in self._handed and self._needed_bytes(row_group) <= room_bytes:
                self._handed.add(row_group)
                self._edge = max(self._edge, at)
                return row_group
        return None

    def _needed_bytes(self, row_group: int) -> int:
        """Return how many bytes a row group takes sealed, at least."""
        sealed = filter(self._is_sealed, self._layout.stretches[row_group])
        return sum(each.declared_bytes or each.room_bytes for each in sealed)

    def _append_sealed(self, row_group: int) -> bool:
        """Append a row group that others sealed; return False where it did not fit into their memory."""
        found = self._helpers.sealed(row_group)
        if found is None:
            return False
        sealed, room = found
        body, begun, end = self._body, 0, 0
        self._starts[row_group] = body.position
        for segment, (length, old_length) in zip(self._layout.stretches[row_group], sealed.lengths, strict=True):
            if self._is_sealed(segment):
                end += length
                body.done(old_length)
            else:
                body.append(room[begun:end])
                begun = end
                self._copy_segment(segment, length)
            if segment.kind is SegmentKind.PAGES:
                self._keys.count(segment.column, old_length)
        body.append(room[begun:end])
        self._helpers.written(row_group, body.flush())
        self._blooms.update({(row_group, bloom[0]): bloom for bloom in sealed.blooms})
        if sealed.blooms:
            self._bloom_places[row_group] = {}
        else:
            self._helpers.place(row_group, self._starts[row_group], {})
        return True

    def _copy_segment(self, segment: Segment, length: int) -> None:
        self._body.begin_digest()
        self._body.copy(segment.start, length)
        self._body.end_digest(segment.place)
        if self._digests is not None and segment.kind is SegmentKind.PAGES and length != segment.declared_bytes:
            self._digests.lengthen(segment.row_group, segment.column, length)

    def _carry_behind(self, segment: Segment) -> None:
        row_group = segment.row_group
        if row_group not in self._starts:
            self._carry_next(segment)
        elif segment.is_index:
            data = self._take_placed(row_group).indexes[segment.column, segment.kind]
            if self._digests is not None and not self._is_sealed(segment):
                self._digests.put(segment.place, digest(data, self._digests.algorithm))
            self._write_index(segment, data)
        else:
            column, stored, length = self._blooms.pop((row_group, segment.column))
            self._bloom_places[row_group][column] = self._body.position
            if stored is None:
                self._copy_segment(segment, length)
            else:
                self._body.write(stored)
                self._body.done(length)

    def _take_placed(self, row_group: int) -> PlacedRowGroup:
        """Return what follows of a row group; one with Bloom filters gets its place now, when those have theirs."""
        if row_group not in self._placed:
            if row_group in self._bloom_places:
                self._helpers.place(row_group, self._starts[row_group], self._bloom_places.pop(row_group))
            placed = self._placed[row_group] = self._helpers.placed(row_group)
            self._row_groups.replace(row_group, placed.encoded)
            self._originals.values.update(placed.originals)
            self._keys.made += placed.data_keys
        return self._placed[row_group]


class RowGroupSealer(SealingWalk):
    """Seals row groups of a file that another process writes; a context manager that wipes the keys.

    Args:
        source: the input, the same as the writer's.
        policy: which columns under which key; a data key reaches over one row group.
        start: what the writer said of the file.
        keys: makes data keys.
        context: dataset id and path; bound into AADs and commitments.

    Raises:
        PipecryptError: as `encrypt_file`.
    """

    def __init__(
        self, source: RangeSource, policy: EncryptionPolicy, start: FileStart, *, keys: DataKeys, context: Context
    ) -> None:
        """Read the footer; make no key yet."""
        footer, body_end = read_plain_footer(source)
        row_groups, aad = RowGroups(footer, source.name), FileAAD(start.aad_prefix or b"", start.file_unique)
        own_keys = WritingKeys(policy, keys, context if policy.bind_path else Context("", ""), aad)
        own_keys.choose(row_groups.leaves, choose_keys(policy, row_groups.leaves, source.name))
        layout = FileLayout.of(_segments(row_groups, body_end))
        if layout is None:
            raise AssertionError("only a file of a plain layout is shared")
        self._room = RoomBody()
        super().__init__(
            self._room, row_groups, keys=own_keys, aad=aad, digests=None, originals=Originals(policy.data_keys, 0)
        )
        self._layout = layout
        # By chunk: where a Bloom filter is from the row group's beginning, None where it is behind all; its length.
        self._blooms: dict[tuple[int, int], tuple[int | None, int | None]] = {}
        self._room.open_input(source)

    def __enter__(self) -> Self:
        """Return the sealer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for reads under way, and wipe the keys."""
        try:
            self._room.__exit__(kind, error, trace)
        finally:
            self._keys.wipe()

    def seal(self, row_group: int, room: memoryview) -> SealedRowGroup | None:
        """Seal what is encrypted of a row group into `room`; None where it does not fit."""
        body, stretch, lengths = self._room, self._layout.stretches[row_group], []
        body.begin_part(room)
        body.read_ahead(read_windows(filter(self._is_sealed, stretch)))
        try:
            chunks = self._open(row_group)
            for segment in stretch:
                lengths.append(self._seal_segment(segment, chunks[segment.column]))
        except RoomFullError:
            self._forget(row_group)
            return None
        finally:
            body.end_part()
        blooms = self._layout.blooms.get(row_group, ())
        return SealedRowGroup(row_group, tuple(lengths), tuple(self._tail_bloom(each, chunks) for each in blooms))

    def _seal_segment(self, segment: Segment, chunk: Chunk) -> tuple[int, int]:
        """Seal or leave out a segment; return how long it is now, and was."""
        start = self._room.position
        if segment.kind is SegmentKind.BLOOM_FILTER:
            stored, length = self._new_bloom(segment, chunk)
            if stored is None:
                self._room.copy(segment.start, length)
            else:
                self._room.write(stored)
            self._blooms[chunk.ordinals] = (start, self._declared(segment, self._room.position - start))
            return self._room.position - start, length
        move = self._carry_pages(segment, chunk) if self._is_sealed(segment) else self._copy_pages(segment, chunk)
        self._moves[chunk.ordinals] = move
        return move.bounds.new[-1], move.bounds.old[-1]

    def _new_bloom(self, segment: Segment, chunk: Chunk) -> tuple[bytes | None, int]:
        if not self._is_sealed(segment):
            return None, self._plain_bloom_bytes(segment, chunk)
        length, stored = self._bloom_filter(segment, chunk)
        return stored, length

    def _tail_bloom(self, segment: Segment, chunks: Sequence[Chunk]) -> Bloom:
        chunk = chunks[segment.column]
        stored, length = self._new_bloom(segment, chunk)
        self._blooms[chunk.ordinals] = (None, self._declared(segment, length if stored is None else len(stored)))
        return segment.column, stored, length

    @staticmethod
    def _declared(segment: Segment, length: int) -> int | None:
        return None if segment.declared_bytes is None else length

    def _copied_bytes(self, segment: Segment, chunk: Chunk) -> int:
        length = self._true_bytes(segment, chunk)
        self._room.copy(segment.start, length)
        return length

    def place(self, row_group: int, start: int, blooms: Mapping[int, int]) -> PlacedRowGroup:
        """Seal what names places in a row group that was sealed, and wipe its keys.

        Args:
            row_group: its ordinal.
            start: where it begins in the output.
            blooms: where its Bloom filters are that lie behind all row groups, by column.
        """
        moves = list[ChunkMove]()
        for chunk in self._open(row_group):
            bloom, move = self._blooms.pop(chunk.ordinals, None), self._moves.get(chunk.ordinals)
            if bloom is not None:
                at, length = bloom
                position = blooms[chunk.column] if at is None else start + at
                chunk.metadata.set(ColumnMetaData.BLOOM_FILTER_OFFSET, WireType.I64, position)
                if length is not None:
                    chunk.metadata.set(ColumnMetaData.BLOOM_FILTER_LENGTH, WireType.I32, length)
            if move is not None:
                self._moves[chunk.ordinals] = moved = move._replace(new_start=start + move.new_start)
                self._relocate(chunk, moved)
                moves.append(moved)
        self._finish(row_group, moves)
        encoded = encode_struct(self._row_groups.struct(row_group))
        self._row_groups.close(row_group)
        behind = self._layout.indexes.get(row_group, ())
        indexes = {(each.column, int(each.kind)): self._read_new_index(each) for each in behind}
        originals = dict(self._originals.values)
        self._originals.values.clear()
        self._forget(row_group)
        return PlacedRowGroup(row_group, encoded, indexes, originals, self._keys.take_made())

    def _read_new_index(self, segment: Segment) -> bytes:
        return self._new_index(segment, bytes(self._room.read(segment.start, segment.declared_bytes or 0)))

    def _forget(self, row_group: int) -> None:
        for column in range(len(self._row_groups.leaves)):
            self._moves.pop((row_group, column), None)
            self._blooms.pop((row_group, column), None)
        self._keys.end_batch(row_group)


def _segments(row_groups: RowGroups, body_end: int) -> Segments:
    parts: list[Part] = []
    for chunk in row_groups.each_chunk():
        parts += chunk_parts(chunk)
    return order_segments(parts, body_end, row_groups)
