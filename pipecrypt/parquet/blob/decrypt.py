"""Open the blocks of a blob, each checked to be in its place, and write all of them.

What the footer's tag, the entry and the arithmetic of blob/format.py say must agree; then each block's own tags tell
that it is this file's, this row group's and this page's. So nothing can be dropped, doubled, swapped or brought in.
Whole blobs are written in windows: read ahead, opened, written behind.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, IntegrityError, UnsupportedError
from pipecrypt.parquet.blob.format import (
    BLOCK_LEAF,
    PREFIX_BYTES,
    ROW_GROUP_BLOCKS,
    BlobCompression,
    BlobInfo,
    BlobLayout,
    find_blob_entry,
    length_prefix,
    sealed_header,
)
from pipecrypt.parquet.carry.reading import WINDOW_BYTES
from pipecrypt.parquet.carry.writing import Body
from pipecrypt.parquet.footer.columns import leaf_columns
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import Chunk, locate_pages, row_count
from pipecrypt.parquet.footer.stored import MAGIC_BYTES
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.protocols import AppendSink, PageCodec
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.wire.fields import OFFSET_INDEX, ColumnChunk, PageLocation, RowGroup
from pipecrypt.parquet.wire.modules import (
    LENGTH_BYTES,
    MODULE_OVERHEAD_BYTES,
    ModuleType,
    PageAADs,
    open_into,
    open_module,
)
from pipecrypt.parquet.wire.thrift_read import read_struct
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "BlockGroup",
    "OpenedBlob",
    "ignore_info",
    "opened_blob",
    "restore_blob",
]

# By how much a compressor may lengthen a page that it cannot shorten: zstd stays far below.
_MOST_GROWTH_SHIFT: Final = 6
_MOST_GROWTH_BYTES: Final = 1024
_MOST_HEADER_BYTES: Final = 256
# An index of 64 places takes a tenth of this.
_MOST_INDEX_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """One row group of blocks, its metadata authenticated; its pages are authenticated as they are opened.

    Args:
        ordinal: of the row group.
        bounds: where its pages begin in the file, and where the last one ends.
        end: where the row group ends, its offset index included.
        cipher: of its pages.
        aads: of its pages.
    """

    ordinal: int
    bounds: array[int]
    end: int
    cipher: MessageCipher
    aads: PageAADs

    @property
    def first_block(self) -> int:
        """The number of its first block in the file."""
        return self.ordinal * ROW_GROUP_BLOCKS

    @property
    def rows(self) -> int:
        """How many blocks it has."""
        return len(self.bounds) - 1


def opened_blob(opened: OpenedFile, codec: PageCodec | None) -> OpenedBlob | None:
    """Return the blocks of a blob, or None where it is a table.

    Args:
        opened: the file, its footer authenticated.
        codec: decompresses pages.

    Raises:
        FormatError: the entry and the rest of the footer contradict each other.
        UnsupportedError: the pages are compressed and there is no codec.
    """
    entry, name = find_blob_entry(opened.footer, opened.name), opened.name
    if entry is None:
        return None
    # pipecrypt writes the entry into encrypted footers only, and refuses to encrypt a table that has one.
    if opened.mode is not FooterMode.ENCRYPTED or opened.originals is None or not opened.is_authenticated:
        raise FormatError(f"{name} says that it holds chunks, but was not written as such")
    layout, compression, info = entry
    if compression is not BlobCompression.ZSTD:
        codec = None
    elif codec is None:
        raise UnsupportedError(f"{name} is compressed with zstd", hint="pass a codec that decompresses it")
    return OpenedBlob(opened, layout, info, codec)


class OpenedBlob:
    """The blocks of an authenticated footer.

    What holds when it is constructed: (1) there is one column, of blocks; (2) rows and row groups are as many as the
    size takes; (3) the body ends where they do: where pages are compressed, that is seen with the last row group.
    What holds of a row group once it was asked for: (4) its metadata is its own, its column encrypted; (5) it has its
    number of rows; (6) its pages lie without gaps where they must. What holds of a block once it was opened: (7)
    header and body are this page's, by their tags; (8) all lengths agree. Who reads all of it still owes that (9)
    compressed row groups follow each other without gaps.

    Args:
        opened: the file; whoever opened it closes it.
        layout: of its blocks, as it says.
        info: what it says about the original.
        codec: decompresses pages; None where they are not compressed.
    """

    def __init__(self, opened: OpenedFile, layout: BlobLayout, info: BlobInfo, codec: PageCodec | None) -> None:
        """Check the counts."""
        self.layout = layout
        self.info = info
        self._opened = opened
        self._name = name = opened.name
        self._codec = codec
        if leaf_columns(opened.footer, name) != (BLOCK_LEAF,):  # (1)
            raise FormatError(f"{name} says that it holds chunks, but has other columns")
        rows, row_groups = row_count(opened.footer, name), len(opened.row_groups)
        if (rows, row_groups) != (layout.blocks, layout.row_groups):  # (2)
            raise FormatError(
                f"{name} has {rows} chunks in {row_groups} row groups where {layout.blocks} in {layout.row_groups} "
                f"make its {layout.size_bytes} bytes"
            )
        if self._codec is None or not row_groups:
            self._check_end(layout.sealed_bounds(row_groups - 1)[-1] if row_groups else MAGIC_BYTES)  # (3)

    def _check_end(self, end: int) -> None:
        if end != self._opened.body_end:
            raise FormatError(f"the chunks of {self._name} end at {end}, its footer begins at {self._opened.body_end}")

    def row_group(self, index: int, source: RangeSource) -> BlockGroup:
        """Return a row group; `source` is read only where pages are compressed.

        Raises:
            FormatError: malformed, or not where it must be.
            IntegrityError: its metadata or index was not written with its key at this place, or is not encrypted.
            AccessError: its key is missing or was refused.
        """
        chunk = self._opened.open_row_group(index)[0]
        if not chunk.is_sealed:  # (4)
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
        return BlockGroup(index, bounds, end, cipher, self._opened.aad.pages(index, chunk.column))

    def _indexed_bounds(
        self, chunk: Chunk, rows: int, cipher: MessageCipher, source: RangeSource
    ) -> tuple[array[int], int]:
        what = f"offset index of {chunk.what}"
        offset = chunk.entry.integer(ColumnChunk.OFFSET_INDEX_OFFSET) or 0
        length = chunk.entry.integer(ColumnChunk.OFFSET_INDEX_LENGTH) or 0
        if not (0 < length <= _MOST_INDEX_BYTES and MAGIC_BYTES <= offset <= self._opened.body_end - length):
            raise FormatError(f"{what} is missing or misplaced")
        aad = self._opened.aad.module(ModuleType.OFFSET_INDEX, chunk.row_group, chunk.column)
        data = open_module(cipher, source.read_range(offset, length), aad, what)
        locations = read_struct(data, 0, OFFSET_INDEX, what)[0].structs(PageLocation.LIST)
        bounds, most_bytes = array("q"), _most_stored_bytes(self.layout.block_bytes) + _MOST_HEADER_BYTES
        position = locate_pages(chunk).start
        for location in locations:
            page_bytes = location.integer(PageLocation.COMPRESSED_PAGE_SIZE) or 0
            if location.integer(PageLocation.OFFSET) != position or not 0 < page_bytes <= most_bytes:
                raise FormatError(f"{what} has gaps")
            bounds.append(position)
            position += page_bytes
        bounds.append(position)
        if len(locations) != rows or position != offset or position > self._opened.body_end:
            raise FormatError(f"{what} does not fit its pages")
        return bounds, offset + length

    def open_block(self, row_group: BlockGroup, row: int, sealed: memoryview, out: memoryview) -> int:
        """Open one block, checked: its length prefix and its bytes go to the start of `out`; return how many bytes.

        Args:
            row_group: the block's.
            row: which block of the row group.
            sealed: the encrypted page, header and body.
            out: room for `PREFIX_BYTES` and the block.

        Raises:
            FormatError: a length is wrong.
            IntegrityError: not this page of this file.
        """
        block = row_group.first_block + row
        what = f"{self._name} chunk {block}"
        plain_bytes = self.layout.plain_bytes(block)
        plain = out[: PREFIX_BYTES + plain_bytes]
        header_aad, aad = row_group.aads.data_page(row)
        body = self._open_header(row_group, block, sealed, header_aad, what)
        if self._codec is None:
            open_into(row_group.cipher, body, aad, plain, what)  # (7)
        else:
            compressed = open_module(row_group.cipher, body, aad, what)
            try:
                plain[:] = self._codec.decompress(memoryview(compressed), len(plain))
            except FormatError as error:
                raise FormatError(f"{what}: {error.message}", hint=error.hint) from error
        if plain[:PREFIX_BYTES] != length_prefix(plain_bytes):  # (8)
            raise FormatError(f"{what} does not have {plain_bytes} bytes")
        return plain_bytes

    def _open_header(self, row_group: BlockGroup, block: int, sealed: memoryview, aad: bytes, what: str) -> memoryview:
        """Check a page's header; return the module of its body."""
        plain_bytes = self.layout.plain_bytes(block)
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
        if open_module(row_group.cipher, sealed[:header_bytes], aad, what) != header:
            raise FormatError(f"{what} has another page header than it must have")
        return body


