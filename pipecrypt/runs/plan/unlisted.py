"""Stop a run before a column that no rule covers goes out in plaintext.

A policy names what is encrypted, so a column that a source has since yesterday would go out in plaintext without a
word. Where the policy does not say what becomes of unlisted columns, a run compares those that would be in plaintext:

1. with those that earlier files of the sink have in plaintext. A signed statement notes them, or the journals of runs
   that do not sign: the one is verified by the run, the others are as trustworthy as the sink;
2. where these were not noted, as by older releases, with those of sources that earlier runs have done, some of them;
3. where there is no earlier file, with each other: what one source has in plaintext, all must have.

Names are compared as they are, so `SSN` is another column than `ssn`, and so are nested ones, leaf by leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, TypeAlias

from pipecrypt.dataset.statement.promise import ClearColumns
from pipecrypt.dataset.version import Version
from pipecrypt.errors import AlreadyEncryptedError, ContentError, PipecryptError, PolicyError, UnlistedColumnError
from pipecrypt.runs.journal.past_runs import RunHistory
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.task import SourceShape, Task
from pipecrypt.vocabulary.in_flight import map_in_flight

__all__ = ["ColumnsSeen", "PlannedColumns", "Schema", "name_a_few", "read_shape", "read_shapes"]

# Leaf columns, and whether each will be encrypted.
Schema: TypeAlias = "tuple[tuple[tuple[str, ...], bool], ...]"
# The same bytes fail in the task, too, which says what is wrong with them.
_SAME_IN_THE_TASK: Final = (ContentError, PolicyError, AlreadyEncryptedError, UnlistedColumnError)
_SOME: Final = 32
_SHOWN: Final = 3


class ColumnsSeen:
    """The columns that sources have: each different list of them once, with the first source that has it.

    Attributes:
        problem: why the first source that no task can encrypt has no columns here.
    """

    __slots__ = ("_first", "problem")

    def __init__(self) -> None:
        """Begin with no source."""
        self._first: dict[Schema, str] = {}
        self.problem: PipecryptError | None = None

    def add(self, schema: Schema, source: str) -> None:
        """Note the columns of a source.

        Args:
            schema: its leaf columns, and whether each will be encrypted.
            source: its path, for errors.
        """
        self._first.setdefault(schema, source)

    def cannot_have(self, problem: PipecryptError) -> None:
        """Note that no task can encrypt a source; that the policy refuses one of its columns is what counts most."""
        if self.problem is None or isinstance(problem, UnlistedColumnError):
            self.problem = problem

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """All lists of columns."""
        return tuple(self._first)

    def clear(self) -> ClearColumns:
        """Return the columns that some source has, and that would be in plaintext."""
        return frozenset(path for schema in self._first for path, is_sealed in schema if not is_sealed)

    def lacking(self, columns: ClearColumns) -> tuple[str, tuple[str, ...], str | None] | None:
        """Return the first source that has plaintext columns beside these, or None: its path and their dotted names.

        The third is None: where columns are compared with each other, it tells which source lacks them.
        """
        for schema, source in self._first.items():
            new = [".".join(path) for path, is_sealed in schema if not is_sealed and path not in columns]
            if new:
                return source, tuple(new), None
        return None

    def differing(self) -> tuple[str, tuple[str, ...], str | None] | None:
        """Return the first source with plaintext columns that another lacks: its path, their names, and the other's."""
        every = self.clear()
        for schema, other in self._first.items():
            clear = frozenset(path for path, is_sealed in schema if not is_sealed)
            if clear != every and (found := self.lacking(clear)) is not None:
                return found[0], found[1], other
        return None


