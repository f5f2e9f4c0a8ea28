"""Tell what a run would do, from a look at sources and sink, without a key and without writing. Doing it: run.

What earlier runs signed is read, but not verified, because no key is opened: a run verifies it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from pipecrypt.errors import PipecryptError, PolicyError, UnlistedColumnError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.key_check import check_keys
from pipecrypt.runs.plan.plan import Plan, make_plan
from pipecrypt.runs.plan.sink_preview import SinkPreview, preview_sink
from pipecrypt.runs.plan.unlisted import ColumnsSeen, PlannedColumns
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task

__all__ = ["PlanReport", "PlannedTask", "SchemaDrift", "report_plan"]

_AT_ONCE: Final = 8
_MOST_WAITING: Final = 4 * _AT_ONCE
_MOST_DRIFTS: Final = 100
# From a column's path to its physical type and its master key.
_Schema: TypeAlias = "tuple[tuple[tuple[str, ...], str, str | None], ...]"


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
        types: of the first source's columns, where it is CSV or JSON: inferred, or given.
        delimiter: of the first source, where it is CSV: found, or given.
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
    types: tuple[tuple[str, str], ...]
    delimiter: str | None
    columns_by_key: tuple[tuple[str | None, int], ...]
    workers: int
    wrapping_calls: int
    signing_calls: int
    conflicts: tuple[str, ...]
    drifts: tuple[SchemaDrift, ...]
    drifting: int


def report_plan(request: EncryptSpec, credentials: Credentials | None = None) -> PlanReport:
    """Look at sources and sink, and return what a run would do.

    Args:
        request: what is asked for.
        credentials: what authenticates keystores, where it holds their secret; nobody is asked. Default: the
            environment of this process.

    Raises:
        AccessError: a key is missing, as far as that can be seen without a secret; or a secret at hand is wrong.
        DamagedKeystoreError: a keystore was changed by somebody without its secret.
        PolicyError: the policy fits none of the sources.
        PipecryptError: there is no source, or what is asked for contradicts itself; see `make_plan`.
    """
    given = Credentials.from_environment() if credentials is None else credentials
    check_keys(request.policy, given)
    plan = make_plan(request)
    sink = preview_sink(request, plan, given)
    to_do = sink.decision.changes.to_do
    first = _preview(plan.tasks[0])
    totals = _PreviewTotals(first.schema)  # the same one whatever is done already
    for preview in _preview_all(to_do):
        totals.take(preview)
    if totals.misfit is not None and totals.misfits == len(to_do):
        raise totals.misfit  # as the run's first task would
    conflicts = (*sink.conflicts, *_unlisted(request, plan, sink, totals.seen))
    workers = max(1, min(request.workers, len(to_do)))
    signing = request.policy.signing
    return PlanReport(
        sink=request.sink.display,
        tasks=tuple(
            PlannedTask(each.id, each.source.relative_path, each.path, each.input_bytes) for each in plan.tasks
        ),
        to_do=len(to_do),
        skipped=sink.decision.changes.skipped,
        source_bytes=sum(task.input_bytes for task in to_do),
        batches=totals.batches if to_do else 0,
        replaced=sink.decision.changes.replaced,
        removed=tuple(sorted({*sink.decision.changes.removed, *sink.decision.dropped})),
        types=first.types,
        delimiter=first.delimiter,
        columns_by_key=totals.columns_by_key(),
        workers=workers,
        wrapping_calls=workers * len({*plan.key_references, *plan.also}) if to_do else 0,
        # A statement, and the first and the last block of the journal; long runs write more blocks.
        signing_calls=3 * len(signing.key_references) if signing is not None and sink.is_work else 0,
        conflicts=conflicts,
        drifts=tuple(totals.drifts),
        drifting=totals.drifting,
    )


def _unlisted(request: EncryptSpec, plan: Plan, sink: SinkPreview, seen: ColumnsSeen) -> Iterator[str]:
    """Yield what the run would say about columns that no rule of the policy covers."""
    to_do = sink.decision.changes.to_do
    try:
        PlannedColumns(request.policy, plan.tasks, to_do, past=sink.past, version=sink.version, seen=seen).check()
    except UnlistedColumnError as error:
        yield f"{error.message}; {error.hint}"


@dataclass(frozen=True, slots=True)
class _SourcePreview:
    source: str
    display: str
    schema: _Schema | None
    batches: int
    problem: PipecryptError | None = None
    types: tuple[tuple[str, str], ...] = ()
    delimiter: str | None = None


def _preview_all(tasks: Iterable[Task]) -> Iterator[_SourcePreview]:
    waiting: deque[Future[_SourcePreview]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pipecrypt-footers") as threads:
        for task in tasks:
            waiting.append(threads.submit(_preview, task))
            if len(waiting) == _MOST_WAITING:  # so that one slow footer does not let all others pile up behind it
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _preview(task: Task) -> _SourcePreview:
    source, display = task.source.relative_path, task.source.location.display
    try:
        shape = task.kind.shape(task.source)
    except PipecryptError as error:
        return _SourcePreview(source, display, None, 0, error)
    if shape.columns is None:
        return _SourcePreview(source, display, None, 0)
    schema = tuple((leaf.path, leaf.physical_type, key) for leaf, key in shape.columns)
    return _SourcePreview(source, display, schema, shape.row_groups, types=shape.types, delimiter=shape.delimiter)


class _PreviewTotals:
    """What all sources show, without keeping each."""

    def __init__(self, first: _Schema | None) -> None:
        self._first = first
        self._batches = 0
        self.seen = ColumnsSeen()
        self.drifts: list[SchemaDrift] = []
        self.drifting = 0
        self.misfit: PolicyError | None = None
        self.misfits = 0

    @property
    def batches(self) -> int | None:
        return self._batches or None

    def columns_by_key(self) -> tuple[tuple[str | None, int], ...]:
        counts = Counter(key for _, _, key in self._first or ())
        return tuple(sorted(counts.items(), key=lambda item: (item[0] is None, item[0] or "")))

    def take(self, preview: _SourcePreview) -> None:
        self._batches += preview.batches
        if preview.schema is not None:
            self.seen.add(tuple((path, key is not None) for path, _, key in preview.schema), preview.display)
        if preview.problem is not None:
            self.seen.cannot_have(preview.problem)
            if isinstance(preview.problem, PolicyError):
                self.misfit = self.misfit or preview.problem
                self.misfits += 1
            self._drift(SchemaDrift(preview.source, problem=preview.problem.message))
        elif preview.schema is not None and self._first is None:
            self._first = preview.schema
        elif preview.schema is not None and self._first is not None and preview.schema != self._first:
            self._drift(_difference(preview.source, self._first, preview.schema))

    def _drift(self, drift: SchemaDrift) -> None:
        self.drifting += 1
        if len(self.drifts) < _MOST_DRIFTS:
            self.drifts.append(drift)


def _difference(source: str, first: _Schema, other: _Schema) -> SchemaDrift:
    before, now = ({".".join(path): kind for path, kind, _ in schema} for schema in (first, other))
    return SchemaDrift(
        source,
        missing=tuple(path for path in before if path not in now),
        added=tuple(path for path in now if path not in before),
        retyped=tuple(path for path in now if path in before and before[path] != now[path]),
    )
