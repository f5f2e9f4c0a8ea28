"""A file's column chunks as the footer describes them, checked.

Row groups are opened when they are needed and closed when they are done: opened, a footer takes many times its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipecrypt.errors import FormatError, LimitError, UnsupportedError
from pipecrypt.parquet.footer.columns import LeafColumn, leaf_columns, physical_type_code
from pipecrypt.parquet.wire.fields import (
    COLUMN_META_DATA,
    ROW_GROUP,
    ROW_GROUP_INDEXES,
    SEALED_ROW_GROUP,
    ColumnChunk,
    ColumnCrypto,
    ColumnMetaData,
    FileMetaData,
    RowGroup,
)
from pipecrypt.parquet.wire.modules import MAX_ORDINALS
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_in_place, encoded_bytes, keep_encoded
from pipecrypt.parquet.wire.thrift_read import COST_FACTOR, Allowance, open_encoded

__all__ = [
    "Chunk",
    "PagePlace",
    "RowGroups",
    "check_counts",
    "locate_pages",
    "plain_metadata",
    "row_count",
]

# A footer with no more chunks than this stays open once it was read; of a larger one, only what is at work.
# Not Final, nor is the number below, because compiled code has such constants in it, and tests try small ones.
_OPEN_CHUNKS = 2_048
# What the row groups that are open at a time may take of memory: at least what 32,767 columns take in one of them.
_LEAST_OPEN: Final = 96 << 20
_MOST_OPEN: Final = 384 << 20
_CHUNK_COST: Final = 320  # a Chunk and what errors call it
# Of all chunks of a file, a few numbers are kept while it is worked with: up to three parts of a chunk in plaintext.
_MAX_CHUNKS = 1_000_000
_NUMBERS_COST: Final = 900
_PLAIN: Final = 0
_RLE: Final = 3


@dataclass(slots=True)
class Chunk:
    """One column of one row group.

    Args:
        row_group: ordinal of the row group.
        column: ordinal of the leaf column.
        leaf: the column.
        entry: the ColumnChunk struct.
        what: what errors call it.
        stored_metadata: its metadata as it was decrypted, where that was so, to be passed on unchanged.
        place: what `locate_pages` found, until the metadata changes.
        allowance: what opening its metadata is charged to.
    """

    row_group: int
    column: int
    leaf: LeafColumn
    entry: Struct
    what: str
    stored_metadata: bytes | None = None
    place: PagePlace | None = None
    allowance: Allowance | None = None
    _metadata: Struct | None = None

    @property
    def ordinals(self) -> tuple[int, int]:
        """Its row group and its column."""
        return self.row_group, self.column

    @property
    def is_sealed(self) -> bool:
        """Whether it is encrypted."""
        return self.entry.has(ColumnChunk.CRYPTO_METADATA)

    @property
    def column_key(self) -> Struct | None:
        """What names its own data key; None where it is plaintext, or under the footer's."""
        crypto = self.entry.struct(ColumnChunk.CRYPTO_METADATA)
        return None if crypto is None else crypto.struct(ColumnCrypto.WITH_COLUMN_KEY)

    @property
    def metadata(self) -> Struct:
        """Its ColumnMetaData: what was set or, before that, what the entry shows; empty where it shows none.

        Raises:
            FormatError: malformed.
        """
        if self._metadata is None:
            shown = self.entry.struct(ColumnChunk.META_DATA)
            if shown is None:
                self._metadata = Struct()
            else:
                what = f"metadata of {self.what}"
                self._metadata = open_encoded(shown, COLUMN_META_DATA, what, allowance=self.allowance)
                self.entry.set(ColumnChunk.META_DATA, WireType.STRUCT, self._metadata)
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Struct) -> None:
        self._metadata = metadata
        self.place = None


class PagePlace(NamedTuple):
    """Where a chunk's pages lie.

    Args:
        start: offset of the first page.
        declared_bytes: total_compressed_size.
        num_values: values of all data pages.
    """

    start: int
    declared_bytes: int
    num_values: int


