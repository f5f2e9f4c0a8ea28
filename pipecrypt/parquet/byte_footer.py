"""Write the plaintext footer and offset index of a file of chunks. Where chunks lie is left to byte_layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pipecrypt.parquet.byte_entry import ChunkCompression
from pipecrypt.parquet.footer import encode_plain_footer
from pipecrypt.parquet.wire.fields import (
    ColumnChunk,
    ColumnMetaData,
    FileMetaData,
    OffsetIndex,
    PageLocation,
    RowGroup,
    SchemaElement,
)
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType, encode_in_place, encode_struct

__all__ = ["CHUNK_COLUMN", "CODECS", "RowGroupPlace", "plain_footer", "plain_offset_index"]

CHUNK_COLUMN: Final = "chunk"
CODECS: Final = {ChunkCompression.NONE: 0, ChunkCompression.ZSTD: 6}
_BYTE_ARRAY: Final = 6
_REQUIRED: Final = 0
_ENCODINGS: Final = (0, 3)  # PLAIN for values, RLE for levels
_FORMAT_VERSION: Final = 2
_CREATED_BY: Final = b"pipecrypt"
# Fields that encryption does not touch, so that names.py does not list them.
_VERSION_FIELD: Final = 1
_REPETITION_FIELD: Final = 3
_TOTAL_BYTE_SIZE_FIELD: Final = 2
_TYPE_FIELD: Final = 1
_ENCODINGS_FIELD: Final = 2
_CODEC_FIELD: Final = 4
_TOTAL_UNCOMPRESSED_FIELD: Final = 6
_FIRST_ROW_FIELD: Final = 3


@dataclass(frozen=True, slots=True)
class RowGroupPlace:
    """One row group of a plaintext file.

    Args:
        ordinal: in the file that it becomes part of.
        start: offset of its first page.
        rows: how many chunks.
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


def plain_footer(places: Sequence[RowGroupPlace], compression: ChunkCompression) -> bytes:
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
    leaf.set(SchemaElement.TYPE, WireType.I32, _BYTE_ARRAY)
    leaf.set(_REPETITION_FIELD, WireType.I32, _REQUIRED)
    leaf.set(SchemaElement.NAME, WireType.BINARY, CHUNK_COLUMN.encode())
    return [root, leaf]


def _row_group(place: RowGroupPlace, codec: int) -> Struct:
    row_group, entry = Struct(), Struct()
    # A place of the metadata that is no page's is written as 0, which every encrypted file may keep.
    entry.set(ColumnChunk.FILE_OFFSET, WireType.I64, 0)
    entry.set(ColumnChunk.META_DATA, WireType.STRUCT, _metadata(place, codec))
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


def _metadata(place: RowGroupPlace, codec: int) -> Struct:
    metadata = Struct()
    metadata.set(_TYPE_FIELD, WireType.I32, _BYTE_ARRAY)
    metadata.set_list(_ENCODINGS_FIELD, WireType.I32, list(_ENCODINGS))
    metadata.set_list(ColumnMetaData.PATH_IN_SCHEMA, WireType.BINARY, [CHUNK_COLUMN.encode()])
    metadata.set(_CODEC_FIELD, WireType.I32, codec)
    metadata.set(ColumnMetaData.NUM_VALUES, WireType.I64, place.rows)
    metadata.set(_TOTAL_UNCOMPRESSED_FIELD, WireType.I64, place.plain_bytes)
    metadata.set(ColumnMetaData.TOTAL_COMPRESSED_SIZE, WireType.I64, place.stored_bytes)
    metadata.set(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, place.start)
    return metadata


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
