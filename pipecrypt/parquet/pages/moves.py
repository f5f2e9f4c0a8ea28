"""Where pages moved to, and all that names their places: offsets in the footer, offset indexes; and Bloom filters.

Layout of an encrypted Bloom filter (Encryption.md 5.4)::

    module of the header || module of the bitset
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, LimitError
from pipecrypt.parquet.footer.entries import ROW_GROUP, Originals
from pipecrypt.parquet.footer.row_groups import Chunk
from pipecrypt.parquet.footer.segments import MAX_INDEX_BYTES
from pipecrypt.parquet.pages.sealing import PageBounds
from pipecrypt.parquet.wire.fields import (
    BLOOM_FILTER_BYTES,
    BLOOM_FILTER_HEADER,
    OFFSET_INDEX,
    ColumnChunk,
    ColumnMetaData,
    PageLocation,
    RowGroup,
)
from pipecrypt.parquet.wire.modules import (
    LENGTH_BYTES,
    MODULE_OVERHEAD_BYTES,
    FileAAD,
    ModuleType,
    module_bytes,
    open_module,
    seal_module,
)
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_struct, encode_varint, encode_zigzag
from pipecrypt.parquet.wire.thrift_read import Allowance, read_list_start, read_struct, read_zigzag

__all__ = [
    "BLOOM_FILTER_HEADER_BYTES",
    "ChunkMove",
    "bloom_filter_bytes",
    "move_offset_index",
    "open_bloom_filter",
    "relocate_chunk",
    "relocate_row_group",
    "restore_chunk",
    "restore_row_group",
    "seal_bloom_filter",
    "sealed_bloom_filter_bytes",
]


class ChunkMove(NamedTuple):
    """Where a chunk's pages were and where they are now.

    Args:
        old_start: offset of the first page in the input.
        new_start: offset in the output.
        bounds: of its pages; only start and end of a chunk that was copied.
        is_copy: the pages are the same bytes as before.
    """

    old_start: int
    new_start: int
    bounds: PageBounds
    is_copy: bool = False

    def inverse(self) -> ChunkMove:
        """Return the move back."""
        bounds = PageBounds(self.bounds.new, self.bounds.old, self.bounds.has_dictionary)
        return ChunkMove(self.new_start, self.old_start, bounds, self.is_copy)

    def moved(self, offset: int) -> int | None:
        """Return where an offset into the chunk is now, its end included; None if it is no page's boundary."""
        old, new = self.bounds.old, self.bounds.new
        relative = offset - self.old_start
        if self.is_copy:
            return relative + self.new_start if 0 <= relative <= old[-1] else None
        index = bisect_left(old, relative)
        return self.new_start + new[index] if index < len(old) and old[index] == relative else None

    def moved_page(self, offset: int) -> tuple[int, int]:
        """Return where the page at an offset into the input is now, and by how many bytes it grew.

        Raises:
            IndexError: no page begins there.
        """
        old, new = self.bounds.old, self.bounds.new
        relative = offset - self.old_start
        if self.is_copy and 0 <= relative < old[-1]:
            return relative + self.new_start, 0
        index = bisect_left(old, relative)
        if old[index] != relative:
            raise IndexError
        # IndexError also where the offset is the end of the last page.
        return self.new_start + new[index], (new[index + 1] - new[index]) - (old[index + 1] - relative)

    @property
    def total_growth(self) -> int:
        """By how many bytes all pages grew."""
        return self.bounds.new[-1] - self.bounds.old[-1]


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
    place, back = chunk.ordinals, move.inverse()
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
        return move.new_start + move.bounds.new[1 if move.bounds.has_dictionary else 0]  # the end, if it has none
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
        _put_back(metadata, _PAGE_OFFSETS, chunk.ordinals, originals)
        _put_back(entry, (ColumnChunk.FILE_OFFSET,), chunk.ordinals, originals)


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
        if _moved_back(moves, new) != old:
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


def _moved_back(moves: Sequence[ChunkMove], offset: int) -> int:
    for move in moves:  # nearly always found so, and without turning all moves around
        if move.new_start == offset:
            return move.old_start
    return _moved_in([move.inverse() for move in moves], offset)


