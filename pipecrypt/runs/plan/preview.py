"""What a run would do, from a look at keys, sources and sink, without opening a key and without writing.

It makes the plan of the run and its decision; but what earlier runs signed is read, not verified, so nothing may be
written on the strength of it. What a key service shows without a secret is enough to find a keystore that nobody made,
or a name that is not in it, before a run is started at night. Where its secret is at hand, a keystore is authenticated
first. Services elsewhere are not called, and nobody is asked.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final, TypeAlias

from pipecrypt.dataset.governing import check_none_removed
from pipecrypt.dataset.listing import check_nothing_nested, check_nothing_unsigned, check_signed_is_there, sizes_below
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.staged import listed_staged_files
from pipecrypt.dataset.statement.envelope import ACCEPT_FUTURE_HINT, check_created
from pipecrypt.dataset.statement.file_list import check_digest
from pipecrypt.dataset.version import ClaimedVersion, check_follows, read_version
from pipecrypt.errors import (
    ConflictError,
    FormatError,
    PipecryptError,
    PolicyError,
    SinkNotEmptyError,
    SourceNotFoundError,
    UnlistedColumnError,
)
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.service import check_key_exists, find_key_ids
from pipecrypt.runs.journal.block import unchecked_seal
from pipecrypt.runs.journal.past_runs import RunHistory
from pipecrypt.runs.journal.sink_locking import check_unlocked
from pipecrypt.runs.plan.decision import Decision, decide, find_conflicts, what_goes
from pipecrypt.runs.plan.plan import Plan, find_sources, make_plan, workers_and_helpers
from pipecrypt.runs.plan.unlisted import ColumnsSeen, PlannedColumns, read_shape, read_shapes
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import SourceShape, Task
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.small_files import locate
from pipecrypt.vocabulary.clock import utc_now
from pipecrypt.vocabulary.documents import DocumentError, parse_document

__all__ = [
    "MAX_PLAN_BYTES",
    "PlanReport",
    "PlannedTask",
    "SchemaDrift",
    "SinkPreview",
    "check_keys",
    "preview_sink",
    "preview_sources",
    "read_saved_plan",
    "report_plan",
    "save_plan",
]


def check_keys(policy: Policy, credentials: Credentials) -> None:
    """Pass if all keys that a run needs are there, as far as that can be seen with what is at hand.

    Args:
        policy: names the keys that encrypt, those that open everything too, and those that sign.
        credentials: what may hold the secrets.

    Raises:
        AccessError: one is missing; the hint names the command that makes it. Or a secret at hand is wrong.
        DamagedKeystoreError: a keystore was changed by somebody without its secret.
        UsageError: one is for something else: a signing key where one that encrypts is due, or the other way round.
    """
    for reference in (*policy.engine_policy().key_references(), *policy.also):
        check_key_exists(reference, credentials, signs=False)
    if policy.signing is not None:
        for reference in policy.signing.key_references:
            check_key_exists(reference, credentials, signs=True)


@dataclass(frozen=True, slots=True)
class SinkPreview:
    """What a run would do about what its sink holds.

    Args:
        decision: what it would do.
        conflicts: what would make it fail.
        is_work: whether anything would be written, removed or signed.
        past: what journals say; None where no run keeps one.
        version: the signed version that is there.
    """

    decision: Decision
    conflicts: tuple[str, ...] = ()
    is_work: bool = True
    past: RunHistory | None = None
    version: ClaimedVersion | None = None


def preview_sink(spec: EncryptSpec, plan: Plan, credentials: Credentials) -> SinkPreview:
    """Look at the sink as a run would, without its lock and without keys.

    Args:
        spec: what is asked for.
        plan: all of its tasks.
        credentials: what authenticates keystores, where it holds their secret; nobody is asked.

    Raises:
        FutureStatementError: the clock of whoever signed was ahead, which the run would refuse.
        NotTrustedError: a signed version was accepted there before, and its statement is gone.
        RolledBackError: a later version was accepted there before.
        IntegrityError: statement, journal or a record of accepted versions is malformed.
        StorageError: the storage refused or failed.
    """
    if plan.is_single_file or spec.sink.is_standard_stream:
        return SinkPreview(Decision(to_do=plan.tasks))
    is_signed = spec.policy.signing is not None
    version = read_version(*locate(spec.sink), None) if open_store(spec.sink).stat().is_directory() else None
    if is_signed:
        _check_versions(spec, version)
    past = RunHistory.look(spec.sink, lambda run: unchecked_seal(run.blocks), version, is_signed=is_signed)
    found = sizes_below(spec.sink)
    followed = version if is_signed else None
    decision = decide(
        spec,
        plan,
        past=past,
        version=followed,
        found=found,
        ids_of=lambda reference: find_key_ids(reference, credentials),
        credentials=credentials,
    )
    # While another run is at work, what it has not come to yet is no conflict of its own.
    conflicts = _problems([lambda: check_unlocked(spec.sink)])
    if not conflicts:
        conflicts += _problems(find_conflicts(spec, past, decision, found))
        if is_signed:
            conflicts += _problems([lambda: check_nothing_nested(spec.sink, found)])
        if followed is not None:
            staying = {path: size for path, size in found.items() if path not in past.going}
            conflicts += _problems(_checks_of_signed(spec, followed, decision, staying))
    expires = None if version is None else version.manifest.expires
    is_expired = expires is not None and utc_now() >= expires
    return SinkPreview(decision, tuple(conflicts), decision.is_work or is_expired, past, version)


def _check_versions(spec: EncryptSpec, version: ClaimedVersion | None) -> None:
    """Pass if a run would follow the version that is there, or begin a dataset, as far as this user's memory tells."""
    memory, accept_future_statement = VersionMemory.of_user(os.environ), spec.run.accept_future_statement
    if version is None:
        check_none_removed(spec.sink, memory)
        return
    check_follows(spec.sink, version, memory and replace(memory, accept_future_statement=accept_future_statement))
    if not accept_future_statement:
        check_created(version.manifest.created, utc_now(), hint=ACCEPT_FUTURE_HINT)


