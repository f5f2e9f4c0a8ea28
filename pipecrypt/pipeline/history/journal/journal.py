"""Write a run's journal: a new small file every few moments, because no object can be appended to.

The first block appears before the first file of the run, `finished.json` when its version is signed and every file is
at its place. What is not noted when a run is killed is done once more. Reading is left to history.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from pipecrypt.manifest.paths import run_path
from pipecrypt.pipeline.history.journal.block import MAX_BLOCK_TASKS, Block, RunHeader, TaskRecord, encode_block
from pipecrypt.pipeline.history.journal.seal import Seal
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink import open_sink

__all__ = ["FINISHED", "Journal", "block_name"]

FINISHED: Final = "finished.json"
_FLUSH_SECONDS: Final = 2.0


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
        self._flushed = clock()

    def begin(self) -> None:
        """Note that the run begins, or goes on.

        Raises:
            ConflictError: another run has the same id.
            StorageError: the storage refused or failed.
        """
        self._write()

    def add(self, record: TaskRecord) -> None:
        """Note a task that is done, now or soon."""
        self._records.append(record)
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
        if self._records:
            self._write()

    def removes(self, paths: tuple[str, ...]) -> None:
        """Note what the run removes once its version is signed, with all that was not written yet."""
        self._write(removes=paths)

    def finish(self, now: datetime) -> None:
        """Note that nothing is left to do.

        Args:
            now: the time, in UTC.
        """
        text = json.dumps({"version": 1, "run": self.header.run_id, "ended": now.isoformat(timespec="seconds")})
        with open_sink(self._place(FINISHED), overwrite=True) as sink:
            sink.write(text.encode() + b"\n")
            sink.publish()

    def _write(self, *, removes: tuple[str, ...] = ()) -> None:
        while True:
            records, rest = tuple(self._records[:MAX_BLOCK_TASKS]), self._records[MAX_BLOCK_TASKS:]
            block = Block(self.header, self._sequence, records, () if rest else removes)
            with open_sink(self._place(block_name(self._sequence, self._seal.suffix)), overwrite=False) as sink:
                sink.write(self._seal.seal(encode_block(block)))
                sink.publish()
            self._sequence += 1
            self._records = rest
            self._flushed = self._clock()
            if not rest:
                return

    def _place(self, name: str) -> Location:
        return self._sink.child(run_path(self.header.run_id, name))
