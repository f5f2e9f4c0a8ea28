"""Show an encrypted file as a plaintext file by range, decrypting what is read. Decrypting whole files is decrypt's.

Layout of the view::

    "PAR1" || the encrypted file's body, each encrypted chunk replaced by its plaintext pages and zeros || plain footer

Every chunk stays at its offset, and the zeros behind its last page are counted in its size; readers stop at the last
value. Indexes and Bloom filters are left out of the footer. Memory holds the chunks read last, one per column.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from types import TracebackType
from typing import Final, Self

from pipecrypt.parquet.chunks import Chunk, locate_pages
from pipecrypt.parquet.columns import LeafColumn, leaf_columns, physical_type_code
from pipecrypt.parquet.footer import MAGIC_BYTES, PLAIN_MAGIC, encode_plain_footer, read_stored_footer
from pipecrypt.parquet.layout import UNDECLARED_BYTES, SegmentKind, chunk_parts, order_segments
from pipecrypt.parquet.names import ColumnChunk, ColumnMetaData, FileMetaData
from pipecrypt.parquet.opened import OpenedFile, is_sealed
from pipecrypt.parquet.pages import PageAADs, open_pages
from pipecrypt.parquet.protocols import DataKeys, RangeSource
from pipecrypt.parquet.thrift import Entry, Struct, WireType

__all__ = ["PlaintextView"]

_KEPT_BYTES: Final = 256 << 20
_HIDDEN_FIELDS: Final = (
    ColumnChunk.OFFSET_INDEX_OFFSET,
    ColumnChunk.OFFSET_INDEX_LENGTH,
    ColumnChunk.COLUMN_INDEX_OFFSET,
    ColumnChunk.COLUMN_INDEX_LENGTH,
    ColumnChunk.CRYPTO_METADATA,
    ColumnChunk.ENCRYPTED_COLUMN_METADATA,
)


class PlaintextView:
    """A RangeSource of plaintext over a RangeSource of ciphertext; a context manager that wipes its keys.

    Args:
        source: the file, encrypted or not.
        keys: finds data keys.
        aad_prefix: of a file that does not store it.

    Raises:
        FormatError: no Parquet file, truncated or malformed.
        KeyNotFoundError: the key of an encrypted footer is missing.
        IntegrityError: footer or metadata were not written with these keys.
    """

    def __init__(self, source: RangeSource, *, keys: DataKeys, aad_prefix: bytes | None = None) -> None:
        """Open the footer; columns whose key is missing stay closed until they are read."""
        self._source = source
        self._opened: OpenedFile | None = None
        self._row_groups: list[list[Chunk]] = []
        self._starts: list[int] = []
        self._chunks: list[tuple[Chunk, int]] = []
        self._kept: OrderedDict[int, bytearray] = OrderedDict()
        stored = read_stored_footer(source)
        self._body_end = stored.body_end
        self._footer = b""
        self._plain_schema = stored.metadata
        if stored.sealed is None:
            self._body_end = source.size_bytes
        else:
            self._opened = OpenedFile(
                stored.sealed, source.name, keys=keys, aad_prefix=aad_prefix, allow_missing_keys=True
            )
            try:
                self._row_groups = self._opened.open_all()
                self._footer = self._plain_footer(self._opened)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        """Return the view."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe all keys and forget all plaintext."""
        self.close()

    def close(self) -> None:
        """Wipe all keys and forget all plaintext. Safe to call twice."""
        self._kept.clear()
        if self._opened is not None:
            self._opened.__exit__(None, None, None)

    @property
    def name(self) -> str:
        """The file's name."""
        return self._source.name

    @property
    def size_bytes(self) -> int:
        """Size of the view."""
        return self._body_end + len(self._footer)

    @property
    def is_encrypted(self) -> bool:
        """Whether the file is encrypted at all."""
        return self._opened is not None

    @property
    def is_authenticated(self) -> bool:
        """Whether the footer's tag was checked, which takes the footer's key."""
        return self._opened is not None and self._opened.is_authenticated

    @property
    def leaves(self) -> tuple[LeafColumn, ...]:
        """The leaf columns of the file, in order; names may stand twice."""
        footer = self._plain_schema if self._opened is None else self._opened.footer
        if footer is None:
            raise AssertionError("a plaintext file has a readable footer")
        return leaf_columns(footer.structs(FileMetaData.SCHEMA), self.name)

    @property
    def locked_columns(self) -> frozenset[int]:
        """The indexes of the leaf columns whose key is missing in at least one row group."""
        return frozenset() if self._opened is None else frozenset(column for _, column in self._opened.locked)

    def check_column(self, column: int) -> None:
        """Raise what reading the leaf column would raise.

        Raises:
            AccessError: its key is missing; names file, row group and column.
        """
        opened = self._opened
        for (_, index), error in opened.locked.items() if opened is not None else ():
            if index == column:
                raise error

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` plaintext bytes from `start`; zeros for columns whose key is missing.

        Raises:
            IntegrityError: a page was not written with these keys at this place.
        """
        if self._opened is None:
            return self._source.read_range(start, length)
        out, position = bytearray(length), start
        while position < start + length:
            piece = self._piece(position, start + length - position)
            out[position - start : position - start + len(piece)] = piece
            position += len(piece)
        return memoryview(out)

    def _piece(self, position: int, length: int) -> memoryview | bytes:
        if position < MAGIC_BYTES:
            return PLAIN_MAGIC[position : position + length]
        if position >= self._body_end:
            at = position - self._body_end
            return self._footer[at : at + length]
        index = bisect_right(self._starts, position) - 1
        if index >= 0 and position < self._starts[index] + self._chunks[index][1]:
            at = position - self._starts[index]
            return memoryview(self._plain_chunk(index))[at : at + length]
        following = self._starts[index + 1] if index + 1 < len(self._starts) else self._body_end
        return self._source.read_range(position, min(length, following - position))

    def _plain_chunk(self, index: int) -> bytearray:
        kept = self._kept.get(index)
        if kept is None:
            kept = self._open_chunk(*self._chunks[index])
            self._kept[index] = kept
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return kept

    def _open_chunk(self, chunk: Chunk, room_bytes: int) -> bytearray:
        opened = self._opened
        if opened is None:
            raise AssertionError("a plaintext file has no encrypted chunk")
        place, plain = locate_pages(chunk), bytearray(room_bytes)
        if (chunk.row_group, chunk.column) in opened.locked:
            # Readers fetch ranges across columns that they do not decode. Zeros are no page, so decoding them fails.
            return plain
        bounds = open_pages(
            self._source.read_range(place.start, room_bytes),
            place.declared_bytes,
            place.num_values,
            out=memoryview(plain),
            cipher=opened.cipher(chunk),
            aads=PageAADs(opened.aad, chunk.row_group, chunk.column),
            ctr=opened.ctr_pages,
            what=chunk.what,
        )
        # Opening moves pages inside the buffer where a checksum changes its length, so clear what is left behind.
        end = bounds.new[-1]
        plain[end:] = bytes(room_bytes - end)
        return plain

    def _plain_footer(self, opened: OpenedFile) -> bytes:
        every = [chunk for chunks in self._row_groups for chunk in chunks]
        for chunk in every:
            if not chunk.metadata.entries:
                chunk.metadata = _placeholder(chunk)
        parts = [part for chunk in every for part in chunk_parts(chunk)]
        for segment in order_segments(parts, self._body_end, opened.row_groups):
            chunk = self._row_groups[segment.row_group][segment.column]
            if segment.kind is SegmentKind.PAGES and is_sealed(chunk):
                self._starts.append(segment.start)
                self._chunks.append((chunk, min(segment.room_bytes, (segment.declared_bytes or 0) + UNDECLARED_BYTES)))
        hidden = [_hide(chunk) for chunk in every]
        footer = b"".join(encode_plain_footer(opened.footer))
        for chunk, entries in hidden:
            chunk.entry.entries = entries
        return footer


def _hide(chunk: Chunk) -> tuple[Chunk, list[Entry]]:
    """Make the entry one of a plaintext file; return what it had, by which the chunk's key is found later."""
    entries = list(chunk.entry.entries)
    for field in _HIDDEN_FIELDS:
        chunk.entry.remove(field)
    shown = chunk.metadata.kept(frozenset(entry[0] for entry in chunk.metadata.entries) - _BLOOM_FIELDS)
    chunk.entry.set(ColumnChunk.META_DATA, WireType.STRUCT, shown)
    return chunk, entries


_BLOOM_FIELDS: Final = frozenset({ColumnMetaData.BLOOM_FILTER_OFFSET, ColumnMetaData.BLOOM_FILTER_LENGTH})


def _placeholder(chunk: Chunk) -> Struct:
    """Return metadata for a column that an encrypted footer hides: readers want some, even if they never use it."""
    metadata = Struct()
    metadata.set(1, WireType.I32, physical_type_code(chunk.leaf))
    metadata.set_list(2, WireType.I32, [0])
    metadata.set_list(ColumnMetaData.PATH_IN_SCHEMA, WireType.BINARY, [name.encode() for name in chunk.leaf.path])
    metadata.set(4, WireType.I32, 0)
    for field in (ColumnMetaData.NUM_VALUES, 6, ColumnMetaData.TOTAL_COMPRESSED_SIZE):
        metadata.set(field, WireType.I64, 0)
    metadata.set(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, MAGIC_BYTES)
    return metadata
