"""Read what earlier runs noted about themselves. Acting on it is left to the driver.

What lies there may have been written by anybody. Names and sizes are bounded; blocks count only if the seal opens them.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pipecrypt.documents import DocumentError
from pipecrypt.errors import FormatError, IntegrityError
from pipecrypt.manifest.clear_columns import ClearColumns
from pipecrypt.manifest.paths import RUNS_DIRECTORY, parse_run_id, run_path
from pipecrypt.pipeline.history.journal.block import Block, RunHeader, TaskRecord, decode_block
from pipecrypt.pipeline.history.journal.journal import FINISHED, block_name
from pipecrypt.pipeline.history.journal.seal import Seal
from pipecrypt.storage.inventory import refuse_links, take_inventory
from pipecrypt.storage.location import Location
from pipecrypt.storage.source import read_small_file

__all__ = ["FoundRun", "PastRun", "find_runs", "read_header", "read_run"]

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


def read_run(sink: Location, run: FoundRun, seal: Seal) -> PastRun | None:
    """Return what a run noted, or None where it was killed before it noted anything.

    What holds when it returns: 1. the seal opens each block, 2. each is the one that its name says, of this run, and
    none is missing in between, 3. all have the same header.

    Raises:
        IntegrityError: a block is not as the run wrote it.
        StorageError: the storage refused or failed.
    """
    blocks: list[Block] = []
    for name in run.blocks:
        place = sink.child(run_path(run.run_id, name))
        block = _read(place, seal)  # 1
        expected = len(blocks)
        if block.sequence != expected or name != block_name(expected, seal.suffix):
            raise IntegrityError(f"{place.display} is not block {expected} of its journal", hint=_HINT)  # 2
        if block.header.run_id != run.run_id or block.header != (blocks or [block])[0].header:
            raise IntegrityError(f"{place.display} is of another run than its journal", hint=_HINT)  # 2, 3
        blocks.append(block)
    if not blocks:
        return None
    return PastRun(
        header=blocks[0].header,
        records=_joined(blocks),
        removes=tuple(path for block in blocks for path in block.removes),
        replaces=tuple(path for block in blocks for path in block.replaces),
        next_sequence=len(blocks),
        clear=_clear(blocks),
    )


def _joined(blocks: Iterable[Block]) -> dict[str, TaskRecord]:
    """Return what is known of each task; nothing of one whose last record was never written."""
    whole: dict[str, TaskRecord] = {}
    begun: TaskRecord | None = None
    for block in blocks:
        if not block.records:
            begun = None  # the run went on after a stop: whoever wrote the first half writes no second one
        for record in block.records:
            joined = record if begun is None or begun.task_id != record.task_id else _with_rest(begun, record)
            begun = joined if record.has_more else None
            if begun is None:
                whole[record.task_id] = joined
    return whole


def _clear(blocks: Iterable[Block]) -> ClearColumns | None:
    noted = [block.clear for block in blocks if block.clear is not None]
    return frozenset[tuple[str, ...]]().union(*noted) if noted else None


def _with_rest(begun: TaskRecord, rest: TaskRecord) -> TaskRecord:
    return replace(rest, parts=begun.parts + rest.parts, signable=begun.signable + rest.signable)


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
            header = _read(sink.child(run_path(run.run_id, name)), seal_of(name)).header
            if header.run_id == run.run_id:
                return header
    return None


def _read(place: Location, seal: Seal) -> Block:
    try:
        stored = read_small_file(place, seal.max_bytes)
        if stored is None:
            raise IntegrityError(f"{place.display} was removed while it was read", hint=_HINT)
        return decode_block(seal.open(stored))
    except (DocumentError, FormatError) as error:
        raise IntegrityError(f"{place.display} is not a block of a journal: {error}", hint=_HINT) from error
    except IntegrityError as error:
        raise type(error)(f"{place.display}: {error.message}", hint=error.hint or _HINT) from error
