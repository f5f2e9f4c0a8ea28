"""Rewrite the footer's offsets and sizes after segments moved, and back. Moving the segments is left to the walks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pipecrypt.parquet.chunks import Chunk
from pipecrypt.parquet.layout import ChunkMove
from pipecrypt.parquet.originals import ROW_GROUP, Originals
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnMetaData, RowGroup
from pipecrypt.parquet.wire.thrift import Struct, WireType

__all__ = ["relocate_chunk", "relocate_row_group", "restore_chunk", "restore_row_group"]

_PAGE_OFFSETS: Final = (
    ColumnMetaData.DATA_PAGE_OFFSET,
    ColumnMetaData.INDEX_PAGE_OFFSET,
    ColumnMetaData.DICTIONARY_PAGE_OFFSET,
)
_NOWHERE: Final = 0  # the specification lets a writer that does not know a file_offset write 0


def relocate_chunk(chunk: Chunk, move: ChunkMove, originals: Originals) -> None:
    """Rewrite a chunk's offsets and size for the encrypted file, remembering what the way back cannot tell."""
    metadata = chunk.metadata
    if not _relocate_true_offsets(chunk, metadata, move):
        _relocate_any_offsets(chunk, metadata, move, originals)
    _resize(metadata, ColumnMetaData.TOTAL_COMPRESSED_SIZE, move.total_growth)
    chunk.place = None


def _relocate_true_offsets(chunk: Chunk, metadata: Struct, move: ChunkMove) -> bool:
    """Rewrite offsets that the way back can tell, as most writers write them; else change nothing and return False."""
    old_start, new_start, bounds, is_copy = move
    data_page = metadata.integer(ColumnMetaData.DATA_PAGE_OFFSET)
    dictionary = metadata.integer(ColumnMetaData.DICTIONARY_PAGE_OFFSET)
    first = 1 if bounds.has_dictionary else 0
    if metadata.has(ColumnMetaData.INDEX_PAGE_OFFSET) or chunk.entry.integer(ColumnChunk.FILE_OFFSET) != _NOWHERE:
        return False
    if is_copy:
        inside = range(old_start, old_start + bounds.old[-1] + 1)
        if data_page is None or data_page not in inside or (dictionary is not None and dictionary not in inside):
            return False
        new_data_page, new_dictionary = data_page - old_start + new_start, (dictionary or 0) - old_start + new_start
    else:
        if data_page != old_start + bounds.old[first] or dictionary != (old_start if first else None):
            return False
        new_data_page, new_dictionary = new_start + bounds.new[first], new_start
    metadata.set(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, new_data_page)
    if dictionary is not None:
        metadata.set(ColumnMetaData.DICTIONARY_PAGE_OFFSET, WireType.I64, new_dictionary)
    return True


def _relocate_any_offsets(chunk: Chunk, metadata: Struct, move: ChunkMove, originals: Originals) -> None:
    place, back = (chunk.row_group, chunk.column), move.inverse()
    for field in _PAGE_OFFSETS:
        old = metadata.integer(field)
        if old is None and field == ColumnMetaData.INDEX_PAGE_OFFSET:
            continue
        new = _page_offset(field, old, move)
        metadata.set_integer(field, WireType.I64, new)
        if _kept_or_moved(back, new) != old:
            originals.values[(*place, field)] = old
    file_offset = chunk.entry.integer(ColumnChunk.FILE_OFFSET)
    if file_offset is not None:
        new = move.moved(file_offset) or _NOWHERE
        chunk.entry.set(ColumnChunk.FILE_OFFSET, WireType.I64, new)
        if (back.moved(new) or _NOWHERE) != file_offset:
            originals.values[(*place, ColumnChunk.FILE_OFFSET)] = file_offset


def _page_offset(field: int, old: int | None, move: ChunkMove) -> int | None:
    # parquet-cpp takes the presence of dictionary_page_offset as the sign that the first page's AAD is that of a
    # dictionary page, so in an encrypted chunk both offsets must be true.
    if not move.is_copy and field == ColumnMetaData.DATA_PAGE_OFFSET:
        return move.first_data_page()
    if not move.is_copy and field == ColumnMetaData.DICTIONARY_PAGE_OFFSET:
        return move.new_start if move.bounds.has_dictionary else None
    if old is not None and old > 0 and move.moved(old) is None:
        # An offset that points out of its chunk would, kept as it is, point before or behind other offsets than it
        # did, and so decide where readers begin.
        return {ColumnMetaData.DATA_PAGE_OFFSET: move.new_start, ColumnMetaData.DICTIONARY_PAGE_OFFSET: None}.get(
            field, old
        )
    return _kept_or_moved(move, old)


