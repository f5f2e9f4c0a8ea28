"""The walk of encrypting: seals a table's encrypted columns chunk by chunk, copies the others, names the new places."""

from __future__ import annotations

from pipecrypt.crypto.digest import digest
from pipecrypt.errors import PipecryptError
from pipecrypt.parquet.carry.writing import Body
from pipecrypt.parquet.footer.entries import Originals
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups, locate_pages
from pipecrypt.parquet.footer.segments import UNDECLARED_BYTES, Segment
from pipecrypt.parquet.pages.headers import PageScan
from pipecrypt.parquet.pages.integrity import SegmentDigests
from pipecrypt.parquet.pages.moves import (
    ChunkMove,
    relocate_chunk,
    relocate_row_group,
    seal_bloom_filter,
)
from pipecrypt.parquet.pages.sealing import PageSealer, sealed_bound
from pipecrypt.parquet.table.keys import WritingKeys
from pipecrypt.parquet.table.walk import TableWalk, index_module
from pipecrypt.parquet.wire.modules import FileAAD, seal_module

__all__ = ["SealingWalk"]


class SealingWalk(TableWalk):
    """Seals what the policy encrypts, of one of the files that become one."""

    def __init__(
        self,
        body: Body,
        row_groups: RowGroups,
        *,
        keys: WritingKeys,
        aad: FileAAD,
        digests: SegmentDigests | None,
        originals: Originals,
    ) -> None:
        super().__init__(body, row_groups)
        self._keys = keys
        self._aad = aad
        self._digests = digests
        self._originals = originals
        self._begun = -1

    def _is_sealed(self, segment: Segment) -> bool:
        return self._keys.is_sealed(segment.column)

    def _open(self, row_group: int) -> list[Chunk]:
        chunks = self._row_groups.chunks(row_group)
        if row_group != self._begun:
            # All of a batch's keys one after the other: twice as fast as each between the pages of two chunks.
            self._begun = row_group
            self._keys.make(chunks)
        return chunks

    def _carry_pages(self, segment: Segment, chunk: Chunk) -> ChunkMove:
        scan, new_start, body = _scan(segment, chunk), self._body.position, self._body
        sealer = PageSealer(self._keys.cipher(chunk), self._aad.pages(*chunk.ordinals))
        while not scan.is_done:
            window = body.read_some(segment.start + scan.position, scan.needed_bytes, scan.room_bytes)
            pages = scan.scan(window)
            if pages:
                body.commit(sealer.seal(window, pages, body.reserve(sealed_bound(pages))))
                body.done(pages[-1].end)
        return ChunkMove(segment.start, new_start, sealer.bounds)

    def _copied_bytes(self, segment: Segment, chunk: Chunk) -> int:
        length = declared_bytes = locate_pages(chunk).declared_bytes
        if segment.room_bytes == length:
            self._body.copy(segment.start, length)
        else:
            length = self._copy_before_gap(segment, chunk, length)
        if self._digests is not None and length != declared_bytes:
            self._digests.lengthen(*chunk.ordinals, length)
        return length

    def _copy_before_gap(self, segment: Segment, chunk: Chunk, declared_bytes: int) -> int:
        """Copy a chunk whose last page may reach into the gap behind its declared end; return its true length."""
        scan, copied = _scan(segment, chunk), 0
        while not scan.is_done:
            window = self._body.read_some(segment.start + copied, scan.needed_bytes, scan.room_bytes)
            try:
                scan.scan(window)
            except PipecryptError:
                end = declared_bytes  # what cannot be walked is copied as declared, as every reader would read it
                break
            walked = min(scan.position, declared_bytes)
            self._body.write(window[: walked - copied])
            self._body.done(walked - copied)
            copied = walked
        else:
            end = scan.position
        self._body.copy(segment.start + copied, end - copied)
        return end

    def _true_bytes(self, segment: Segment, chunk: Chunk) -> int:
        """Return how long a plaintext chunk is, of which nothing is copied yet."""
        length = locate_pages(chunk).declared_bytes
        if segment.room_bytes == length:
            return length
        scan, walked = _scan(segment, chunk), 0
        while not scan.is_done:
            window = self._body.read_some(segment.start + walked, scan.needed_bytes, scan.room_bytes)
            try:
                scan.scan(window)
            except PipecryptError:
                return length  # as when it is copied
            walked = min(scan.position, length)
        return scan.position

    def _relocate(self, chunk: Chunk, move: ChunkMove) -> None:
        self._keys.count(chunk.column, move.bounds.old[-1])
        relocate_chunk(chunk, move, self._originals)

    def _bloom_filter(self, segment: Segment, chunk: Chunk) -> tuple[int, bytes]:
        length = self._plain_bloom_bytes(segment, chunk)
        data = self._body.read(segment.start, length)
        return length, seal_bloom_filter(data, self._keys.cipher(chunk), self._aad, chunk)

    def _index_to_write(self, segment: Segment, data: bytes) -> bytes:
        place = (segment.row_group, segment.column)
        if self._keys.is_sealed(segment.column):
            # The row group is closed by now, unless the index lies before its pages.
            cipher = self._keys.cipher_at(*place) or self._keys.cipher(self._row_groups.chunks(place[0])[place[1]])
            return seal_module(cipher, data, self._aad.module(index_module(segment), *place))
        if self._digests is not None:
            self._digests.put(segment.place, digest(data, self._digests.algorithm))
        return data

    def _finish(self, row_group: int, moves: list[ChunkMove]) -> None:
        relocate_row_group(row_group, self._row_groups.struct(row_group), moves, self._originals)
        for chunk in self._row_groups.chunks(row_group):
            if self._keys.is_sealed(chunk.column):
                self._keys.seal_metadata(chunk)


def _scan(segment: Segment, chunk: Chunk) -> PageScan:
    place = locate_pages(chunk)
    room = min(segment.room_bytes, place.declared_bytes + UNDECLARED_BYTES)
    return PageScan(place.declared_bytes, place.num_values, room_bytes=room, what=chunk.what)
