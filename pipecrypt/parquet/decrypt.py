"""Decrypt one Parquet file, column chunk by column chunk: the walk of encrypt backwards. Finding keys is left to keys.

Files of pipecrypt come back byte for byte where the original was laid out without gaps. Files of other writers come
back as the same table, with the pages that were encrypted.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from pipecrypt.parquet.body import Body, ignore_bytes
from pipecrypt.parquet.chunks import Chunk, locate_pages, row_count
from pipecrypt.parquet.footer import PLAIN_MAGIC, encode_plain_footer, read_sealed_footer
from pipecrypt.parquet.indexes import (
    BLOOM_FILTER_HEADER_BYTES,
    bloom_filter_bytes,
    move_offset_index,
    open_bloom_filter,
    sealed_bloom_filter_bytes,
)
from pipecrypt.parquet.layout import ChunkMove, Segment, SegmentKind, order_segments, place_index, with_bloom_filter
from pipecrypt.parquet.modules import ModuleType, open_module
from pipecrypt.parquet.names import ColumnChunk, ColumnMetaData, FileMetaData
from pipecrypt.parquet.opened import OpenedFile, is_sealed
from pipecrypt.parquet.pages import PageAADs, PageBounds, open_pages
from pipecrypt.parquet.protocols import AppendSink, DataKeys, RangeSource
from pipecrypt.parquet.relocate import restore_chunk, restore_row_group
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.thrift import Struct, WireType, encode_in_place

__all__ = ["decrypt_file"]

_UNDECLARED_BYTES = 64 * 1024  # as in encrypt


def decrypt_file(
    source: RangeSource,
    sink: AppendSink,
    *,
    keys: DataKeys,
    aad_prefix: bytes | None = None,
    on_bytes: Callable[[int], None] = ignore_bytes,
) -> FileReport:
    """Write the plaintext form of the encrypted Parquet file `source` to `sink`.

    Bytes reach the sink before the whole file is authenticated, so the caller must publish what the sink holds only
    after this returns, and discard it otherwise.

    Args:
        source: the input, of any writer: AES_GCM_V1 or AES_GCM_CTR_V1.
        sink: the output, empty.
        keys: finds data keys; all columns' keys are needed.
        aad_prefix: the AAD prefix of a file that does not store it.
        on_bytes: told how many bytes of the input were done.

    Raises:
        FormatError: the input is no Parquet file, truncated or malformed.
        NotEncryptedError: the input is plaintext.
        UsageError: the file needs an AAD prefix and none was given.
        AccessError: a key is missing or was refused; names file, row group and column.
        IntegrityError: a module, the footer, the AAD prefix or a key is not the one it was written with.
    """
    sealed, body_end = read_sealed_footer(source)
    with OpenedFile(sealed, source.name, keys=keys, aad_prefix=aad_prefix) as opened:
        segments = order_segments(opened.row_groups, body_end, source.name)
        rows = row_count(opened.footer, source.name)
        batches, encrypted = len(opened.row_groups), opened.encrypted_columns
        with Body(source, sink, on_bytes) as body:
            _Decryption(body, opened).run(segments)
        return FileReport(rows, batches, opened.data_key_count, source.size_bytes, body.position, encrypted)


class _Decryption:
    """The body's walk, and where its parts went."""

    def __init__(self, body: Body, opened: OpenedFile) -> None:
        self._body = body
        self._opened = opened
        self._moves: dict[tuple[int, int], ChunkMove] = {}
        self._with_bloom_filter: frozenset[tuple[int, int]] = frozenset()

    def run(self, segments: list[Segment]) -> None:
        footer = self._opened.footer
        self._body.write(PLAIN_MAGIC)
        self._with_bloom_filter = with_bloom_filter(segments)
        segments.reverse()
        while segments:
            self._write_segment(segments.pop())
        encoded, row_groups = footer.structs(FileMetaData.ROW_GROUPS), self._opened.row_groups
        while row_groups:
            index = len(row_groups) - 1
            self._finish_row_group(index, encoded[index], row_groups.pop())
            encoded[index] = encode_in_place(encoded[index])
        for piece in encode_plain_footer(footer):
            self._body.write(piece)

    def _write_segment(self, segment: Segment) -> None:
        if segment.kind is SegmentKind.PAGES:
            move = self._open_pages(segment) if is_sealed(segment.chunk) else self._copy_pages(segment)
            self._moves[segment.chunk.row_group, segment.chunk.column] = move
            restore_chunk(segment.chunk, move, self._opened.originals)
            if (segment.chunk.row_group, segment.chunk.column) not in self._with_bloom_filter:
                self._finish_chunk(segment.chunk)
        elif segment.kind is SegmentKind.BLOOM_FILTER:
            self._write_bloom_filter(segment)
        else:
            self._write_index(segment)

    def _open_pages(self, segment: Segment) -> ChunkMove:
        chunk, place, opened = segment.chunk, locate_pages(segment.chunk), self._opened
        data = self._body.read(segment.start, min(segment.room_bytes, place.declared_bytes + _UNDECLARED_BYTES))
        out = self._body.reserve(len(data))
        bounds = open_pages(
            data,
            place.declared_bytes,
            place.num_values,
            out=out,
            cipher=opened.cipher(chunk),
            aads=PageAADs(opened.aad, chunk.row_group, chunk.column),
            ctr=opened.ctr_pages,
            what=chunk.what,
        )
        move = ChunkMove(segment.start, self._body.position, bounds)
        self._body.commit(bounds.new[-1])
        self._body.done(bounds.old[-1])
        return move

    def _copy_pages(self, segment: Segment) -> ChunkMove:
        # Encrypting left no gap behind a copied chunk, so all of its room is its own, whatever size it declares.
        length = segment.room_bytes if self._opened.originals is not None else (segment.declared_bytes or 0)
        bounds = array("q", (0, length))
        bounds_kept = PageBounds(bounds, bounds, has_dictionary=False)
        move = ChunkMove(segment.start, self._body.position, bounds_kept, is_copy=True)
        self._body.copy(segment.start, length)
        return move

    def _write_bloom_filter(self, segment: Segment) -> None:
        chunk, opened, position = segment.chunk, self._opened, self._body.position
        length = segment.declared_bytes
        if is_sealed(chunk):
            if length is None:
                length = sealed_bloom_filter_bytes(self._body.read, segment.start, segment.room_bytes, chunk)
            data = self._body.read(segment.start, length)
            self._body.write(open_bloom_filter(data, opened.cipher(chunk), opened.aad, chunk))
            self._body.done(length)
        else:
            if length is None:
                start = self._body.read(segment.start, min(segment.room_bytes, BLOOM_FILTER_HEADER_BYTES))
                _, length = bloom_filter_bytes(start, segment.room_bytes, chunk)
            self._body.copy(segment.start, length)
        metadata = chunk.metadata
        metadata.set(ColumnMetaData.BLOOM_FILTER_OFFSET, WireType.I64, position)
        if segment.declared_bytes is not None:
            metadata.set(ColumnMetaData.BLOOM_FILTER_LENGTH, WireType.I32, self._body.position - position)

    def _write_index(self, segment: Segment) -> None:
        chunk, is_offsets = segment.chunk, segment.kind is SegmentKind.OFFSET_INDEX
        data = bytes(self._body.read(segment.start, segment.declared_bytes or 0))
        if is_sealed(chunk):
            module_type = ModuleType.OFFSET_INDEX if is_offsets else ModuleType.COLUMN_INDEX
            aad = self._opened.aad.module(module_type, chunk.row_group, chunk.column)
            what = f"{'offset' if is_offsets else 'column'} index of {chunk.what}"
            data = open_module(self._opened.cipher(chunk), memoryview(data), aad, what)
        move = self._moves.get((chunk.row_group, chunk.column))
        if is_offsets and move is not None and not (move.is_copy and move.old_start == move.new_start):
            data = move_offset_index(data, move, chunk)
        place_index(chunk.entry, segment.kind, self._body.position, len(data))
        self._body.write(data)
        self._body.done(segment.declared_bytes or 0)

    def _finish_row_group(self, index: int, row_group: Struct, chunks: list[Chunk]) -> None:
        moves = [self._moves[place] for chunk in chunks if (place := (index, chunk.column)) in self._moves]
        restore_row_group(index, row_group, moves, self._opened.originals)
        for chunk in chunks:
            self._finish_chunk(chunk)
            chunk.entry.remove(ColumnChunk.CRYPTO_METADATA)

    def _finish_chunk(self, chunk: Chunk) -> None:
        # The crypto metadata stays to the end, because indexes are opened with the key that it names.
        if not chunk.is_finished:
            chunk.entry.remove(ColumnChunk.ENCRYPTED_COLUMN_METADATA)
            chunk.entry.set(ColumnChunk.META_DATA, WireType.STRUCT, encode_in_place(chunk.metadata))
            chunk.metadata, chunk.is_finished = Struct(), True
