"""Decide what a run into a directory does: compare its tasks with those that earlier runs have done.

A run decides while it holds the lock, from what it has verified; a plan decides the same from what anybody may have
written. Both look at the same conflicts, one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, TypeAlias

from pipecrypt.dataset.listing import name_some
from pipecrypt.dataset.signed_file import master_keys_of
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.dataset.version import Version
from pipecrypt.errors import ConflictError, SinkNotEmptyError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.service import list_sibling_keys
from pipecrypt.runs.journal.block import TaskRecord
from pipecrypt.runs.journal.journal import RecordedRun
from pipecrypt.runs.journal.past_runs import FinishedFile, RunHistory
from pipecrypt.runs.output import is_of_dataset, unnumbered
from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.plan.unlisted import name_a_few
from pipecrypt.runs.spec.options import OnSourceChange
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task, task_ids
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary.in_flight import map_in_flight

__all__ = [
    "Decision",
    "FindIDs",
    "compare_with_done",
    "decide",
    "find_conflicts",
    "overwrite_done",
    "superseded_by",
    "what_goes",
    "written_by",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a run does.

    Args:
        to_do: tasks that are not done yet, or whose source or policy changed since.
        skipped: how many are done.
        replaced: outputs that will be written again, sorted.
        removed: outputs whose sources are gone, sorted.
        lost: outputs that were written and are not there now, sorted.
        made_again: outputs of tasks that were done and are done again, because some are lost or doubtful.
        orphaned: outputs whose sources are gone, and that stay although all others are overwritten, sorted.
        kept: outputs of earlier runs that stay as they are, by path.
        continued: the run that this one continues; None: it is a new one.
        adopted: from ids to records of tasks that the continued run has done.
        dropped: outputs of the continued run whose tasks are none now; they are removed first.
        rotated: paths of files that a deep rotation put under the keys of the policy, with the ids of their tasks now.
    """

    to_do: tuple[Task, ...]
    skipped: int = 0
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    made_again: tuple[str, ...] = ()
    orphaned: tuple[str, ...] = ()
    kept: Mapping[str, FinishedFile] = field(default_factory=dict)
    continued: RecordedRun | None = None
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
        return bool(self.to_do or self.removed or self.adopted or self.rotated)


def compare_with_done(
    tasks: Iterable[Task],
    done: Mapping[str, FinishedFile],
    adopted: Mapping[str, TaskRecord],
    found: Mapping[str, int | None] | None = None,
    doubtful: Collection[str] = (),
) -> Decision:
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
    return Decision(
        to_do=to_do,
        skipped=len(planned) - len(to_do),
        replaced=tuple(path for path in stale if writes(path)),
        removed=tuple(path for path in stale if not writes(path)),
        lost=tuple(lost),
        made_again=tuple(sorted(path for path, file in done.items() if file.task_id in undone)),
        kept={path: file for path, file in done.items() if file.task_id in staying},
    )


def overwrite_done(
    tasks: Iterable[Task], done: Mapping[str, FinishedFile], adopted: Collection[str], choice: OnSourceChange
) -> Decision:
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
    return Decision(
        to_do=to_do,
        skipped=len(planned) - len(to_do),
        removed=gone if removes else (),
        orphaned=() if removes else gone,
    )


def _check_sizes(sink: Location, decision: Decision, found: Mapping[str, int | None], dataset_id: str | None) -> None:
    """Pass if outputs that nobody signed, and that stay, have the sizes that they were written with.

    A deep rotation changes the size of a file, and not whose it is: its footer tells.

    Args:
        sink: the directory.
        decision: from `compare_with_done`, with the same `found`.
        found: sizes in bytes of the outputs that are there.
        dataset_id: of the dataset that earlier runs wrote.

    Raises:
        ConflictError: one has not.
    """
    other = [path for path, file in decision.kept.items() if found.get(path) != file.size_bytes]
    other = [path for path in other if dataset_id is None or not is_of_dataset(sink, path, dataset_id)]
    if other:
        raise ConflictError(
            f"{name_some(sink, other)}: not of the size that an earlier run wrote",
            hint="remove what nobody wants, so that it is made again; or begin anew with --overwrite",
        )


def _check_changes(decision: Decision, choice: OnSourceChange) -> None:
    """Pass if the operator wants what changed to be replaced, or nothing did.

    Raises:
        ConflictError: sources changed or are gone.
    """
    if choice is OnSourceChange.REPLACE or not (decision.replaced or decision.removed):
        return
    found = {
        "the source or the policy changed since these were encrypted": decision.replaced,
        "the sources of these are gone": decision.removed,
    }
    told = "; ".join(f"{what}: {name_a_few(paths)}" for what, paths in found.items() if paths)
    raise ConflictError(told, hint="set run.on_source_change to replace, or put the sources back as they were")


