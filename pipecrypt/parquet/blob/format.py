"""Blobs, files of any bytes, as tables of their blocks: where these lie, the footer, and the entry that names them.

The plaintext form, which exists only in memory::

    "PAR1" || row group || row group || ... || footer        one REQUIRED column `chunk` of type BYTE_ARRAY
    row group   page || ... || page                          64 blocks, fewer in the last one: one row, one page each
                [offset index]                               where pages are compressed, and so of different lengths
    page        page header (Thrift, v1) || body
    body        length (4, little endian) || bytes           PLAIN; under zstd, both compressed together

Without compression all pages but the last are equally long, encrypted too: a page grows by 32 bytes, its header by 32
and by what the larger size takes. So a place in the plaintext tells the row group, the page and its place in the file.

Layout of the value of the key-value entry `pipecrypt.chunks` (JSON), which stands in an encrypted footer only::

    {"v": 1, "chunk_bytes": of each block but the last, "size": bytes of the plaintext,
     "compression": "none" | "zstd",
     "name": the file's own name, "mode": permission bits, "mtime_ns": since 1970}    each absent where unknown

What is in the entry was written by whoever had the key, and may still be hostile: a name is no path here.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from pipecrypt.errors import FormatError, LimitError, UsageError
from pipecrypt.parquet.footer.columns import LeafColumn, physical_type_code
from pipecrypt.parquet.footer.entries import entry_values
from pipecrypt.parquet.footer.row_groups import plain_metadata
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, encode_plain_footer
from pipecrypt.parquet.wire.fields import (
    BLOB_KEY,
    ColumnChunk,
    FileMetaData,
    OffsetIndex,
    PageLocation,
    RowGroup,
    SchemaElement,
)
from pipecrypt.parquet.wire.modules import MAX_ORDINALS, MODULE_OVERHEAD_BYTES
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType, encode_in_place, encode_struct, encode_zigzag

__all__ = [
    "BLOCK_LEAF",
    "DEFAULT_BLOCK_BYTES",
    "MAX_BLOCK_BYTES",
    "PREFIX_BYTES",
    "ROW_GROUP_BLOCKS",
    "BlobCompression",
    "BlobEntry",
    "BlobInfo",
    "BlobLayout",
    "RowGroupPlace",
    "check_block_bytes",
    "choose_block_bytes",
    "encode_blob_entry",
    "find_blob_entry",
    "length_prefix",
    "page_header",
    "plain_footer",
    "plain_offset_index",
    "sealed_header",
]

ROW_GROUP_BLOCKS: Final = 64
DEFAULT_BLOCK_BYTES: Final = 1 << 20
# A row group is built in memory where its length is not known before, so blocks are bounded.
MAX_BLOCK_BYTES: Final = 16 << 20
PREFIX_BYTES: Final = 4
_BLOCK_STEP_BYTES: Final = 4096
# After the two sizes: one value, encoded PLAIN (0), levels RLE (3) although a required column has none.
_HEADER_END: Final = b"\x2c\x15\x02\x15\x00\x15\x06\x15\x06\x00\x00"


def check_block_bytes(block_bytes: int) -> None:
    """Check a size of blocks that a user chose.

    Raises:
        UsageError: no multiple of 4096 bytes, or more than `MAX_BLOCK_BYTES`.
    """
    if not is_block_size(block_bytes):
        raise UsageError(
            f"chunks of {block_bytes} bytes are not possible",
            hint=f"choose a multiple of {_BLOCK_STEP_BYTES} bytes, at most {MAX_BLOCK_BYTES}",
        )


def is_block_size(block_bytes: int) -> bool:
    """Say whether blocks can have this size."""
    return 0 < block_bytes <= MAX_BLOCK_BYTES and block_bytes % _BLOCK_STEP_BYTES == 0


def choose_block_bytes(size_bytes: int, wanted_bytes: int, name: str) -> int:
    """Return the wanted size of blocks, doubled until a file can number the row groups of `size_bytes`.

    Raises:
        UsageError: the wanted size is not possible.
        LimitError: the largest blocks do not suffice.
    """
    check_block_bytes(wanted_bytes)
    block_bytes = wanted_bytes
    while size_bytes > most_bytes(block_bytes):
        block_bytes = min(2 * block_bytes, MAX_BLOCK_BYTES)
        if block_bytes == MAX_BLOCK_BYTES and size_bytes > most_bytes(block_bytes):
            raise LimitError(
                f"{name} has {size_bytes} bytes; one file takes {most_bytes(MAX_BLOCK_BYTES)}",
                hint="split it into several files",
            )
    return block_bytes


def most_bytes(block_bytes: int) -> int:
    """Return how many bytes a file takes in blocks of this size."""
    return MAX_ORDINALS * ROW_GROUP_BLOCKS * block_bytes


def length_prefix(plain_bytes: int) -> bytes:
    """Return what PLAIN writes before the bytes of a value."""
    return plain_bytes.to_bytes(PREFIX_BYTES, "little")


def page_header(plain_bytes: int, stored_bytes: int) -> bytes:
    """Return the header of a page.

    Args:
        plain_bytes: of the block.
        stored_bytes: of the page's body as it is stored: compressed, encrypted.
    """
    sizes = (encode_zigzag(plain_bytes + PREFIX_BYTES), b"\x15", encode_zigzag(stored_bytes))
    return b"".join((b"\x15\x00\x15", *sizes, _HEADER_END))


def sealed_header(plain_bytes: int, module_bytes: int) -> tuple[bytes, int]:
    """Return the header of an encrypted page whose body is a module of so many bytes, and its own module's length."""
    header = page_header(plain_bytes, module_bytes)
    return header, len(header) + MODULE_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class BlobLayout:
    """How some bytes are cut into blocks, and these into row groups.

    Args:
        size_bytes: of the plaintext.
        block_bytes: of each block but the last.
    """

    size_bytes: int
    block_bytes: int

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.size_bytes // self.block_bytes)

    @property
    def row_groups(self) -> int:
        """How many row groups there are."""
        return -(-self.blocks // ROW_GROUP_BLOCKS)

    def rows(self, row_group: int) -> int:
        """Return how many blocks a row group has."""
        return min(ROW_GROUP_BLOCKS, self.blocks - row_group * ROW_GROUP_BLOCKS)

    def plain_bytes(self, block: int) -> int:
        """Return the length of a block."""
        return min(self.block_bytes, self.size_bytes - block * self.block_bytes)

    def sealed_bounds(self, row_group: int) -> array[int]:
        """Return where the encrypted, uncompressed pages of a row group begin, and where the last one ends."""
        first, rows = row_group * ROW_GROUP_BLOCKS, self.rows(row_group)
        page = _sealed_page_bytes(self.block_bytes)
        start = MAGIC_BYTES + first * page
        bounds = array("q", range(start, start + (rows + 1) * page, page))
        bounds[-1] = bounds[-2] + _sealed_page_bytes(self.plain_bytes(first + rows - 1))
        return bounds


def _sealed_page_bytes(plain_bytes: int) -> int:
    module_bytes = plain_bytes + PREFIX_BYTES + MODULE_OVERHEAD_BYTES
    return sealed_header(plain_bytes, module_bytes)[1] + module_bytes


_VERSION: Final = 1
_MOST_ENTRY_BYTES: Final = 16 * 1024
_MOST_NAME_BYTES: Final = 1024
_PERMISSION_BITS: Final = 0o777
_MOST_SIZE_BYTES: Final = 2**63 - 1


class BlobCompression(StrEnum):
    """How pages are compressed before they are encrypted."""

    NONE = "none"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What is kept about a file beside its bytes; None where unknown, as of a stream.

    Args:
        name: its own name, without directories.
        mode: permission bits (0o777); others are not kept.
        mtime_ns: time of the last change, in nanoseconds since 1970.
    """

    name: str | None = None
    mode: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """What the entry says.

    Args:
        layout: sizes of the file and of its blocks.
        compression: of its pages.
        info: about the file.
    """

    layout: BlobLayout
    compression: BlobCompression
    info: BlobInfo


def encode_blob_entry(entry: BlobEntry) -> bytes:
    """Return the entry's value.

    Raises:
        UsageError: the name is a path, or too long.
    """
    layout, info = entry.layout, entry.info
    document: dict[str, object] = {"v": _VERSION, "chunk_bytes": layout.block_bytes, "size": layout.size_bytes}
    document["compression"] = entry.compression.value
    if info.name is not None:
        if not _is_name(info.name):
            raise UsageError(f"{info.name!a} cannot be kept as the name of a file", hint="rename it")
        document["name"] = info.name
    if info.mode is not None:
        document["mode"] = info.mode & _PERMISSION_BITS
    if info.mtime_ns is not None:
        document["mtime_ns"] = info.mtime_ns
    return json.dumps(document, separators=(",", ":")).encode()


def find_blob_entry(footer: Struct, name: str) -> BlobEntry | None:
    """Return what the entry of an authenticated footer says, or None where there is none.

    Raises:
        FormatError: malformed, or there twice.
    """
    found = entry_values(footer, BLOB_KEY)
    if not found:
        return None
    try:
        if len(found) != 1 or found[0] is None or len(found[0]) > _MOST_ENTRY_BYTES:
            raise ValueError
        return _decode(json.loads(found[0]), name)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(f"the key-value entry {BLOB_KEY.decode()!r} of {name} is malformed") from None


def _decode(document: object, name: str) -> BlobEntry:
    if not isinstance(document, dict):
        raise TypeError
    if document["v"] != _VERSION:
        raise FormatError(
            f"the key-value entry {BLOB_KEY.decode()!r} of {name} has another version than {_VERSION}",
            hint="upgrade pipecrypt",
        )
    size_bytes = _integer(document["size"], 0, _MOST_SIZE_BYTES)
    block_bytes = document["chunk_bytes"]
    if type(block_bytes) is not int or not is_block_size(block_bytes):
        raise ValueError
    info = BlobInfo(_name(document.get("name")), _mode(document.get("mode")), _time(document.get("mtime_ns")))
    return BlobEntry(BlobLayout(size_bytes, block_bytes), BlobCompression(document["compression"]), info)


def _integer(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError
    return value


def _mode(value: object) -> int | None:
    return None if value is None else _integer(value, 0, _PERMISSION_BITS)


def _time(value: object) -> int | None:
    return None if value is None else _integer(value, -(2**63), 2**63 - 1)


def _name(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _is_name(value):
        raise ValueError
    return value


def _is_name(name: str) -> bool:
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= _MOST_NAME_BYTES
    except UnicodeEncodeError:
        return False


BLOCK_LEAF: Final = LeafColumn(("chunk",), "BYTE_ARRAY")
CODECS: Final = {BlobCompression.NONE: 0, BlobCompression.ZSTD: 6}
_REQUIRED: Final = 0
_FORMAT_VERSION: Final = 2
_CREATED_BY: Final = b"pipecrypt"
# Fields that encryption does not touch, so that wire/fields.py does not list them.
_VERSION_FIELD: Final = 1
_TOTAL_BYTE_SIZE_FIELD: Final = 2
_FIRST_ROW_FIELD: Final = 3


@dataclass(frozen=True, slots=True)
class RowGroupPlace:
    """One row group of a plaintext file.

    Args:
        ordinal: in the file that it becomes part of.
        start: offset of its first page.
        rows: how many blocks.
        plain_bytes: of all pages, their headers included, uncompressed.
        stored_bytes: the same as they are stored.
        index: offset and length of its offset index.
    """

    ordinal: int
    start: int
    rows: int
    plain_bytes: int
    stored_bytes: int
    index: tuple[int, int] | None = None


def plain_footer(places: Sequence[RowGroupPlace], compression: BlobCompression) -> bytes:
    """Return everything behind the last page or index of a plaintext file."""
    footer = Struct()
    footer.set(_VERSION_FIELD, WireType.I32, _FORMAT_VERSION)
    footer.set_list(FileMetaData.SCHEMA, WireType.STRUCT, _schema())
    footer.set(FileMetaData.NUM_ROWS, WireType.I64, sum(place.rows for place in places))
    row_groups: list[Value] = [encode_in_place(_row_group(place, CODECS[compression])) for place in places]
    footer.set_list(FileMetaData.ROW_GROUPS, WireType.STRUCT, row_groups)
    footer.set(FileMetaData.CREATED_BY, WireType.BINARY, _CREATED_BY)
    return b"".join(encode_plain_footer(footer))


def _schema() -> list[Value]:
    root, leaf = Struct(), Struct()
    root.set(SchemaElement.NAME, WireType.BINARY, b"schema")
    root.set(SchemaElement.NUM_CHILDREN, WireType.I32, 1)
    leaf.set(SchemaElement.TYPE, WireType.I32, physical_type_code(BLOCK_LEAF))
    leaf.set(SchemaElement.REPETITION_TYPE, WireType.I32, _REQUIRED)
    leaf.set(SchemaElement.NAME, WireType.BINARY, BLOCK_LEAF.path[0].encode())
    return [root, leaf]


def _row_group(place: RowGroupPlace, codec: int) -> Struct:
    row_group, entry = Struct(), Struct()
    # A place of the metadata that is no page's is written as 0, which every encrypted file may keep.
    entry.set(ColumnChunk.FILE_OFFSET, WireType.I64, 0)
    metadata = plain_metadata(
        BLOCK_LEAF,
        values=place.rows,
        start=place.start,
        plain_bytes=place.plain_bytes,
        stored_bytes=place.stored_bytes,
        codec=codec,
    )
    entry.set(ColumnChunk.META_DATA, WireType.STRUCT, metadata)
    if place.index is not None:
        offset, length = place.index
        entry.set(ColumnChunk.OFFSET_INDEX_OFFSET, WireType.I64, offset)
        entry.set(ColumnChunk.OFFSET_INDEX_LENGTH, WireType.I32, length)
    row_group.set_list(RowGroup.COLUMNS, WireType.STRUCT, [entry])
    row_group.set(_TOTAL_BYTE_SIZE_FIELD, WireType.I64, place.plain_bytes)
    row_group.set(RowGroup.NUM_ROWS, WireType.I64, place.rows)
    row_group.set(RowGroup.FILE_OFFSET, WireType.I64, place.start)
    row_group.set(RowGroup.TOTAL_COMPRESSED_SIZE, WireType.I64, place.stored_bytes)
    row_group.set(RowGroup.ORDINAL, WireType.I16, place.ordinal)
    return row_group


def plain_offset_index(bounds: Sequence[int]) -> bytes:
    """Return the offset index of a row group whose pages begin at `bounds`; the last of them ends at the last one."""
    locations: list[Value] = []
    for row, (start, end) in enumerate(pairwise(bounds)):
        location = Struct()
        location.set(PageLocation.OFFSET, WireType.I64, start)
        location.set(PageLocation.COMPRESSED_PAGE_SIZE, WireType.I32, end - start)
        location.set(_FIRST_ROW_FIELD, WireType.I64, row)
        locations.append(location)
    index = Struct()
    index.set_list(OffsetIndex.PAGE_LOCATIONS, WireType.STRUCT, locations)
    return encode_struct(index)
