"""What earlier runs left in a sink: a version to put in place, a run to continue, tasks that are done.

Looked at once, while the lock of the sink is held.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from pipecrypt.dataset.staged import finish_version, is_listed, staged_files
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY
from pipecrypt.dataset.statement.promise import ClearColumns
from pipecrypt.dataset.version import VerifiedVersion, Version
from pipecrypt.errors import ConflictError, StorageError
from pipecrypt.runs.journal.block import Block, MemoryBudget, Seal, TaskRecord, memory_of
from pipecrypt.runs.journal.journal import (
    Journal,
    JournalRef,
    RecordedRun,
    fetch_ahead,
    find_runs,
    joined,
    read_blocks,
    read_run,
)
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.clock import utc_now
from pipecrypt.vocabulary.in_flight import map_in_flight

__all__ = ["FinishedFile", "RunHistory", "put_in_place"]

# What is kept of a file besides its path, and of a task: objects of some 50 bytes each, and entries of dictionaries.
_FILE_BYTES: Final = 260
_TASK_BYTES: Final = 290


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """An output that an earlier run wrote.

    Args:
        task_id: of the task that wrote it; empty where no run of a configuration did.
        size_bytes: when it was written.
    """

    task_id: str
    size_bytes: int


def put_in_place(sink: Location, earlier: VerifiedVersion | None, seal: Seal) -> None:
    """Do what is left of a version that was signed by a run that was killed then; the caller holds the lock.

    Raises:
        IntegrityError: what that run noted is not as it wrote it, or a file of its version is neither staged nor in
            place.
        StorageError: the storage refused or failed.
    """
    run_id = None if earlier is None else earlier.manifest.run
    if earlier is None or run_id is None:
        return
    found = next((run for run in find_runs(sink) if run.run_id == run_id), None)
    has_journal = found is not None and bool(found.blocks)
    if not staged_files(sink, run_id) and (found is None or found.is_finished or not has_journal):
        return
    past = read_run(sink, found, seal) if found is not None and has_journal else None
    removes = () if past is None else past.removes
    finish_version(sink, run_id, earlier.entries.values(), removes=removes)
    if past is not None:
        Journal(sink, past.header, seal).finish(utc_now())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """What the journals in a sink say.

    Args:
        run_ids: of all runs that left something.
        unfinished: the last run, if it left files and did not finish.
        over: the last run, if all that is missing is its note that it finished.
        adopted: tasks of the unfinished run whose files are all there.
        done: outputs of finished runs, by path.
        going: paths that the run of the signed version has still to remove.
        dataset_id: of the last finished run; None where runs sign, or none finished.
        clear_columns: leaf columns that files of finished runs have in plaintext, where runs do not sign, and those of
            the unfinished run; None where they were not noted.
    """

    run_ids: tuple[str, ...] = ()
    unfinished: RecordedRun | None = None
    over: RecordedRun | None = None
    adopted: Mapping[str, TaskRecord] = field(default_factory=dict)
    done: Mapping[str, FinishedFile] = field(default_factory=dict)
    going: tuple[str, ...] = ()
    dataset_id: str | None = None
    clear_columns: ClearColumns | None = None

    @classmethod
    def look(
        cls, sink: Location, seal_of: Callable[[JournalRef], Seal], version: Version | None, *, is_signed: bool
    ) -> RunHistory:
        """Read the journals in a sink; nothing is written.

        Args:
            sink: the directory.
            seal_of: gives what opens the blocks of a run.
            version: the signed version that the sink holds.
            is_signed: whether runs sign: then the version's list says what is done, and only a run that did not finish
                is read.

        Raises:
            IntegrityError: a block is not as its run wrote it.
            ConflictError: they note more than may be kept in memory.
            StorageError: the storage refused or failed.
        """
        runs, budget = find_runs(sink), MemoryBudget(sink)
        last_finished = max((run.run_id for run in runs if run.is_finished), default="")
        last = _last(sink, [run for run in runs if run.run_id > last_finished], seal_of, budget)
        is_over = last is not None and _is_over(last, version)
        unfinished = None if last is None or is_over or not _has_written(sink, last) else last
        finished = _FinishedRuns(budget)
        if not is_signed:
            finished.read(sink, (run for run in runs if run.is_finished), seal_of)
        elif version is not None:
            entries = version.entries.values()
            finished.done = {each.path: FinishedFile(each.task_id or "", each.size_bytes) for each in entries}
        return cls(
            run_ids=tuple(run.run_id for run in runs),
            unfinished=unfinished,
            over=last if is_over else None,
            adopted={} if unfinished is None else _adopted(sink, unfinished),
            done=finished.done,
            going=last.removes
            if last is not None and version is not None and last.header.run_id == version.manifest.run
            else (),
            dataset_id=finished.dataset_id,
            clear_columns=_clear_columns(finished.clear, unfinished),
        )

    def check_finished(self) -> None:
        """Pass if no run waits to be continued.

        Raises:
            ConflictError: one does.
        """
        if self.unfinished is not None:
            raise ConflictError(
                f"run {self.unfinished.header.run_id} was not finished",
                hint="continue it with --resume, or begin anew with --overwrite",
            )


def _has_written(sink: Location, past: RecordedRun) -> bool:
    """Return whether a run that did not finish left a file, noted or not: one that failed at once is not continued.

    Raises:
        StorageError: the storage refused or failed.
    """
    if past.records:
        return True
    if past.header.is_staged:
        return bool(staged_files(sink, past.header.run_id))
    return not open_store(sink).is_empty(besides=RESERVED_DIRECTORY)


def _last(
    sink: Location, runs: list[JournalRef], seal_of: Callable[[JournalRef], Seal], budget: MemoryBudget
) -> RecordedRun | None:
    found = (read_run(sink, run, seal_of(run), budget) for run in reversed(runs) if run.blocks)
    return next((past for past in found if past is not None), None)


def _is_over(past: RecordedRun, version: Version | None) -> bool:
    """Return whether the version of a run was signed already, or another one since: then nothing is left to do."""
    header = past.header
    if version is None:
        return header.is_staged
    return (
        not header.is_staged
        or header.run_id == version.manifest.run
        or header.dataset_id != version.manifest.dataset_id
    )


def _adopted(sink: Location, past: RecordedRun) -> dict[str, TaskRecord]:
    """Return the tasks whose files are the ones that the run has written, as their sizes and footers tell.

    The journal of another sink, signed with the same key, may have been put here; its files are not those. A footer
    holds the digests of what is in plaintext and is bound to all else by keys, and whoever verifies compares the rest.
    """
    header = past.header
    if header.is_staged:
        found = staged_files(sink, header.run_id)
    else:
        found = {entry.path: entry.source for entry in open_store(sink).list() if entry.source is not None}
    # Of what is signed each footer is read, which takes a request where the sink is remote.
    are_there = map_in_flight(lambda record: _is_there(record, found), past.records.values(), name="footers")
    return {
        record.task_id: record for record, is_there in zip(past.records.values(), are_there, strict=True) if is_there
    }


def _clear_columns(finished: ClearColumns | None, unfinished: RecordedRun | None) -> ClearColumns | None:
    # One that was killed before it noted a column may have noted no more than that it began.
    if unfinished is None or not unfinished.clear:
        return finished
    return unfinished.clear if finished is None else finished | unfinished.clear


def _is_there(record: TaskRecord, found: Mapping[str, SourceFile]) -> bool:
    files = [(part, found.get(part.path)) for part in record.parts]
    if any(file is None or file.size_bytes != part.sink_bytes for part, file in files):
        return False
    try:
        return all(is_listed(found[each.entry.path], each.entry) for each in record.signable)
    except StorageError:
        return False  # it is written again


class _FinishedRuns:
    """What runs that finished have noted, the first begun first; of each one no more is kept than who follows asks.

    Args:
        budget: what may be kept.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        """Nothing is read yet."""
        self._budget = budget
        self.done: dict[str, FinishedFile] = {}
        self.dataset_id: str | None = None
        self._clear: set[tuple[str, ...]] | None = None
        self._clear_bytes = 0

    @property
    def clear(self) -> ClearColumns | None:
        """Leaf columns that files have in plaintext; None where that was not noted."""
        return None if self._clear is None else frozenset(self._clear)

    def read(self, sink: Location, runs: Iterable[JournalRef], seal_of: Callable[[JournalRef], Seal]) -> None:
        """Take what these runs have noted.

        Raises:
            IntegrityError: a block is not as its run wrote it.
            ConflictError: they note more than may be kept.
            StorageError: the storage refused or failed.
        """
        runs = tuple(runs)
        with fetch_ahead(sink, runs, seal_of) as fetch:
            for run in runs:
                self._take(run.run_id, read_blocks(sink, run, seal_of(run), fetch))

    def _take(self, run_id: str, blocks: Iterable[Block]) -> None:
        tasks: dict[str, tuple[tuple[str, FinishedFile], ...]] = {}
        removes: list[str] = []
        before, kept = self._budget.kept_bytes, -self._clear_bytes
        for record in joined(self._charged(run_id, blocks, removes)):
            self._budget.charge(run_id, _TASK_BYTES + sum(_cost(part.path) for part in record.parts))
            files = ((part.path, FinishedFile(record.task_id, part.sink_bytes)) for part in record.parts)
            tasks[record.task_id] = tuple(files)
        for path, file in chain.from_iterable(tasks.values()):
            kept += 0 if path in self.done else _cost(path)
            self.done[path] = file
        for path in removes:
            if self.done.pop(path, None) is not None:
                kept -= _cost(path)
        kept += self._clear_bytes
        self._budget.give_back(self._budget.kept_bytes - before - kept)

    def _charged(self, run_id: str, blocks: Iterable[Block], removes: list[str]) -> Iterator[Block]:
        for block in blocks:
            begun = [record for record in block.records if record.has_more]  # waits for its end
            self._budget.charge(run_id, memory_of(begun) + sum(map(_cost, block.removes)))
            removes.extend(block.removes)
            self.dataset_id = block.header.dataset_id
            if block.clear is not None:
                self._add_clear(run_id, block.clear)
            yield block

    def _add_clear(self, run_id: str, columns: ClearColumns) -> None:
        self._clear = set() if self._clear is None else self._clear
        new = columns - self._clear
        count = 2 * memory_of([new])  # twice: they are given away as another set
        self._budget.charge(run_id, count)
        self._clear_bytes += count
        self._clear |= new


def _cost(path: str) -> int:
    """Return what a file takes that is kept: its path, what is known of it, and its places among others."""
    return sys.getsizeof(path) + _FILE_BYTES
