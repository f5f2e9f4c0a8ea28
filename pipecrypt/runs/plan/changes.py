"""Compare the tasks of a plan with those that earlier runs have done. Doing what is left is left to the driver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.dataset.listing import name_some
from pipecrypt.dataset.signed_file import dataset_id_of
from pipecrypt.errors import ConflictError
from pipecrypt.runs.journal.block import TaskRecord
from pipecrypt.runs.journal.past_runs import DoneFile
from pipecrypt.runs.output import unnumbered
from pipecrypt.runs.spec.options import OnSourceChange
from pipecrypt.runs.task import Task
from pipecrypt.store.inventory import pin
from pipecrypt.store.location import Location

__all__ = [
    "Changes",
    "check_changes",
    "check_sizes",
    "compare_with_done",
    "overwrite_done",
    "superseded_by",
    "written_by",
]

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a run has to do.

    Args:
        to_do: tasks that are not done yet, or whose source or policy changed since.
        skipped: how many are done.
        replaced: outputs that will be written again, sorted.
        removed: outputs whose sources are gone, sorted.
        lost: outputs that were written and are not there now, sorted.
        made_again: outputs of tasks that were done and are done again, because some are lost or doubtful.
        orphaned: outputs whose sources are gone, and that stay although all others are overwritten, sorted.
        kept: outputs of earlier runs that stay as they are, by path.
    """

    to_do: tuple[Task, ...]
    skipped: int
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    made_again: tuple[str, ...] = ()
    orphaned: tuple[str, ...] = ()
    kept: Mapping[str, DoneFile] = field(default_factory=dict)


def compare_with_done(
    tasks: Iterable[Task],
    done: Mapping[str, DoneFile],
    adopted: Mapping[str, TaskRecord],
    found: Mapping[str, int | None] | None = None,
    doubtful: Collection[str] = (),
) -> Changes:
    """Return what is left to do.

    Args:
        tasks: all tasks of the plan.
        done: each output that was written, by path.
        adopted: from ids to records of tasks that are done by a run that is continued.
        found: the outputs that are there; None where whoever signs looks for them.
        doubtful: paths where a run that is continued may have written over what was done.
    """
    planned = tuple(tasks)
    rewritten = {part.path for record in adopted.values() for part in record.parts}
    done = {path: file for path, file in done.items() if path not in rewritten}
    planned_ids = {task.id for task in planned}
    there = done if found is None else found
    lost = sorted(path for path, file in done.items() if path not in there and file.task_id in planned_ids)
    undone = {done[path].task_id for path in lost}.union(done[path].task_id for path in doubtful if path in done)
    ids = {file.task_id for file in done.values()}.difference(undone).union(adopted)
    to_do = tuple(task for task in planned if task.id not in ids)
    stale = sorted(path for path, file in done.items() if file.task_id not in planned_ids)
    writes = written_by(to_do)
    staying = planned_ids - undone
    return Changes(
        to_do=to_do,
        skipped=len(planned) - len(to_do),
        replaced=tuple(path for path in stale if writes(path)),
        removed=tuple(path for path in stale if not writes(path)),
        lost=tuple(lost),
        made_again=tuple(sorted(path for path, file in done.items() if file.task_id in undone)),
        kept={path: file for path, file in done.items() if file.task_id in staying},
    )


def overwrite_done(
    tasks: Iterable[Task], done: Mapping[str, DoneFile], adopted: Collection[str], choice: OnSourceChange
) -> Changes:
    """Return what a run does that does everything again.

    Args:
        tasks: all tasks of the plan.
        done: each output that was written, by path; what no run of a configuration wrote has no source to lose.
        adopted: ids of tasks that are done by a run that is continued.
        choice: what happens to outputs whose sources are gone.
    """
    planned = tuple(tasks)
    to_do = tuple(task for task in planned if task.id not in adopted)
    planned_ids, superseded = {task.id for task in planned}, superseded_by(planned)
    stale = (path for path, file in done.items() if file.task_id and file.task_id not in planned_ids)
    gone = tuple(sorted(path for path in stale if not superseded(path)))
    removes = choice is OnSourceChange.REPLACE
    return Changes(
        to_do=to_do,
        skipped=len(planned) - len(to_do),
        removed=gone if removes else (),
        orphaned=() if removes else gone,
    )


def check_sizes(sink: Location, changes: Changes, found: Mapping[str, int | None], dataset_id: str | None) -> None:
    """Pass if outputs that nobody signed, and that stay, have the sizes that they were written with.

    A deep rotation changes the size of a file, and not whose it is: its footer tells.

    Args:
        sink: the directory.
        changes: from `compare_with_done`, with the same `found`.
        found: sizes in bytes of the outputs that are there.
        dataset_id: of the dataset that earlier runs wrote.

    Raises:
        ConflictError: one has not.
    """
    other = [path for path, file in changes.kept.items() if found.get(path) != file.size_bytes]
    other = [path for path in other if dataset_id is None or not _is_of(sink, path, dataset_id)]
    if other:
        raise ConflictError(
            f"{name_some(sink, other)}: not of the size that an earlier run wrote",
            hint="remove what nobody wants, so that it is made again; or begin anew with --overwrite",
        )


def check_changes(changes: Changes, choice: OnSourceChange) -> None:
    """Pass if the operator wants what changed to be replaced, or nothing did.

    Raises:
        ConflictError: sources changed or are gone.
    """
    if choice is OnSourceChange.REPLACE or not (changes.replaced or changes.removed):
        return
    told = [f"{what}: {_named(paths)}" for what, paths in _by_change(changes).items()]
    raise ConflictError(
        "; ".join(told), hint="set run.on_source_change to replace, or put the sources back as they were"
    )


def _is_of(sink: Location, path: str, dataset_id: str) -> bool:
    pinned = pin(sink.child(path), path)
    file = None if pinned is None else pinned[1]
    return file is not None and dataset_id_of(file) == dataset_id


def written_by(tasks: Iterable[Task]) -> Callable[[str], bool]:
    """Return what says of a path below the sink whether one of these tasks may write it."""
    by_kind: defaultdict[bool, set[str]] = defaultdict(set)
    for task in tasks:
        by_kind[task.kind.rolls_over].add(task.path)
    plain, rolled = by_kind[False], by_kind[True]
    return lambda path: path in plain or unnumbered(path) in rolled


def superseded_by(tasks: Iterable[Task]) -> Callable[[str], bool]:
    """Return what says of a path whether its rows would be in the dataset twice if it stayed beside these outputs.

    These are the paths that are written, and of a source that is split now, what it was written to before, whole or in
    more parts.
    """
    to_do = tuple(tasks)
    writes, split = written_by(to_do), {path for task in to_do if (path := task.whole_path) is not None}
    return lambda path: writes(path) or path in split or unnumbered(path) in split


def _by_change(changes: Changes) -> dict[str, tuple[str, ...]]:
    found = {
        "the source or the policy changed since these were encrypted": changes.replaced,
        "the sources of these are gone": changes.removed,
    }
    return {what: paths for what, paths in found.items() if paths}


def _named(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(map(ascii, paths[:_SHOWN])) + more
