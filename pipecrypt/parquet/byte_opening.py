"""Open the chunks of a file of chunks, each checked to be in its place. Reading ranges is left to others.

What the footer's tag, the entry and the arithmetic of byte_layout say must agree; then each chunk's own tags tell that
it is this file's, this row group's and this page's. So nothing can be dropped, doubled, swapped or brought in.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, IntegrityError, UnsupportedError
from pipecrypt.parquet.byte_entry import ChunkCompression, ChunkEntry, find_entry
from pipecrypt.parquet.byte_footer import CHUNK_COLUMN
from pipecrypt.parquet.byte_layout import (
    PREFIX_BYTES,
    ROW_GROUP_CHUNKS,
    length_prefix,
    sealed_header,
)
from pipecrypt.parquet.chunks import Chunk, locate_pages, row_count
from pipecrypt.parquet.columns import LeafColumn, leaf_columns
from pipecrypt.parquet.footer import MAGIC_BYTES
from pipecrypt.parquet.opened import OpenedFile, is_sealed
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.protocols import PageCodec, RangeSource
from pipecrypt.parquet.report import RestoredFile
from pipecrypt.parquet.wire.fields import OFFSET_INDEX, ColumnChunk, FileMetaData, OffsetIndex, PageLocation, RowGroup
from pipecrypt.parquet.wire.modules import LENGTH_BYTES, MODULE_OVERHEAD_BYTES, ModuleType, open_into, open_module
from pipecrypt.parquet.wire.thrift_read import read_struct

__all__ = ["ChunkRowGroup", "OpenedChunks", "opened_chunks"]

_LEAVES: Final = (LeafColumn((CHUNK_COLUMN,), "BYTE_ARRAY"),)
# By how much a compressor may lengthen a page that it cannot shorten: zstd stays far below.
_MOST_GROWTH_SHIFT: Final = 6
_MOST_GROWTH_BYTES: Final = 1024
_MOST_HEADER_BYTES: Final = 256
# An index of 64 places takes a tenth of this.
_MOST_INDEX_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ChunkRowGroup:
    """One row group of chunks, its metadata authenticated; its pages are authenticated as they are opened.

    Args:
        ordinal: of the row group.
        bounds: where its pages begin in the file, and where the last one ends.
        end: where the row group ends, its offset index included.
        cipher: of its pages.
        header_aad: what the AADs of its page headers begin with.
        page_aad: what the AADs of its pages begin with.
    """

    ordinal: int
    bounds: array[int]
    end: int
    cipher: MessageCipher
    header_aad: bytes
    page_aad: bytes

    @property
    def first_chunk(self) -> int:
        """The number of its first chunk in the file."""
        return self.ordinal * ROW_GROUP_CHUNKS

    @property
    def rows(self) -> int:
        """How many chunks it has."""
        return len(self.bounds) - 1


def opened_chunks(
    opened: OpenedFile, mode: FooterMode, body_end: int, *, name: str, codec: PageCodec | None
) -> OpenedChunks | None:
    """Return the chunks of a file of chunks, or None where it is a table.

    Args:
        opened: the file, its footer authenticated.
        mode: of its footer.
        body_end: where its footer begins.
        name: what errors call the file.
        codec: decompresses pages.

    Raises:
        FormatError: the entry and the rest of the footer contradict each other.
        UnsupportedError: the pages are compressed and there is no codec.
    """
    entry = find_entry(opened.footer, name)
    if entry is None:
        return None
    # pipecrypt writes the entry into encrypted footers only, and refuses to encrypt a table that has one.
    if mode is not FooterMode.ENCRYPTED or opened.originals is None or not opened.is_authenticated:
        raise FormatError(f"{name} says that it holds chunks, but was not written as such")
    return OpenedChunks(opened, entry, body_end, name, codec)


class OpenedChunks:
    """The chunks of an authenticated footer.

    What holds when it is constructed: (1) there is one column, of chunks; (2) rows and row groups are as many as the
    size takes; (3) the body ends where they do: where pages are compressed, that is seen with the last row group.
    What holds of a row group once it was asked for: (4) its metadata is its own, its column encrypted; (5) it has its
    number of rows; (6) its pages lie without gaps where they must. What holds of a chunk once it was opened: (7)
    header and body are this page's, by their tags; (8) all lengths agree. Who reads all of it still owes that (9)
    compressed row groups follow each other without gaps.

    Args:
        opened: the file; whoever opened it closes it.
        entry: what it says about itself.
        body_end: where its footer begins.
        name: what errors call the file.
        codec: decompresses pages.
    """

    def __init__(
        self, opened: OpenedFile, entry: ChunkEntry, body_end: int, name: str, codec: PageCodec | None
    ) -> None:
        """Check the counts."""
        self.entry = entry
        self.layout = layout = entry.layout
        self.body_end = body_end
        self._opened = opened
        self._name = name
        self._codec = codec if entry.compression is ChunkCompression.ZSTD else None
        if entry.compression is ChunkCompression.ZSTD and codec is None:
            raise UnsupportedError(f"{name} is compressed with zstd", hint="pass a codec that decompresses it")
        if leaf_columns(opened.footer.structs(FileMetaData.SCHEMA), name) != _LEAVES:  # (1)
            raise FormatError(f"{name} says that it holds chunks, but has other columns")
        rows, row_groups = row_count(opened.footer, name), len(opened.row_groups)
        if (rows, row_groups) != (layout.chunks, layout.row_groups):  # (2)
            raise FormatError(
                f"{name} has {rows} chunks in {row_groups} row groups where {layout.chunks} in {layout.row_groups} "
                f"make its {layout.size_bytes} bytes"
            )
        if self._codec is None or not row_groups:
            self._check_end(layout.sealed_bounds(row_groups - 1)[-1] if row_groups else MAGIC_BYTES)  # (3)

    @property
    def restored(self) -> RestoredFile:
        """What the entry says about the original."""
        info = self.entry.info
        return RestoredFile(info.name, info.mode, info.mtime_ns, self.layout.size_bytes)

    def _check_end(self, end: int) -> None:
        if end != self.body_end:
            raise FormatError(f"the chunks of {self._name} end at {end}, its footer begins at {self.body_end}")

    def row_group(self, index: int, source: RangeSource) -> ChunkRowGroup:
        """Return a row group; `source` is read only where pages are compressed.

        Raises:
            FormatError: malformed, or not where it must be.
            IntegrityError: its metadata or index was not written with its key at this place, or is not encrypted.
            AccessError: its key is missing or was refused.
        """
        chunk = self._opened.open_row_group(index)[0]
        if not is_sealed(chunk):  # (4)
            raise IntegrityError(f"{chunk.what} is not encrypted")
        row_group, place = self._opened.row_groups.struct(index), locate_pages(chunk)
        rows = self.layout.rows(index)
        if (row_group.integer(RowGroup.NUM_ROWS), place.num_values) != (rows, rows):  # (5)
            raise FormatError(f"{chunk.what} has not the {rows} chunks that it must have")
        cipher = self._opened.cipher(chunk)
        if self._codec is None:
            bounds = self.layout.sealed_bounds(index)
            end = bounds[-1]
        else:
            bounds, end = self._indexed_bounds(chunk, rows, cipher, source)
            if index + 1 == self.layout.row_groups:
                self._check_end(end)
        if (place.start, place.start + place.declared_bytes) != (bounds[0], bounds[-1]):  # (6)
            raise FormatError(f"{chunk.what} does not lie where it must")
        self._opened.row_groups.release(index)
        aad = self._opened.aad
        return ChunkRowGroup(
            index,
            bounds,
            end,
            cipher,
            aad.module(ModuleType.DATA_PAGE_HEADER, index, chunk.column),
            aad.module(ModuleType.DATA_PAGE, index, chunk.column),
        )

    def _indexed_bounds(
        self, chunk: Chunk, rows: int, cipher: MessageCipher, source: RangeSource
    ) -> tuple[array[int], int]:
        what = f"offset index of {chunk.what}"
        offset = chunk.entry.integer(ColumnChunk.OFFSET_INDEX_OFFSET) or 0
        length = chunk.entry.integer(ColumnChunk.OFFSET_INDEX_LENGTH) or 0
        if not (0 < length <= _MOST_INDEX_BYTES and MAGIC_BYTES <= offset <= self.body_end - length):
            raise FormatError(f"{what} is missing or misplaced")
        aad = self._opened.aad.module(ModuleType.OFFSET_INDEX, chunk.row_group, chunk.column)
        data = open_module(cipher, source.read_range(offset, length), aad, what)
        locations = read_struct(data, 0, OFFSET_INDEX, what)[0].structs(OffsetIndex.PAGE_LOCATIONS)
        bounds, most_bytes = array("q"), _most_stored_bytes(self.layout.chunk_bytes) + _MOST_HEADER_BYTES
        position = locate_pages(chunk).start
        for location in locations:
            page_bytes = location.integer(PageLocation.COMPRESSED_PAGE_SIZE) or 0
            if location.integer(PageLocation.OFFSET) != position or not 0 < page_bytes <= most_bytes:
                raise FormatError(f"{what} has gaps")
            bounds.append(position)
            position += page_bytes
        bounds.append(position)
        if len(locations) != rows or position != offset or position > self.body_end:
            raise FormatError(f"{what} does not fit its pages")
        return bounds, offset + length

    def open_chunk(self, row_group: ChunkRowGroup, row: int, sealed: memoryview, out: memoryview) -> int:
        """Open one chunk, checked: its length prefix and its bytes go to the start of `out`; return how many bytes.

        Args:
            row_group: the chunk's.
            row: which chunk of the row group.
            sealed: the encrypted page, header and body.
            out: room for `PREFIX_BYTES` and the chunk.

        Raises:
            FormatError: a length is wrong.
            IntegrityError: not this page of this file.
        """
        chunk = row_group.first_chunk + row
        what = f"{self._name} chunk {chunk}"
        plain_bytes = self.layout.plain_bytes(chunk)
        plain = out[: PREFIX_BYTES + plain_bytes]
        body = self._open_header(row_group, row, sealed, what)
        aad = row_group.page_aad + row.to_bytes(2, "little")
        if self._codec is None:
            open_into(row_group.cipher, body, aad, plain, what)  # (7)
        else:
            compressed = open_module(row_group.cipher, body, aad, what)
            plain[:] = _decompressed(self._codec, memoryview(compressed), len(plain), what)
        if plain[:PREFIX_BYTES] != length_prefix(plain_bytes):  # (8)
            raise FormatError(f"{what} does not have {plain_bytes} bytes")
        return plain_bytes

    def _open_header(self, row_group: ChunkRowGroup, row: int, sealed: memoryview, what: str) -> memoryview:
        """Check a page's header; return the module of its body."""
        plain_bytes = self.layout.plain_bytes(row_group.first_chunk + row)
        header_bytes = int.from_bytes(sealed[:LENGTH_BYTES], "little") + LENGTH_BYTES
        body = sealed[header_bytes:]
        stored_bytes = len(body) - MODULE_OVERHEAD_BYTES
        least = most = plain_bytes + PREFIX_BYTES
        if self._codec is not None:
            least, most = 0, _most_stored_bytes(plain_bytes)
        header, module_bytes = sealed_header(plain_bytes, len(body))
        lengths = (module_bytes, len(body) - LENGTH_BYTES)
        found = (header_bytes, int.from_bytes(body[:LENGTH_BYTES], "little"))
        if not least <= stored_bytes <= most or lengths != found:
            raise FormatError(f"{what} is truncated or malformed")
        aad = row_group.header_aad + row.to_bytes(2, "little")
        if open_module(row_group.cipher, sealed[:header_bytes], aad, what) != header:
            raise FormatError(f"{what} has another page header than it must have")
        return body


def _decompressed(codec: PageCodec, compressed: memoryview, plain_bytes: int, what: str) -> bytes | memoryview:
    try:
        return codec.decompress(compressed, plain_bytes)
    except FormatError as error:
        raise FormatError(f"{what}: {error.message}", hint=error.hint) from error


def _most_stored_bytes(plain_bytes: int) -> int:
    return plain_bytes + PREFIX_BYTES + (plain_bytes >> _MOST_GROWTH_SHIFT) + _MOST_GROWTH_BYTES
