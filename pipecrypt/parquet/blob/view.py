"""Show the bytes of a blob by range, decrypting the blocks that are hit.

Blocks that follow each other are read in one range, and ahead of a reader that goes front to back. A few of the last
ones are kept. Row groups are opened when a block of theirs is asked for.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Final, Self, TypeAlias

from pipecrypt.errors import FormatError, PipecryptError
from pipecrypt.parquet.blob.decrypt import BlockGroup, OpenedBlob
from pipecrypt.parquet.blob.format import PREFIX_BYTES, ROW_GROUP_BLOCKS
from pipecrypt.parquet.footer.opened import OpenedFile, as_tampering
from pipecrypt.vocabulary.ranges import RangeSource, read_into, traits_of

__all__ = ["BlobView"]

_RANGE_BYTES: Final = 4 << 20  # what is read at once, at most, unless a single block is larger
_KEPT_BYTES: Final = 8 << 20
_LEAST_KEPT: Final = 2
_KEPT_ROW_GROUPS: Final = 16


# A block in the clear, behind its length prefix, and its length without that.
_Block: TypeAlias = tuple[bytearray, int]


class BlobView:
    """A RangeSource of the original bytes over a blob; a context manager that wipes its keys.

    Several threads may read at once. What is read is authenticated, and that it stands where it stood; whether
    blocks that nobody reads are there, only decrypting the whole file tells.

    Args:
        source: the encrypted file.
        opened: its footer; the view closes it.
        blob: what the footer says.
        is_signed: the footer is a signed one: blocks that are malformed raise IntegrityErrors.
    """

    def __init__(self, source: RangeSource, opened: OpenedFile, blob: OpenedBlob, *, is_signed: bool) -> None:
        """Read nothing yet."""
        self._source = source
        self._is_signed = is_signed
        self._reads_at_once = traits_of(source).reads_in_flight > 0
        self._wipe = weakref.finalize(self, opened.close)
        self._blob = blob
        self._layout = blob.layout
        self._is_open = True
        self._lock = threading.Lock()  # of all that follows
        self._source_lock = threading.RLock()  # of the source, the keys and the row groups
        self._kept: OrderedDict[int, _Block] = OrderedDict()
        self._spare: list[bytearray] = []
        self._spare_sealed = bytearray()
        self._row_groups: OrderedDict[int, BlockGroup] = OrderedDict()
        self._most_kept = max(_LEAST_KEPT, _KEPT_BYTES // self._layout.block_bytes)
        self._most_at_once = max(1, min(_RANGE_BYTES // self._layout.block_bytes, self._most_kept))
        self._expected = -1  # the block that a reader who goes front to back asks for next

    def __enter__(self) -> Self:
        """Return the view."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe all keys and forget all plaintext."""
        self.close()

    def close(self) -> None:
        """Wipe all keys and forget all plaintext. Safe to call twice."""
        with self._source_lock, self._lock:
            self._is_open = False
            self._kept.clear()
            self._spare.clear()
            self._row_groups.clear()
            self._wipe()

    def forget_plaintext(self) -> None:
        """Forget the blocks that are kept; reading goes on."""
        with self._lock:
            self._kept.clear()
            self._spare.clear()  # blocks that were kept before, not overwritten yet

    @property
    def name(self) -> str:
        """The encrypted file's name."""
        return self._source.name

    @property
    def size_bytes(self) -> int:
        """Size of the original."""
        return self._layout.size_bytes

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` of the original bytes from `start`; the view is the caller's own.

        Raises:
            FormatError: the range ends behind the original's end, or the file is malformed.
            IntegrityError: a block is not this file's at its place.
            AccessError: a key is missing or was refused.
        """
        self._check_range(start, length)
        out = memoryview(bytearray(length))
        self.read_into(start, out)
        return out

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length); raises what `read_range` raises."""
        return [self.read_range(start, length) for start, length in ranges]

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the original bytes from `start`; raises what `read_range` raises."""
        self._check_range(start, len(out))
        position, end = start, start + len(out)
        while position < end:
            index, at = divmod(position, self._layout.block_bytes)
            copied = self._copy_kept(index, at, out[position - start :])
            if not copied:
                last = (end - 1) // self._layout.block_bytes
                with as_tampering(is_signed=self._is_signed):
                    copied = self._fetch(index, last, at, out[position - start :])
            position += copied

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("this view is closed")

    def _check_range(self, start: int, length: int) -> None:
        self._check_open()
        if start < 0 or length < 0 or start + length > self.size_bytes:
            raise FormatError(f"{self.name} holds {self.size_bytes} bytes, not {start} to {start + length}")

    def _copy_kept(self, index: int, at: int, out: memoryview) -> int:
        """Copy from a block that is kept; return how many bytes, 0 where it is not."""
        with self._lock:
            kept = self._kept.get(index)
            if kept is None:
                return 0
            self._kept.move_to_end(index)
            return _copy(kept, at, out)

    def _fetch(self, first: int, last: int, at: int, out: memoryview) -> int:
        """Read and open blocks from `first` on, in one range; copy what `out` takes of them, and keep them."""
        row_group, count = self._plan(first, last)
        row = first - row_group.first_block
        start, end = row_group.bounds[row], row_group.bounds[row + count]
        with self._lock:  # fresh buffers would cost page faults, so the longest one is used again
            buffer, self._spare_sealed = self._spare_sealed, bytearray()
        if len(buffer) < end - start:
            buffer = bytearray(end - start)
        sealed, copied = self._read(start, memoryview(buffer)[: end - start]), 0
        for number in range(row, row + count):
            with self._lock:
                room = self._spare.pop() if self._spare else bytearray(PREFIX_BYTES + self._layout.block_bytes)
            page = sealed[row_group.bounds[number] - start : row_group.bounds[number + 1] - start]
            try:
                block = room, self._blob.open_block(row_group, number, page, memoryview(room))
            except PipecryptError:
                if copied == len(out):
                    break  # nobody asked for this block yet
                raise
            copied += _copy(block, at if number == row else 0, out[copied:])
            self._keep(row_group.first_block + number, block)
        with self._lock:
            self._spare_sealed = buffer
        return copied

    def _plan(self, first: int, last: int) -> tuple[BlockGroup, int]:
        """Return the row group of a block and how many blocks to read: those asked for, and some ahead."""
        row_group = self._row_group(first // ROW_GROUP_BLOCKS)
        with self._lock:
            if first == self._expected:
                last = first + self._most_at_once - 1
            count = min(last - first + 1, self._most_at_once, row_group.first_block + row_group.rows - first)
            self._expected = first + count
        return row_group, count

    def _row_group(self, index: int) -> BlockGroup:
        with self._source_lock:
            row_group = self._row_groups.get(index)
            if row_group is None:
                self._check_open()
                row_group = self._blob.row_group(index, self._source)
                self._row_groups[index] = row_group
                if len(self._row_groups) > _KEPT_ROW_GROUPS:
                    self._row_groups.popitem(last=False)
            self._row_groups.move_to_end(index)
            return row_group

    def _read(self, start: int, out: memoryview) -> memoryview:
        with nullcontext() if self._reads_at_once else self._source_lock:
            read_into(self._source, start, out)
        return out

    def _keep(self, index: int, block: _Block) -> None:
        with self._lock:
            if not self._is_open:
                return
            replaced = self._kept.pop(index, None)
            self._kept[index] = block
            if replaced is None and len(self._kept) > self._most_kept:
                _, replaced = self._kept.popitem(last=False)
            if replaced is not None:
                self._spare.append(replaced[0])  # the next block takes its room: fresh memory costs page faults


def _copy(block: _Block, at: int, out: memoryview) -> int:
    data, length = block
    piece = memoryview(data)[PREFIX_BYTES + at : PREFIX_BYTES + length][: len(out)]
    out[: len(piece)] = piece
    return len(piece)
