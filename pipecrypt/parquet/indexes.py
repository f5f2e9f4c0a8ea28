"""Offset indexes and Bloom filters: move, seal and open them. Column indexes are one module and need no code here.

Layout of an encrypted Bloom filter (Encryption.md 5.4)::

    module of the header || module of the bitset
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError
from pipecrypt.parquet.chunks import Chunk
from pipecrypt.parquet.layout import ChunkMove
from pipecrypt.parquet.modules import (
    LENGTH_BYTES,
    MODULE_OVERHEAD_BYTES,
    FileAAD,
    ModuleType,
    module_bytes,
    open_module,
    seal_module,
)
from pipecrypt.parquet.names import (
    BLOOM_FILTER_HEADER,
    OFFSET_INDEX,
    BloomFilterHeader,
    OffsetIndex,
    PageLocation,
)
from pipecrypt.parquet.thrift import WireType, encode_struct, encode_zigzag
from pipecrypt.parquet.thrift_read import read_list_start, read_struct, read_zigzag, skip_value

__all__ = [
    "BLOOM_FILTER_HEADER_BYTES",
    "bloom_filter_bytes",
    "move_offset_index",
    "open_bloom_filter",
    "seal_bloom_filter",
    "sealed_bloom_filter_bytes",
]

# What is read to find the length of a filter whose length the footer does not give. Known headers take 16 bytes.
BLOOM_FILTER_HEADER_BYTES: Final = 256


def move_offset_index(index: bytes, move: ChunkMove, what: str) -> bytes:
    """Return the offset index with the places and sizes that the pages have now.

    Raises:
        FormatError: malformed, or it points to what is no page.
    """
    try:
        return _move_plain_locations(index, move)
    except (IndexError, FormatError):
        return _move_any_locations(index, move, f"offset index of {what}")


def _move_plain_locations(index: bytes, move: ChunkMove) -> bytes:
    # What every writer writes: three fields a page, in order. A file has as many of these as it has pages, so they
    # are not made into structs. IndexError where the index is anything else.
    count, position = read_list_start(index)
    pieces: list[bytes] = []
    copied = 0
    for _ in range(count):
        if index[position] != _OFFSET_FIELD:
            raise IndexError
        offset, size_field = read_zigzag(index, position + 1)
        if index[size_field] != _SIZE_FIELD:
            raise IndexError
        size, rest = read_zigzag(index, size_field + 1)
        moved, growth = move.moved_page(offset)
        pieces += (index[copied : position + 1], encode_zigzag(moved), _SIZE_FIELD_BYTE, encode_zigzag(size + growth))
        copied = rest
        position = skip_value(index, rest, WireType.STRUCT, 0)
    pieces.append(index[copied:])
    return b"".join(pieces)


_OFFSET_FIELD: Final = PageLocation.OFFSET << 4 | WireType.I64
_SIZE_FIELD: Final = (PageLocation.COMPRESSED_PAGE_SIZE - PageLocation.OFFSET) << 4 | WireType.I32
_SIZE_FIELD_BYTE: Final = bytes((_SIZE_FIELD,))


def _move_any_locations(index: bytes, move: ChunkMove, what: str) -> bytes:
    struct, end = read_struct(index, 0, OFFSET_INDEX, what)
    for location in struct.structs(OffsetIndex.PAGE_LOCATIONS):
        offset = location.integer(PageLocation.OFFSET)
        size = location.integer(PageLocation.COMPRESSED_PAGE_SIZE)
        try:
            if offset is None or size is None:
                raise IndexError
            moved, growth = move.moved_page(offset)
        except IndexError:
            raise FormatError(f"{what} points to what is no page") from None
        location.set(PageLocation.OFFSET, WireType.I64, moved)
        location.set(PageLocation.COMPRESSED_PAGE_SIZE, WireType.I32, size + growth)
    return encode_struct(struct) + index[end:]


def bloom_filter_bytes(filter_start: memoryview, room_bytes: int, chunk: Chunk) -> tuple[int, int]:
    """Return the bytes of a plaintext Bloom filter's header, and of header and bitset together.

    Raises:
        FormatError: malformed, or it ends behind `room_bytes`.
    """
    what = f"Bloom filter of {chunk.what}"
    header, end = read_struct(filter_start, 0, BLOOM_FILTER_HEADER, what)
    bitset_bytes = header.integer(BloomFilterHeader.NUM_BYTES)
    if bitset_bytes is None or not 0 <= bitset_bytes <= room_bytes - end:
        raise FormatError(f"{what} is truncated or malformed")
    return end, end + bitset_bytes


def seal_bloom_filter(bloom: memoryview, cipher: MessageCipher, file_aad: FileAAD, chunk: Chunk) -> bytes:
    """Return both modules of a Bloom filter."""
    header_bytes, _ = bloom_filter_bytes(bloom, len(bloom), chunk)
    place = (chunk.row_group, chunk.column)
    header = seal_module(cipher, bloom[:header_bytes], file_aad.module(ModuleType.BLOOM_FILTER_HEADER, *place))
    bitset = seal_module(cipher, bloom[header_bytes:], file_aad.module(ModuleType.BLOOM_FILTER_BITSET, *place))
    return header + bitset


def sealed_bloom_filter_bytes(read: Callable[[int, int], memoryview], start: int, room_bytes: int, chunk: Chunk) -> int:
    """Return the bytes of an encrypted Bloom filter whose length the footer does not give.

    Raises:
        FormatError: it ends behind `room_bytes`.
    """
    total = 0
    for _ in ("header", "bitset"):
        if room_bytes - total >= MODULE_OVERHEAD_BYTES:
            length = bytes(read(start + total, LENGTH_BYTES))
            total += int.from_bytes(length, "little") + LENGTH_BYTES
    if not 0 < total <= room_bytes:
        raise FormatError(f"Bloom filter of {chunk.what} is truncated or malformed")
    return total


def open_bloom_filter(bloom: memoryview, cipher: MessageCipher, file_aad: FileAAD, chunk: Chunk) -> bytes:
    """Return the plaintext Bloom filter whose two modules stand at the start of `bloom`.

    Raises:
        FormatError: malformed.
        IntegrityError: a module was not written with this key at this place.
    """
    what = f"Bloom filter of {chunk.what}"
    place = (chunk.row_group, chunk.column)
    header_bytes = module_bytes(bloom, 0, what)
    end = header_bytes + module_bytes(bloom[header_bytes:], 0, what)
    header = open_module(cipher, bloom[:header_bytes], file_aad.module(ModuleType.BLOOM_FILTER_HEADER, *place), what)
    bitset_aad = file_aad.module(ModuleType.BLOOM_FILTER_BITSET, *place)
    return header + open_module(cipher, bloom[header_bytes:end], bitset_aad, what)
