"""Tell what a run would do, from a look at sources and sink, without a key and without writing. Doing it: run.

What earlier runs signed is read, but not verified, because no key is opened: a run verifies it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from pipecrypt.dataset.opening.staged_files import listed_staged_files
from pipecrypt.dataset.signing.directory_state import check_nothing_unsigned, check_signed_is_there, sizes_below
from pipecrypt.errors import ConflictError, PipecryptError
from pipecrypt.pipeline.history.history_view import NotedWork, noted_without_keys
from pipecrypt.pipeline.history.sink_locking import check_unlocked
from pipecrypt.pipeline.planning.changes import Changes, check_changes, check_sizes, compare_with_done, superseded_by
from pipecrypt.pipeline.planning.plan import Plan, make_plan
from pipecrypt.pipeline.planning.preview import source_shape
from pipecrypt.pipeline.request.request import EncryptRequest
from pipecrypt.pipeline.task.operation import Task
from pipecrypt.storage.location import Location

__all__ = ["PlanReport", "PlannedTask", "SchemaDrift", "report_plan"]

_AT_ONCE: Final = 8
_MOST_WAITING: Final = 4 * _AT_ONCE
_MOST_DRIFTS: Final = 100
# From a column's path to its physical type and its master key.
_Schema: TypeAlias = "tuple[tuple[str, str, str | None], ...]"


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task of a run.

    Args:
        id: 64 hex digits; the same as long as source, output and policy are.
        source: path of the input below the source.
        path: of the output below the sink.
        source_bytes: how much of the input it reads.
    """

    id: str
    source: str
    path: str
    source_bytes: int


