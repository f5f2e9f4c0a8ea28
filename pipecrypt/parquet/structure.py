"""Check that a file's footer describes a possible file: all its parts in the body, its counts in agreement.

It takes no key where the footer is readable. Whether the parts are those that were written, digests and tags tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipecrypt.errors import FormatError
from pipecrypt.parquet.chunks import Chunk, RowGroups, row_count
from pipecrypt.parquet.columns import leaf_columns
from pipecrypt.parquet.footer import StoredFooter
from pipecrypt.parquet.layout import Part, chunk_parts, order_segments
from pipecrypt.parquet.limits import check_counts
from pipecrypt.parquet.opened import OpenedFile, is_sealed
from pipecrypt.parquet.wire.fields import FileMetaData, RowGroup
from pipecrypt.parquet.wire.modules import MODULE_OVERHEAD_BYTES, module_bytes
from pipecrypt.parquet.wire.thrift import Struct

__all__ = ["Structure", "check_opened_structure", "check_structure"]


@dataclass(frozen=True, slots=True)
class Structure:
    """Counts of a file whose structure was checked; None where an encrypted footer hides them.

    Args:
        rows: of the file.
        batches: row groups.
    """

    rows: int | None
    batches: int | None


def check_structure(stored: StoredFooter, name: str) -> Structure:
    """Check what can be checked of a file's structure without a key.

    What must hold: (1) an encrypted footer is one module, which fills its place. Of a readable footer: (2) the file
    has a row count, not negative; (3) an encrypted file has no more row groups and columns than ordinals number; (4)
    each row group has one chunk for each leaf column of the schema; (5) a row group that names its ordinal lies at
    it; (6) row groups have row counts, not negative, whose sum is the file's; (7) each part that a chunk names lies
    in the body, and over no other part. A chunk whose metadata is hidden is left out of (7).

    Args:
        stored: the footer, which can still be opened afterwards.
        name: what errors call the file.

    Raises:
        FormatError: one of these does not hold, or something is malformed.
        LimitError: (3) does not hold, or there are more chunks than memory should hold.
        UnsupportedError: a chunk lies in another file, or its offset index before its pages.
    """
    if stored.metadata is None:
        if stored.sealed is None:
            raise AssertionError("a footer that is not encrypted is readable")
        _check_module(stored.sealed.stored, f"footer of {name}")  # (1)
        return Structure(None, None)
    footer, is_encrypted = stored.metadata, stored.sealed is not None
    leaves = leaf_columns(footer.structs(FileMetaData.SCHEMA), name)
    row_groups = RowGroups(footer, leaves, name, is_sealed=is_encrypted)
    if is_encrypted:
        check_counts(len(row_groups), len(leaves), name)  # (3)
    return _check_row_groups(footer, row_groups, row_groups.chunks, stored.body_end, name)


def check_opened_structure(opened: OpenedFile, body_end: int) -> Structure:
    """Check the structure of a file that is open, as `check_structure` does, whatever its footer mode.

    Args:
        opened: the file; opening made sure of (1) and (3). Where it lacks a key, hidden metadata is left out.
        body_end: where its footer begins.

    Raises:
        FormatError: something does not hold.
        LimitError: there are more chunks than memory should hold.
        UnsupportedError: a chunk lies in another file, or its offset index before its pages.
        AccessError: a key is missing or was refused.
        IntegrityError: metadata was not written with its key at its place.
    """
    return _check_row_groups(opened.footer, opened.row_groups, opened.open_row_group, body_end, opened.name)


def _check_module(module: memoryview, what: str) -> None:
    if module_bytes(module, 0, what) != len(module) or len(module) < MODULE_OVERHEAD_BYTES:
        raise FormatError(f"{what} has a wrong module length")


def _check_row_groups(
    footer: Struct, row_groups: RowGroups, chunks_of: Callable[[int], list[Chunk]], body_end: int, name: str
) -> Structure:
    row_groups.check_size()
    rows, found = row_count(footer, name), 0  # (2)
    parts: list[Part] = []
    for index in row_groups.ordinals:
        for chunk in chunks_of(index):  # (4)
            if chunk.metadata.entries or not is_sealed(chunk):
                parts += chunk_parts(chunk)
        found += _rows(row_groups.struct(index), index, name)
        row_groups.release(index)
    if found != rows:  # (6)
        raise FormatError(f"{name} has {rows} rows, its row groups have {found}")
    order_segments(parts, body_end, row_groups)  # (7)
    return Structure(rows, len(row_groups))


def _rows(row_group: Struct, index: int, name: str) -> int:
    ordinal, rows = row_group.integer(RowGroup.ORDINAL), row_group.integer(RowGroup.NUM_ROWS)
    if ordinal is not None and ordinal != index:  # (5)
        raise FormatError(f"{name} row group {index} says that it is number {ordinal}")
    if rows is None or rows < 0:  # (6)
        raise FormatError(f"{name} row group {index} has no row count")
    return rows
