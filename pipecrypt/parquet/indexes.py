"""Offset indexes and Bloom filters: move, seal and open them. Column indexes are one module and need no code here.

Layout of an encrypted Bloom filter (Encryption.md 5.4)::

    module of the header || module of the bitset
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, LimitError
from pipecrypt.parquet.chunks import Chunk
from pipecrypt.parquet.layout import MAX_INDEX_BYTES, ChunkMove
from pipecrypt.parquet.wire.fields import (
    BLOOM_FILTER_HEADER,
    OFFSET_INDEX,
    BloomFilterHeader,
    OffsetIndex,
    PageLocation,
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
from pipecrypt.parquet.wire.thrift import WireType, encode_struct, encode_zigzag
from pipecrypt.parquet.wire.thrift_read import Allowance, read_list_start, read_struct

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
    # What every writer writes: three fields a page, in order. A file has as many of these as it has pages, so they
    # are not made into structs. IndexError where the index is anything else.
    count, position = read_list_start(index)
    moved_index = bytearray(index[:position])
    for location in islice(_PLAIN_LOCATION.finditer(index, position), count):
        if location.start() != position:
            raise IndexError
        offset, size, rest = location.groups()
        moved, growth = move.moved_page(_zigzag(offset))
        if not growth:
            moved_index += b"%c%b%b" % (_OFFSET_FIELD, encode_zigzag(moved), index[location.end(1) : location.end()])
            position, count = location.end(), count - 1
            continue
        moved_index += b"%c%b%c%b%b" % (
            _OFFSET_FIELD,
            encode_zigzag(moved),
            _SIZE_FIELD,
            encode_zigzag(_zigzag(size) + growth),
            rest,
        )
        position, count = location.end(), count - 1
    if count:
        raise IndexError
    return bytes(moved_index + index[position:])


def _zigzag(varint: bytes) -> int:
    value = 0
    for byte in reversed(varint):
        value = value << 7 | byte & 127
    return (value >> 1) ^ -(value & 1)


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
    for location in struct.structs(OffsetIndex.PAGE_LOCATIONS):
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
    bitset_bytes = header.integer(BloomFilterHeader.NUM_BYTES)
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
    place = (chunk.row_group, chunk.column)
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
    place = (chunk.row_group, chunk.column)
    header_bytes = module_bytes(bloom, 0, what)
    end = header_bytes + module_bytes(bloom[header_bytes:], 0, what)
    header = open_module(cipher, bloom[:header_bytes], file_aad.module(ModuleType.BLOOM_FILTER_HEADER, *place), what)
    bitset_aad = file_aad.module(ModuleType.BLOOM_FILTER_BITSET, *place)
    return header + open_module(cipher, bloom[header_bytes:end], bitset_aad, what)
