"""Read what earlier runs noted about themselves. Acting on it is left to the driver.

What lies there may have been written by anybody. Names, sizes and what is kept of all of it are bounded; blocks count
only if the seal opens them.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, TypeAlias

from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, parse_run_id, run_path
from pipecrypt.dataset.statement.promise import ClearColumns
from pipecrypt.errors import FormatError, IntegrityError
from pipecrypt.runs.journal.allowance import Allowance, memory_of
from pipecrypt.runs.journal.block import Block, RunHeader, TaskRecord, decode_block
from pipecrypt.runs.journal.journal import FINISHED, block_name
from pipecrypt.runs.journal.seal import Seal
from pipecrypt.store.inventory import refuse_links, take_inventory
from pipecrypt.store.location import Location
from pipecrypt.store.source import read_small_file
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["FoundRun", "PastRun", "fetch_ahead", "find_runs", "joined", "read_blocks", "read_header", "read_run"]

# Gives the bytes at a place, up to so many; None where nothing is.
Fetch: TypeAlias = Callable[[Location, int], bytes | None]
_FETCHED_AT_ONCE: Final = 8
_RECORD_BYTES: Final = 100  # of its entry among others
_BLOCK: Final = re.compile(r"parts-(?P<sequence>\d{6,9})(?P<suffix>\.jsonl?)", re.ASCII)
_DEPTH: Final = 2  # <run id>/<name>: what a run staged lies deeper
_HINT: Final = "pipecrypt clean removes what unfinished runs left; then run again"


@dataclass(frozen=True, slots=True)
class FoundRun:
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
class PastRun:
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


def find_runs(sink: Location) -> tuple[FoundRun, ...]:
    """Return the runs that left their directories in a sink, the first begun first.

    Raises:
        LinkError: a link is where one of them, or a file or directory in it, should be.
        StorageError: the storage refused or failed.
    """
    names: defaultdict[str, set[str]] = defaultdict(set)
    runs = sink.child(RUNS_DIRECTORY)
    for path, _ in refuse_links(runs, take_inventory(runs, lambda below: len(below) < _DEPTH)):
        run_id, _, name = path.partition("/")
        try:
            parse_run_id(run_id)
        except DocumentError:
            continue
        names[run_id].add(name)
    return tuple(
        FoundRun(run_id, tuple(sorted(filter(_BLOCK.fullmatch, names[run_id]))), FINISHED in names[run_id])
        for run_id in sorted(names)
    )


def read_run(sink: Location, run: FoundRun, seal: Seal, allowance: Allowance | None = None) -> PastRun | None:
    """Return what a run noted, or None where it was killed before it noted anything.

    Args:
        sink: the directory.
        run: which one.
        seal: opens its blocks.
        allowance: what may be kept, of this run and others; default: of this one.

    Raises:
        IntegrityError: a block is not as the run wrote it.
        ConflictError: it notes more than may be kept.
        StorageError: the storage refused or failed.
    """
    allowance = allowance or Allowance(sink)
    blocks: list[Block] = []
    for block in read_blocks(sink, run, seal):
        if not seal.is_trusted:
            allowance.charge(run.run_id, memory_of([block]) + _RECORD_BYTES * len(block.records))
        blocks.append(block)
    if not blocks:
        return None
    return PastRun(
        header=blocks[0].header,
        records={record.task_id: record for record in joined(blocks)},
        removes=tuple(path for block in blocks for path in block.removes),
        replaces=tuple(path for block in blocks for path in block.replaces),
        next_sequence=len(blocks),
        clear=_clear(blocks),
    )


def read_blocks(sink: Location, run: FoundRun, seal: Seal, fetch: Fetch = read_small_file) -> Iterator[Block]:
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
def fetch_ahead(sink: Location, runs: Iterable[FoundRun], seal_of: Callable[[FoundRun], Seal]) -> Iterator[Fetch]:
    """Yield, once, what fetches the blocks of these runs in their order, several at once: each takes a request."""
    wanted = ((sink.child(run_path(run.run_id, name)), seal_of(run)) for run in runs for name in run.blocks)
    with ThreadPoolExecutor(_FETCHED_AT_ONCE, thread_name_prefix="pipecrypt-journals") as threads:
        waiting: deque[Future[bytes | None]] = deque()

        def fetch(place: Location, max_bytes: int) -> bytes | None:
            for next_place, seal in islice(wanted, _FETCHED_AT_ONCE - len(waiting)):
                waiting.append(threads.submit(read_small_file, next_place, seal.max_bytes))
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


def read_header(sink: Location, run: FoundRun, seal_of: Callable[[str], Seal]) -> RunHeader | None:
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


def _opened(place: Location, seal: Seal, fetch: Fetch = read_small_file) -> Block:
    try:
        stored = fetch(place, seal.max_bytes)
        if stored is None:
            raise IntegrityError(f"{place.display} was removed while it was read", hint=_HINT)
        return decode_block(seal.open(stored))
    except (DocumentError, FormatError) as error:
        raise IntegrityError(f"{place.display} is not a block of a journal: {error}", hint=_HINT) from error
    except IntegrityError as error:
        raise type(error)(f"{place.display}: {error.message}", hint=error.hint or _HINT) from error
