"""Encrypt a blob as the table of its blocks.

A file of known size is shown as the plaintext Parquet file of its blocks, which is never made: its bytes are read
straight to their places between page headers and length prefixes, so nothing is copied twice. Where the size is
unknown, or pages are compressed, row groups are built in memory, each a plaintext Parquet file, and appended one after
another: two are held, and a thread fills one while the other is encrypted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Final, TypeAlias

from pipecrypt.errors import LimitError, PolicyError, StorageError
from pipecrypt.parquet.blob.format import (
    DEFAULT_BLOCK_BYTES,
    PREFIX_BYTES,
    ROW_GROUP_BLOCKS,
    BlobCompression,
    BlobInfo,
    BlobLayout,
    check_block_bytes,
    choose_block_bytes,
    encode_blob_entry,
    length_prefix,
    most_bytes,
    page_header,
    plain_footer,
    plain_offset_index,
    plain_row_group,
)
from pipecrypt.parquet.carry.writing import ignore_bytes
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, PLAIN_MAGIC
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode
from pipecrypt.parquet.protocols import AppendSink, ByteStream, DataKeys, PageCodec
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.table.encrypt import FileEncryption
from pipecrypt.parquet.wire.fields import BLOB_KEY
from pipecrypt.parquet.wire.thrift import Struct
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import MemorySource, RangeSource, read_each, read_into, traits_of

__all__ = ["PlainBlob", "encrypt_blob", "encrypt_blob_stream"]

_NOTHING: Final = BlobInfo()


def blob_policy(policy: EncryptionPolicy) -> EncryptionPolicy:
    """Return the policy as it holds for blocks: the footer is encrypted, because it tells name and size.

    Raises:
        PolicyError: it names columns, or no default key.
    """
    if policy.rules or policy.default is None:
        raise PolicyError("chunks have no columns to choose", hint="give one key for the whole file")
    return replace(policy, footer=FooterMode.ENCRYPTED)


def encrypt_blob(
    source: RangeSource,
    sink: AppendSink,
    policy: EncryptionPolicy,
    *,
    keys: DataKeys,
    context: Context,
    info: BlobInfo = _NOTHING,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
    codec: PageCodec | None = None,
    on_bytes: Callable[[int], None] = ignore_bytes,
) -> FileReport:
    """Write the bytes of `source` to `sink` as an encrypted Parquet file of blocks.

    The caller publishes what the sink holds only after this returns, and after `source` proved to be unchanged.

    Args:
        source: any bytes, of known size.
        sink: the output, empty.
        policy: its default key; the footer is encrypted in any case.
        keys: makes data keys.
        context: dataset id and path; bound into AADs and commitments.
        info: kept about the file.
        block_bytes: wanted; a larger file than these can number gets larger blocks.
        codec: compresses pages with zstd; None for none.
        on_bytes: told how many bytes of the source were done.

    Raises:
        PolicyError: the policy names columns.
        UsageError: blocks cannot have this size, or the name cannot be kept.
        LimitError: the source is larger than a file can number.
        FormatError: the source is shorter than it was.
    """
    size_bytes = source.size_bytes
    layout = BlobLayout(size_bytes, choose_block_bytes(size_bytes, block_bytes, source.name))
    if codec is not None:
        return encrypt_blob_stream(
            _SourceStream(source),
            sink,
            policy,
            keys=keys,
            context=context,
            info=info,
            block_bytes=layout.block_bytes,
            codec=codec,
            on_bytes=on_bytes,
            name=source.name,
        )
    entry = {BLOB_KEY: encode_blob_entry(layout, BlobCompression.NONE, info)}
    policy, left = blob_policy(policy), size_bytes

    def report_done(count: int) -> None:
        nonlocal left
        done = min(count, left)  # without the bytes of page headers
        left -= done
        on_bytes(done)

    with FileEncryption(sink, policy, keys=keys, context=context, on_bytes=report_done) as encryption:
        encryption.append(PlainBlob(source, layout))
        return replace(encryption.finish(entry), source_bytes=size_bytes)


def encrypt_blob_stream(
    stream: ByteStream,
    sink: AppendSink,
    policy: EncryptionPolicy,
    *,
    keys: DataKeys,
    context: Context,
    info: BlobInfo = _NOTHING,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
    codec: PageCodec | None = None,
    on_bytes: Callable[[int], None] = ignore_bytes,
    name: str = "the stream",
) -> FileReport:
    """Write all bytes of `stream` to `sink` as an encrypted Parquet file of blocks; see `encrypt_blob`.

    Memory holds two row groups: 128 blocks.

    Args:
        stream: read on a thread of its own, to its end; its errors pass through.
        sink: the output, empty.
        policy: its default key.
        keys: makes data keys.
        context: dataset id and path.
        info: kept about the file.
        block_bytes: of each block.
        codec: compresses pages with zstd; None for none.
        on_bytes: told how many bytes of the stream were done.
        name: what errors call the stream.

    Raises:
        PolicyError: the policy names columns.
        UsageError: blocks cannot have this size, or the name cannot be kept.
        LimitError: the stream is larger than a file of such blocks can number.
    """
    check_block_bytes(block_bytes)
    compression, size_bytes = BlobCompression.NONE if codec is None else BlobCompression.ZSTD, 0
    encode_blob_entry(BlobLayout(0, block_bytes), compression, info)  # a name that cannot be kept fails now
    policy = blob_policy(policy)
    with FileEncryption(sink, policy, keys=keys, context=context) as encryption:
        with closing(_built_row_groups(stream, block_bytes, name, codec)) as row_groups:
            for source, plain_bytes in row_groups:
                size_bytes += plain_bytes
                if size_bytes > most_bytes(block_bytes):
                    what = f"{most_bytes(block_bytes)} bytes, which chunks of {block_bytes} bytes cannot number"
                    raise LimitError(f"{name} has more than {what}", hint="choose larger chunks")
                encryption.append(source)
                on_bytes(plain_bytes)
        entry = encode_blob_entry(BlobLayout(size_bytes, block_bytes), compression, info)
        return replace(encryption.finish({BLOB_KEY: entry}), source_bytes=size_bytes)


_WINDOW_BYTES: Final = 8 << 20
_PAGE_ROOM_BYTES: Final = 256  # header, prefix, what compressing adds, a share of index and footer
_GRACE_SECONDS: Final = 5.0


# A row group as a Parquet file of its own, valid until the row group after the next is built; bytes of all its blocks.
_BuiltRowGroup: TypeAlias = tuple[MemorySource, int]


def _built_row_groups(
    stream: ByteStream, block_bytes: int, name: str, codec: PageCodec | None
) -> Generator[_BuiltRowGroup, None, None]:
    """Yield row groups, at least one, until no bytes are left; only one without any bytes is empty.

    A thread builds them in two buffers in turn. It may hang in a stream that gives nothing for a while. When something
    else failed, or the user had enough, that must not keep the process: so it is waited for only so long, and does not
    outlive the process.

    Args:
        stream: read on that thread.
        block_bytes: of each block.
        name: what errors call the file.
        codec: compresses pages; None for none.
    """
    is_over = threading.Event()
    builders = [_RowGroupBuilder(stream, block_bytes, name, codec, is_over) for _ in range(2)]
    ordinals: SimpleQueue[int | None] = SimpleQueue()
    built: SimpleQueue[_BuiltRowGroup | BaseException] = SimpleQueue()

    def build() -> None:
        while (ordinal := ordinals.get()) is not None:
            try:
                built.put(builders[ordinal % 2].build(ordinal))
            except BaseException as error:  # for the thread that asks
                built.put(error)

    thread = threading.Thread(target=build, name="pipecrypt-fill", daemon=True)
    thread.start()
    try:
        ordinals.put(0)
        for ordinal in count():
            row_group = built.get()
            if isinstance(row_group, BaseException):
                raise row_group
            is_last = row_group[1] < ROW_GROUP_BLOCKS * block_bytes
            if not is_last:
                ordinals.put(ordinal + 1)
            if row_group[1] or not ordinal:
                yield row_group
            if is_last:
                return
    finally:
        is_over.set()
        ordinals.put(None)
        thread.join(_GRACE_SECONDS)


class _RowGroupBuilder:
    """Builds one row group after another in one buffer, until `is_over` is set."""

    def __init__(
        self, stream: ByteStream, block_bytes: int, name: str, codec: PageCodec | None, is_over: threading.Event
    ) -> None:
        self._stream = stream
        self._is_over = is_over
        self._block_bytes = block_bytes
        self._name = name
        self._codec = codec
        self._compression = BlobCompression.NONE if codec is None else BlobCompression.ZSTD
        # All of it at once: what is not written to takes no memory, and growing would copy.
        self._buffer = bytearray(ROW_GROUP_BLOCKS * (block_bytes + _PAGE_ROOM_BYTES))
        self._scratch = bytearray(PREFIX_BYTES + block_bytes if codec else 0)
        self._end = 0

    def build(self, ordinal: int) -> _BuiltRowGroup:
        self._end = 0
        self._append(PLAIN_MAGIC)
        bounds, plain_bytes, unstored_bytes = [MAGIC_BYTES], 0, 0
        add_page = self._add_plain if self._codec is None else self._add_compressed
        for _ in range(ROW_GROUP_BLOCKS):
            block_bytes, page_bytes = add_page()
            if block_bytes:
                plain_bytes += block_bytes
                unstored_bytes += page_bytes
                bounds.append(self._end)
            if block_bytes < self._block_bytes:
                break
        self._append_footer(ordinal, bounds, unstored_bytes)
        return MemorySource(memoryview(self._buffer)[: self._end], self._name), plain_bytes

    def _fill_block(self, out: memoryview) -> int:
        """Fill a block as far as there are bytes; return how many."""
        filled = 0
        while filled < len(out) and not self._is_over.is_set():
            read = self._stream.readinto(out[filled:])
            if read is None:
                raise StorageError(f"{self._name} has no bytes at the moment", hint="open it so that reading waits")
            if not read:
                break
            filled += read
        return filled

    def _append_footer(self, ordinal: int, bounds: list[int], unstored_bytes: int) -> None:
        rows, index, start = len(bounds) - 1, None, self._end
        if self._codec is not None and rows:
            self._append(plain_offset_index(bounds))
            index = (start, self._end - start)
        row_group = plain_row_group(
            ordinal,
            start=MAGIC_BYTES,
            rows=rows,
            plain_bytes=unstored_bytes,
            stored_bytes=bounds[-1] - MAGIC_BYTES,
            compression=self._compression,
            index=index,
        )
        self._append(plain_footer([row_group] if rows else [], rows))

    def _add_plain(self) -> tuple[int, int]:
        start = _page_start(self._block_bytes)
        room = self._reserve(len(start) + self._block_bytes)
        block_bytes = self._fill_block(room[len(start) :])
        if not block_bytes:
            return 0, 0
        if block_bytes < self._block_bytes:  # the last one, whose header may be shorter
            body = bytes(room[len(start) : len(start) + block_bytes])
            start = _page_start(block_bytes)
            room[len(start) : len(start) + block_bytes] = body
        room[: len(start)] = start
        self._end += len(start) + block_bytes
        return block_bytes, len(start) + block_bytes

    def _add_compressed(self) -> tuple[int, int]:
        if self._codec is None:
            raise AssertionError("only with a codec")
        scratch = memoryview(self._scratch)
        block_bytes = self._fill_block(scratch[PREFIX_BYTES:])
        if not block_bytes:
            return 0, 0
        scratch[:PREFIX_BYTES] = length_prefix(block_bytes)
        body = self._codec.compress(scratch[: PREFIX_BYTES + block_bytes])
        header = page_header(block_bytes, len(body))
        self._append(header)
        self._append(body)
        return block_bytes, len(header) + PREFIX_BYTES + block_bytes

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


class _SourceStream:
    """A file as a stream, read in large ranges where each is a request."""

    def __init__(self, source: RangeSource) -> None:
        self._source = source
        self._seeks_cheaply = traits_of(source).seeks_cheaply
        self._position = self._window_start = 0
        self._window = memoryview(b"")

    def readinto(self, out: memoryview, /) -> int:
        source, position = self._source, self._position
        length = min(len(out), source.size_bytes - position)
        if self._seeks_cheaply:
            read_into(source, position, out[:length])
        else:
            if position + length > self._window_start + len(self._window):
                self._window_start = position
                self._window = source.read_range(
                    position, min(max(_WINDOW_BYTES, length), source.size_bytes - position)
                )
            at = position - self._window_start
            out[:length] = self._window[at : at + length]
        self._position += length
        return length


class PlainBlob:
    """A DescribedSource of a plaintext Parquet file, over one of the bytes that are its blocks.

    Args:
        source: the bytes.
        layout: how they are cut.
    """

    def __init__(self, source: RangeSource, layout: BlobLayout) -> None:
        """Make headers and footer; read nothing."""
        self._source = source
        self._layout = layout
        self._buffer = bytearray()
        last_bytes = layout.plain_bytes(layout.blocks - 1) if layout.blocks else 0
        self._full = _page_start(layout.block_bytes)
        self._last = _page_start(last_bytes)
        self._full_page = len(self._full) + layout.block_bytes
        self._last_page = len(self._last) + last_bytes
        self._body_end = MAGIC_BYTES + self._pages_bytes(0, layout.blocks)
        self._footer = plain_footer([self._row_group(index) for index in range(layout.row_groups)], layout.blocks)
        self.name = source.name
        self.size_bytes = self._body_end + len(self._footer)
        self.traits = replace(traits_of(source), descriptor=None)  # nothing lies in that file as it lies in this one

    def _pages_bytes(self, first: int, count: int) -> int:
        has_last = count > 0 and first + count == self._layout.blocks
        return (count - has_last) * self._full_page + has_last * self._last_page

    def _row_group(self, ordinal: int) -> Struct:
        first, rows = ordinal * ROW_GROUP_BLOCKS, self._layout.rows(ordinal)
        start, length = MAGIC_BYTES + first * self._full_page, self._pages_bytes(first, rows)
        return plain_row_group(ordinal, start=start, rows=rows, plain_bytes=length)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`; the view is valid until the next call.

        Raises:
            PipecryptError: what the bytes' file raises.
        """
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        out = memoryview(self._buffer)[:length]
        first, end = self._raw(start), self._raw(start + length)
        self._fill_from(start, out, first, self._source.read_range(first, end - first))  # one request for all pages
        return out

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`, by one request where reads are requests."""
        if self.traits.seeks_cheaply:
            self._fill(start, out, partial(read_into, self._source))
            return
        first, end = self._raw(start), self._raw(start + len(out))
        raw = memoryview(bytearray(end - first))
        read_into(self._source, first, raw)
        self._fill_from(start, out, first, raw)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length)."""
        return read_each(self, ranges)

    def _raw(self, position: int) -> int:
        """Return how many of the raw bytes lie before a place in the Parquet file."""
        if position >= self._body_end:
            return self._layout.size_bytes
        block, at, page_start = self._locate(position)
        return block * self._layout.block_bytes + max(0, at - len(page_start))

    def _locate(self, position: int) -> tuple[int, int, bytes]:
        """Return the block at a place in the body, where in its page that is, and what the page begins with."""
        block, at = divmod(max(0, position - MAGIC_BYTES), self._full_page)
        return block, at, self._last if block == self._layout.blocks - 1 else self._full

    def _fill_from(self, start: int, out: memoryview, first: int, raw: memoryview) -> None:
        """Fill `out` with what lies at `start`; `raw` holds the raw bytes from `first` on."""

        def copy(raw_start: int, piece: memoryview) -> None:
            piece[:] = raw[raw_start - first : raw_start - first + len(piece)]

        self._fill(start, out, copy)

    def _fill(self, start: int, out: memoryview, read_raw: Callable[[int, memoryview], None]) -> None:
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
        block, at, page_start = self._locate(position)
        if at < len(page_start):
            return _copy(room, page_start, at)
        within = at - len(page_start)
        piece = room[: self._layout.plain_bytes(block) - within]
        read_raw(block * self._layout.block_bytes + within, piece)
        return len(piece)


def _page_start(plain_bytes: int) -> bytes:
    return page_header(plain_bytes, plain_bytes + PREFIX_BYTES) + length_prefix(plain_bytes)


def _copy(room: memoryview, data: bytes, at: int) -> int:
    piece = data[at : at + len(room)]
    if not piece:
        raise AssertionError("a range behind the end of the file")
    room[: len(piece)] = piece
    return len(piece)
