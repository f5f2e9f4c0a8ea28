"""Decrypt a table, column chunk by column chunk: the walk of encrypt backwards.

Files of pipecrypt come back byte for byte where the original was laid out without gaps. Files of other writers come
back as the same table, with the pages that were encrypted.
"""

from __future__ import annotations

from collections.abc import Callable

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.parquet.carry.writing import Body
from pipecrypt.parquet.footer.opened import OpenedCheck, OpenedFile
from pipecrypt.parquet.footer.row_groups import Chunk, locate_pages, row_count
from pipecrypt.parquet.footer.segments import (
    UNDECLARED_BYTES,
    Segment,
    chunk_parts,
    order_segments,
)
from pipecrypt.parquet.footer.stored import (
    PLAIN_MAGIC,
    encode_plain_footer,
)
from pipecrypt.parquet.pages.integrity import ExpectedDigests, expected_digests
from pipecrypt.parquet.pages.moves import (
    ChunkMove,
    open_bloom_filter,
    restore_chunk,
    restore_row_group,
    sealed_bloom_filter_bytes,
)
from pipecrypt.parquet.pages.sealing import PageOpener
from pipecrypt.parquet.protocols import AppendSink
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.table.walk import TableWalk, index_module
from pipecrypt.parquet.wire.fields import ColumnChunk
from pipecrypt.parquet.wire.modules import open_module
from pipecrypt.parquet.wire.thrift import WireType
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["decrypt_table"]


def decrypt_table(
    opened: OpenedFile,
    source: RangeSource,
    sink: AppendSink,
    *,
    check_opened: OpenedCheck | None,
    checks_digests: bool,
    on_bytes: Callable[[int], None],
) -> FileReport:
    """Write the plaintext form of an opened table to `sink`; arguments and errors are those of `files.decrypt_file`."""
    # Every row group's metadata is authenticated then.
    parts = [part for chunk in opened.each_chunk() for part in chunk_parts(chunk)]
    segments = order_segments(parts, opened.body_end, opened.row_groups)
    if check_opened is not None:
        check_opened(opened)
    in_plaintext = filter(lambda each: not opened.key_at(each.row_group, each.column), segments)
    digests = expected_digests(opened, in_plaintext) if checks_digests else None
    rows = row_count(opened.footer, source.name)
    batches, encrypted = len(opened.row_groups), opened.encrypted_columns
    with Body(sink, on_bytes, digests) as body:
        body.open_input(source)
        body.write(PLAIN_MAGIC)
        _Decryption(body, opened, digests).run(segments)
        for piece in encode_plain_footer(opened.footer):
            body.write(piece)
        body.settle()  # nothing follows, and what is waited for here is told below
    return FileReport(
        rows=rows,
        batches=batches,
        data_keys=opened.data_key_count,
        source_bytes=source.size_bytes,
        sink_bytes=body.position,
        encrypted_columns=encrypted,
        read_seconds=body.read_seconds,
        write_seconds=body.write_seconds,
    )


class _Decryption(TableWalk):
    """Opens what is encrypted."""

    def __init__(self, body: Body, opened: OpenedFile, digests: ExpectedDigests | None) -> None:
        super().__init__(body, opened.row_groups)
        self._opened = opened
        self._digests = digests

    def _is_sealed(self, segment: Segment) -> bool:
        return self._opened.key_at(segment.row_group, segment.column) is not None

    def _open(self, row_group: int) -> list[Chunk]:
        return self._opened.open_row_group(row_group)

    def _carry_pages(self, segment: Segment, chunk: Chunk) -> ChunkMove:
        place, opened, body = locate_pages(chunk), self._opened, self._body
        opener = PageOpener(
            place.declared_bytes,
            place.num_values,
            room_bytes=min(segment.room_bytes, place.declared_bytes + UNDECLARED_BYTES),
            cipher=opened.cipher(chunk),
            aads=opened.aad.pages(*chunk.ordinals),
            ctr=opened.ctr_pages,
            what=chunk.what,
        )
        new_start = body.position
        while not opener.is_done:
            begun = opener.position
            window = body.read_some(segment.start + begun, opener.needed_bytes, opener.room_bytes)
            body.commit(opener.open(window, body.reserve(len(window))))
            body.done(opener.position - begun)
        return ChunkMove(segment.start, new_start, opener.bounds)

    def _copied_bytes(self, segment: Segment, _: Chunk) -> int:
        # Encrypting left no gap behind a copied chunk, so all of its room is its own, whatever size it declares.
        length = segment.room_bytes if self._opened.originals is not None else (segment.declared_bytes or 0)
        self._body.copy(segment.start, length)
        return length

    def _relocate(self, chunk: Chunk, move: ChunkMove) -> None:
        restore_chunk(chunk, move, self._opened.originals)

    def _bloom_filter(self, segment: Segment, chunk: Chunk) -> tuple[int, bytes]:
        length = segment.declared_bytes
        if length is None:
            length = sealed_bloom_filter_bytes(self._body.read, segment.start, segment.room_bytes, chunk)
        data = self._body.read(segment.start, length)
        return length, open_bloom_filter(data, self._opened.cipher(chunk), self._opened.aad, chunk)

    def _read_index(self, segment: Segment, data: bytes) -> bytes:
        opened, place = self._opened, (segment.row_group, segment.column)
        key = opened.key_at(*place)
        if key is not None:
            aad = opened.aad.module(index_module(segment), *place)
            what = f"{'offset' if segment.is_offset_index else 'column'} index of {opened.row_groups.what(*place)}"
            return open_module(MessageCipher(key), memoryview(data), aad, what)
        if self._digests is not None:
            self._digests.check(segment.place, data)
        return data

    def _finish(self, row_group: int, moves: list[ChunkMove]) -> None:
        restore_row_group(row_group, self._row_groups.struct(row_group), moves, self._opened.originals)
        for chunk in self._open(row_group):
            chunk.entry.remove(ColumnChunk.ENCRYPTED_COLUMN_METADATA)
            chunk.entry.remove(ColumnChunk.CRYPTO_METADATA)
            chunk.entry.set(ColumnChunk.META_DATA, WireType.STRUCT, chunk.metadata)
