"""Decrypt a table, column chunk by column chunk: the walk of encrypt backwards.

Files of pipecrypt come back byte for byte where the original was laid out without gaps. Files of other writers come
back as the same table, with the pages that were encrypted.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.parquet.carry.writing import Body
from pipecrypt.parquet.footer.opened import OpenedCheck, OpenedFile, is_sealed
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups, locate_pages, row_count
from pipecrypt.parquet.footer.segments import (
    UNDECLARED_BYTES,
    IndexPlaces,
    Part,
    Segment,
    SegmentKind,
    Segments,
    chunk_parts,
    last_changes,
    order_segments,
    read_windows,
)
from pipecrypt.parquet.footer.stored import (
    PLAIN_MAGIC,
    encode_plain_footer,
)
from pipecrypt.parquet.pages.integrity import ExpectedDigests
from pipecrypt.parquet.pages.moves import (
    BLOOM_FILTER_HEADER_BYTES,
    ChunkMove,
    bloom_filter_bytes,
    move_offset_index,
    open_bloom_filter,
    restore_chunk,
    restore_row_group,
    sealed_bloom_filter_bytes,
)
from pipecrypt.parquet.pages.sealing import PageAADs, PageBounds, PageOpener
from pipecrypt.parquet.protocols import AppendSink
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnMetaData
from pipecrypt.parquet.wire.modules import ModuleType, open_module
from pipecrypt.parquet.wire.thrift import WireType
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["decrypt_table"]


def decrypt_table(
    opened: OpenedFile,
    body_end: int,
    source: RangeSource,
    sink: AppendSink,
    *,
    check_opened: OpenedCheck | None,
    checks_digests: bool,
    on_bytes: Callable[[int], None],
) -> FileReport:
    """Write the plaintext form of an opened table to `sink`; arguments and errors are those of `files.decrypt_file`."""
    segments = _survey(opened, body_end)
    if check_opened is not None:
        check_opened(opened.protection)
    digests = _expected_digests(opened, segments, source.name) if checks_digests else None
    rows = row_count(opened.footer, source.name)
    batches, encrypted = len(opened.row_groups), opened.encrypted_columns
    with Body(sink, on_bytes, digests) as body:
        body.open_input(source)
        _Decryption(body, opened, digests).run(segments)
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


def _survey(opened: OpenedFile, body_end: int) -> Segments:
    """Return the segments in order; every row group's metadata was authenticated then."""
    parts: list[Part] = []
    for index in opened.row_groups.ordinals:
        for chunk in opened.open_row_group(index):
            parts += chunk_parts(chunk)
        opened.row_groups.release(index)
    return order_segments(parts, body_end, opened.row_groups)


def _expected_digests(opened: OpenedFile, segments: Segments, name: str) -> ExpectedDigests | None:
    if opened.digests_entry is None:
        return None
    in_plaintext = (each for each in segments if not opened.key_at(each.row_group, each.column))
    return ExpectedDigests(opened.digests_entry, in_plaintext, opened.row_groups.what, name)