class PlannedColumns:
    """The columns of what a run is about to do, and those that are known from earlier; read when they are asked for.

    Args:
        policy: what is encrypted.
        tasks: all tasks of the plan.
        to_do: those that are left.
        past: what journals say; None where no run keeps one.
        version: the signed version that the sink holds.
        seen: the columns of the sources that are left, where they were read before.
    """

    def __init__(
        self,
        policy: Policy,
        tasks: Sequence[Task],
        to_do: Sequence[Task],
        *,
        past: RunHistory | None,
        version: Version | None,
        seen: ColumnsSeen | None = None,
    ) -> None:
        """Read nothing yet."""
        self._policy = policy
        self._tasks = tasks
        self._to_do = to_do
        self._noted = _noted(past, version)
        self._seen = seen

    @cached_property
    def seen(self) -> ColumnsSeen:
        """The columns of the sources that are left.

        Raises:
            ConflictError: a source is not, or no longer, the one that was pinned.
            StorageError: the storage refused or failed.
        """
        return _look_at_columns(self._to_do) if self._seen is None else self._seen

    @cached_property
    def known(self) -> ClearColumns | None:
        """The columns that earlier files are known to have in plaintext; None where that is not known.

        Raises:
            ConflictError: a source that was done before is not, or no longer, the one that was pinned.
            StorageError: the storage refused or failed.
        """
        if self._noted is not None or not self._policy.watches_unlisted:
            return self._noted
        left = {task.id for task in self._to_do}
        done = [task for task in self._tasks if task.id not in left]
        return _look_at_columns(_some(done)).clear() if done else None

    def check(self) -> None:
        """Pass if no new column would go out in plaintext that no rule of the policy covers.

        Raises:
            UnlistedColumnError: one would; the hint is the line to add.
            ConflictError: as `seen` and `known`.
            StorageError: likewise.
        """
        if not self._to_do or not self._policy.watches_unlisted:
            return
        if isinstance(self.seen.problem, UnlistedColumnError):
            raise self.seen.problem
        found = self.seen.differing() if self.known is None else self.seen.lacking(self.known)
        if found is not None:
            raise _refusal(self._policy, *found)

    def clear(self) -> ClearColumns:
        """Return the columns that files have in plaintext, or will have, as far as it was looked at."""
        known = self.known or frozenset[tuple[str, ...]]()
        return known | self.seen.clear() if self._to_do and self._policy.watches_unlisted else known


def _look_at_columns(tasks: Iterable[Task]) -> ColumnsSeen:
    """Read the columns of the sources of tasks, several at once; of what is done in chunks there are none.

    A source that no task can encrypt has no columns here: its task says what is wrong with it.

    Raises:
        ConflictError: a source is not, or no longer, the one that was pinned.
        StorageError: the storage refused or failed.
    """
    by_source = {task.source.relative_path: task for task in tasks}
    seen = ColumnsSeen()
    for task, found in read_shapes(by_source.values()):
        if isinstance(found, SourceShape):
            seen.add(found.schema, task.source.location.display)
        elif isinstance(found, _SAME_IN_THE_TASK):
            seen.cannot_have(found)
        else:
            raise found
    return seen


def read_shapes(tasks: Iterable[Task]) -> Iterator[tuple[Task, SourceShape | PipecryptError]]:
    """Yield the tasks in their order, each with the shape of its source or why it has none, several at once."""
    tasks = list(tasks)
    yield from zip(tasks, map_in_flight(read_shape, tasks, name="footers"), strict=True)


def read_shape(task: Task) -> SourceShape | PipecryptError:
    """Return the shape of a task's source, or why it has none."""
    try:
        return task.kind.shape(task.source)
    except PipecryptError as error:
        return error


def _noted(past: RunHistory | None, version: Version | None) -> ClearColumns | None:
    noted = [each.clear_columns for each in (past, version) if each is not None and each.clear_columns is not None]
    return frozenset[tuple[str, ...]]().union(*noted) if noted else None


def _some(tasks: Sequence[Task]) -> Iterator[Task]:
    """Yield a few tasks, from everywhere in the list."""
    step = max(len(tasks) / _SOME, 1)
    return (tasks[int(index * step)] for index in range(min(len(tasks), _SOME)))


def _refusal(policy: Policy, source: str, names: tuple[str, ...], other: str | None) -> UnlistedColumnError:
    listed = f"{'column' if len(names) == 1 else 'columns'} {name_a_few(names)}"
    compared = "earlier files in the sink do not have in plaintext" if other is None else f"{other} does not have"
    subject, object_ = ("it", "it") if len(names) == 1 else ("they", "them")
    return UnlistedColumnError(
        f"{source} has the unlisted {listed}, which {compared}{_near(policy, names)}: "
        f"nobody said that {subject} may go out in plaintext",
        hint=f"list {object_} under a key in encrypt.columns, "
        "or let unlisted columns go out: encrypt.unlisted: plaintext",
    )


def name_a_few(names: Sequence[str]) -> str:
    """Return the first names, as errors show them, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(ascii, names[:_SHOWN])) + more


def _near(policy: Policy, names: Iterable[str]) -> str:
    """Return the end of a sentence about a name that is listed in another case."""
    listed = {pattern.casefold(): pattern for pattern in policy.columns or ()}
    pair = next(((name, listed[name.casefold()]) for name in names if name.casefold() in listed), None)
    return "" if pair is None else f" ({pair[1]!a} is listed, which differs from {pair[0]!a} in case only)"