def _most_stored_bytes(plain_bytes: int) -> int:
    return plain_bytes + PREFIX_BYTES + (plain_bytes >> _MOST_GROWTH_SHIFT) + _MOST_GROWTH_BYTES


def ignore_info(info: BlobInfo) -> None:
    """Take what is kept about a file and do nothing with it."""


def restore_blob(
    blob: OpenedBlob, opened: OpenedFile, source: RangeSource, sink: AppendSink, on_bytes: Callable[[int], None]
) -> FileReport:
    """Write all bytes to `sink`, each block checked; see `OpenedBlob` for what is checked.

    Raises:
        FormatError: something is missing, or lies where it must not.
        IntegrityError: a block is not this file's at its place.
        AccessError: a key is missing or was refused.
    """
    layout = blob.layout
    with Body(sink, on_bytes) as body:
        body.open_input(source)
        for row_group in _planned_row_groups(blob, source, body):
            for rows in _windows(layout, row_group):
                _restore_window(blob, row_group, rows, body)
    return FileReport(
        rows=layout.blocks,
        batches=layout.row_groups,
        data_keys=opened.data_key_count,
        source_bytes=source.size_bytes,
        sink_bytes=body.position,
        encrypted_columns=1,
        read_seconds=body.read_seconds,
        write_seconds=body.write_seconds,
    )


