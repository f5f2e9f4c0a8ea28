"""Decide what a run into a directory does, from its plan and from what earlier runs left. Doing it is left to run/.

A run decides while it holds the lock, from what it has verified; a plan decides the same from what anybody may have
written. Both look at the same conflicts, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY
from pipecrypt.errors import SinkNotEmptyError
from pipecrypt.runs.journal.block import TaskRecord
from pipecrypt.runs.journal.history import PastRun
from pipecrypt.runs.journal.past_runs import DoneFile, PastRuns
from pipecrypt.runs.plan.changes import (
    Changes,
    check_changes,
    check_sizes,
    compare_with_done,
    overwrite_done,
    superseded_by,
    written_by,
)
from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.sink import sink_is_empty

__all__ = ["Decision", "decide", "find_conflicts", "what_goes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a run does.

    Args:
        changes: what is left to do, and what becomes of outputs of earlier runs.
        continued: the run that this one continues; None: it is a new one.
        adopted: from ids to records of tasks that the continued run has done.
        dropped: outputs of the continued run whose tasks are none now; they are removed first.
        rotated: paths of files that a deep rotation put under the keys of the policy, with the ids of their tasks now.
    """

    changes: Changes
    continued: PastRun | None = None
    adopted: Mapping[str, TaskRecord] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    rotated: Mapping[str, str] = field(default_factory=dict)

    @property
    def adopted_paths(self) -> frozenset[str]:
        """Paths of the outputs of adopted tasks."""
        return frozenset(part.path for record in self.adopted.values() for part in record.parts)

    @property
    def is_work(self) -> bool:
        """Whether anything is to be written, removed or signed, for other reasons than time."""
        return bool(self.changes.to_do or self.changes.removed or self.adopted or self.rotated)


def decide(
    request: EncryptSpec,
    plan: Plan,
    past: PastRuns | None,
    there: Mapping[str, int | None] | None,
    find: Callable[[Mapping[str, DoneFile]], Mapping[str, str]] = lambda done: {},
) -> Decision:
    """Return what a run does.

    Args:
        request: what is asked for.
        plan: all of its tasks.
        past: what earlier runs left; None where the run keeps no journal, and so knows of none.
        there: sizes in bytes of the outputs that are in the sink; None where whoever signs looks for them.
        find: finds which of the outputs that were written are under the keys of the policy by a deep rotation: their
            paths, with the ids of their tasks now.
    """
    continued = past.unfinished if past is not None and request.run.resumes else None
    if past is None:
        return Decision(changes=Changes(to_do=plan.tasks, skipped=0))
    adopted, dropped = _taken_over(request, plan, past, continued)
    rotated: Mapping[str, str] = {}
    if request.overwrite:
        changes = overwrite_done(plan.tasks, past.done, adopted, request.run.on_source_change)
    else:
        rotated = find(past.done)
        done = {path: replace(file, task_id=rotated.get(path, file.task_id)) for path, file in past.done.items()}
        changes = compare_with_done(plan.tasks, done, adopted, there, _doubtful(continued))
        rotated = {path: new for path, new in rotated.items() if path in changes.kept}
    if request.only_tasks is not None:
        # A saved plan leaves sources out on purpose: what has no task in it is not gone.
        changes = replace(changes, removed=(), orphaned=())
    return Decision(changes=changes, continued=continued, adopted=adopted, dropped=dropped, rotated=rotated)


def find_conflicts(
    request: EncryptSpec, past: PastRuns | None, decision: Decision, there: Mapping[str, int | None] | None
) -> Iterator[Callable[[], None]]:
    """Yield the checks that the run must pass, in order; each raises ConflictError or SinkNotEmptyError if it does not.

    Args:
        request: what is asked for.
        past: what earlier runs left.
        decision: from `decide`, with the same arguments.
        there: as for `decide`.
    """
    if past is None or request.overwrite:
        return
    if not request.run.resumes:
        yield past.check_finished
    yield lambda: _check_known(request, past)
    yield lambda: check_changes(decision.changes, request.run.on_source_change)
    if there is not None:
        yield lambda: check_sizes(request.sink, decision.changes, there, past.dataset_id)


def what_goes(
    decision: Decision, listed: Collection[str], *, is_staged: bool, overwrites: bool
) -> Callable[[str], bool]:
    """Return what says of a path below a signed sink whether the run may replace or remove what is there.

    Args:
        decision: what the run does.
        listed: paths of the version that it follows.
        is_staged: whether its files wait elsewhere: then what is at a place, and not listed, is somebody else's.
        overwrites: whether it replaces those too.
    """
    superseded = superseded_by(decision.changes.to_do)
    removed, adopted = {*decision.changes.removed, *decision.dropped}, decision.adopted_paths

    def goes(path: str) -> bool:
        is_foreign = is_staged and not overwrites and path not in listed
        return not is_foreign and (path in removed or path in adopted or superseded(path))

    return goes


def _taken_over(
    request: EncryptSpec, plan: Plan, past: PastRuns, continued: PastRun | None
) -> tuple[Mapping[str, TaskRecord], tuple[str, ...]]:
    """Return what the run that is continued has done of the plan, and paths of files that it would not write now."""
    if continued is None:
        return {}, ()
    if request.only_tasks is not None:
        return past.adopted, ()  # what a saved plan leaves out stays
    planned = {task.id for task in plan.tasks}
    adopted = {task_id: record for task_id, record in past.adopted.items() if task_id in planned}
    writes, kept = written_by(plan.tasks), {part.path for record in adopted.values() for part in record.parts}
    # A source was changed or taken away since. What is staged needs no care: no version lists it.
    dropped = [] if continued.header.is_staged else [path for path in _noted(continued) - kept if not writes(path)]
    return adopted, tuple(sorted(dropped))


def _doubtful(continued: PastRun | None) -> set[str]:
    """Return where the run that is continued may have written over what earlier runs have done."""
    if continued is None or continued.header.is_staged:
        return set()
    return _noted(continued).union(continued.replaces)


def _noted(run: PastRun) -> set[str]:
    return {part.path for record in run.records.values() for part in record.parts}


def _check_known(request: EncryptSpec, past: PastRuns) -> None:
    is_known = bool(past.done) or past.unfinished is not None
    is_foreign = not is_known and not sink_is_empty(request.sink, besides=RESERVED_DIRECTORY)
    if is_foreign or any(not file.task_id for file in past.done.values()):
        raise SinkNotEmptyError(f"the sink {request.sink.display} holds files that no run of a configuration wrote")
