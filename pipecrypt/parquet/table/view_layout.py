"""Lay out the plaintext file that a view shows of an encrypted table, with nulls where a reader may not see.

Layout::

    "PAR1" || the encrypted file's body || pages of nulls || locked chunks, far apart || plain footer

Every encrypted chunk keeps its offset and its size: its plaintext pages stand in front, zeros behind, and readers stop
at the last value. Indexes and Bloom filters are left out of the footer. The footer ends where the encrypted file ends,
with zeros before it: so the size of a view is known without opening the file. Only locked chunks, or a footer that
does not fit, make it larger.

Where digests are checked, plaintext chunks are parts too, and what is no part is shown as zeros, not as a copy: so all
that readers see is authenticated.

A locked chunk is one whose key is missing. Readers fetch ranges across columns that they do not decode, so locked
chunks lie behind the body, each further from the next than any reader reaches across.

A data page (v1) without any value, uncompressed::

    page header || repetition levels || definition levels

Levels, each only where the column has such levels at all::

    length (4, little endian) || run length (varint, shifted left by one) || 0

A definition level of 0 says that the root of the column is null, or empty where the root itself is repeated; a
repetition level of 0 begins a row. So every leaf below one root has one entry for each row, whatever its depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, overload

from pipecrypt.errors import AccessError, FormatError, LimitError
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import Chunk, PagePlace, locate_pages, plain_metadata
from pipecrypt.parquet.footer.segments import (
    UNDECLARED_BYTES,
    Part,
    Segment,
    SegmentKind,
    chunk_parts,
    order_segments,
)
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, PLAIN_MAGIC, encode_plain_footer
from pipecrypt.parquet.pages.integrity import ExpectedDigests, expected_digests
from pipecrypt.parquet.table.view_scan import LazyChunks, ScannedFooter, scan_footer
from pipecrypt.parquet.wire.fields import (
    ColumnChunk,
    ColumnMetaData,
    FileMetaData,
    PageHeader,
    PageType,
    SchemaElement,
)
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_struct, encode_varint, keep_encoded

__all__ = ["LOCKED_GAP_BYTES", "MissingKeys", "ViewLayout", "ViewPart", "lay_out"]

_REQUIRED: Final = 0
_OPTIONAL: Final = 1
_REPEATED: Final = 2
_PLAIN: Final = 0
_RLE: Final = 3
PAGE_ROWS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LeafLevels:
    """How deep a leaf column lies.

    Args:
        root: the index of its root among the schema's elements.
        definition: its highest definition level.
        repetition: its highest repetition level.
    """

    root: int
    definition: int
    repetition: int


def leaf_levels(schema: Sequence[Struct]) -> list[LeafLevels]:
    """Return the levels of all leaves of a schema that was checked to be a tree."""
    found: list[LeafLevels] = []
    # Children to come, root, and the levels of the nodes above.
    above: list[list[int]] = [[schema[0].integer(SchemaElement.NUM_CHILDREN) or 0, 0, 0, 0]]
    for index, element in enumerate(schema[1:], 1):
        while above[-1][0] == 0:
            above.pop()
        above[-1][0] -= 1
        repetition_type = element.integer(SchemaElement.REPETITION_TYPE) or _REQUIRED
        root = index if len(above) == 1 else above[-1][1]
        definition = above[-1][2] + (repetition_type != _REQUIRED)
        repetition = above[-1][3] + (repetition_type == _REPEATED)
        if element.integer(SchemaElement.TYPE) is None:
            above.append([element.integer(SchemaElement.NUM_CHILDREN) or 0, root, definition, repetition])
        else:
            found.append(LeafLevels(root, definition, repetition))
    return found


def null_pages(levels: LeafLevels, rows: int) -> bytes:
    """Return the pages of a chunk of `rows` nulls."""
    pages = bytearray()
    for start in range(0, max(rows, 1), PAGE_ROWS):
        count = min(PAGE_ROWS, rows - start)
        body = _run(levels.repetition, count) + _run(levels.definition, count)
        pages += encode_struct(_page_header(count, len(body))) + body
    return bytes(pages)


def _run(highest: int, count: int) -> bytes:
    if not highest:
        return b""
    width_bytes = (highest.bit_length() + 7) // 8
    run = encode_varint(count << 1) + bytes(width_bytes)
    return len(run).to_bytes(4, "little") + run


def _page_header(values: int, body_bytes: int) -> Struct:
    data, header = Struct(), Struct()
    for field, value in enumerate((values, _PLAIN, _RLE, _RLE), PageHeader.NUM_VALUES):
        data.set(field, WireType.I32, value)
    header.set(PageHeader.TYPE, WireType.I32, PageType.DATA)
    header.set(PageHeader.UNCOMPRESSED_PAGE_SIZE, WireType.I32, body_bytes)
    header.set(PageHeader.COMPRESSED_PAGE_SIZE, WireType.I32, body_bytes)
    header.set(PageHeader.DATA_PAGE_HEADER, WireType.STRUCT, data)
    return header


LOCKED_GAP_BYTES: Final = 64 << 20
# Pages of nulls are made from a row count alone, which a hostile footer sets at no cost: these are 10^12 rows.
_MOST_NULL_PAGES: Final = 1 << 20
_HIDDEN_FIELDS: Final = frozenset(
    {
        ColumnChunk.META_DATA,
        ColumnChunk.OFFSET_INDEX_OFFSET,
        ColumnChunk.OFFSET_INDEX_LENGTH,
        ColumnChunk.COLUMN_INDEX_OFFSET,
        ColumnChunk.COLUMN_INDEX_LENGTH,
        ColumnChunk.CRYPTO_METADATA,
        ColumnChunk.ENCRYPTED_COLUMN_METADATA,
    }
)
_BLOOM_FIELDS: Final = frozenset({ColumnMetaData.BLOOM_FILTER_OFFSET, ColumnMetaData.BLOOM_FILTER_LENGTH})


class MissingKeys(Enum):
    """What a view shows of columns whose key is missing."""

    ERROR = "error"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class ViewPart:
    """A part of the view that is not a plain copy of the encrypted file.

    Args:
        start: offset in the view.
        length: its bytes.
        chunk: row group and column of an encrypted or digested chunk, which lies at the same offset of the encrypted
            file.
        place: where the pages of an encrypted chunk lie; None of a digested one, and of one that is not open yet.
        is_lazy: the chunk is encrypted, and opened when it is read.
        data: bytes that are shown as they are.
        error: what reading raises.
    """

    start: int
    length: int
    chunk: tuple[int, int] | None = None
    place: PagePlace | None = None
    is_lazy: bool = False
    data: bytes = b""
    error: AccessError | None = None

    @property
    def is_digested(self) -> bool:
        """Whether this is a chunk in plaintext that is checked against a digest."""
        return self.chunk is not None and self.place is None and not self.is_lazy


@dataclass(frozen=True, slots=True)
class ViewLayout:
    """The view's layout.

    Args:
        parts: by offset.
        starts: their offsets.
        copied_end: up to here, what is no part is a copy of the encrypted file; behind it, zeros.
        size_bytes: of the view.
        digests: what digested chunks are checked against.
        lazy: opens chunks when they are read; None where all of them are open.
    """

    parts: Sequence[ViewPart]
    starts: Sequence[int]
    copied_end: int
    size_bytes: int
    digests: ExpectedDigests | None = None
    lazy: LazyChunks | None = None


def lay_out(
    opened: OpenedFile, source_bytes: int, missing: MissingKeys, *, checks_digests: bool, statistics: bool
) -> ViewLayout:
    """Return the layout. The footer of `opened` is changed into the plain one; its keys stay open.

    Args:
        opened: the encrypted file, allowed to lack keys.
        source_bytes: its size.
        missing: what is shown of locked columns.
        checks_digests: check plaintext chunks, where the file stores digests of them.
        statistics: show those of encrypted columns; without them, chunks are opened when they are read, where that can
            be.

    Raises:
        FormatError: parts lie outside the body or over each other, or a row group has no row count.
        IntegrityError: digests are missing or left over, or of an unknown algorithm.
        LimitError: more chunks, or more nulls, than memory should hold.
    """
    scanned = scan_footer(opened, statistics=statistics)
    if scanned is not None:
        return _lazy_layout(opened, source_bytes, scanned)
    plan = _Layout(opened, missing, checks_digests=checks_digests)
    parts = [ViewPart(0, MAGIC_BYTES, data=PLAIN_MAGIC), *plan.readable_parts(), *plan.unreadable]
    footer = b"".join(encode_plain_footer(opened.footer))
    size = max(source_bytes, plan.end + len(footer))
    parts.append(ViewPart(size - len(footer), len(footer), data=footer))
    starts = [part.start for part in parts]
    return ViewLayout(parts, starts, opened.body_end if plan.digests is None else 0, size, plan.digests)


def _lazy_layout(opened: OpenedFile, source_bytes: int, scanned: ScannedFooter) -> ViewLayout:
    opened.footer.set(FileMetaData.ROW_GROUPS, WireType.LIST, [*scanned.row_groups])
    footer = b"".join(encode_plain_footer(opened.footer))
    size = max(source_bytes, opened.body_end + len(footer))
    begin, end = ViewPart(0, MAGIC_BYTES, data=PLAIN_MAGIC), ViewPart(size - len(footer), len(footer), data=footer)
    starts = [0, *(chunk[0] for chunk in scanned.chunks), end.start]
    return ViewLayout(_LazyParts(begin, scanned.chunks, end), starts, opened.body_end, size, lazy=scanned.lazy)


class _LazyParts(Sequence[ViewPart]):
    """Parts that are made when they are asked for: a view has many, and a reader touches few."""

    def __init__(self, begin: ViewPart, chunks: Sequence[tuple[int, int, int, int]], end: ViewPart) -> None:
        self._begin = begin
        self._chunks = chunks
        self._end = end

    def __len__(self) -> int:
        return len(self._chunks) + 2

    @overload
    def __getitem__(self, index: int) -> ViewPart: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ViewPart]: ...

    def __getitem__(self, index: int | slice) -> ViewPart | Sequence[ViewPart]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if index in (0, -len(self)):
            return self._begin
        if index in (len(self) - 1, -1):
            return self._end
        start, length, row_group, column = self._chunks[index - 1]
        return ViewPart(start, length, (row_group, column), is_lazy=True)


class _Layout:
    """What the layout is made from; `end` is where its last part before the footer ends.

    Row groups are opened one at a time: of each chunk, only places are kept.
    """

    def __init__(self, opened: OpenedFile, missing: MissingKeys, *, checks_digests: bool) -> None:
        opened.row_groups.check_size()
        self.end = opened.body_end
        self.unreadable: list[ViewPart] = []
        self._opened = opened
        self._null_pages = 0
        self._nulls: dict[int, LeafLevels] = {}  # by column
        self._places: dict[tuple[int, int], PagePlace] = {}  # of encrypted chunks
        self._plaintext: set[tuple[int, int]] = set()
        parts: list[Part] = []
        # Which columns are shown as nulls is known once all row groups were opened.
        is_known = missing is not MissingKeys.NULL
        for index in opened.row_groups.ordinals:
            parts += self._look_at(opened.open_row_group(index))
            if is_known:
                self._show(index)
            else:
                opened.row_groups.release(index)
        if not is_known:
            if opened.locked:
                self._nulls = _null_columns(opened)
            for index in opened.row_groups.ordinals:
                self._show(index)
        if self.end >= opened.body_end + LOCKED_GAP_BYTES:
            self.end += LOCKED_GAP_BYTES
        self._segments = order_segments(parts, opened.body_end, opened.row_groups)
        in_plaintext = (each for each in self._segments if (each.row_group, each.column) in self._plaintext)
        self.digests = expected_digests(opened, in_plaintext) if checks_digests else None

    def _look_at(self, chunks: list[Chunk]) -> Iterator[Part]:
        for chunk in chunks:
            place = chunk.ordinals
            if not chunk.is_sealed:
                self._plaintext.add(place)
            elif place not in self._opened.locked:
                self._places[place] = locate_pages(chunk)
            if chunk.metadata.entries:
                yield from chunk_parts(chunk)

    def _show(self, index: int) -> None:
        """Make a row group one of a plaintext file."""
        for chunk in self._opened.open_row_group(index):
            error = self._opened.locked.get(chunk.ordinals)
            if chunk.column in self._nulls:
                self.unreadable.append(self._null_part(chunk, self._opened.row_groups.rows(index)))
            elif error is not None:
                self.unreadable.append(self._locked_part(chunk, self._opened.row_groups.rows(index), error))
            _show_plain(chunk)
        self._opened.row_groups.close(index)

    def readable_parts(self) -> Iterator[ViewPart]:
        for segment in self._segments:
            if segment.kind is not SegmentKind.PAGES or segment.column in self._nulls:
                continue
            chunk = (segment.row_group, segment.column)
            if chunk in self._plaintext:
                if self.digests is not None:
                    yield self._digested_part(self.digests, segment)
            elif chunk in self._places:
                room = min(segment.room_bytes, (segment.declared_bytes or 0) + UNDECLARED_BYTES)
                yield ViewPart(segment.start, room, chunk, self._places[chunk])

    def _digested_part(self, digests: ExpectedDigests, segment: Segment) -> ViewPart:
        # Not all the room up to the next part that is known: parts of locked columns may lie there, unseen.
        length = digests.pages_bytes(segment.row_group, segment.column, segment.declared_bytes or 0)
        if length > segment.room_bytes:
            what = self._opened.row_groups.what(segment.row_group, segment.column)
            raise FormatError(f"{what} has pages that reach over other parts")
        return ViewPart(segment.start, length, (segment.row_group, segment.column))

    def _null_part(self, chunk: Chunk, rows: int) -> ViewPart:
        self._null_pages += max(1, -(-rows // PAGE_ROWS))
        if self._null_pages > _MOST_NULL_PAGES:
            raise LimitError(f"{chunk.what} and those before it would be shown as more than {_MOST_NULL_PAGES} pages")
        data = null_pages(self._nulls[chunk.column], rows)
        part = ViewPart(self.end, len(data), data=data)
        self.end += len(data)
        chunk.metadata = plain_metadata(chunk.leaf, values=rows, start=part.start, plain_bytes=part.length)
        chunk.stored_metadata = None
        return part

    def _locked_part(self, chunk: Chunk, rows: int, error: AccessError) -> ViewPart:
        start = self.end + LOCKED_GAP_BYTES
        if not chunk.metadata.entries:  # hidden by an encrypted footer: readers want some, even if they never use it
            chunk.metadata = plain_metadata(chunk.leaf, values=rows, start=start, plain_bytes=1)
        length = max(1, chunk.metadata.integer(ColumnMetaData.TOTAL_COMPRESSED_SIZE) or 0)
        chunk.metadata.set(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, start)
        chunk.metadata.remove(ColumnMetaData.INDEX_PAGE_OFFSET)
        chunk.metadata.remove(ColumnMetaData.DICTIONARY_PAGE_OFFSET)
        self.end = start + length
        return ViewPart(start, length, error=error)


def _null_columns(opened: OpenedFile) -> dict[int, LeafLevels]:
    """Return the levels of all leaves below roots that have a locked leaf, and let these roots be null.

    A root is null in every row group, even where some row groups could be read: half a column would mislead, and the
    pages of a required root lack the definition level that its being optional adds.
    """
    schema = opened.footer.structs(FileMetaData.SCHEMA)
    levels = leaf_levels(schema)
    locked_roots = {levels[column].root for _, column in opened.locked}
    added = dict.fromkeys(locked_roots, 0)
    for root in locked_roots:
        if (schema[root].integer(SchemaElement.REPETITION_TYPE) or _REQUIRED) == _REQUIRED:
            schema[root].set(SchemaElement.REPETITION_TYPE, WireType.I32, _OPTIONAL)
            added[root] = 1
    return {
        column: LeafLevels(leaf.root, leaf.definition + added[leaf.root], leaf.repetition)
        for column, leaf in enumerate(levels)
        if leaf.root in locked_roots
    }


def _show_plain(chunk: Chunk) -> None:
    """Make the entry one of a plaintext file. The chunk's key was found before."""
    metadata = chunk.metadata
    if any(entry[0] in _BLOOM_FIELDS for entry in metadata.entries):
        metadata = metadata.kept(frozenset(entry[0] for entry in metadata.entries) - _BLOOM_FIELDS)
    elif chunk.stored_metadata is not None:  # the same, without encoding it again
        metadata = keep_encoded(chunk.stored_metadata)
    chunk.entry.entries = [entry for entry in chunk.entry.entries if entry[0] not in _HIDDEN_FIELDS]
    chunk.entry.set(ColumnChunk.META_DATA, WireType.STRUCT, metadata)
