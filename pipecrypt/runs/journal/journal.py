"""A run's journal: a new small file every few moments, because no object can be appended to; and reading it again.

The first block appears before the first file of the run, `finished.json` when its version is signed and every file is
at its place. What is not noted when a run is killed is done once more. So a run notes as often as that costs next to
nothing: where it is cheap, some times a second at first, less often as the run gets longer, and every two seconds where
it is not. Tasks that took long are noted at once.

What lies there may have been written by anybody. Names, sizes and what is kept of all of it are bounded; blocks count
only if the seal opens them.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Final, TypeAlias

from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, parse_run_id, run_path
from pipecrypt.dataset.statement.promise import ClearColumns, fits_clear_columns
from pipecrypt.errors import FormatError, IntegrityError, OutputError
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.runs.journal.block import (
    MAX_BLOCK_TASKS,
    Block,
    MemoryBudget,
    RunHeader,
    Seal,
    TaskRecord,
    decode_block,
    encode_block,
    memory_of,
    trusted_seal,
)
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary.documents import DocumentError

__all__ = [
    "FINISHED",
    "Journal",
    "JournalRef",
    "RecordedRun",
    "block_name",
    "fetch_ahead",
    "find_runs",
    "joined",
    "read_blocks",
    "read_header",
    "read_run",
    "trusted_run_files",
]

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
        keeps_apart: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write nothing yet."""
        self.header = header
        self._sink = sink
        self._seal = seal
        self._sequence = sequence
        self._keeps_apart = keeps_apart
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
        with open_store(self._place(FINISHED)).write(overwrite=True, is_free=self._keeps_apart) as sink:
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
        place = self._place(block_name(self._sequence, self._seal.suffix))
        with open_store(place).write(overwrite=False, is_free=self._keeps_apart) as sink:
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


# Gives the bytes at a place, up to so many; None where nothing is.
Fetch: TypeAlias = Callable[[Location, int], bytes | None]


def _read_block(place: Location, max_bytes: int) -> bytes | None:
    return open_store(place).read_small(max_bytes=max_bytes)


_FETCHED_AT_ONCE: Final = 8
_RECORD_BYTES: Final = 100  # of its entry among others
_BLOCK: Final = re.compile(r"parts-(?P<sequence>\d{6,9})(?P<suffix>\.jsonl?)", re.ASCII)
_DEPTH: Final = 2  # <run id>/<name>: what a run staged lies deeper
_HINT: Final = "pipecrypt clean removes what unfinished runs left; then run again"


@dataclass(frozen=True, slots=True)
class JournalRef:
    """A run that has left its directory; nothing in it was read yet.

    Args:
        run_id: its id; ids sort by the time when runs began.
        blocks: names of its blocks, in order.
        is_finished: whether it says so.
    """

    run_id: str
    blocks: tuple[str, ...]
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """What a run noted.

    Args:
        header: what it is.
        records: the tasks it has done, by task id; of a task done twice, the last.
        removes: paths that it removes once its version is signed.
        replaces: paths where it may have written over outputs of earlier runs.
        next_sequence: of the block that would follow.
        clear: leaf columns that files have in plaintext; None where that was not noted.
    """

    header: RunHeader
    records: Mapping[str, TaskRecord]
    removes: tuple[str, ...]
    replaces: tuple[str, ...]
    next_sequence: int
    clear: ClearColumns | None = None


def find_runs(sink: Location) -> tuple[JournalRef, ...]:
    """Return the runs that left their directories in a sink, the first begun first.

    Raises:
        LinkError: a link is where one of them, or a file or directory in it, should be.
        StorageError: the storage refused or failed.
    """
    names: defaultdict[str, set[str]] = defaultdict(set)
    for entry in open_store(sink).list(RUNS_DIRECTORY, lambda below: len(below) < _DEPTH):
        entry.refuse_link()
        run_id, _, name = entry.path.partition("/")
        try:
            parse_run_id(run_id)
        except DocumentError:
            continue
        names[run_id].add(name)
    return tuple(
        JournalRef(run_id, tuple(sorted(filter(_BLOCK.fullmatch, names[run_id]))), FINISHED in names[run_id])
        for run_id in sorted(names)
    )


def read_run(sink: Location, run: JournalRef, seal: Seal, budget: MemoryBudget | None = None) -> RecordedRun | None:
    """Return what a run noted, or None where it was killed before it noted anything.

    Args:
        sink: the directory.
        run: which one.
        seal: opens its blocks.
        budget: what may be kept, of this run and others; default: of this one.

    Raises:
        IntegrityError: a block is not as the run wrote it.
        ConflictError: it notes more than may be kept.
        StorageError: the storage refused or failed.
    """
    budget = budget or MemoryBudget(sink)
    blocks: list[Block] = []
    for block in read_blocks(sink, run, seal):
        if not seal.is_trusted:
            budget.charge(run.run_id, memory_of([block]) + _RECORD_BYTES * len(block.records))
        blocks.append(block)
    if not blocks:
        return None
    return RecordedRun(
        header=blocks[0].header,
        records={record.task_id: record for record in joined(blocks)},
        removes=tuple(path for block in blocks for path in block.removes),
        replaces=tuple(path for block in blocks for path in block.replaces),
        next_sequence=len(blocks),
        clear=_clear(blocks),
    )


