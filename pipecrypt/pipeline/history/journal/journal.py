"""Write a run's journal: a new small file every few moments, because no object can be appended to.

The first block appears before the first file of the run, `finished.json` when its version is signed and every file is
at its place. What is not noted when a run is killed is done once more. Reading is left to history.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from pipecrypt.documents import DocumentError
from pipecrypt.errors import OutputError
from pipecrypt.manifest.clear_columns import ClearColumns, fits_clear_columns
from pipecrypt.manifest.paths import run_path
from pipecrypt.pipeline.history.journal.block import MAX_BLOCK_TASKS, Block, RunHeader, TaskRecord, encode_block
from pipecrypt.pipeline.history.journal.seal import Seal
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink import open_sink

__all__ = ["FINISHED", "Journal", "block_name"]

FINISHED: Final = "finished.json"
_FLUSH_SECONDS: Final = 2.0
_MAX_PATH_BYTES: Final = 2 << 20
_JSON_BYTES: Final = 6  # at most, for a byte of a path that JSON escapes
_QUOTE_BYTES: Final = 3  # two quotes and a comma; by them the number of paths is bounded too


def block_name(sequence: int, suffix: str) -> str:
    """Return the name of a block's file."""
    return f"parts-{sequence:06}{suffix}"


class Journal:
    """The journal of one run, in the driver.

    Args:
        sink: the directory that the run writes.
        header: what the run is.
        seal: how blocks are stored.
        sequence: of the first block that is written here: after the last one of a run that is resumed.
        clock: seconds, rising.
    """

    def __init__(
        self,
        sink: Location,
        header: RunHeader,
        seal: Seal,
        *,
        sequence: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write nothing yet."""
        self.header = header
        self._sink = sink
        self._seal = seal
        self._sequence = sequence
        self._clock = clock
        self._records: list[TaskRecord] = []
        self._clear: ClearColumns | None = None
        self._noted_clear: ClearColumns = frozenset()
        self._flushed = clock()

    def begin(self, replaces: Sequence[str] = (), clear: ClearColumns = frozenset()) -> None:
        """Note that the run begins, or goes on.

        Args:
            replaces: paths where it may write over outputs of earlier runs.
            clear: leaf columns that files have, or will have, in plaintext, as far as that is known.

        Raises:
            ConflictError: another run has the same id.
            StorageError: the storage refused or failed.
        """
        first, *others = _cut(replaces) or [()]
        noted = clear if fits_clear_columns(clear) else None
        self._store(Block(self.header, self._sequence, replaces=first, clear=noted))
        self._noted_clear = clear
        for paths in others:
            self._store(Block(self.header, self._sequence, replaces=paths))

    def add(self, record: TaskRecord, clear: Iterable[tuple[str, ...]] = ()) -> None:
        """Note a task that is done, now or soon.

        Args:
            record: of the task.
            clear: leaf columns that its files have in plaintext.
        """
        self._records.append(record)
        new = frozenset(clear) - self._noted_clear
        if new:
            self._clear = new if self._clear is None else self._clear | new
            self._noted_clear |= new
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write what was noted, if it has waited long enough or is much."""
        waited = self._clock() - self._flushed
        if self._records and (waited >= _FLUSH_SECONDS or len(self._records) >= MAX_BLOCK_TASKS):
            self.flush()

    def flush(self) -> None:
        """Write what was noted.

        Raises:
            ConflictError: another process writes this journal.
            StorageError: the storage refused or failed.
        """
        if self._records and self._clear is not None:
            if fits_clear_columns(self._noted_clear):  # of all blocks, so that whoever adds them up can note them too
                self._store(Block(self.header, self._sequence, clear=self._clear))
            self._clear = None
        while self._records:
            count = min(len(self._records), MAX_BLOCK_TASKS)
            while not self._fits(self._records[:count]) and count > 1:
                count //= 2
            if count == 1 and not self._fits(self._records[:1]) and len(self._records[0].parts) > 1:
                self._records[:1] = _halved(self._records[0])
                continue
            self._store(Block(self.header, self._sequence, tuple(self._records[:count])))
            self._records = self._records[count:]

    def removes(self, paths: Sequence[str]) -> None:
        """Note what the run removes once its version is signed, after all that was not written yet."""
        self.flush()
        for some in _cut(paths):
            self._store(Block(self.header, self._sequence, removes=some))

    def finish(self, now: datetime) -> None:
        """Note that nothing is left to do.

        Args:
            now: the time, in UTC.
        """
        text = json.dumps({"version": 1, "run": self.header.run_id, "ended": now.isoformat(timespec="seconds")})
        with open_sink(self._place(FINISHED), overwrite=True) as sink:
            sink.write(text.encode() + b"\n")
            sink.publish()

    def _fits(self, records: Sequence[TaskRecord]) -> bool:
        try:
            encode_block(Block(self.header, self._sequence, tuple(records)))
        except DocumentError:
            return False
        return True

    def _store(self, block: Block) -> None:
        try:
            data = encode_block(block)
        except DocumentError as error:
            raise OutputError(f"the journal of run {self.header.run_id} cannot hold this: {error}") from error
        with open_sink(self._place(block_name(self._sequence, self._seal.suffix)), overwrite=False) as sink:
            sink.write(self._seal.seal(data))
            sink.publish()
        self._sequence += 1
        self._flushed = self._clock()

    def _place(self, name: str) -> Location:
        return self._sink.child(run_path(self.header.run_id, name))


def _halved(record: TaskRecord) -> list[TaskRecord]:
    """Return two records of a task whose files do not fit into one block."""
    middle = len(record.parts) // 2
    first, second = record.parts[:middle], record.parts[middle:]
    of_first = {part.path for part in first}
    return [
        replace(
            record,
            parts=first,
            signable=tuple(file for file in record.signable if file.entry.path in of_first),
            has_more=True,
        ),
        replace(
            record, parts=second, signable=tuple(file for file in record.signable if file.entry.path not in of_first)
        ),
    ]


def _cut(paths: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the paths in groups that each fit into a block."""
    groups: list[tuple[str, ...]] = []
    start, size = 0, 0
    for index, path in enumerate(paths):
        taken = _JSON_BYTES * (len(path.encode()) + _QUOTE_BYTES)
        size += taken
        if size > _MAX_PATH_BYTES:
            groups.append(tuple(paths[start:index]))
            start, size = index, taken
    return [*groups, tuple(paths[start:])] if paths else []
