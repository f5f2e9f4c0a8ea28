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

What is in the entry was written by whoever had the key, and may still be hostile: a name is not a path here.
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
from pipecrypt.parquet.footer.entries import entry_value
from pipecrypt.parquet.footer.row_groups import plain_metadata
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, encode_plain_footer
from pipecrypt.parquet.wire.fields import (
    BLOB_KEY,
    ColumnChunk,
    FileMetaData,
    PageLocation,
    RowGroup,
    SchemaElement,
)
from pipecrypt.parquet.wire.modules import MAX_ORDINALS, MODULE_OVERHEAD_BYTES
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType, encode_in_place, encode_struct, encode_zigzag
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = [
    "BLOCK_LEAF",
    "DEFAULT_BLOCK_BYTES",
    "MAX_BLOCK_BYTES",
    "PREFIX_BYTES",
    "ROW_GROUP_BLOCKS",
    "BlobCompression",
    "BlobInfo",
    "BlobLayout",
    "check_block_bytes",
    "choose_block_bytes",
    "encode_blob_entry",
    "find_blob_entry",
    "length_prefix",
    "page_header",
    "plain_footer",
    "plain_offset_index",
    "plain_row_group",
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
    """Return whether blocks can have this size."""
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


def encode_blob_entry(layout: BlobLayout, compression: BlobCompression, info: BlobInfo) -> bytes:
    """Return the entry's value.

    Raises:
        UsageError: the name is a path, or too long.
    """
    document: dict[str, object] = {"v": _VERSION, "chunk_bytes": layout.block_bytes, "size": layout.size_bytes}
    document["compression"] = compression.value
    if info.name is not None:
        if not _is_name(info.name):
            raise UsageError(f"{info.name!a} cannot be kept as the name of a file", hint="rename it")
        document["name"] = info.name
    if info.mode is not None:
        document["mode"] = info.mode & _PERMISSION_BITS
    if info.mtime_ns is not None:
        document["mtime_ns"] = info.mtime_ns
    return json.dumps(document, separators=(",", ":")).encode()


def find_blob_entry(footer: Struct, name: str) -> tuple[BlobLayout, BlobCompression, BlobInfo] | None:
    """Return what the entry of an authenticated footer says, or None where there is none.

    Raises:
        FormatError: malformed, or there twice.
    """
    what = f"the key-value entry {BLOB_KEY.decode()!r} of {name}"
    value = entry_value(footer, BLOB_KEY, what)
    if value is None:
        return None
    try:
        document = parse_document(value, max_bytes=_MOST_ENTRY_BYTES)
        if document.integer("v") != _VERSION:
            raise FormatError(f"{what} has another version than {_VERSION}", hint="upgrade pipecrypt")
        return _decode(document)
    except (ValueError, DocumentError):
        raise FormatError(f"{what} is malformed") from None


def _decode(document: Document) -> tuple[BlobLayout, BlobCompression, BlobInfo]:
    layout = BlobLayout(document.count("size"), document.count("chunk_bytes"))
    name = document.text("name", max_characters=_MOST_NAME_BYTES) if "name" in document else None
    if not is_block_size(layout.block_bytes) or (name is not None and not _is_name(name)):
        raise ValueError
    info = BlobInfo(
        name,
        document.integer("mode", least=0, most=_PERMISSION_BITS) if "mode" in document else None,
        document.integer("mtime_ns", least=-(2**63), most=2**63 - 1) if "mtime_ns" in document else None,
    )
    return layout, BlobCompression(document.text("compression", max_characters=_MOST_NAME_BYTES)), info


def _is_name(name: str) -> bool:
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= _MOST_NAME_BYTES
    except UnicodeEncodeError:
        return False


BLOCK_LEAF: Final = LeafColumn(("chunk",), "BYTE_ARRAY")
_CODECS: Final = {BlobCompression.NONE: 0, BlobCompression.ZSTD: 6}
_REQUIRED: Final = 0
_FORMAT_VERSION: Final = 2
_CREATED_BY: Final = b"pipecrypt"
# Fields that encryption does not touch, so that wire/fields.py does not list them.
_VERSION_FIELD: Final = 1
_TOTAL_BYTE_SIZE_FIELD: Final = 2
_FIRST_ROW_FIELD: Final = 3


def plain_footer(row_groups: Sequence[Struct], rows: int) -> bytes:
    """Return everything behind the last page or index of a plaintext file of so many rows."""
    footer, root, leaf = Struct(), Struct(), Struct()
    root.set(SchemaElement.NAME, WireType.BINARY, b"schema")
    root.set(SchemaElement.NUM_CHILDREN, WireType.I32, 1)
    leaf.set(SchemaElement.TYPE, WireType.I32, physical_type_code(BLOCK_LEAF))
    leaf.set(SchemaElement.REPETITION_TYPE, WireType.I32, _REQUIRED)
    leaf.set(SchemaElement.NAME, WireType.BINARY, BLOCK_LEAF.path[0].encode())
    footer.set(_VERSION_FIELD, WireType.I32, _FORMAT_VERSION)
    footer.set_list(FileMetaData.SCHEMA, WireType.STRUCT, [root, leaf])
    footer.set(FileMetaData.NUM_ROWS, WireType.I64, rows)
    footer.set_list(FileMetaData.ROW_GROUPS, WireType.STRUCT, [*row_groups])
    footer.set(FileMetaData.CREATED_BY, WireType.BINARY, _CREATED_BY)
    return b"".join(encode_plain_footer(footer))


def plain_row_group(
    ordinal: int,
    *,
    start: int,
    rows: int,
    plain_bytes: int,
    stored_bytes: int | None = None,
    compression: BlobCompression = BlobCompression.NONE,
    index: tuple[int, int] | None = None,
) -> Struct:
    """Return one row group of a plaintext file.

    Args:
        ordinal: in the file that it becomes part of.
        start: offset of its first page.
        rows: how many blocks.
        plain_bytes: of all pages, their headers included, uncompressed.
        stored_bytes: the same as they are stored; None for the same number.
        compression: of its pages.
        index: offset and length of its offset index.
    """
    row_group, entry = Struct(), Struct()
    stored_bytes = plain_bytes if stored_bytes is None else stored_bytes
    # A place of the metadata that belongs to no page is written as 0, which every encrypted file may keep.
    entry.set(ColumnChunk.FILE_OFFSET, WireType.I64, 0)
    metadata = plain_metadata(
        BLOCK_LEAF,
        values=rows,
        start=start,
        plain_bytes=plain_bytes,
        stored_bytes=stored_bytes,
        codec=_CODECS[compression],
    )
    entry.set(ColumnChunk.META_DATA, WireType.STRUCT, metadata)
    if index is not None:
        entry.set(ColumnChunk.OFFSET_INDEX_OFFSET, WireType.I64, index[0])
        entry.set(ColumnChunk.OFFSET_INDEX_LENGTH, WireType.I32, index[1])
    row_group.set_list(RowGroup.COLUMNS, WireType.STRUCT, [entry])
    row_group.set(_TOTAL_BYTE_SIZE_FIELD, WireType.I64, plain_bytes)
    row_group.set(RowGroup.NUM_ROWS, WireType.I64, rows)
    row_group.set(RowGroup.FILE_OFFSET, WireType.I64, start)
    row_group.set(RowGroup.TOTAL_COMPRESSED_SIZE, WireType.I64, stored_bytes)
    row_group.set(RowGroup.ORDINAL, WireType.I16, ordinal)
    return encode_in_place(row_group)


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
    index.set_list(PageLocation.LIST, WireType.STRUCT, locations)
    return encode_struct(index)
