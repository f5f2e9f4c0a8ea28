"""Show some row groups of a plaintext table as a file of their own.

Nothing moves, so every offset stays true::

    bytes 0 to the footer of the file, as they are || FileMetaData of the chosen row groups || length (4) || "PAR1"

What belongs to the other row groups lies there as gaps, which the walks leave out. Memory is bounded by the footer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipecrypt.errors import FormatError
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.segments import chunk_parts
from pipecrypt.parquet.footer.stored import MAGIC_BYTES, encode_plain_footer, read_plain_footer
from pipecrypt.parquet.wire.fields import FileMetaData, RowGroup
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType
from pipecrypt.vocabulary.ranges import RangeSource, read_each, read_into, traits_of

__all__ = ["row_group_sizes", "slice_row_groups"]

_NO_BYTES: Final = memoryview(b"")


def row_group_sizes(source: RangeSource) -> list[int]:
    """Return how many bytes each row group of a plaintext file has, its indexes included.

    Bloom filters of unknown length are left out.

    Raises:
        AlreadyEncryptedError: the file is encrypted.
        ContentError: no Parquet file, truncated or malformed.
    """
    row_groups = RowGroups(read_plain_footer(source)[0], source.name)
    sizes = []
    for index in row_groups.ordinals:
        sizes.append(_declared_bytes(row_groups, index))
        row_groups.release(index)
    return sizes


def slice_row_groups(source: RangeSource, chosen: range) -> RowGroupSlice:
    """Return the file that has only the chosen row groups of a plaintext file, numbered from 0.

    Everything else that the footer says is kept, also what is newer than this code.

    Args:
        source: the file; it stays open for as long as the slice is read.
        chosen: which row groups, one behind the other.

    Raises:
        AlreadyEncryptedError: the file is encrypted.
        ContentError: no Parquet file, truncated or malformed; or it has no such row groups.
    """
    footer, body_end = read_plain_footer(source)
    all_row_groups: list[Value] = [*footer.structs(FileMetaData.ROW_GROUPS)]
    if not 0 <= chosen.start < chosen.stop <= len(all_row_groups) or chosen.step != 1:
        what = f"row groups {chosen.start} to {chosen.stop - 1} are due"
        raise FormatError(f"{source.name} has {len(all_row_groups)} row groups, but {what}")
    footer.set_list(FileMetaData.ROW_GROUPS, WireType.STRUCT, all_row_groups[chosen.start : chosen.stop])
    name = f"{source.name} (from row group {chosen.start} on)"
    part_bytes = MAGIC_BYTES + _renumber(footer, name)
    end = b"".join(encode_plain_footer(footer))
    return RowGroupSlice(source, body_end, end, name=name, part_bytes=part_bytes + len(end))


def _declared_bytes(row_groups: RowGroups, index: int) -> int:
    return sum(length for chunk in row_groups.chunks(index) for _, length, *_ in chunk_parts(chunk))


def _renumber(footer: Struct, name: str) -> int:
    """Make rows and ordinals those of the row groups that the footer has now; return how many bytes these declare."""
    row_groups, rows, declared_bytes = RowGroups(footer, name), 0, 0
    for index in row_groups.ordinals:
        struct = row_groups.struct(index)
        rows += row_groups.rows(index)
        declared_bytes += _declared_bytes(row_groups, index)
        if struct.has(RowGroup.ORDINAL):
            struct.set(RowGroup.ORDINAL, WireType.I16, index)
        row_groups.close(index)
    footer.set(FileMetaData.NUM_ROWS, WireType.I64, rows)
    return declared_bytes


class RowGroupSlice:
    """A range source over some row groups of another one; made by `slice_row_groups`.

    Args:
        source: the whole file.
        body_end: where its footer begins.
        end: footer and end of the slice.
        name: what errors call the slice.
        part_bytes: size of the file that the chosen row groups alone would be.
    """

    def __init__(self, source: RangeSource, body_end: int, end: bytes, *, name: str, part_bytes: int) -> None:
        """Read nothing."""
        self._source = source
        self._body_end = body_end
        self._end = memoryview(end)
        self.name = name
        self.size_bytes = body_end + len(end)
        self.traits = replace(traits_of(source), part_bytes=part_bytes)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`; the view is valid until the next call.

        Raises:
            FormatError: the file is shorter than that.
            StorageError: the storage failed.
        """
        self._check(start, length)
        end = self._end_of(start, length)
        if not end:
            return self._source.read_range(start, length)
        if len(end) == length:
            return end
        return memoryview(bytes(self._source.read_range(start, length - len(end))) + end)

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""
        self._check(start, len(out))
        end = self._end_of(start, len(out))
        body = out[: len(out) - len(end)]
        if len(body):
            read_into(self._source, start, body)
        out[len(body) :] = end

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length); raises what `read_range` raises."""
        return read_each(self, ranges)

    def _check(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size_bytes:
            raise FormatError(f"{self.name} has {self.size_bytes} bytes, but bytes {start} to {start + length} are due")

    def _end_of(self, start: int, length: int) -> memoryview:
        """Return what of a range lies in the new footer."""
        stop = start + length - self._body_end
        return self._end[max(start - self._body_end, 0) : stop] if stop > 0 else _NO_BYTES