def restore_row_group(index: int, row_group: Struct, moves: Sequence[ChunkMove], originals: Originals | None) -> None:
    """Rewrite a row group's offset and size for the plaintext file."""
    file_offset = row_group.integer(RowGroup.FILE_OFFSET)
    if file_offset is not None:
        row_group.set(RowGroup.FILE_OFFSET, WireType.I64, _moved_in(moves, file_offset))
    _resize(row_group, RowGroup.TOTAL_COMPRESSED_SIZE, sum(move.total_growth for move in moves))
    if originals is not None and originals.values:
        _put_back(row_group, (RowGroup.FILE_OFFSET, RowGroup.ORDINAL), (index, ROW_GROUP), originals)


# What is read to find the length of a filter whose length the footer does not give. Known headers take 16 bytes.
BLOOM_FILTER_HEADER_BYTES: Final = 256


def move_offset_index(index: bytes, move: ChunkMove, what: Callable[[], str]) -> bytes:
    """Return the offset index with the places and sizes that the pages have now; `what` returns the chunk's name.

    Raises:
        FormatError: malformed, or it points to what is not a page.
    """
    try:
        return _move_plain_locations(index, move)
    except (IndexError, FormatError):
        return _move_any_locations(index, move, f"offset index of {what()}")


def _move_plain_locations(index: bytes, move: ChunkMove) -> bytes:
    # What every writer writes: three fields a page, one page after another. A file has as many of these as it has
    # pages, so they are not made into structs. IndexError where the index is anything else.
    count, end = read_list_start(index)
    pieces, places = [index[:end]], _data_pages(move, count)
    for location in islice(_PLAIN_LOCATION.finditer(index, end), count):
        offset, size, row = location.groups()
        if location.start() != end:
            raise IndexError
        end = location.end()
        if places is None:
            start, growth = move.moved_page(read_zigzag(offset, 0)[0])
            new_size = encode_zigzag(read_zigzag(size, 0)[0] + growth) if growth else size
        else:  # numbers are compared as they are encoded, which is faster than to decode them
            old_start, old_bytes, start, new_bytes = next(places)
            if offset != encode_varint(old_start << 1) or size != encode_varint(old_bytes << 1):
                raise IndexError
            new_size = encode_varint(new_bytes << 1)
        pieces.append(b"%c%b%c%b%b" % (_OFFSET_FIELD, encode_varint(start << 1), _SIZE_FIELD, new_size, row))
        count -= 1
    if count:
        raise IndexError
    pieces.append(index[end:])
    return b"".join(pieces)


def _data_pages(move: ChunkMove, count: int) -> Iterator[tuple[int, int, int, int]] | None:
    """Return old start, old length, new start and new length of each data page; None where they are not `count`."""
    old, new = move.bounds.old, move.bounds.new
    first = len(old) - 1 - count
    if move.is_copy or first != move.bounds.has_dictionary:
        return None
    return _places(old[first:], new[first:], move.old_start, move.new_start)


def _places(old: array[int], new: array[int], old_start: int, new_start: int) -> Iterator[tuple[int, int, int, int]]:
    begun, new_begun = old[0], new[0]
    for end, new_end in zip(old[1:], new[1:], strict=True):
        yield old_start + begun, end - begun, new_start + new_begun, new_end - new_begun
        begun, new_begun = end, new_end


_OFFSET_FIELD: Final = PageLocation.OFFSET << 4 | WireType.I64
_SIZE_FIELD: Final = (PageLocation.COMPRESSED_PAGE_SIZE - PageLocation.OFFSET) << 4 | WireType.I32
# Offset, size, then the index of the first row and the end of the struct.
_PLAIN_LOCATION: Final = re.compile(
    rb"\x16([\x80-\xff]{0,9}[\x00-\x7f])\x15([\x80-\xff]{0,4}[\x00-\x7f])(\x16[\x80-\xff]{0,9}[\x00-\x7f]\x00)"
)


# Of a chunk in plaintext with 200,000 pages. Usual indexes are not opened at all.
_LEAST_ALLOWANCE: Final = 96 << 20