def _kept_or_moved(move: ChunkMove, offset: int | None) -> int | None:
    if offset is None:
        return None
    moved = move.moved(offset)
    return offset if moved is None else moved


def _resize(struct: Struct, field: int, growth: int) -> None:
    size = struct.integer(field)
    if size is not None:
        struct.set(field, WireType.I64, size + growth)


def restore_chunk(chunk: Chunk, move: ChunkMove, originals: Originals | None) -> None:
    """Rewrite a chunk's offsets and size for the plaintext file."""
    metadata, entry = chunk.metadata, chunk.entry
    for field in _PAGE_OFFSETS:
        old = metadata.integer(field)
        if old is not None:
            moved = move.moved(old)
            metadata.set(field, WireType.I64, old if moved is None else moved)
    file_offset = entry.integer(ColumnChunk.FILE_OFFSET)
    if file_offset is not None:
        entry.set(ColumnChunk.FILE_OFFSET, WireType.I64, move.moved(file_offset) or _NOWHERE)
    _resize(metadata, ColumnMetaData.TOTAL_COMPRESSED_SIZE, move.total_growth)
    chunk.place = None
    if originals is not None and originals.values:
        _put_back(metadata, _PAGE_OFFSETS, (chunk.row_group, chunk.column), originals)
        _put_back(entry, (ColumnChunk.FILE_OFFSET,), (chunk.row_group, chunk.column), originals)


def _put_back(struct: Struct, fields: Iterable[int], place: tuple[int, int], originals: Originals) -> None:
    for field in fields:
        if (*place, field) in originals.values:
            wire_type = WireType.I16 if field == RowGroup.ORDINAL and place[1] == ROW_GROUP else WireType.I64
            struct.set_integer(field, wire_type, originals.values[*place, field])


def relocate_row_group(index: int, row_group: Struct, moves: Sequence[ChunkMove], originals: Originals) -> None:
    """Rewrite a row group's offset, size and ordinal for the encrypted file."""
    old = row_group.integer(RowGroup.FILE_OFFSET)
    if old is not None:
        new = _moved_in(moves, old)
        row_group.set(RowGroup.FILE_OFFSET, WireType.I64, new)
        if _moved_in([move.inverse() for move in moves], new) != old:
            originals.values[index, ROW_GROUP, RowGroup.FILE_OFFSET] = old
    _resize(row_group, RowGroup.TOTAL_COMPRESSED_SIZE, sum(move.total_growth for move in moves))
    ordinal = row_group.integer(RowGroup.ORDINAL)
    if ordinal != index:  # required in encrypted files: readers rebuild AADs from it
        row_group.set(RowGroup.ORDINAL, WireType.I16, index)
        originals.values[index, ROW_GROUP, RowGroup.ORDINAL] = ordinal


def _moved_in(moves: Sequence[ChunkMove], offset: int) -> int:
    for move in moves:
        if move.old_start == offset:
            return move.new_start
    for move in moves:
        moved = move.moved(offset)
        if moved is not None:
            return moved
    return _NOWHERE


def restore_row_group(index: int, row_group: Struct, moves: Sequence[ChunkMove], originals: Originals | None) -> None:
    """Rewrite a row group's offset and size for the plaintext file."""
    file_offset = row_group.integer(RowGroup.FILE_OFFSET)
    if file_offset is not None:
        row_group.set(RowGroup.FILE_OFFSET, WireType.I64, _moved_in(moves, file_offset))
    _resize(row_group, RowGroup.TOTAL_COMPRESSED_SIZE, sum(move.total_growth for move in moves))
    if originals is not None and originals.values:
        _put_back(row_group, (RowGroup.FILE_OFFSET, RowGroup.ORDINAL), (index, ROW_GROUP), originals)