def _planned_row_groups(blob: OpenedBlob, source: RangeSource, body: Body) -> Iterator[BlockGroup]:
    """Yield row groups; the pages of each are planned to be read before those of the one in front are opened."""
    end, before = MAGIC_BYTES, None
    for index in range(blob.layout.row_groups):
        row_group = blob.row_group(index, source)
        if row_group.bounds[0] != end:  # (9) of OpenedBlob
            raise FormatError(f"{source.name} row group {index} does not follow the one before it")
        end, bounds = row_group.end, row_group.bounds
        body.read_ahead((bounds[rows.start], bounds[rows.stop]) for rows in _windows(blob.layout, row_group))
        if before is not None:
            yield before
        before = row_group
    if before is not None:
        yield before


def _windows(layout: BlobLayout, row_group: BlockGroup) -> Iterator[range]:
    """Yield the rows whose pages are read at once."""
    step = max(1, WINDOW_BYTES // layout.block_bytes)
    return (range(first, min(first + step, row_group.rows)) for first in range(0, row_group.rows, step))


def _restore_window(blob: OpenedBlob, row_group: BlockGroup, rows: range, body: Body) -> None:
    bounds, start = row_group.bounds, row_group.bounds[rows.start]
    sealed = body.read(start, bounds[rows.stop] - start)
    for row in rows:
        # A block is opened together with its length prefix, which lands on the end of the block before. Those bytes
        # are put back, so that blocks follow each other without a copy.
        room = body.reserve(blob.layout.block_bytes, overlap=PREFIX_BYTES)
        covered = bytes(room[:PREFIX_BYTES])
        length = blob.open_block(row_group, row, sealed[bounds[row] - start : bounds[row + 1] - start], room)
        room[:PREFIX_BYTES] = covered
        body.commit(length)
    body.done(len(sealed))