def _problems(checks: Iterable[Callable[[], None]]) -> list[str]:
    found = []
    for check in checks:
        try:
            check()
        except (ConflictError, SinkNotEmptyError) as error:
            found.append(error.message)
    return found


def _checks_of_signed(
    spec: EncryptSpec, version: ClaimedVersion, decision: Decision, found: Mapping[str, int | None]
) -> Iterator[Callable[[], None]]:
    """Yield what a run looks at before it follows a signed version: that its files are there, and no others."""
    sink, entries = spec.sink, version.entries
    goes = what_goes(decision, frozenset(entries), is_staged=True, overwrites=spec.overwrite)
    stays = [entry for entry in entries.values() if not goes(entry.path)]
    in_place = {path for path, entry in entries.items() if found.get(path) == entry.size_bytes}
    right = listed_staged_files(sink, version.manifest.run, entries, in_place=in_place)
    staged = {path: file.size_bytes for path, file in right.items()}
    yield lambda: check_nothing_unsigned(sink, stays, [path for path in found if not goes(path)])
    yield lambda: check_signed_is_there(sink, stays, found, staged)


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


def preview_sources(spec: EncryptSpec) -> tuple[list[SourceFile], SourceShape]:
    """Return the sources, and the columns of the first of them; nothing of the sink but its place is looked at.

    Raises:
        PipecryptError: as `make_plan`.
    """
    found, _ = find_sources(spec)
    first, kind = found[0]
    return [source for source, _ in found], kind.shape(first)


def report_plan(spec: EncryptSpec, credentials: Credentials | None = None) -> PlanReport:
    """Look at sources and sink, and return what a run would do.

    Args:
        spec: what is asked for.
        credentials: what authenticates keystores, where it holds their secret; nobody is asked. Default: the
            environment of this process.

    Raises:
        AccessError: a key is missing, as far as that can be seen without a secret; or a secret at hand is wrong.
        DamagedKeystoreError: a keystore was changed by somebody without its secret.
        PolicyError: the policy fits none of the sources.
        PipecryptError: there is no source, or what is asked for contradicts itself; see `make_plan`.
    """
    given = given_credentials(credentials)
    check_keys(spec.policy, given)
    plan = make_plan(spec)
    sink = preview_sink(spec, plan, given)
    to_do = sink.decision.to_do
    first = read_shape(plan.tasks[0])
    totals = _PreviewTotals(_schema(first))  # the same one whatever is done already
    for task, found in read_shapes(to_do):
        totals.add(task, found)
    if totals.misfit is not None and totals.misfits == len(to_do):
        raise totals.misfit  # as the run's first task would
    conflicts = (*sink.conflicts, *_unlisted(spec, plan, sink, totals.seen))
    workers = sum(workers_and_helpers(to_do, spec.workers, spec.run))
    signing = spec.policy.signing
    return PlanReport(
        sink=spec.sink.display,
        tasks=tuple(
            PlannedTask(each.id, each.source.relative_path, each.path, each.input_bytes) for each in plan.tasks
        ),
        to_do=len(to_do),
        skipped=sink.decision.skipped,
        source_bytes=sum(task.input_bytes for task in to_do),
        batches=totals.batches if to_do else 0,
        replaced=sink.decision.replaced,
        removed=tuple(sorted({*sink.decision.removed, *sink.decision.dropped})),
        types=() if isinstance(first, PipecryptError) else first.types,
        delimiter=None if isinstance(first, PipecryptError) else first.delimiter,
        columns_by_key=totals.columns_by_key(),
        workers=workers,
        wrapping_calls=workers * len({*plan.keys.references, *plan.keys.also}) if to_do else 0,
        # A statement, and the first and the last block of the journal; long runs write more blocks.
        signing_calls=3 * len(signing.key_references) if signing is not None and sink.is_work else 0,
        conflicts=conflicts,
        drifts=tuple(totals.drifts),
        drifting=totals.drifting,
    )


