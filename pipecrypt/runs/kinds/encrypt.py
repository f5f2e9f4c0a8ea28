"""Encrypt a Parquet file without decoding it; a very large one in several tasks, by row groups.

The shares of a large file depend on the file and the size of a task alone, not on how many workers there are: so every
run that plans the same file has the same tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, groupby
from typing import Final

from pipecrypt.dataset.listing import CHUNKS_SUFFIX
from pipecrypt.errors import AlreadyEncryptedError, ContentError, UsageError
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.parquet.files import FileStart, RowGroupSealer, encrypt_file, row_group_sizes, slice_row_groups
from pipecrypt.parquet.policy import EncryptionPolicy, KeyScope
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.output import SignableOutput
from pipecrypt.runs.report.events import FileDone, StageClock
from pipecrypt.runs.task import (
    BeforePublishing,
    Kind,
    OnBytes,
    SourceShape,
    Task,
    TaskHelpers,
    chosen_columns,
    write_one_file,
)
from pipecrypt.store.location import PARQUET_SUFFIXES
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import RangeSource
from pipecrypt.vocabulary.shared_memory import can_share_memory

__all__ = ["LEAST_SHARED_BYTES", "Encryption", "share_out", "table_path"]

LEAST_SHARED_BYTES: Final = 1 << 30  # of a smaller one much is done before other processes have started
# Names of outputs have so many numbers of equal length, which keep them in order.
_MOST_SHARES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Encryption(Kind):
    """Encrypt a Parquet file without decoding it.

    Args:
        policy: which columns under which key.
        row_groups: which of the file's row groups, where several tasks share a large file; None for all.
        share_bytes: how much of the file's size counts as theirs: the shares of all tasks add up to it. None likewise.
    """

    policy: EncryptionPolicy = field()
    row_groups: range | None = None
    share_bytes: int | None = None

    def output_path(self, relative_path: str) -> str:
        """Return the path of the output: that of the source, with a suffix of Parquet."""
        return table_path(relative_path, relative_path)

    def split(self, source: SourceFile, split_bytes: int) -> tuple[Encryption, ...]:
        """Return the tasks that share a file of at least twice `split_bytes`; only of such files the footer is read.

        A file that is encrypted, or whose footer cannot be read, stays whole: whoever encrypts it says what is wrong.
        """
        if source.size_bytes < 2 * split_bytes:
            return ()
        try:
            with open_range_source(source) as file:
                sizes = row_group_sizes(file)
        except (AlreadyEncryptedError, ContentError):
            return ()
        shares = share_out(sizes, source.size_bytes, split_bytes)
        return tuple(replace(self, row_groups=groups, share_bytes=size) for groups, size in shares)

    def shape(self, source: SourceFile) -> SourceShape:
        """Return the columns of the source, from its footer."""
        with open_range_source(source) as file:
            shape = chosen_columns(file, self.policy)
        return shape if self.row_groups is None else replace(shape, row_groups=len(self.row_groups))

    def carry_out(
        self, task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: BeforePublishing
    ) -> FileDone:
        """Encrypt the file, or this task's row groups of it."""
        return write_one_file(task, session, on_bytes, before_publishing, self._encrypt)

    def may_be_shared(self, task: Task) -> bool:
        """Return whether it is a large local file of which each row group has keys of its own."""
        places = (task.source.location, task.sink)
        return (
            can_share_memory()
            and self.row_groups is None
            and task.source.size_bytes >= LEAST_SHARED_BYTES
            and self.policy.data_keys is KeyScope.BATCH
            and not self.policy.uniform
            and not any(place.is_standard_stream or open_store(place).is_remote for place in places)
        )

    def carry_out_shared(self, task: Task, session: KeySession, on_bytes: OnBytes, helpers: TaskHelpers) -> FileDone:
        """Encrypt the file; others seal row groups of it."""
        return write_one_file(task, session, on_bytes, None, partial(self._encrypt, helpers=helpers))

    @contextmanager
    def open_sealer(self, task: Task, keys: FileKeys, start: FileStart) -> Iterator[RowGroupSealer]:
        """Open the source, and seal row groups of it for who writes the file."""
        with (
            open_range_source(task.source) as file,
            RowGroupSealer(file, self.policy, start, keys=keys, context=_context(task)) as sealer,
        ):
            yield sealer

    def _encrypt(
        self,
        task: Task,
        output: SignableOutput,
        clock: StageClock,
        on_bytes: OnBytes,
        *,
        helpers: TaskHelpers | None = None,
    ) -> FileReport:
        def on_bytes_too(count: int) -> None:
            if helpers is not None:
                helpers.poll()  # often enough that nobody waits for long
            on_bytes(count)

        # A share of a file reads a part of it only.
        with open_range_source(task.source, reads_all=self.row_groups is None) as file:
            source: RangeSource = file if self.row_groups is None else slice_row_groups(file, self.row_groups)
            clock.opened()
            report = encrypt_file(
                source,
                output.sink,
                self.policy,
                keys=output.keys,
                context=_context(task),
                helpers=helpers,
                on_bytes=on_bytes_too,
            )
            output.add_kek_ids(() if helpers is None else helpers.kek_ids)
            return report


def _context(task: Task) -> Context:
    return Context(task.target.dataset_id or "", task.path)


def table_path(relative_path: str, path: str) -> str:
    """Return the path of an encrypted table.

    Args:
        relative_path: of its source, for the error.
        path: what it would be called.

    Raises:
        UsageError: it would have the name of an encrypted file of bytes.
    """
    if path.endswith(CHUNKS_SUFFIX):
        raise UsageError(
            f"{relative_path!a} is a table, and its name would say {CHUNKS_SUFFIX}",
            hint="rename it: decrypting goes by it",
        )
    return path if path.lower().endswith(PARQUET_SUFFIXES) else f"{path}.parquet"


def share_out(sizes: Sequence[int], file_bytes: int, split_bytes: int) -> list[tuple[range, int]]:
    """Return shares of about `split_bytes`, of one row group at least; none where there would be only one share.

    Each is told as its row groups, and how much of the file's size counts as theirs.

    Args:
        sizes: of the row groups, in bytes.
        file_bytes: what the sizes of all shares add up to.
        split_bytes: how large a share is due to be.
    """
    total = sum(sizes)
    parts = min(file_bytes // split_bytes, _MOST_SHARES)
    if total == 0 or parts < 2:
        return []
    ends = [0, *accumulate(sizes)]

    def part_of(index: int) -> int:
        middle = ends[index] + ends[index + 1]  # twice that
        return min(middle * parts // (2 * total), parts - 1)

    ranges = [list(indexes) for _, indexes in groupby(range(len(sizes)), part_of)]
    if len(ranges) < 2:
        return []
    # In proportion, because magic, footer and gaps count too; no byte is lost to rounding.
    bounds = [file_bytes * ends[indexes[0]] // total for indexes in ranges] + [file_bytes]
    return [
        (range(indexes[0], indexes[-1] + 1), end - start)
        for indexes, start, end in zip(ranges, bounds, bounds[1:], strict=False)
    ]
