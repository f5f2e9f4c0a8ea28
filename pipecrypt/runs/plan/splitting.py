"""Share a very large Parquet file out among tasks, by row groups. Showing a share as a file is left to parquet.

The shares depend on the file and the size of a task alone, not on how many workers there are: so every run that plans
the same file has the same tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Final

from pipecrypt.errors import AlreadyEncryptedError, ContentError
from pipecrypt.parquet.files import row_group_sizes
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.source import open_range_source

__all__ = ["Share", "share_out", "shares_of_each"]

# Names of outputs have so many numbers of equal length, which keep them in order.
_MOST_SHARES: Final = 100_000
_READ_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Share:
    """A task's share of a file.

    Args:
        row_groups: which row groups of the file.
        size_bytes: how much of the file's size counts as theirs.
    """

    row_groups: range
    size_bytes: int


def shares_of_each(sources: Sequence[SourceFile], split_bytes: int) -> tuple[tuple[Share, ...], ...]:
    """Return the shares of each Parquet file; none of a file that stays whole.

    Only the footers of files of at least twice `split_bytes` are read. A file that is encrypted, or whose footer
    cannot be read, stays whole: whoever encrypts it says what is wrong.

    Raises:
        ConflictError: a file is not, or no longer, the one that was pinned.
        StorageError: the storage refused or failed.
    """
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="pipecrypt-footers") as threads:
        return tuple(threads.map(lambda source: _shares(source, split_bytes), sources))


def _shares(source: SourceFile, split_bytes: int) -> tuple[Share, ...]:
    if source.size_bytes < 2 * split_bytes:
        return ()
    try:
        with open_range_source(source) as file:
            sizes = row_group_sizes(file)
    except (AlreadyEncryptedError, ContentError):
        return ()
    return share_out(sizes, source.size_bytes, split_bytes)


def share_out(sizes: Sequence[int], file_bytes: int, split_bytes: int) -> tuple[Share, ...]:
    """Return shares of about `split_bytes`, of one row group at least; none where there would be only one share.

    Args:
        sizes: of the row groups, in bytes.
        file_bytes: what the sizes of all shares add up to.
        split_bytes: how large a share is due to be.
    """
    total = sum(sizes)
    parts = min(file_bytes // split_bytes, _MOST_SHARES)
    if total == 0 or parts < 2:
        return ()
    ends = [0, *accumulate(sizes)]

    def part_of(index: int) -> int:
        middle = ends[index] + ends[index + 1]  # twice that
        return min(middle * parts // (2 * total), parts - 1)

    ranges = [list(indexes) for _, indexes in groupby(range(len(sizes)), part_of)]
    if len(ranges) < 2:
        return ()
    # In proportion, because magic, footer and gaps count too; no byte is lost to rounding.
    bounds = [file_bytes * ends[indexes[0]] // total for indexes in ranges] + [file_bytes]
    return tuple(
        Share(range(indexes[0], indexes[-1] + 1), end - start)
        for indexes, start, end in zip(ranges, bounds, bounds[1:], strict=False)
    )
