"""Show a file of any bytes as the plaintext Parquet file of its chunks, without making it. Encrypting is byte_chunks'.

The bytes are read straight to their places between page headers and length prefixes, so nothing is copied twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipecrypt.parquet.blob.format import (
    PREFIX_BYTES,
    ROW_GROUP_BLOCKS,
    BlobCompression,
    BlobLayout,
    RowGroupPlace,
    length_prefix,
    page_header,
    plain_footer,
)
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, PLAIN_MAGIC
from pipecrypt.parquet.protocols import CheapSeeks, FetchesSeveral
from pipecrypt.vocabulary.ranges import DescribedSource, RangeSource

__all__ = ["PlainChunks", "plain_chunks"]


class PlainChunks:
    """A RangeSource of a plaintext Parquet file, over one of the bytes that are its chunks.

    Args:
        source: the bytes.
        layout: how they are cut.
    """

    __slots__ = ("_body_end", "_buffer", "_footer", "_full", "_full_page", "_last", "_last_page", "_layout", "_source")

    def __init__(self, source: RangeSource, layout: BlobLayout) -> None:
        """Make headers and footer; read nothing."""
        self._source = source
        self._layout = layout
        self._buffer = bytearray()
        last_bytes = layout.plain_bytes(layout.chunks - 1) if layout.chunks else 0
        self._full = _page_start(layout.chunk_bytes)
        self._last = _page_start(last_bytes)
        self._full_page = len(self._full) + layout.chunk_bytes
        self._last_page = len(self._last) + last_bytes
        self._body_end = MAGIC_BYTES + self._pages_bytes(0, layout.chunks)
        self._footer: Final = plain_footer(
            [self._place(index) for index in range(layout.row_groups)], BlobCompression.NONE
        )

    def _pages_bytes(self, first: int, count: int) -> int:
        has_last = count > 0 and first + count == self._layout.chunks
        return (count - has_last) * self._full_page + has_last * self._last_page

    def _place(self, row_group: int) -> RowGroupPlace:
        first, rows = row_group * ROW_GROUP_BLOCKS, self._layout.rows(row_group)
        length = self._pages_bytes(first, rows)
        return RowGroupPlace(row_group, MAGIC_BYTES + first * self._full_page, rows, length, length)

    @property
    def name(self) -> str:
        """The name of the bytes' file."""
        return self._source.name

    @property
    def size_bytes(self) -> int:
        """Size of the Parquet file."""
        return self._body_end + len(self._footer)

    @property
    def seeks_cheaply(self) -> bool:
        """Whether the bytes' file does."""
        return isinstance(self._source, CheapSeeks) and self._source.seeks_cheaply

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`; the view is valid until the next call.

        Raises:
            PipecryptError: what the bytes' file raises.
        """
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        out = memoryview(self._buffer)[:length]
        first, end = self._raw(start), self._raw(start + length)
        raw = self._source.read_range(first, end - first)  # one request for all pages

        def copy(raw_start: int, piece: memoryview) -> None:
            piece[:] = raw[raw_start - first : raw_start - first + len(piece)]

        self.fill(start, out, copy)
        return out

    def _raw(self, position: int) -> int:
        """Return how many of the raw bytes lie before a place in the Parquet file."""
        if position >= self._body_end:
            return self._layout.size_bytes
        chunk, at, page_start = self._locate(position)
        return chunk * self._layout.chunk_bytes + max(0, at - len(page_start))

    def _locate(self, position: int) -> tuple[int, int, bytes]:
        """Return the chunk at a place in the body, where in its page that is, and what the page begins with."""
        chunk, at = divmod(max(0, position - MAGIC_BYTES), self._full_page)
        return chunk, at, self._last if chunk == self._layout.chunks - 1 else self._full

    def fill(self, start: int, out: memoryview, read_raw: Callable[[int, memoryview], None]) -> None:
        """Fill `out` with what lies at `start`; `read_raw` brings raw bytes from an offset."""
        position, end = start, start + len(out)
        while position < end:
            room = out[position - start :]
            if position < MAGIC_BYTES:
                position += _copy(room, PLAIN_MAGIC, position)
            elif position >= self._body_end:
                position += _copy(room, self._footer, position - self._body_end)
            else:
                position += self._fill_page(position, room, read_raw)

    def _fill_page(self, position: int, room: memoryview, read_raw: Callable[[int, memoryview], None]) -> int:
        chunk, at, page_start = self._locate(position)
        if at < len(page_start):
            return _copy(room, page_start, at)
        within = at - len(page_start)
        piece = room[: self._layout.plain_bytes(chunk) - within]
        read_raw(chunk * self._layout.chunk_bytes + within, piece)
        return len(piece)


class _FillingPlainChunks(PlainChunks):
    """The same where the bytes' file can fill other buffers than its own."""

    __slots__ = ("_read_raw",)

    def __init__(self, source: RangeSource, layout: BlobLayout, read_raw: Callable[[int, memoryview], None]) -> None:
        super().__init__(source, layout)
        self._read_raw = read_raw

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`."""
        self.fill(start, out, self._read_raw)


class _FetchingPlainChunks(PlainChunks):
    """The same where each read of the bytes' file is a request, and several may be under way."""

    __slots__ = ("_into", "ranges_in_flight")

    def __init__(self, source: RangeSource, layout: BlobLayout, into: DescribedSource, ranges_in_flight: int) -> None:
        super().__init__(source, layout)
        self._into = into
        self.ranges_in_flight = ranges_in_flight

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`, by one request."""
        first, end = self._raw(start), self._raw(start + len(out))
        raw = memoryview(bytearray(end - first))
        self._into.read_into(first, raw)

        def read_raw(at: int, piece: memoryview) -> None:
            piece[:] = raw[at - first : at - first + len(piece)]

        self.fill(start, out, read_raw)


def plain_chunks(source: RangeSource, layout: BlobLayout) -> PlainChunks:
    """Return the plaintext Parquet file of the chunks of `source`; it fills buffers if `source` does."""
    if isinstance(source, DescribedSource) and isinstance(source, FetchesSeveral):
        return _FetchingPlainChunks(source, layout, source, source.ranges_in_flight)
    if isinstance(source, DescribedSource):
        return _FillingPlainChunks(source, layout, source.read_into)
    return PlainChunks(source, layout)


def _page_start(plain_bytes: int) -> bytes:
    return page_header(plain_bytes, plain_bytes + PREFIX_BYTES) + length_prefix(plain_bytes)


def _copy(room: memoryview, data: bytes, at: int) -> int:
    piece = data[at : at + len(room)]
    if not piece:
        raise AssertionError("a range behind the end of the file")
    room[: len(piece)] = piece
    return len(piece)
