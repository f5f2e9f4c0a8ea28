"""The limits of the encryption format, checked before the first byte is written. Counting pages is left to pages.

Ordinals are signed 16 bits: at most 32,767 row groups, columns, and data pages of a chunk (Encryption.md 4.4.2).
A key serves at most 2^32 invocations with random nonces (SP 800-38D 8.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipecrypt.crypto.aead import MAX_INVOCATIONS
from pipecrypt.errors import FormatError, LimitError
from pipecrypt.parquet.chunks import Chunk, locate_pages
from pipecrypt.parquet.page_headers import read_page_header
from pipecrypt.parquet.protocols import CheapSeeks, RangeSource
from pipecrypt.parquet.wire.fields import ColumnChunk, PageType
from pipecrypt.parquet.wire.modules import MAX_ORDINALS
from pipecrypt.parquet.wire.thrift_read import read_list_start

__all__ = ["check_counts", "check_invocations", "check_page_count", "most_modules"]

_SMALLEST_PAGE_BYTES: Final = 8  # type, two sizes and a page type's own header, with their field headers
_MODULES_PER_PAGE: Final = 2
_OTHER_MODULES: Final = 8  # metadata, indexes, Bloom filter, dictionary page, with room to spare
_HEADER_WINDOWS: Final = (512, 1 << 20)  # statistics in a page header can be long
_LIST_START_BYTES: Final = 16


def check_counts(row_groups: int, columns: int, name: str) -> None:
    """Check what ordinals can number.

    Raises:
        LimitError: too many row groups or columns.
    """
    for count, what in ((row_groups, "row groups"), (columns, "columns")):
        if count > MAX_ORDINALS:
            raise LimitError(f"{name} has {count} {what}; an encrypted file can number {MAX_ORDINALS}")


def most_modules(chunk: Chunk) -> int:
    """Return an upper bound of the modules that encrypting the chunk makes."""
    return _most_pages(chunk) * _MODULES_PER_PAGE + _OTHER_MODULES


def check_invocations(modules_by_key: Mapping[object, int], name: str) -> None:
    """Check that no data key can be used more often than GCM allows; `modules_by_key` holds upper bounds.

    Raises:
        LimitError: a key would serve too many modules.
    """
    for modules in modules_by_key.values():
        if modules > MAX_INVOCATIONS:
            raise LimitError(
                f"{name} would need {modules} encryptions under one data key; the limit is {MAX_INVOCATIONS}",
                hint="use data_keys: batch, and no uniform encryption",
            )


def _most_pages(chunk: Chunk) -> int:
    return min(MAX_ORDINALS, locate_pages(chunk).declared_bytes // _SMALLEST_PAGE_BYTES) + 1


def check_page_count(source: RangeSource, chunk: Chunk, body_end: int) -> None:
    """Check that page ordinals can number the pages of a chunk that will be encrypted.

    Most chunks are too small, or have too few values, to exceed the limit. The others are counted by their offset
    index, or by walking their page headers where seeking is cheap. A remote chunk without an offset index is counted
    when it is encrypted, before anything is published.

    Raises:
        LimitError: too many pages in a chunk.
    """
    place = locate_pages(chunk)
    if place.num_values <= MAX_ORDINALS or place.declared_bytes // _SMALLEST_PAGE_BYTES <= MAX_ORDINALS:
        return
    if _count_pages(source, chunk, body_end) > MAX_ORDINALS:
        raise LimitError(f"{chunk.what} has more than {MAX_ORDINALS} pages; an encrypted file cannot number them")


def _count_pages(source: RangeSource, chunk: Chunk, body_end: int) -> int:
    entry = chunk.entry
    offset = entry.integer(ColumnChunk.OFFSET_INDEX_OFFSET)
    length = entry.integer(ColumnChunk.OFFSET_INDEX_LENGTH)
    if offset is not None and length:
        start = bytes(source.read_range(offset, min(length, _LIST_START_BYTES)))
        try:
            return read_list_start(start)[0]
        except IndexError:
            raise FormatError(f"offset index of {chunk.what} is malformed") from None
    if isinstance(source, CheapSeeks) and source.seeks_cheaply:
        return _walk_headers(source, chunk, body_end)
    return 0


def _walk_headers(source: RangeSource, chunk: Chunk, body_end: int) -> int:
    place = locate_pages(chunk)
    count, position, end = 0, place.start, place.start + place.declared_bytes
    while position < end and count <= MAX_ORDINALS:
        kind, page_bytes = _read_header_at(source, position, body_end - position, chunk.what)
        count += kind != PageType.DICTIONARY
        position += page_bytes
    return count


def _read_header_at(source: RangeSource, position: int, room: int, what: str) -> tuple[int, int]:
    for window in _HEADER_WINDOWS:
        try:
            page = read_page_header(source.read_range(position, min(window, room)), 0, what)
        except FormatError:
            if window == _HEADER_WINDOWS[-1] or window >= room:
                raise
        else:
            return page.kind, page.end
    raise AssertionError("the last window returns or raises")