@dataclass(frozen=True, slots=True)
class SchemaDrift:
    """How the columns of a source differ from those of the first one, or why it cannot be read.

    Args:
        source: its path.
        missing: columns that it lacks.
        added: columns that only it has.
        retyped: columns of another physical type.
        problem: what a run would say about it; None where it can be encrypted.
    """

    source: str
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    retyped: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a run would do.

    Args:
        sink: where the run would write, as errors show it.
        tasks: all tasks, those that are done included.
        to_do: how many are left.
        skipped: how many an earlier run has done.
        source_bytes: of what is left.
        batches: row groups of Parquet sources that are left; None where no source tells.
        replaced: outputs that would be written again.
        removed: outputs whose sources are gone.
        columns_by_key: key references, with how many columns of the first source each protects; None: plaintext.
        workers: processes at once.
        wrapping_calls: estimated calls of key services for master keys.
        signing_calls: the same for signing keys, at least.
        conflicts: what would make the run fail.
        drifts: sources that differ from the first one, at most 100.
        drifting: how many there are.
    """

    sink: str
    tasks: tuple[PlannedTask, ...]
    to_do: int
    skipped: int
    source_bytes: int
    batches: int | None
    replaced: tuple[str, ...]
    removed: tuple[str, ...]
    columns_by_key: tuple[tuple[str | None, int], ...]
    workers: int
    wrapping_calls: int
    signing_calls: int
    conflicts: tuple[str, ...]
    drifts: tuple[SchemaDrift, ...]
    drifting: int


def report_plan(request: EncryptRequest) -> PlanReport:
    """Look at sources and sink, and return what a run would do.

    Raises:
        PipecryptError: there is no source, or what is asked for contradicts itself; see `make_plan`.
    """
    plan = make_plan(request)
    conflicts: list[str] = []
    changes = _changes(request, plan, conflicts)
    looks = _Looks(_look_at(plan.tasks[0]).schema)  # the same one whatever is done already
    for look in _look_at_all(changes.to_do):
        looks.take(look)
    workers = max(1, min(request.workers, len(changes.to_do)))
    signing = request.policy.signing
    is_work = bool(changes.to_do or changes.removed)
    return PlanReport(
        sink=request.sink.display,
        tasks=tuple(
            PlannedTask(each.id, each.source.relative_path, each.path, each.input_bytes) for each in plan.tasks
        ),
        to_do=len(changes.to_do),
        skipped=changes.skipped,
        source_bytes=sum(task.input_bytes for task in changes.to_do),
        batches=looks.batches,
        replaced=changes.replaced,
        removed=changes.removed,
        columns_by_key=looks.columns_by_key(),
        workers=workers,
        wrapping_calls=workers * len({*plan.key_references, *plan.also}) if changes.to_do else 0,
        # A statement, and the first and the last block of the journal; long runs write more blocks.
        signing_calls=3 * len(signing.key_references) if signing is not None and is_work else 0,
        conflicts=tuple(conflicts),
        drifts=tuple(looks.drifts),
        drifting=looks.drifting,
    )


def _changes(request: EncryptRequest, plan: Plan, conflicts: list[str]) -> Changes:
    everything = Changes(to_do=plan.tasks, skipped=0)
    if plan.is_single_file or request.sink.is_standard_stream:
        return everything
    is_signed = request.policy.signing is not None
    noted = noted_without_keys(request.sink, is_signed=is_signed)
    if noted.unfinished is not None and not (request.run.resumes or request.overwrite):
        conflicts.append(f"run {noted.unfinished} was not finished: continue it with --resume")
    if noted.has_foreign_files and not request.overwrite:
        conflicts.append(f"the sink {request.sink.display} holds files that no run of a configuration wrote")
    found = sizes_below(request.sink)
    changes = everything
    if not request.overwrite:
        changes = compare_with_done(plan.tasks, noted.done, {}, None if is_signed else found)
    with _noted(conflicts):
        check_unlocked(request.sink)
    with _noted(conflicts):
        check_changes(changes, request.run.on_source_change)
    if not is_signed and not request.overwrite:
        with _noted(conflicts):
            check_sizes(request.sink, changes, found)
    elif is_signed and noted.unfinished is None:  # what a run left that did not finish is resumed or removed
        _check_signed(request.sink, noted, changes, found, conflicts)
    return changes


def _check_signed(
    sink: Location, noted: NotedWork, changes: Changes, found: Mapping[str, int | None], conflicts: list[str]
) -> None:
    """Note what a run would say about the files of the version that it follows."""
    removed, superseded = set(changes.removed), superseded_by(changes.to_do)
    entries, run = ((), None) if noted.version is None else (noted.version.entries, noted.version.run)
    stays = [entry for entry in entries if entry.path not in removed and not superseded(entry.path)]
    others = [path for path in found if path not in removed and not superseded(path)]
    right = listed_staged_files(sink, run, {entry.path: entry for entry in entries})
    staged = {path: file.size_bytes for path, file in right.items()}
    if noted.version is not None:
        with _noted(conflicts):
            check_nothing_unsigned(sink, stays, others)
    with _noted(conflicts):
        check_signed_is_there(sink, stays, found, staged)


@contextmanager
def _noted(conflicts: list[str]) -> Iterator[None]:
    try:
        yield
    except ConflictError as error:
        conflicts.append(error.message)


@dataclass(frozen=True, slots=True)
class _Look:
    source: str
    schema: _Schema | None
    batches: int
    problem: str | None = None


def _look_at_all(tasks: Iterable[Task]) -> Iterator[_Look]:
    waiting: deque[Future[_Look]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pipecrypt-footers") as threads:
        for task in tasks:
            waiting.append(threads.submit(_look_at, task))
            if len(waiting) == _MOST_WAITING:  # so that one slow footer does not let all others pile up behind it
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _look_at(task: Task) -> _Look:
    source = task.source.relative_path
    try:
        shape = source_shape(task.source, task.operation)
    except PipecryptError as error:
        return _Look(source, None, 0, error.message)
    if shape.columns is None:
        return _Look(source, None, 0)
    schema = tuple((leaf.dotted, leaf.physical_type, key) for leaf, key in shape.columns)
    return _Look(source, schema, shape.row_groups)


class _Looks:
    """What all sources show, without keeping each."""

    def __init__(self, first: _Schema | None) -> None:
        self._first = first
        self._batches = 0
        self.drifts: list[SchemaDrift] = []
        self.drifting = 0

    @property
    def batches(self) -> int | None:
        return self._batches or None

    def columns_by_key(self) -> tuple[tuple[str | None, int], ...]:
        counts = Counter(key for _, _, key in self._first or ())
        return tuple(sorted(counts.items(), key=lambda item: (item[0] is None, item[0] or "")))

    def take(self, look: _Look) -> None:
        self._batches += look.batches
        if look.problem is not None:
            self._drift(SchemaDrift(look.source, problem=look.problem))
        elif look.schema is not None and self._first is None:
            self._first = look.schema
        elif look.schema is not None and self._first is not None and look.schema != self._first:
            self._drift(_difference(look.source, self._first, look.schema))

    def _drift(self, drift: SchemaDrift) -> None:
        self.drifting += 1
        if len(self.drifts) < _MOST_DRIFTS:
            self.drifts.append(drift)


def _difference(source: str, first: _Schema, other: _Schema) -> SchemaDrift:
    before, now = ({path: kind for path, kind, _ in schema} for schema in (first, other))
    return SchemaDrift(
        source,
        missing=tuple(path for path in before if path not in now),
        added=tuple(path for path in now if path not in before),
        retyped=tuple(path for path in now if path in before and before[path] != now[path]),
    )
