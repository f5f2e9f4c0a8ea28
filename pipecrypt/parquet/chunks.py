"""A file's column chunks as the footer describes them, checked. Where their parts lie in the file is left to layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.parquet.columns import LeafColumn
from pipecrypt.parquet.names import ColumnChunk, ColumnMetaData, FileMetaData, RowGroup
from pipecrypt.parquet.thrift import Struct

__all__ = ["Chunk", "list_chunks", "locate_pages", "row_count"]


@dataclass(slots=True)
class Chunk:
    """One column of one row group.

    Args:
        row_group: ordinal of the row group.
        column: ordinal of the leaf column.
        leaf: the column.
        entry: the ColumnChunk struct.
        metadata: its ColumnMetaData; of an encrypted chunk, as opened.
        what: what errors call it.
        is_finished: its metadata is final, and kept encoded only, which takes a fraction of the memory.
    """

    row_group: int
    column: int
    leaf: LeafColumn
    entry: Struct
    metadata: Struct
    what: str
    is_finished: bool = False


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Where a chunk's pages lie.

    Args:
        start: offset of the first page.
        declared_bytes: total_compressed_size.
        num_values: values of all data pages.
    """

    start: int
    declared_bytes: int
    num_values: int


def list_chunks(footer: Struct, leaves: Sequence[LeafColumn], name: str) -> list[list[Chunk]]:
    """Return the column chunks, by row group and column. `metadata` is an empty struct where the footer has none.

    Raises:
        FormatError: row groups and schema disagree.
        UnsupportedError: a chunk lies in another file.
    """
    return [
        _row_group_chunks(index, row_group.structs(RowGroup.COLUMNS), leaves, name)
        for index, row_group in enumerate(footer.structs(FileMetaData.ROW_GROUPS))
    ]


def _row_group_chunks(index: int, entries: list[Struct], leaves: Sequence[LeafColumn], name: str) -> list[Chunk]:
    if len(entries) != len(leaves):
        raise FormatError(f"{name} row group {index} has {len(entries)} columns, its schema has {len(leaves)}")
    chunks = []
    for column, (entry, leaf) in enumerate(zip(entries, leaves, strict=True)):
        what = f"{name} row group {index} column {leaf.dotted!r}"
        if entry.has(ColumnChunk.FILE_PATH):
            raise UnsupportedError(f"{what} lies in another file")
        metadata = entry.struct(ColumnChunk.META_DATA) or Struct()
        chunks.append(Chunk(index, column, leaf, entry, metadata, what))
    return chunks


def locate_pages(chunk: Chunk) -> PagePlace:
    """Return where the chunk's pages lie, as its metadata declares it.

    A dictionary page, where there is one, comes first. Some writers leave `dictionary_page_offset` 0 or out and let
    `data_page_offset` point to the dictionary page; others write an offset that is no page's, with no pages at all.

    Raises:
        FormatError: a required field is missing or negative.
    """
    metadata = chunk.metadata
    data_page = _required(chunk, ColumnMetaData.DATA_PAGE_OFFSET)
    dictionary = metadata.integer(ColumnMetaData.DICTIONARY_PAGE_OFFSET) or 0
    start = dictionary if dictionary > 0 and (dictionary < data_page or data_page == 0) else data_page
    return PagePlace(
        start,
        _required(chunk, ColumnMetaData.TOTAL_COMPRESSED_SIZE),
        _required(chunk, ColumnMetaData.NUM_VALUES),
    )


def _required(chunk: Chunk, field: int) -> int:
    value = chunk.metadata.integer(field)
    if value is None or value < 0:
        raise FormatError(f"{chunk.what} has no valid metadata (field {field})")
    return value


def row_count(footer: Struct, name: str) -> int:
    """Return the rows of the file.

    Raises:
        FormatError: the footer does not say.
    """
    rows = footer.integer(FileMetaData.NUM_ROWS)
    if rows is None or rows < 0:
        raise FormatError(f"footer of {name} has no row count")
    return rows
