"""Open the blocks of a blob, each checked to be in its place, and write all of them.

What the footer's tag, the entry and the arithmetic of blob/format.py say must agree; then each block's own tags tell
that it is this file's, this row group's and this page's. So nothing can be dropped, doubled, swapped or brought in.
Whole blobs are written in windows: read ahead, opened, written behind.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, IntegrityError, UnsupportedError
from pipecrypt.parquet.blob.format import (
    BLOCK_LEAF,
    PREFIX_BYTES,
    ROW_GROUP_BLOCKS,
    BlobCompression,
    BlobEntry,
    find_blob_entry,
    length_prefix,
    sealed_header,
)
from pipecrypt.parquet.footer.columns import leaf_columns
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import Chunk, locate_pages, row_count
from pipecrypt.parquet.footer.stored import MAGIC_BYTES
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.protocols import AppendSink, PageCodec
from pipecrypt.parquet.report import FileReport, RestoredFile
from pipecrypt.parquet.wire.fields import OFFSET_INDEX, ColumnChunk, OffsetIndex, PageLocation, RowGroup
from pipecrypt.parquet.wire.modules import LENGTH_BYTES, MODULE_OVERHEAD_BYTES, ModuleType, open_into, open_module
from pipecrypt.parquet.wire.thrift_read import read_struct
from pipecrypt.vocabulary.ranges import DescribedSource, RangeSource, is_described

__all__ = [
    "BlockGroup",
    "OpenedBlob",
    "ignore_restored",
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
    def first_block(self) -> int:
        """The number of its first block in the file."""
        return self.ordinal * ROW_GROUP_BLOCKS

    @property
    def rows(self) -> int:
        """How many blocks it has."""
        return len(self.bounds) - 1


def opened_blob(
    opened: OpenedFile, mode: FooterMode, body_end: int, *, name: str, codec: PageCodec | None
) -> OpenedBlob | None:
    """Return the blocks of a blob, or None where it is a table.

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
    entry = find_blob_entry(opened.footer, name)
    if entry is None:
        return None
    # pipecrypt writes the entry into encrypted footers only, and refuses to encrypt a table that has one.
    if mode is not FooterMode.ENCRYPTED or opened.originals is None or not opened.is_authenticated:
        raise FormatError(f"{name} says that it holds chunks, but was not written as such")
    return OpenedBlob(opened, entry, body_end, name, codec)


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
        entry: what it says about itself.
        body_end: where its footer begins.
        name: what errors call the file.
        codec: decompresses pages.
    """

    def __init__(self, opened: OpenedFile, entry: BlobEntry, body_end: int, name: str, codec: PageCodec | None) -> None:
        """Check the counts."""
        self.entry = entry
        self.layout = layout = entry.layout
        self.body_end = body_end
        self._opened = opened
        self._name = name
        self._codec = codec if entry.compression is BlobCompression.ZSTD else None
        if entry.compression is BlobCompression.ZSTD and codec is None:
            raise UnsupportedError(f"{name} is compressed with zstd", hint="pass a codec that decompresses it")
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

    @property
    def restored(self) -> RestoredFile:
        """What the entry says about the original."""
        info = self.entry.info
        return RestoredFile(info.name, info.mode, info.mtime_ns, self.layout.size_bytes)

    def _check_end(self, end: int) -> None:
        if end != self.body_end:
            raise FormatError(f"the chunks of {self._name} end at {end}, its footer begins at {self.body_end}")

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
        aad = self._opened.aad
        return BlockGroup(
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
        bounds, most_bytes = array("q"), _most_stored_bytes(self.layout.block_bytes) + _MOST_HEADER_BYTES
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

    def _open_header(self, row_group: BlockGroup, row: int, sealed: memoryview, what: str) -> memoryview:
        """Check a page's header; return the module of its body."""
        plain_bytes = self.layout.plain_bytes(row_group.first_block + row)
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


_WINDOW_BYTES: Final = 4 << 20


def ignore_restored(restored: RestoredFile) -> None:
    """Take what a file was and do nothing with it."""