def _move_any_locations(index: bytes, move: ChunkMove, what: str) -> bytes:
    struct, end = read_struct(index, 0, OFFSET_INDEX, what, allowance=Allowance(len(index), least=_LEAST_ALLOWANCE))
    for location in struct.structs(PageLocation.LIST):
        offset = location.integer(PageLocation.OFFSET)
        size = location.integer(PageLocation.COMPRESSED_PAGE_SIZE)
        try:
            if offset is None or size is None:
                raise IndexError
            moved, growth = move.moved_page(offset)
        except IndexError:
            raise FormatError(f"{what} points to what is not a page") from None
        location.set(PageLocation.OFFSET, WireType.I64, moved)
        location.set(PageLocation.COMPRESSED_PAGE_SIZE, WireType.I32, size + growth)
    return encode_struct(struct) + index[end:]


def bloom_filter_bytes(filter_start: memoryview, room_bytes: int, chunk: Chunk) -> tuple[int, int]:
    """Return the bytes of a plaintext Bloom filter's header, and of header and bitset together.

    Raises:
        FormatError: malformed, or it ends behind `room_bytes`.
        LimitError: it has more than `MAX_INDEX_BYTES`.
    """
    what = f"Bloom filter of {chunk.what}"
    header, end = read_struct(filter_start, 0, BLOOM_FILTER_HEADER, what)
    bitset_bytes = header.integer(BLOOM_FILTER_BYTES)
    if bitset_bytes is None or not 0 <= bitset_bytes <= room_bytes - end:
        raise FormatError(f"{what} is truncated or malformed")
    _check_bloom_filter(end + bitset_bytes, what)
    return end, end + bitset_bytes


def _check_bloom_filter(length: int, what: str) -> None:
    if length > MAX_INDEX_BYTES:
        raise LimitError(f"{what} would have {length} bytes; at most {MAX_INDEX_BYTES} are read")


def seal_bloom_filter(bloom: memoryview, cipher: MessageCipher, file_aad: FileAAD, chunk: Chunk) -> bytes:
    """Return both modules of a Bloom filter."""
    header_bytes, _ = bloom_filter_bytes(bloom, len(bloom), chunk)
    place = chunk.ordinals
    header = seal_module(cipher, bloom[:header_bytes], file_aad.module(ModuleType.BLOOM_FILTER_HEADER, *place))
    bitset = seal_module(cipher, bloom[header_bytes:], file_aad.module(ModuleType.BLOOM_FILTER_BITSET, *place))
    return header + bitset


def sealed_bloom_filter_bytes(read: Callable[[int, int], memoryview], start: int, room_bytes: int, chunk: Chunk) -> int:
    """Return the bytes of an encrypted Bloom filter whose length the footer does not give.

    Raises:
        FormatError: it ends behind `room_bytes`.
        LimitError: it has more than `MAX_INDEX_BYTES`.
    """
    total = 0
    for _ in ("header", "bitset"):
        if room_bytes - total >= MODULE_OVERHEAD_BYTES:
            length = bytes(read(start + total, LENGTH_BYTES))
            total += int.from_bytes(length, "little") + LENGTH_BYTES
    if not 0 < total <= room_bytes:
        raise FormatError(f"Bloom filter of {chunk.what} is truncated or malformed")
    _check_bloom_filter(total, f"Bloom filter of {chunk.what}")
    return total


def open_bloom_filter(bloom: memoryview, cipher: MessageCipher, file_aad: FileAAD, chunk: Chunk) -> bytes:
    """Return the plaintext Bloom filter whose two modules stand at the start of `bloom`.

    Raises:
        FormatError: malformed.
        IntegrityError: a module was not written with this key at this place.
    """
    what = f"Bloom filter of {chunk.what}"
    place = chunk.ordinals
    header_bytes = module_bytes(bloom, 0, what)
    end = header_bytes + module_bytes(bloom[header_bytes:], 0, what)
    header = open_module(cipher, bloom[:header_bytes], file_aad.module(ModuleType.BLOOM_FILTER_HEADER, *place), what)
    bitset_aad = file_aad.module(ModuleType.BLOOM_FILTER_BITSET, *place)
    return header + open_module(cipher, bloom[header_bytes:end], bitset_aad, what)