class RowGroups:
    """The row groups of a footer, opened one at a time and written back into it.

    Args:
        footer: the footer, whose list of row groups is changed in place.
        name: what errors call the file.
        is_sealed: the file is encrypted.
        first: ordinal of the first one, where the file is one of several that become one.

    Attributes:
        leaves: the columns of its schema.

    Raises:
        FormatError: the schema is malformed.
        LimitError: it has more columns than an encrypted file can number, or too many names.
    """

    def __init__(self, footer: Struct, name: str, *, is_sealed: bool = False, first: int = 0) -> None:
        """Read the schema; open nothing yet."""
        self.leaves = leaf_columns(footer, name)
        self._shape = SEALED_ROW_GROUP if is_sealed else ROW_GROUP
        self._structs = footer.structs(FileMetaData.ROW_GROUPS)
        self._columns = [f"column {leaf.dotted!r}" for leaf in self.leaves]
        self._name = name
        self._first = first
        self._open: dict[int, tuple[Struct, list[Chunk]]] = {}
        self._encoded_bytes = sum(len(encoded_bytes(each) or b"") for each in self._structs)
        self._allowance = Allowance(0)

    def __len__(self) -> int:
        return len(self._structs)

    @property
    def ordinals(self) -> range:
        """The ordinals of the row groups, by which all methods name them."""
        return range(self._first, self._first + len(self._structs))

    def each_chunk(self) -> Iterator[Chunk]:
        """Yield all chunks; of a large footer, one row group is open at a time. Raises what `chunks` raises."""
        for index in self.ordinals:
            yield from self.chunks(index)
            self.release(index)

    def is_open(self, index: int) -> bool:
        """Return whether the row group is open."""
        return index in self._open

    def chunks(self, index: int) -> list[Chunk]:
        """Return the row group's chunks by column, opening it if need be.

        Raises:
            FormatError: malformed, or row group and schema disagree.
            LimitError: those that are open take more memory than their bytes explain.
            UnsupportedError: a chunk lies in another file.
        """
        if index not in self._open:
            if not self._open:  # what was closed is given back
                self._allowance = Allowance(self._encoded_bytes, least=_LEAST_OPEN, most=_MOST_OPEN)
            stored, what = self._structs[index - self._first], f"footer of {self._name}"
            self._allowance.charge(len(self.leaves) * _CHUNK_COST, what)
            opened = open_encoded(stored, self._shape, what, allowance=self._allowance)
            chunks = self._chunks_of(index, opened.structs(RowGroup.COLUMNS))
            self._structs[index - self._first] = opened
            self._open[index] = (stored, chunks)
        return self._open[index][1]

    def _chunks_of(self, index: int, entries: list[Struct]) -> list[Chunk]:
        name = f"{self._name} row group {index}"
        if len(entries) != len(self.leaves):
            raise FormatError(f"{name} has {len(entries)} columns, its schema has {len(self.leaves)}")
        chunks = []
        for column, (entry, leaf, named) in enumerate(zip(entries, self.leaves, self._columns, strict=True)):
            what = f"{name} {named}"
            if entry.has(ColumnChunk.FILE_PATH):
                raise UnsupportedError(f"{what} lies in another file")
            chunks.append(Chunk(index, column, leaf, entry, what, allowance=self._allowance))
        return chunks

    def check_size(self) -> None:
        """Check that a few numbers of each chunk fit into memory.

        Raises:
            LimitError: they would not, or are more than the footer's bytes explain.
        """
        count = len(self._structs) * len(self.leaves)
        if count > _MAX_CHUNKS or count * _NUMBERS_COST > max(_LEAST_OPEN, COST_FACTOR * self._encoded_bytes):
            raise LimitError(f"footer of {self._name} has {count} column chunks, more than can be worked with")

    def struct(self, index: int) -> Struct:
        """Return the row group itself, open."""
        self.chunks(index)
        return self._structs[index - self._first]

    def rows(self, index: int) -> int:
        """Return how many rows a row group has.

        Raises:
            FormatError: it does not say.
        """
        rows = self.struct(index).integer(RowGroup.NUM_ROWS)
        if rows is None or rows < 0:
            raise FormatError(f"{self._name} row group {index} has no row count")
        return rows

    def release(self, index: int) -> None:
        """Forget that an unchanged row group was opened, unless the footer is small."""
        if self._is_large:
            self._structs[index - self._first], _ = self._open.pop(index)

    def close(self, index: int) -> None:
        """End changing a row group; of a large footer, keep its bytes only."""
        if self._is_large:
            self._structs[index - self._first] = encode_in_place(self.struct(index))
        del self._open[index]

    def replace(self, index: int, encoded: bytes) -> None:
        """End changing a row group that another process changed, and encoded."""
        self._open.pop(index, None)
        self._structs[index - self._first] = keep_encoded(encoded)

    def place_indexes(self, index: int, places: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Write into a closed row group where indexes are: column, field and value of offset, likewise of length."""
        at = index - self._first
        opened = open_encoded(self._structs[at], ROW_GROUP_INDEXES, f"footer of {self._name}")
        entries = opened.structs(RowGroup.COLUMNS)
        for column, offset_field, offset, length_field, length in places:
            entries[column].set(offset_field, WireType.I64, offset)
            entries[column].set(length_field, WireType.I32, length)
        self._structs[at] = encode_in_place(opened) if self._is_large else opened

    @property
    def _is_large(self) -> bool:
        return len(self._structs) * len(self.leaves) > _OPEN_CHUNKS

    def what(self, row_group: int, column: int) -> str:
        """Return what errors call a chunk."""
        return f"{self._name} row group {row_group} {self._columns[column]}"


def locate_pages(chunk: Chunk) -> PagePlace:
    """Return where the chunk's pages lie, as its metadata declares it.

    A dictionary page, where there is one, comes first. Some writers leave `dictionary_page_offset` 0 or out and let
    `data_page_offset` point to the dictionary page; others, with no pages at all, write an offset of none.

    Raises:
        FormatError: a required field is missing or negative.
    """
    if chunk.place is None:
        metadata = chunk.metadata
        data_page = _required(chunk, metadata, ColumnMetaData.DATA_PAGE_OFFSET)
        dictionary = metadata.integer(ColumnMetaData.DICTIONARY_PAGE_OFFSET) or 0
        start = dictionary if dictionary > 0 and (dictionary < data_page or data_page == 0) else data_page
        chunk.place = PagePlace(
            start,
            _required(chunk, metadata, ColumnMetaData.TOTAL_COMPRESSED_SIZE),
            _required(chunk, metadata, ColumnMetaData.NUM_VALUES),
        )
    return chunk.place


def _required(chunk: Chunk, metadata: Struct, field: int) -> int:
    value = metadata.integer(field)
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


def check_counts(row_groups: int, columns: int, name: str) -> None:
    """Check what ordinals can number.

    Raises:
        LimitError: too many row groups or columns.
    """
    for count, what in ((row_groups, "row groups"), (columns, "columns")):
        if count > MAX_ORDINALS:
            raise LimitError(f"{name} has {count} {what}; an encrypted file can number {MAX_ORDINALS}")


def plain_metadata(
    leaf: LeafColumn, *, values: int, start: int, plain_bytes: int, stored_bytes: int | None = None, codec: int = 0
) -> Struct:
    """Return the metadata of a plaintext chunk without dictionary, its values PLAIN and its levels RLE.

    Args:
        leaf: the column.
        values: how many entries it has.
        start: offset of its first page.
        plain_bytes: of its pages, headers included, uncompressed.
        stored_bytes: the same as they are stored; None for the same number.
        codec: what pages are compressed with; 0 for nothing.
    """
    metadata = Struct()
    metadata.set(ColumnMetaData.TYPE, WireType.I32, physical_type_code(leaf))
    metadata.set_list(ColumnMetaData.ENCODINGS, WireType.I32, [_PLAIN, _RLE])
    metadata.set_list(ColumnMetaData.PATH_IN_SCHEMA, WireType.BINARY, [name.encode() for name in leaf.path])
    metadata.set(ColumnMetaData.CODEC, WireType.I32, codec)
    metadata.set(ColumnMetaData.NUM_VALUES, WireType.I64, values)
    metadata.set(ColumnMetaData.TOTAL_UNCOMPRESSED_SIZE, WireType.I64, plain_bytes)
    stored_bytes = plain_bytes if stored_bytes is None else stored_bytes
    metadata.set(ColumnMetaData.TOTAL_COMPRESSED_SIZE, WireType.I64, stored_bytes)
    metadata.set(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, start)
    return metadata