def _unlisted(spec: EncryptSpec, plan: Plan, sink: SinkPreview, seen: ColumnsSeen) -> Iterator[str]:
    """Yield what the run would say about columns that no rule of the policy covers."""
    to_do = sink.decision.to_do
    try:
        PlannedColumns(spec.policy, plan.tasks, to_do, past=sink.past, version=sink.version, seen=seen).check()
    except UnlistedColumnError as error:
        yield f"{error.message}; {error.hint}"


def _schema(found: SourceShape | PipecryptError) -> _Schema | None:
    """Return the columns of a source, as sources are compared with each other."""
    if isinstance(found, PipecryptError) or found.columns is None:
        return None
    return tuple((leaf.path, leaf.physical_type, key) for leaf, key in found.columns)


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

    def add(self, task: Task, found: SourceShape | PipecryptError) -> None:
        source, schema = task.source.relative_path, _schema(found)
        if isinstance(found, PipecryptError):
            self.seen.cannot_have(found)
            if isinstance(found, PolicyError):
                self.misfit = self.misfit or found
                self.misfits += 1
            self._drift(SchemaDrift(source, problem=found.message))
        elif schema is not None:
            self._batches += found.row_groups
            self.seen.add(found.schema, task.source.location.display)
            if self._first is None:
                self._first = schema
            elif schema != self._first:
                self._drift(_difference(source, self._first, schema))

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


_PLAN_VERSION: Final = 1
MAX_PLAN_BYTES: Final = 64 << 20  # some 150,000 files
_MAX_TASKS: Final = 1_000_000
_MAX_ID: Final = 64
_MAX_TEXT: Final = 4096


def save_plan(report: PlanReport, place: str | os.PathLike[str]) -> None:
    """Write a plan to a file, which is replaced: which tasks, by id, a run shall do and no others.

        {"version": 1, "sink": "<as errors show it>",
         "tasks": [{"id": "<64 hex>", "source": "<path>", "path": "<path>", "source_bytes": n}, ...]}

    The id of a task is a digest of source, size, version, output and policy, so a source or a policy that changed since
    makes another task. Storage options, which may hold secrets, are not in it.

    Args:
        report: of the plan.
        place: the file.

    Raises:
        StorageError: the storage refused or failed.
    """
    document = {"version": _PLAN_VERSION, "sink": report.sink, "tasks": [asdict(task) for task in report.tasks]}
    with open_store(Location.of(place)).write(overwrite=True) as sink:
        sink.write(json.dumps(document, indent=1).encode() + b"\n")
        sink.publish()


def read_saved_plan(place: str | os.PathLike[str], sink: Location) -> frozenset[str]:
    """Return the ids of the tasks in a file that `save_plan` wrote.

    Args:
        place: the file.
        sink: where the run writes.

    Raises:
        SourceNotFoundError: there is no such file.
        FormatError: it is not a plan.
        ConflictError: it was made for another sink.
    """
    location = Location.of(place)
    data = open_store(location).read_small(max_bytes=MAX_PLAN_BYTES)
    if data is None:
        raise SourceNotFoundError(
            f"{location.display} does not exist", hint="pipecrypt plan CONFIG --out FILE makes it"
        )
    try:
        document = parse_document(data, max_bytes=MAX_PLAN_BYTES)
        document.only("version", "sink", "tasks")
        if document.integer("version") != _PLAN_VERSION:
            raise DocumentError("its version is unknown to this version of pipecrypt")
        ids = [task.text("id", max_characters=_MAX_ID) for task in document.documents("tasks", max_count=_MAX_TASKS)]
        if not ids:
            raise DocumentError("it has no tasks")
        planned_sink = document.text("sink", max_characters=_MAX_TEXT)
        for each in ids:
            check_digest("id", each)
    except DocumentError as error:
        raise FormatError(f"{location.display} is not a saved plan: {error}", hint="make it anew") from error
    if sink.display != planned_sink:
        raise ConflictError(
            f"{location.display} was planned for the sink {planned_sink}, not {sink.display}",
            hint="plan anew for this sink",
        )
    return frozenset(ids)