def written_by(tasks: Iterable[Task]) -> Callable[[str], bool]:
    """Return what says of a path below the sink whether one of these tasks may write it."""
    by_kind: defaultdict[bool, set[str]] = defaultdict(set)
    for task in tasks:
        by_kind[task.kind.rolls_over].add(task.path)
    plain, rolled = by_kind[False], by_kind[True]
    return lambda path: path in plain or (bool(rolled) and unnumbered(path) in rolled)


def superseded_by(tasks: Iterable[Task]) -> Callable[[str], bool]:
    """Return what says of a path whether its rows would be in the dataset twice if it stayed beside these outputs.

    These are the paths that are written, and of a source that is split now, what it was written to before, whole or in
    more parts.
    """
    to_do = tuple(tasks)
    writes, split = written_by(to_do), {path for task in to_do if (path := task.whole_path) is not None}
    return lambda path: writes(path) or (bool(split) and (path in split or unnumbered(path) in split))


def decide(
    spec: EncryptSpec,
    plan: Plan,
    *,
    past: RunHistory | None,
    version: Version | None,
    found: Mapping[str, int | None],
    ids_of: FindIDs,
    credentials: Credentials,
) -> Decision:
    """Return what a run does.

    Args:
        spec: what is asked for.
        plan: all of its tasks.
        past: what earlier runs left; None where the run keeps no journal, and so knows of none.
        version: the signed version that is there; None where the run does not sign.
        found: sizes in bytes of the outputs that are in the sink.
        ids_of: finds the ids of a key, where files may be under a successor of an earlier one; for a run it opens it.
        credentials: what authenticates the keystores that other keys are looked for in, where it holds their secret.

    Raises:
        AccessError: a key is missing, or the credentials do not open it.
        StorageError: the storage refused or failed.
    """
    if past is None:
        return Decision(to_do=plan.tasks)
    continued = past.unfinished if spec.run.resumes else None
    adopted, dropped = _taken_over(spec, plan, past, continued)
    rotated: Mapping[str, str] = {}
    if spec.overwrite:
        decision = overwrite_done(plan.tasks, past.done, adopted, spec.run.on_source_change)
    else:
        promise = None if version is None else version.manifest.policy
        rotated = find_rotated(spec, plan, past.done, promise, ids_of, credentials=credentials)
        done = {**past.done, **{path: replace(past.done[path], task_id=new) for path, new in rotated.items()}}
        there = found if spec.policy.signing is None else None  # who signs looks by itself
        decision = compare_with_done(plan.tasks, done, adopted, there, _doubtful(continued))
    if spec.only_tasks is not None:
        # A saved plan leaves sources out on purpose: what has no task in it is not gone.
        decision = replace(decision, removed=(), orphaned=())
    rotated = {path: new for path, new in rotated.items() if path in decision.kept}
    return replace(decision, continued=continued, adopted=adopted, dropped=dropped, rotated=rotated)


def find_conflicts(
    spec: EncryptSpec, past: RunHistory | None, decision: Decision, found: Mapping[str, int | None]
) -> Iterator[Callable[[], None]]:
    """Yield the checks that the run must pass, in order; each raises ConflictError or SinkNotEmptyError if it does not.

    Args:
        spec: what is asked for.
        past: what earlier runs left.
        decision: from `decide`, with the same arguments.
        found: as for `decide`.
    """
    if past is None or spec.overwrite:
        return
    if not spec.run.resumes:
        yield past.check_finished
    yield lambda: _check_known(spec, past)
    yield lambda: _check_changes(decision, spec.run.on_source_change)
    if spec.policy.signing is None:
        yield lambda: _check_sizes(spec.sink, decision, found, past.dataset_id)


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
    superseded = superseded_by(decision.to_do)
    removed, adopted = {*decision.removed, *decision.dropped}, decision.adopted_paths

    def goes(path: str) -> bool:
        is_foreign = is_staged and not overwrites and path not in listed
        return not is_foreign and (path in removed or path in adopted or superseded(path))

    return goes


def _taken_over(
    spec: EncryptSpec, plan: Plan, past: RunHistory, continued: RecordedRun | None
) -> tuple[Mapping[str, TaskRecord], tuple[str, ...]]:
    """Return what the run that is continued has done of the plan, and paths of files that it would not write now."""
    if continued is None:
        return {}, ()
    if spec.only_tasks is not None:
        return past.adopted, ()  # what a saved plan leaves out stays
    planned = {task.id for task in plan.tasks}
    adopted = {task_id: record for task_id, record in past.adopted.items() if task_id in planned}
    writes, kept = written_by(plan.tasks), {part.path for record in adopted.values() for part in record.parts}
    # A source was changed or taken away since. What is staged needs no care: no version lists it.
    dropped = [] if continued.header.is_staged else [path for path in _noted(continued) - kept if not writes(path)]
    return adopted, tuple(sorted(dropped))


