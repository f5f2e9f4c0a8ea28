"""Make column chunks that hold nulls only, for columns that a reader may not see. Which those are is left to shown.

A data page (v1) without any value, uncompressed::

    page header || repetition levels || definition levels

Levels, each only where the column has such levels at all::

    length (4, little endian) || run length (varint, shifted left by one) || 0

A definition level of 0 says that the root of the column is null, or empty where the root itself is repeated; a
repetition level of 0 begins a row. So every leaf below one root has one entry for each row, whatever its depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipecrypt.parquet.columns import LeafColumn, physical_type_code
from pipecrypt.parquet.wire.fields import ColumnMetaData, PageHeader, PageType, SchemaElement
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_struct, encode_varint

__all__ = ["PAGE_ROWS", "LeafLevels", "column_metadata", "leaf_levels", "make_root_optional", "null_pages"]

_REQUIRED: Final = 0
_OPTIONAL: Final = 1
_REPEATED: Final = 2
_PLAIN: Final = 0
_RLE: Final = 3
PAGE_ROWS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LeafLevels:
    """How deep a leaf column lies.

    Args:
        root: the index of its root among the schema's elements.
        definition: its highest definition level.
        repetition: its highest repetition level.
    """

    root: int
    definition: int
    repetition: int


def leaf_levels(schema: Sequence[Struct]) -> list[LeafLevels]:
    """Return the levels of all leaves of a schema that was checked to be a tree."""
    found: list[LeafLevels] = []
    # Children to come, root, and the levels of the nodes above.
    above: list[list[int]] = [[schema[0].integer(SchemaElement.NUM_CHILDREN) or 0, 0, 0, 0]]
    for index, element in enumerate(schema[1:], 1):
        while above[-1][0] == 0:
            above.pop()
        above[-1][0] -= 1
        repetition_type = element.integer(SchemaElement.REPETITION_TYPE) or _REQUIRED
        root = index if len(above) == 1 else above[-1][1]
        definition = above[-1][2] + (repetition_type != _REQUIRED)
        repetition = above[-1][3] + (repetition_type == _REPEATED)
        if element.integer(SchemaElement.TYPE) is None:
            above.append([element.integer(SchemaElement.NUM_CHILDREN) or 0, root, definition, repetition])
        else:
            found.append(LeafLevels(root, definition, repetition))
    return found


def make_root_optional(element: Struct) -> bool:
    """Let a required root be null; say whether it was required, so that its leaves have one more definition level."""
    if (element.integer(SchemaElement.REPETITION_TYPE) or _REQUIRED) != _REQUIRED:
        return False
    element.set(SchemaElement.REPETITION_TYPE, WireType.I32, _OPTIONAL)
    return True


def null_pages(levels: LeafLevels, rows: int) -> bytes:
    """Return the pages of a chunk of `rows` nulls."""
    pages = bytearray()
    for start in range(0, max(rows, 1), PAGE_ROWS):
        count = min(PAGE_ROWS, rows - start)
        body = _run(levels.repetition, count) + _run(levels.definition, count)
        pages += encode_struct(_page_header(count, len(body))) + body
    return bytes(pages)


def _run(highest: int, count: int) -> bytes:
    if not highest:
        return b""
    width_bytes = (highest.bit_length() + 7) // 8
    run = encode_varint(count << 1) + bytes(width_bytes)
    return len(run).to_bytes(4, "little") + run


def _page_header(values: int, body_bytes: int) -> Struct:
    data, header = Struct(), Struct()
    for field, value in enumerate((values, _PLAIN, _RLE, _RLE), PageHeader.NUM_VALUES):
        data.set(field, WireType.I32, value)
    header.set(PageHeader.TYPE, WireType.I32, PageType.DATA)
    header.set(PageHeader.UNCOMPRESSED_PAGE_SIZE, WireType.I32, body_bytes)
    header.set(PageHeader.COMPRESSED_PAGE_SIZE, WireType.I32, body_bytes)
    header.set(PageHeader.DATA_PAGE_HEADER, WireType.STRUCT, data)
    return header


def column_metadata(leaf: LeafColumn, *, values: int, start: int, length: int) -> Struct:
    """Return the metadata of an uncompressed chunk without dictionary.

    Args:
        leaf: the column.
        values: how many entries it has.
        start: offset of its first page.
        length: bytes of its pages.
    """
    metadata = Struct()
    metadata.set(ColumnMetaData.TYPE, WireType.I32, physical_type_code(leaf))
    metadata.set_list(ColumnMetaData.ENCODINGS, WireType.I32, [_PLAIN, _RLE])
    metadata.set_list(ColumnMetaData.PATH_IN_SCHEMA, WireType.BINARY, [name.encode() for name in leaf.path])
    metadata.set(ColumnMetaData.CODEC, WireType.I32, 0)
    metadata.set(ColumnMetaData.NUM_VALUES, WireType.I64, values)
    metadata.set(ColumnMetaData.TOTAL_UNCOMPRESSED_SIZE, WireType.I64, length)
    metadata.set(ColumnMetaData.TOTAL_COMPRESSED_SIZE, WireType.I64, length)
    metadata.set(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, start)
    return metadata
