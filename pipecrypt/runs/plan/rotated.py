"""Tell files that a deep rotation put under the keys of the policy from files that are due again.

The id of a task depends on the key references of its policy, so a configuration that names a master key's successor
has other tasks than the run that wrote the files. A file is done all the same where

1. its task is one of this run's, if one key reference of the policy is exchanged for another that is known here: what
   the configuration lists under its keys, or another key of the same keystore;
2. it is under the keys of the policy now: as the signed statement says, or the footer of a file that nobody signed;
   under the successor itself, and under no key that the policy does not have.

The run notes the new ids, so that this is found out once, and the old key can be destroyed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias

from pipecrypt.dataset.signed_file import master_keys_of
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.service import list_sibling_keys
from pipecrypt.runs.journal.past_runs import FinishedFile
from pipecrypt.runs.output import unnumbered
from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task, task_id
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store

__all__ = ["FindIDs", "find_rotated"]

# A key reference -> ids of its master key, of all its versions; None where that takes a secret.
FindIDs: TypeAlias = Callable[[str], frozenset[str] | None]
_TRIED: Final = 8


class _KeySuccession:
    """One key reference of the policy that stands for another.

    Args:
        new: as the policy has it.
        old: what stood there before.
        spellings: how key references were written, by what they became.
    """

    def __init__(self, new: str, old: str, spellings: Mapping[str, str]) -> None:
        """Spell the policy as before."""
        self.new = new
        place, mark, name = old.partition("#")
        written = spellings.get(old) or spellings.get(place, place) + mark + name
        self._spellings = {**spellings, new: written}

    def old_id(self, task: Task) -> str:
        """Return the id that a task had with the old key."""
        return task_id(task.source, task.path, task.kind, self._spellings)


def find_rotated(
    spec: EncryptSpec,
    plan: Plan,
    done: Mapping[str, FinishedFile],
    promise: PromisedPolicy | None,
    ids_of: Callable[[], FindIDs],
    *,
    credentials: Credentials,
) -> dict[str, str]:
    """Return the paths of files that are done under the keys of the policy, with the ids of their tasks now.

    Args:
        spec: what is asked for.
        plan: all of its tasks.
        done: each output that was written, by path.
        promise: of the signed version that lists them; None where nobody signed it.
        ids_of: called once, where it is needed; for a run it opens the keys.
        credentials: what authenticates the keystores that other keys are looked for in, where it holds their secret.

    Raises:
        AccessError: a key is missing, or the credentials do not open it.
        StorageError: the storage refused or failed.
    """
    known = {file.task_id for file in done.values()}
    left = [task for task in plan.tasks if task.id not in known]
    written = {*done, *filter(None, map(unnumbered, done))}
    succession = _find_succession(spec, [task for task in left if task.path in written], known, credentials)
    if succession is None:
        return {}
    new_ids = {succession.old_id(task): task.id for task in left}
    paths = {path: new_ids[file.task_id] for path, file in done.items() if file.task_id in new_ids}
    policy_keys = _PolicyKeys(plan, succession, ids_of())
    if promise is not None:
        return paths if policy_keys.are_all(_promised(promise)) else {}
    return {path: new for path, new in paths.items() if policy_keys.are_all(_observed(plan.sink, path))}


class _PolicyKeys:
    """Says whether master keys are those of the policy, the successor among them."""

    def __init__(self, plan: Plan, succession: _KeySuccession, find: FindIDs) -> None:
        found = [find(reference) for reference in plan.key_references]
        self._all = None if None in found else frozenset().union(*(each for each in found if each is not None))
        self._new = find(succession.new)

    def are_all(self, master_key_ids: frozenset[str]) -> bool:
        if self._all is None or self._new is None:
            return True  # for a plan, which opens no key: the run finds out
        return bool(master_key_ids & self._new) and master_key_ids <= self._all


def _find_succession(
    spec: EncryptSpec, left: Sequence[Task], known: set[str], credentials: Credentials
) -> _KeySuccession | None:
    if not left:
        return None
    for succession in _successions(spec, credentials):
        # Most of the files, or none: a few tell which.
        if any(succession.old_id(task) in known for task in islice(left, _TRIED)):
            return succession
    return None


def _successions(spec: EncryptSpec, credentials: Credentials) -> Iterator[_KeySuccession]:
    used = spec.policy.engine_policy().key_references()
    for new in used:
        for old in dict.fromkeys((*spec.known_keys, *list_sibling_keys(new, credentials))):
            if old not in used:
                yield _KeySuccession(new, old, spec.key_spellings)


def _promised(promise: PromisedPolicy) -> frozenset[str]:
    lists: Iterable[tuple[str, ...]] = (
        promise.footer_key_ids,
        promise.other_key_ids or (),
        *(column.master_key_ids for column in promise.columns),
    )
    return frozenset(each for key_ids in lists for each in key_ids)


def _observed(sink: Location, path: str) -> frozenset[str]:
    """Return the master keys that the footer of a file names; none where it cannot be read."""
    file = open_store(sink).stat(path).regular()
    return frozenset() if file is None else master_keys_of(file)