def _doubtful(continued: RecordedRun | None) -> set[str]:
    """Return where the run that is continued may have written over what earlier runs have done."""
    if continued is None or continued.header.is_staged:
        return set()
    return _noted(continued).union(continued.replaces)


def _noted(run: RecordedRun) -> set[str]:
    return {part.path for record in run.records.values() for part in record.parts}


def _check_known(spec: EncryptSpec, past: RunHistory) -> None:
    is_known = bool(past.done) or past.unfinished is not None
    is_foreign = not is_known and not open_store(spec.sink).is_empty(besides=RESERVED_DIRECTORY)
    if is_foreign or any(not file.task_id for file in past.done.values()):
        raise SinkNotEmptyError(f"the sink {spec.sink.display} holds files that no run of a configuration wrote")


# A key reference -> ids of its master key, of all its versions; None where that takes a secret.
FindIDs: TypeAlias = Callable[[str], frozenset[str] | None]
_TRIED: Final = 8


def find_rotated(
    spec: EncryptSpec,
    plan: Plan,
    done: Mapping[str, FinishedFile],
    promise: PromisedPolicy | None,
    ids_of: FindIDs,
    *,
    credentials: Credentials,
) -> dict[str, str]:
    """Return the paths of files that a deep rotation put under the keys of the policy, with their tasks' ids now.

    The id of a task depends on the key references of its policy, so a configuration that names a master key's successor
    has other tasks than the run that wrote the files. A file is done all the same where

    1. its task is one of this run's, if one key reference of the policy is exchanged for another that is known here:
       what the configuration lists under its keys, or another key of the same keystore;
    2. it is under the keys of the policy now: as the signed statement says, or the footer of a file that nobody signed;
       under the successor itself, and under no key that the policy does not have.

    The run notes the new ids, so that this is found out once, and the old key can be destroyed afterwards.

    Args:
        spec: what is asked for.
        plan: all of its tasks.
        done: each output that was written, by path.
        promise: of the signed version that lists them; None where nobody signed it.
        ids_of: as for `decide`; called once for each key, where it is needed.
        credentials: as for `decide`.
    """
    known = {file.task_id for file in done.values()}
    left = [task for task in plan.tasks if task.id not in known]
    if not left or not done:
        return {}
    written = {*done, *filter(None, map(unnumbered, done))}
    some = list(islice((task for task in left if task.path in written), _TRIED))  # most of the files are, or none
    successions = _successions(spec, credentials) if some else iter(())
    fitting = (each for each in successions if not known.isdisjoint(map(_id_before(each[1]), some)))
    successor, spellings = next(fitting, (None, None))
    if successor is None or spellings is None:
        return {}
    id_before = _id_before(spellings)
    new_ids = {id_before(task): task.id for task in left}
    paths = {path: new_ids[file.task_id] for path, file in done.items() if file.task_id in new_ids}  # 1
    ids = {reference: ids_of(reference) for reference in plan.keys.references}
    if None in ids.values():
        return paths  # for a plan, which opens no key: the run finds out
    new, every = ids[successor] or frozenset(), {each for some_ids in ids.values() for each in some_ids or ()}
    if promise is not None:
        observed = promise.master_key_ids
        return paths if observed & new and observed <= every else {}  # 2
    keys = dict(zip(paths, map_in_flight(lambda path: _observed(plan.sink, path), paths, name="footers"), strict=True))
    return {path: task_id for path, task_id in paths.items() if keys[path] & new and keys[path] <= every}  # 2


def _successions(spec: EncryptSpec, credentials: Credentials) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield key references of the policy that may stand for others, each with how the policy was spelled before."""
    spellings = spec.key_spellings
    for new in spec.key_references:
        for old in dict.fromkeys((*spec.known_keys, *list_sibling_keys(new, credentials))):
            if old not in spec.key_references:
                place, mark, name = old.partition("#")
                yield new, {**spellings, new: spellings.get(old) or spellings.get(place, place) + mark + name}


def _id_before(spellings: Mapping[str, str]) -> Callable[[Task], str]:
    id_of = task_ids(spellings)
    return lambda task: id_of(task.source, task.path, task.kind)


def _observed(sink: Location, path: str) -> frozenset[str]:
    """Return the master keys that the footer of a file names; none where it cannot be read."""
    file = open_store(sink).stat(path).regular()
    return frozenset() if file is None else master_keys_of(file)
