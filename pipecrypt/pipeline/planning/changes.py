"""Compare the tasks of a plan with those that earlier runs have done. Doing what is left is left to the driver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import ConflictError
from pipecrypt.pipeline.history.journal.block import TaskRecord
from pipecrypt.pipeline.planning.plan import rolls_over, split_path
from pipecrypt.pipeline.request.run_options import OnSourceChange
from pipecrypt.pipeline.task.operation import Task
from pipecrypt.pipeline.task.output import unnumbered

__all__ = ["Changes", "check_changes", "compare_with_done", "superseded_by", "written_by"]

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a run has to do.

    Args:
        to_do: tasks that are not done yet, or whose source or policy changed since.
        skipped: how many are done.
        replaced: outputs that will be written again, sorted.
        removed: outputs whose sources are gone, sorted.
    """

    to_do: tuple[Task, ...]
    skipped: int
    replaced: tuple[str, ...]
    removed: tuple[str, ...]


def compare_with_done(tasks: Iterable[Task], done: Mapping[str, str], adopted: Mapping[str, TaskRecord]) -> Changes:
    """Return what is left to do.

    Args:
        tasks: all tasks of the plan.
        done: from the path of each output that is there to the id of the task that wrote it.
        adopted: from ids to records of tasks that are done by a run that is continued.
    """
    planned = tuple(tasks)
    rewritten = {part.path for record in adopted.values() for part in record.parts}
    done = {path: task_id for path, task_id in done.items() if path not in rewritten}
    ids = {*done.values(), *adopted}
    to_do = tuple(task for task in planned if task.id not in ids)
    planned_ids = {task.id for task in planned}
    stale = sorted(path for path, task_id in done.items() if task_id not in planned_ids)
    writes = written_by(to_do)
    return Changes(
        to_do=to_do,
        skipped=len(planned) - len(to_do),
        replaced=tuple(path for path in stale if writes(path)),
        removed=tuple(path for path in stale if not writes(path)),
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


def written_by(tasks: Iterable[Task]) -> Callable[[str], bool]:
    """Return what says of a path below the sink whether one of these tasks may write it."""
    by_kind: defaultdict[bool, set[str]] = defaultdict(set)
    for task in tasks:
        by_kind[rolls_over(task.operation)].add(task.path)
    plain, rolled = by_kind[False], by_kind[True]
    return lambda path: path in plain or unnumbered(path) in rolled


def superseded_by(tasks: Iterable[Task]) -> Callable[[str], bool]:
    """Return what says of a path whether its rows would be in the dataset twice if it stayed beside these outputs.

    These are the paths that are written, and of a source that is split now, what it was written to before, whole or in
    more parts.
    """
    to_do = tuple(tasks)
    writes, split = written_by(to_do), {path for task in to_do if (path := split_path(task)) is not None}
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