def restore_blob(
    blob: OpenedBlob, opened: OpenedFile, source: RangeSource, sink: AppendSink, on_bytes: Callable[[int], None]
) -> FileReport:
    """Write all bytes to `sink`, each block checked; see `OpenedBlob` for what is checked.

    Raises:
        FormatError: something is missing, or lies where it must not.
        IntegrityError: a block is not this file's at its place.
        AccessError: a key is missing or was refused.
    """
    # Closed at once after an error: the caller closes the source then, and nothing may read it any more.
    with _WriteBehind(sink, blob.layout.block_bytes) as writing, closing(_sealed_windows(blob, source)) as windows:
        for window, sealed in windows:
            writing.start()
            bounds = window.row_group.bounds
            for row in range(window.first, window.end):
                page = sealed[bounds[row] - window.start : bounds[row + 1] - window.start]
                writing.took(blob.open_block(window.row_group, row, page, writing.room()))
            writing.flush()
            on_bytes(len(sealed))
    layout = blob.layout
    return FileReport(
        rows=layout.blocks,
        batches=layout.row_groups,
        data_keys=opened.data_key_count,
        source_bytes=source.size_bytes,
        sink_bytes=layout.size_bytes,
        encrypted_columns=1,
        restored=blob.restored,
    )


@dataclass(frozen=True, slots=True)
class _Window:
    """Pages `first` to `end` of a row group, which are read at once."""

    row_group: BlockGroup
    first: int
    end: int

    @property
    def start(self) -> int:
        return self.row_group.bounds[self.first]

    @property
    def length(self) -> int:
        return self.row_group.bounds[self.end] - self.start


def _windows(blob: OpenedBlob, source: RangeSource) -> Iterator[_Window]:
    end, step = MAGIC_BYTES, max(1, _WINDOW_BYTES // blob.layout.block_bytes)
    for index in range(blob.layout.row_groups):
        row_group = blob.row_group(index, source)
        if row_group.bounds[0] != end:  # (9) of OpenedBlob
            raise FormatError(f"{source.name} row group {index} does not follow the one before it")
        end = row_group.end
        for first in range(0, row_group.rows, step):
            yield _Window(row_group, first, min(first + step, row_group.rows))


def _sealed_windows(blob: OpenedBlob, source: RangeSource) -> Generator[tuple[_Window, memoryview]]:
    """Yield windows with their bytes, valid until the next one is asked for, which is read meanwhile."""
    windows = _windows(blob, source)
    if not is_described(source) or not source.traits.reads_in_flight:
        for window in windows:
            yield window, source.read_range(window.start, window.length)
        return
    buffers = [bytearray(), bytearray()]
    ahead: tuple[_Window, Future[memoryview]] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipecrypt-read") as reader:
        for window in windows:
            buffers.reverse()
            if window.length > len(buffers[0]):
                buffers[0] = bytearray(window.length)
            due, out = ahead, memoryview(buffers[0])[: window.length]
            ahead = window, reader.submit(_fill, source, window.start, out)
            if due is not None:
                yield due[0], due[1].result()
        if ahead is not None:
            yield ahead[0], ahead[1].result()


def _fill(source: DescribedSource, start: int, out: memoryview) -> memoryview:
    source.read_into(start, out)
    return out


class _WriteBehind:
    """Two buffers: one takes blocks while a thread writes the other.

    A block is opened together with its length prefix, which lands on the end of the block before. Those bytes are
    kept and put back, so that the blocks follow each other without a copy.
    """

    def __init__(self, sink: AppendSink, block_bytes: int) -> None:
        self._sink = sink
        room_bytes = PREFIX_BYTES + max(_WINDOW_BYTES, block_bytes)
        self._buffers = [bytearray(room_bytes), bytearray(room_bytes)]
        self._end = 0
        self._covered = b""
        self._pending: Future[None] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipecrypt-write")

    def __enter__(self) -> _WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._writer.shutdown(wait=True)  # the sink can be discarded only then

    def start(self) -> None:
        """Begin a window, whose blocks together are no longer than the room."""
        self._end = PREFIX_BYTES

    def room(self) -> memoryview:
        """Return the room for the next block, its prefix first."""
        view = memoryview(self._buffers[0])
        self._covered = bytes(view[self._end - PREFIX_BYTES : self._end])
        return view[self._end - PREFIX_BYTES :]

    def took(self, length: int) -> None:
        """Keep the block that was opened into the room."""
        view = memoryview(self._buffers[0])
        view[self._end - PREFIX_BYTES : self._end] = self._covered
        self._end += length

    def flush(self) -> None:
        """End the window."""
        self._wait()
        filled = memoryview(self._buffers[0])[PREFIX_BYTES : self._end]
        self._pending = self._writer.submit(self._sink.write, filled)
        self._buffers.reverse()

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
