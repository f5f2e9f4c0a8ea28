"""Write a run's journal: a new small file every few moments, because no object can be appended to.

The first block appears before the first file of the run, `finished.json` when its version is signed and every file is
at its place. What is not noted when a run is killed is done once more. So a run notes as often as that costs next to
nothing: where it is cheap, some times a second at first, less often as the run gets longer, and every two seconds where
it is not. Tasks that took long are noted at once. Reading is left to history.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from pipecrypt.dataset.statement.paths import run_path
from pipecrypt.dataset.statement.promise import ClearColumns, fits_clear_columns
from pipecrypt.errors import OutputError
from pipecrypt.runs.journal.block import MAX_BLOCK_TASKS, Block, RunHeader, TaskRecord, encode_block
from pipecrypt.runs.journal.seal import Seal
from pipecrypt.store.location import Location
from pipecrypt.store.sink import open_sink
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["FINISHED", "Journal", "block_name"]

FINISHED: Final = "finished.json"
_FLUSH_SECONDS: Final = 2.0  # at the latest, whatever it costs
_SOON_SECONDS: Final = 0.25  # at the soonest
_SOON_PART: Final = 0.01  # of the run's time: what noting may take, and what may wait to be noted, as long as both hold
_LONG_SECONDS: Final = 60.0  # of work wait for no interval: no event may come for as long
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
        self._began = self._flushed = clock()
        self._notes = 0
        self._noting_seconds = 0.0
        self._waiting_seconds = 0.0  # of work

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
        self._waiting_seconds += sum(part.seconds for part in record.parts)
        new = frozenset(clear) - self._noted_clear
        if new:
            self._clear = new if self._clear is None else self._clear | new
            self._noted_clear |= new
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write what was noted, if it has waited long enough or is much."""
        if self._records and self._is_due():
            started = self._clock()
            self.flush()
            self._notes += 1
            self._noting_seconds += self._clock() - started

    def _is_due(self) -> bool:
        now = self._clock()
        elapsed, waited = now - self._began, now - self._flushed
        if waited >= _FLUSH_SECONDS or len(self._records) >= MAX_BLOCK_TASKS:
            return True
        # Later runs read all blocks. So neither rule below makes many more of them than the one above.
        if self._waiting_seconds >= _LONG_SECONDS and self._notes * _FLUSH_SECONDS < elapsed:
            return True
        part = _SOON_PART * elapsed
        return waited >= max(_SOON_SECONDS, part) and self._noting_seconds <= part

    def flush(self) -> None:
        """Write what was noted.

        Raises:
            ConflictError: another process writes this journal.
            StorageError: the storage refused or failed.
        """
        if self._records and self._clear is not None:
            # Of all blocks, so that whoever adds them up can note them too.
            if fits_clear_columns(self._noted_clear) and fits_clear_columns(self._clear):
                self._store(Block(self.header, self._sequence, clear=self._clear))
            self._clear = None
        while self._records:
            count = min(len(self._records), MAX_BLOCK_TASKS)
            while (data := self._encoded(self._records[:count])) is None and count > 1:
                count //= 2
            if data is None and len(self._records[0].parts) > 1:
                self._records[:1] = _halved(self._records[0])
                continue
            if data is None:
                self._store(self._block(self._records[:1]))  # says why it does not fit
            else:
                self._write(data)
            self._records = self._records[count:]
        self._waiting_seconds = 0.0

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

    def _block(self, records: Sequence[TaskRecord]) -> Block:
        return Block(self.header, self._sequence, tuple(records))

    def _encoded(self, records: Sequence[TaskRecord]) -> bytes | None:
        """Return the block that holds some records, or None where none can."""
        try:
            return encode_block(self._block(records))
        except DocumentError:
            return None

    def _store(self, block: Block) -> None:
        try:
            data = encode_block(block)
        except DocumentError as error:
            raise OutputError(f"the journal of run {self.header.run_id} cannot hold this: {error}") from error
        self._write(data)

    def _write(self, data: bytes) -> None:
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