class _Decryption:
    """The body's walk, and where its parts went."""

    def __init__(self, body: Body, opened: OpenedFile, digests: ExpectedDigests | None) -> None:
        self._body = body
        self._opened = opened
        self._digests = digests
        self._moves: dict[tuple[int, int], ChunkMove] = {}
        self._index_places = IndexPlaces()

    def run(self, segments: Segments) -> None:
        opened, row_groups = self._opened, self._opened.row_groups
        self._body.write(PLAIN_MAGIC)
        due = last_changes(segments)
        for index in row_groups.ordinals:
            if not due[index]:
                self._finish_row_group(index, row_groups)
        looked_at = (each for each in segments if each.is_index or opened.key_at(each.row_group, each.column))
        self._body.read_ahead(read_windows(looked_at if self._body.copies_files else segments))
        for segment in segments.drain():
            if segment.is_index:
                self._write_index(segment)
                continue
            self._write_segment(segment, opened.open_row_group(segment.row_group)[segment.column])
            due[segment.row_group] -= 1
            if not due[segment.row_group]:
                self._finish_row_group(segment.row_group, row_groups)
        self._index_places.write(row_groups)
        for piece in encode_plain_footer(opened.footer):
            self._body.write(piece)

    def _write_segment(self, segment: Segment, chunk: Chunk) -> None:
        if segment.kind is SegmentKind.BLOOM_FILTER:
            self._write_bloom_filter(segment, chunk)
            return
        open_or_copy = self._open_pages if is_sealed(chunk) else self._copy_pages
        move = open_or_copy(segment, chunk)
        self._moves[chunk.ordinals] = move
        restore_chunk(chunk, move, self._opened.originals)

    def _open_pages(self, segment: Segment, chunk: Chunk) -> ChunkMove:
        place, opened, body = locate_pages(chunk), self._opened, self._body
        opener = PageOpener(
            place.declared_bytes,
            place.num_values,
            room_bytes=min(segment.room_bytes, place.declared_bytes + UNDECLARED_BYTES),
            cipher=opened.cipher(chunk),
            aads=PageAADs(opened.aad, chunk.row_group, chunk.column),
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

    def _copy_pages(self, segment: Segment, _: Chunk) -> ChunkMove:
        # Encrypting left no gap behind a copied chunk, so all of its room is its own, whatever size it declares.
        length = segment.room_bytes if self._opened.originals is not None else (segment.declared_bytes or 0)
        bounds = array("q", (0, length))
        bounds_kept = PageBounds(bounds, bounds, has_dictionary=False)
        move = ChunkMove(segment.start, self._body.position, bounds_kept, is_copy=True)
        self._body.begin_digest()
        self._body.copy(segment.start, length)
        self._body.end_digest(segment.place)
        return move

    def _write_bloom_filter(self, segment: Segment, chunk: Chunk) -> None:
        opened, position = self._opened, self._body.position
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
            self._body.begin_digest()
            self._body.copy(segment.start, length)
            self._body.end_digest(segment.place)
        metadata = chunk.metadata
        metadata.set(ColumnMetaData.BLOOM_FILTER_OFFSET, WireType.I64, position)
        if segment.declared_bytes is not None:
            metadata.set(ColumnMetaData.BLOOM_FILTER_LENGTH, WireType.I32, self._body.position - position)

    def _write_index(self, segment: Segment) -> None:
        place, is_offsets, opened = (
            (segment.row_group, segment.column),
            segment.kind is SegmentKind.OFFSET_INDEX,
            self._opened,
        )
        data = bytes(self._body.read(segment.start, segment.declared_bytes or 0))
        key = opened.key_at(*place)
        if key is not None:
            module_type = ModuleType.OFFSET_INDEX if is_offsets else ModuleType.COLUMN_INDEX
            what = f"{'offset' if is_offsets else 'column'} index of {opened.row_groups.what(*place)}"
            data = open_module(MessageCipher(key), memoryview(data), opened.aad.module(module_type, *place), what)
        elif self._digests is not None:
            self._digests.check(segment.place, data)
        move = self._moves.get(place)
        if is_offsets and move is not None and not (move.is_copy and move.old_start == move.new_start):
            data = move_offset_index(data, move, lambda: opened.row_groups.what(*place))
        if is_offsets and not opened.row_groups.is_open(segment.row_group):
            self._moves.pop(place, None)  # nothing asks again
        self._index_places.add(segment, self._body.position, len(data))
        self._body.write(data)
        self._body.done(segment.declared_bytes or 0)

    def _finish_row_group(self, index: int, row_groups: RowGroups) -> None:
        chunks = self._opened.open_row_group(index)
        moves = [self._moves[place] for chunk in chunks if (place := (index, chunk.column)) in self._moves]
        restore_row_group(index, row_groups.struct(index), moves, self._opened.originals)
        for chunk in chunks:
            chunk.entry.remove(ColumnChunk.ENCRYPTED_COLUMN_METADATA)
            chunk.entry.remove(ColumnChunk.CRYPTO_METADATA)
            chunk.entry.set(ColumnChunk.META_DATA, WireType.STRUCT, chunk.metadata)
        row_groups.close(index)
