"""Build row groups of chunks in memory, of compressed bytes and those of unknown number. Encrypting is byte_chunks'.

Each is a plaintext Parquet file of one row group. Two are held: a thread fills one while the other is encrypted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, TypeAlias

from pipecrypt.errors import StorageError
from pipecrypt.parquet.blob.format import (
    PREFIX_BYTES,
    ROW_GROUP_BLOCKS,
    BlobCompression,
    RowGroupPlace,
    length_prefix,
    page_header,
    plain_footer,
    plain_offset_index,
)
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, PLAIN_MAGIC
from pipecrypt.parquet.protocols import ByteStream, FetchesSeveral, PageCodec
from pipecrypt.vocabulary.ranges import DescribedSource, MemorySource, RangeSource

__all__ = ["BuiltRowGroup", "FillChunk", "built_row_groups", "chunks_of_source", "chunks_of_stream"]

FillChunk: TypeAlias = Callable[[memoryview], int]  # fills a chunk as far as there are bytes, returns how many
_WINDOW_BYTES: Final = 8 << 20
_PAGE_ROOM_BYTES: Final = 256  # header, prefix, what compressing adds, a share of index and footer
_GRACE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class BuiltRowGroup:
    """A row group as a file of its own.

    Args:
        source: the Parquet file, valid until the row group after the next is built.
        plain_bytes: of all its chunks.
    """

    source: MemorySource
    plain_bytes: int


def built_row_groups(
    fill_chunk: FillChunk, chunk_bytes: int, name: str, codec: PageCodec | None
) -> Generator[BuiltRowGroup, None, None]:
    """Yield row groups, at least one, until no bytes are left; only one without any bytes is empty.

    Args:
        fill_chunk: brings the chunks, on another thread.
        chunk_bytes: of each chunk.
        name: what errors call the file.
        codec: compresses pages; None for none.
    """
    ordinal = 0
    with _Filler(fill_chunk, chunk_bytes, name, codec) as filler:
        filler.begin(0)
        while True:
            built = filler.built()
            is_last = built.plain_bytes < ROW_GROUP_BLOCKS * chunk_bytes
            if not is_last:
                filler.begin(ordinal + 1)
            if built.plain_bytes or not ordinal:
                yield built
            if is_last:
                return
            ordinal += 1


class _Filler:
    """A thread that builds row groups in two buffers in turn.

    It may hang in a stream that gives nothing for a while. When something else failed, or the user had enough, that
    must not keep the process: so it is waited for only so long, and does not outlive the process.
    """

    def __init__(self, fill_chunk: FillChunk, chunk_bytes: int, name: str, codec: PageCodec | None) -> None:
        self._is_over = False

        def fill_unless_over(out: memoryview) -> int:
            return 0 if self._is_over else fill_chunk(out)

        first = _Builder(fill_unless_over, chunk_bytes, name, codec)
        self._builders = (first, _Builder(fill_unless_over, chunk_bytes, name, codec))
        self._ordinals: SimpleQueue[int | None] = SimpleQueue()
        self._built: SimpleQueue[BuiltRowGroup | BaseException] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pipecrypt-fill", daemon=True)

    def __enter__(self) -> _Filler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._ordinals.put(None)
        self._thread.join(_GRACE_SECONDS)

    def begin(self, ordinal: int) -> None:
        self._ordinals.put(ordinal)

    def built(self) -> BuiltRowGroup:
        built = self._built.get()
        if isinstance(built, BaseException):
            raise built
        return built

    def _run(self) -> None:
        while (ordinal := self._ordinals.get()) is not None:
            try:
                self._built.put(self._builders[ordinal % 2].build(ordinal))
            except BaseException as error:  # for the thread that asks
                self._built.put(error)


class _Builder:
    """Builds one row group after another in one buffer."""

    def __init__(self, fill_chunk: FillChunk, chunk_bytes: int, name: str, codec: PageCodec | None) -> None:
        self._fill_chunk = fill_chunk
        self._chunk_bytes = chunk_bytes
        self._name = name
        self._codec = codec
        self._compression = BlobCompression.NONE if codec is None else BlobCompression.ZSTD
        # All of it at once: what is not written to takes no memory, and growing would copy.
        self._buffer = bytearray(ROW_GROUP_BLOCKS * (chunk_bytes + _PAGE_ROOM_BYTES))
        self._scratch = bytearray(PREFIX_BYTES + chunk_bytes if codec else 0)
        self._end = 0

    def build(self, ordinal: int) -> BuiltRowGroup:
        self._end = 0
        self._append(PLAIN_MAGIC)
        bounds, plain_bytes, unstored_bytes = [MAGIC_BYTES], 0, 0
        add_page = self._add_plain if self._codec is None else self._add_compressed
        for _ in range(ROW_GROUP_BLOCKS):
            chunk_bytes, page_bytes = add_page()
            if chunk_bytes:
                plain_bytes += chunk_bytes
                unstored_bytes += page_bytes
                bounds.append(self._end)
            if chunk_bytes < self._chunk_bytes:
                break
        self._append_footer(ordinal, bounds, unstored_bytes)
        return BuiltRowGroup(MemorySource(memoryview(self._buffer)[: self._end], self._name), plain_bytes)

    def _append_footer(self, ordinal: int, bounds: list[int], unstored_bytes: int) -> None:
        places, index = [], None
        stored_bytes = bounds[-1] - MAGIC_BYTES
        if self._codec is not None and stored_bytes:
            start = self._end
            self._append(plain_offset_index(bounds))
            index = (start, self._end - start)
        if stored_bytes:
            rows = len(bounds) - 1
            places.append(RowGroupPlace(ordinal, MAGIC_BYTES, rows, unstored_bytes, stored_bytes, index))
        self._append(plain_footer(places, self._compression))

    def _add_plain(self) -> tuple[int, int]:
        start = page_header(self._chunk_bytes, self._chunk_bytes + PREFIX_BYTES) + length_prefix(self._chunk_bytes)
        room = self._reserve(len(start) + self._chunk_bytes)
        chunk_bytes = self._fill_chunk(room[len(start) :])
        if not chunk_bytes:
            return 0, 0
        if chunk_bytes < self._chunk_bytes:  # the last one, whose header may be shorter
            body = bytes(room[len(start) : len(start) + chunk_bytes])
            start = page_header(chunk_bytes, chunk_bytes + PREFIX_BYTES) + length_prefix(chunk_bytes)
            room[len(start) : len(start) + chunk_bytes] = body
        room[: len(start)] = start
        self._end += len(start) + chunk_bytes
        return chunk_bytes, len(start) + chunk_bytes

    def _add_compressed(self) -> tuple[int, int]:
        if self._codec is None:
            raise AssertionError("only with a codec")
        scratch = memoryview(self._scratch)
        chunk_bytes = self._fill_chunk(scratch[PREFIX_BYTES:])
        if not chunk_bytes:
            return 0, 0
        scratch[:PREFIX_BYTES] = length_prefix(chunk_bytes)
        body = self._codec.compress(scratch[: PREFIX_BYTES + chunk_bytes])
        header = page_header(chunk_bytes, len(body))
        self._append(header)
        self._append(body)
        return chunk_bytes, len(header) + PREFIX_BYTES + chunk_bytes

    def _append(self, data: bytes | memoryview) -> None:
        self._reserve(len(data))[:] = data
        self._end += len(data)

    def _reserve(self, length: int) -> memoryview:
        end = self._end + length
        if end > len(self._buffer):
            # A new buffer: views of the old one may still be about, and pin its length.
            grown = bytearray(end + end // 8)
            grown[: self._end] = memoryview(self._buffer)[: self._end]
            self._buffer = grown
        return memoryview(self._buffer)[self._end : end]


def chunks_of_stream(stream: ByteStream, name: str) -> FillChunk:
    """Return what fills chunks from a stream.

    Raises:
        StorageError: from the function: the stream does not wait for its bytes.
    """

    def fill(out: memoryview) -> int:
        filled = 0
        while filled < len(out):
            count = stream.readinto(out[filled:])
            if count is None:
                raise StorageError(f"{name} has no bytes at the moment", hint="open it so that reading waits")
            if not count:
                break
            filled += count
        return filled

    return fill


def chunks_of_source(source: RangeSource) -> FillChunk:
    """Return what fills chunks from a file, in large ranges where each is a request."""
    position, window, window_start = 0, memoryview(b""), 0

    def fill(out: memoryview) -> int:
        nonlocal position, window, window_start
        length = min(len(out), source.size_bytes - position)
        if isinstance(source, DescribedSource) and not isinstance(source, FetchesSeveral):
            source.read_into(position, out[:length])
        else:
            if position + length > window_start + len(window):
                window_start = position
                window = source.read_range(position, min(max(_WINDOW_BYTES, length), source.size_bytes - position))
            out[:length] = window[position - window_start : position - window_start + length]
        position += length
        return length

    return fill