def read_blocks(sink: Location, run: JournalRef, seal: Seal, fetch: Fetch = _read_block) -> Iterator[Block]:
    """Yield the blocks of a run, one in memory at a time.

    What holds of each: 1. the seal opens it, 2. it is the one that its name says, of this run, and none is missing
    before it, 3. it has the same header as those before.

    Args:
        sink: the directory.
        run: which one.
        seal: opens its blocks.
        fetch: gives the bytes of each block, in order.

    Raises:
        IntegrityError: a block is not as the run wrote it.
        StorageError: the storage refused or failed.
    """
    header: RunHeader | None = None
    for expected, name in enumerate(run.blocks):
        place = sink.child(run_path(run.run_id, name))
        block = _opened(place, seal, fetch)  # 1
        if block.sequence != expected or name != block_name(expected, seal.suffix):
            raise IntegrityError(f"{place.display} is not block {expected} of its journal", hint=_HINT)  # 2
        header = header or block.header
        if block.header.run_id != run.run_id or block.header != header:
            raise IntegrityError(f"{place.display} is of another run than its journal", hint=_HINT)  # 2, 3
        yield block


@contextmanager
def fetch_ahead(sink: Location, runs: Iterable[JournalRef], seal_of: Callable[[JournalRef], Seal]) -> Iterator[Fetch]:
    """Yield, once, what fetches the blocks of these runs in their order, several at once: each takes a request."""
    wanted = ((sink.child(run_path(run.run_id, name)), seal_of(run)) for run in runs for name in run.blocks)
    with ThreadPoolExecutor(_FETCHED_AT_ONCE, thread_name_prefix="pipecrypt-journals") as threads:
        waiting: deque[Future[bytes | None]] = deque()

        def fetch(place: Location, max_bytes: int) -> bytes | None:
            for next_place, seal in islice(wanted, _FETCHED_AT_ONCE - len(waiting)):
                waiting.append(threads.submit(_read_block, next_place, seal.max_bytes))
            return waiting.popleft().result()

        yield fetch


def joined(blocks: Iterable[Block]) -> Iterator[TaskRecord]:
    """Yield the record of each task that was done, whole; nothing of one whose last record was never written."""
    begun: list[TaskRecord] = []
    for block in blocks:
        if not block.records:
            begun = []  # the run went on after a stop: whoever wrote the first half writes no second one
        for record in block.records:
            if begun and begun[0].task_id != record.task_id:
                begun = []
            begun.append(record)
            if not record.has_more:
                yield record if len(begun) == 1 else _as_one(begun)
                begun = []


def _as_one(records: Sequence[TaskRecord]) -> TaskRecord:
    return replace(
        records[-1],
        parts=tuple(part for record in records for part in record.parts),
        signable=tuple(file for record in records for file in record.signable),
    )


def _clear(blocks: Iterable[Block]) -> ClearColumns | None:
    noted = [block.clear for block in blocks if block.clear is not None]
    return frozenset[tuple[str, ...]]().union(*noted) if noted else None


def read_header(sink: Location, run: JournalRef, seal_of: Callable[[str], Seal]) -> RunHeader | None:
    """Return what the first block that can be read says of a run, or None: for those who clean up after it.

    Args:
        sink: the directory.
        run: whose journal may be damaged.
        seal_of: gives the seal for the name of a block.

    Raises:
        StorageError: the storage refused or failed.
    """
    for name in run.blocks:
        with contextlib.suppress(IntegrityError):
            header = _opened(sink.child(run_path(run.run_id, name)), seal_of(name)).header
            if header.run_id == run.run_id:
                return header
    return None


def _opened(place: Location, seal: Seal, fetch: Fetch = _read_block) -> Block:
    try:
        stored = fetch(place, seal.max_bytes)
        if stored is None:
            raise IntegrityError(f"{place.display} was removed while it was read", hint=_HINT)
        return decode_block(seal.open(stored))
    except (DocumentError, FormatError) as error:
        raise IntegrityError(f"{place.display} is not a block of a journal: {error}", hint=_HINT) from error
    except IntegrityError as error:
        raise error.prefixed(place.display, hint=error.hint or _HINT) from error


def trusted_run_files(trust: TrustedKeys, directory: Location, run_id: str, dataset_id: str) -> Mapping[str, FileEntry]:
    """Return the files that a run staged for its version, by path; nothing where its journal does not hold.

    Args:
        trust: whose signatures count.
        directory: of the dataset.
        run_id: of the run.
        dataset_id: that its journal must name.

    Raises:
        StorageError: the storage refused or failed.
    """
    try:
        run = next((each for each in find_runs(directory) if each.run_id == run_id), None)
        past = None if run is None else read_run(directory, run, trusted_seal(trust))
    except IntegrityError:  # a link among them, too
        return {}
    if past is None or past.header.dataset_id != dataset_id or not past.header.is_staged:
        return {}
    return {file.entry.path: file.entry for record in past.records.values() for file in record.signable}
