"""A run that writes a directory, from the lock to the last file in its place.

1. It takes the lock of the sink: of two runs, one goes on. 2. What a run before left half done is put in place. 3. Its
tasks are compared with those that are done. 4. A block of its journal appears before the first file. 5. Its files
appear under their names; those that belong to a signed dataset wait in the run's own directory. 6. Every task that is
done is noted. 7. The next version is signed: from here on it is what the dataset holds. 8. Files that waited are moved
to their places, what the version no longer has is removed. 9. The journal says that the run is finished; the lock is
given back. A run that is killed before 7 leaves the dataset as it was, one that is killed after leaves the new one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from pipecrypt.dataset.listing import name_some, sizes_below
from pipecrypt.dataset.sign.next_version import DatasetSigning
from pipecrypt.dataset.sign.promises import check_columns, check_frame
from pipecrypt.dataset.sign.records import SignableFile, SignedStatement
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.staged import finish_version, set_aside
from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, staged_path
from pipecrypt.dataset.statement.promise import ClearColumns, PromisedPolicy
from pipecrypt.dataset.version import VerifiedVersion, read_version_to_follow
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.columns import covers
from pipecrypt.runs.journal.block import RunHeader, Seal, TaskRecord, plain_seal, signed_seal
from pipecrypt.runs.journal.journal import Journal
from pipecrypt.runs.journal.past_runs import RunHistory, put_in_place
from pipecrypt.runs.journal.sink_locking import locked_sink
from pipecrypt.runs.output import Target, is_of_dataset, open_signers, unnumbered
from pipecrypt.runs.plan.decision import Decision, decide, find_conflicts, superseded_by, what_goes, written_by
from pipecrypt.runs.plan.plan import Plan, workers_and_helpers
from pipecrypt.runs.plan.unlisted import PlannedColumns
from pipecrypt.runs.report.events import FileDone, Part, Summary
from pipecrypt.runs.report.run_id import is_run_id, new_run_id
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task
from pipecrypt.store.lease import Lease
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import check_writers
from pipecrypt.vocabulary.clock import utc_now
from pipecrypt.vocabulary.in_flight import call_both

__all__ = ["DirectoryRun", "SinkState", "open_directory_run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkState:
    """What the sink holds as the run begins.

    Args:
        sink: the directory.
        seal: how blocks of journals are stored.
        signers: open, where the run signs.
        earlier: the signed version that is there.
        past: what journals say; None where the run keeps none.
        there: sizes in bytes of the outputs that are there.
        keeps_apart: whether it was tried that the storage refuses a second file of one name.
    """

    sink: Location
    seal: Seal
    signers: OpenSigners | None
    earlier: VerifiedVersion | None
    past: RunHistory | None
    there: Mapping[str, int | None]
    keeps_apart: bool = False

    @property
    def is_staged(self) -> bool:
        """Whether files wait elsewhere until their version is signed: there is a version already."""
        return self.earlier is not None


class DirectoryRun:
    """A run, and what it has done.

    Args:
        spec: what is asked for.
        plan: all tasks.
        lock: of the sink, held.
        state: what the sink holds.
        decision: what the run does.
        header: what the run is.
        columns: of what it is about to do.

    Attributes:
        plan: what is left to do; its tasks write where this run's files have to appear.
        run_id: the run's id; of the run that it continues, where it does.
        decision: what is done already, and what the run replaces or removes.
    """

    def __init__(
        self,
        spec: EncryptSpec,
        plan: Plan,
        *,
        lock: Lease,
        state: SinkState,
        decision: Decision,
        header: RunHeader,
        columns: PlannedColumns,
    ) -> None:
        """Look whether it can be signed; write nothing."""
        self.run_id = header.run_id
        self.decision = decision
        self._lock = lock
        self._state = state
        self._header = header
        self._columns = columns
        self._clear: set[tuple[str, ...]] = set()
        self._policy = spec.engine_policy
        self._signing = self._open_signing(overwrites=spec.overwrite)
        for record in decision.adopted.values():
            self._sign(record.task_id, record.signable)
        self._tasks = {task.id: task for task in decision.to_do}
        self._sources = {task.id: task.source.relative_path for task in plan.tasks} if decision.rotated else {}
        self._own = tuple(task for task in plan.tasks if task.id in self._tasks or task.id in decision.adopted)
        self._written = set(decision.adopted_paths)
        may_replace, is_free = self._may_replace(overwrites=spec.overwrite), self._is_free
        writing = _writing_plan(plan, decision.to_do, header, may_replace, is_free)
        self.plan = replace(writing, lock=lock.held)  # so that tasks elsewhere can see that it is held
        self._keeps_journal = spec.run.keeps_journal
        sequence = 0 if decision.continued is None else decision.continued.next_sequence
        self._journal = Journal(plan.sink, header, state.seal, sequence=sequence, keeps_apart=state.keeps_apart)

    @property
    def has_work(self) -> bool:
        """Whether anything is to be written, removed or signed."""
        return self.decision.is_work or self._is_expired

    @property
    def is_reported(self) -> bool:
        """Whether a report of the run is kept: it keeps a journal, has something to do, and nobody goes on with it."""
        return self._keeps_journal and self.has_work and not self._lock.is_lost

    @property
    def is_first_report(self) -> bool:
        """Whether no report of this run can be there, and the storage makes sure of it."""
        return self._state.keeps_apart and self.decision.continued is None

    def described(self, summary: Summary) -> Summary:
        """Return the summary of the run, with what it left alone, replaced and removed."""
        decision = self.decision
        removed = tuple(sorted({*decision.removed, *decision.dropped}))
        return replace(
            summary, run_id=self.run_id, skipped=decision.skipped, replaced=decision.replaced, removed=removed
        )

    def begin(self) -> None:
        """Note that the run begins."""
        if self._keeps_journal:
            self._journal.begin(self._replaced(), self._columns.clear())
            if self.decision.continued is not None:
                for place in {task.path.rpartition("/")[0]: task.sink for task in self.plan.tasks}.values():
                    open_store(place).remove_leftovers(self._header.token, of_any_name=True)
            self._remove_each(self.decision.dropped)
            self._note_rotated()

    def _note_rotated(self) -> None:
        """Note which tasks of this run, as their ids are now, files are of that a deep rotation took along."""
        if self._signing is not None:
            self._signing.rename_tasks(self.decision.rotated)
            return
        parts: dict[str, list[Part]] = {}
        for path, task_id in sorted(self.decision.rotated.items()):
            parts.setdefault(task_id, []).append(Part.found(path, self._state.there[path] or 0))
        for task_id, found in parts.items():
            self._journal.add(TaskRecord(task_id, self._sources[task_id], tuple(found)))

    def _replaced(self) -> tuple[str, ...]:
        """Return which outputs may be written over before the run is over. A signed one writes beside what is there."""
        writes = written_by(self._tasks.values())
        return () if self._signing is not None else tuple(sorted(filter(writes, self._state.there)))

    def add(self, done: FileDone) -> None:
        """Note files that were published."""
        self.check_quickly()
        self._sign(done.task_id, done.signable)
        self._clear.update(done.clear)
        self._written.update(part.path for part in done.parts)
        if self._keeps_journal:
            signable = tuple(_with_task(file, done.task_id) for file in done.signable)
            source = self._tasks[done.task_id].source.relative_path
            self._journal.add(TaskRecord(done.task_id, source, done.parts, signable), done.clear)

    def check_quickly(self) -> None:
        """Pass if nobody took the lock away, as far as the last beat knows; write what waits to be noted.

        Raises:
            LockLostError: another run writes to the sink.
        """
        self._lock.check_quickly()
        if self._keeps_journal:
            self._journal.flush_if_due()

    def flush(self) -> None:
        """Write what was not noted yet, before the run ends early."""
        if self._keeps_journal and not self._lock.is_lost:
            self._journal.flush()

    def publish(self) -> tuple[SignedStatement, ...]:
        """Sign the next version, and put its files in place.

        Raises:
            ConflictError: another run took the lock, or published a version in the meantime, or it is unknown whether
                this one appeared.
            PipecryptError: signing or publishing failed; the version before stays.
        """
        self.flush()
        self._lock.check()
        statements = () if self._signing is None else self._publish_signed(self._signing)
        is_changed = self._signing is not None
        if self._signing is None:
            self._lock.state = "outputs of both runs may be there"
            is_changed = self._remove_unsigned()
        if is_changed:  # else it was looked at just now
            self._lock.check()
        if self._keeps_journal:
            self._journal.finish(utc_now())
        return statements

    @property
    def _is_expired(self) -> bool:
        earlier = self._state.earlier
        return earlier is not None and earlier.manifest.expires is not None and utc_now() >= earlier.manifest.expires

    def _remove_unsigned(self) -> bool:
        """Remove outputs whose sources are gone, and what earlier runs and attempts wrote more of than this one.

        Returns:
            Whether there are any.
        """
        decision, done = self.decision, {} if self._state.past is None else self._state.past.done
        superseded = superseded_by(self._own)
        left = {path for path in self._state.there if superseded(path)} - self._written
        gone = {*decision.removed, *decision.replaced, *decision.made_again, *self._lost_attempts()} - self._written
        gone |= left.intersection(done)
        if left - gone:
            names = name_some(self._state.sink, left - gone)
            _log.warning("%s: maybe of an earlier run of the same sources; remove them if so", names)
        if gone and self._keeps_journal:
            self._journal.removes(tuple(sorted(gone)))
            self._remove_each(gone)
        return bool(gone)

    def _lost_attempts(self) -> Iterator[str]:
        """Yield numbered files that an attempt of the continued run published, and whose record was lost with it."""
        rolled = {task.path for task in self._tasks.values() if task.kind.rolls_over}
        if self.decision.continued is not None and rolled:
            for path in sizes_below(self._state.sink):
                if unnumbered(path) in rolled and path not in self._written and self._is_own_file(path):
                    yield path

    def _publish_signed(self, signing: DatasetSigning) -> tuple[SignedStatement, ...]:
        if self._keeps_journal:
            self._remove_failed_attempts(signing)
        removes = tuple(sorted(signing.left_over)) if self._keeps_journal else ()
        if removes:
            self._journal.removes(removes)
            self._set_aside(removes)
        run = self.run_id if self._header.is_staged or self._keeps_journal else None
        statements = signing.publish(
            self._header.dataset_id, run=run, removes=removes, clear_columns=self._clear_columns()
        )
        self._lock.state = f"version {statements[0].version} was signed, so the dataset is that one, or a later one"
        if run is not None:
            check = self._lock.check_quickly
            finish_version(self._state.sink, run, signing.entries, removes=removes, before_each=check)
        return statements

    def _clear_columns(self) -> ClearColumns | None:
        """Return which columns the next version has in plaintext; None where that of files that stay is not known.

        Where the version before did not note them, some sources were looked at, which does not do for a promise.
        """
        earlier = self._state.earlier
        noted = frozenset[tuple[str, ...]]() if earlier is None else earlier.clear_columns
        return None if noted is None else noted.union(self._clear, self._columns.known or ())

    def _set_aside(self, paths: Iterable[str]) -> None:
        """Let no file lie where the next version has none. What no run wrote that keeps a journal goes afterwards."""
        earlier = self._state.earlier
        if earlier is not None and earlier.manifest.run is not None:
            chosen = (path for path in paths if path in earlier.entries)
            set_aside(self._state.sink, earlier.manifest.run, chosen, before_each=self._lock.check_quickly)

    def _remove_failed_attempts(self, signing: DatasetSigning) -> None:
        """Remove what attempts that failed left, and no version lists; what one lists goes after the next is signed."""
        listed = set(self._state.earlier.entries) if self._state.earlier is not None else set()
        self._remove_each(signing.left_over - listed)

    def _remove_each(self, paths: Iterable[str]) -> None:
        for path in sorted(paths):
            self._lock.check_quickly()
            open_store(self._state.sink.child(path)).remove()

    def _open_signing(self, *, overwrites: bool) -> DatasetSigning | None:
        state = self._state
        if state.signers is None:
            return None
        listed = frozenset(state.earlier.entries) if state.earlier is not None else frozenset()
        goes = what_goes(self.decision, listed, is_staged=self._header.is_staged, overwrites=overwrites)
        known = self._known_paths()
        # A run that is continued may have published files that it did not come to note. Others are not its own.
        asks = self.decision.continued is not None and not self._header.is_staged and not overwrites
        signing = DatasetSigning(
            state.sink,
            state.signers,
            state.earlier,
            found=state.there,
            replaces=lambda path: goes(path) and (not asks or path in known or self._is_own_file(path)),
            covers=partial(covers, self._policy),
        )
        if signing.staying_promise is not None:
            todo, without = self.decision.to_do, signing.stays_without
            _check_promise(todo, signing.staying_promise, self._columns, without)
        return signing

    def _known_paths(self) -> set[str]:
        """Return paths where runs that kept journals wrote what may be written over, or goes."""
        decision, continued = self.decision, self.decision.continued
        noted = () if continued is None else (part.path for each in continued.records.values() for part in each.parts)
        return {*decision.replaced, *decision.removed, *decision.made_again, *noted}

    def _may_replace(self, *, overwrites: bool) -> Callable[[str], bool]:
        """Return what says of a task's path whether its output may replace a file.

        What a run that is continued wrote without noting it is written once more. What others put there is not touched.
        """
        if overwrites:
            return lambda path: True
        known = self._known_paths()
        if self.decision.continued is None:
            families = {unnumbered(path) or path for path in known}
            return lambda path: path in known or path in families
        writes, foreign = written_by(self._tasks.values()), set[str]()
        for path in self._state.there:
            if writes(path) and path not in known and not self._is_own_file(path):
                foreign |= {path, unnumbered(path) or path}
        return lambda path: path not in foreign

    def _is_free(self, task: Task) -> bool:
        """Return whether the files of a task replace nothing, and the storage makes sure of it.

        How many files one becomes that rolls over, and so what they are called, is not known before it is done.
        """
        if self._header.is_staged:
            is_new = self.decision.continued is None
        else:
            is_new = not task.kind.rolls_over and task.path not in self._state.there
        return self._state.keeps_apart and is_new

    def _is_own_file(self, path: str) -> bool:
        return is_of_dataset(self._state.sink, path, self._header.dataset_id)

    def _sign(self, task_id: str, files: tuple[SignableFile, ...]) -> None:
        if self._signing is not None:
            self._signing.add(_with_task(file, task_id) for file in files)


@contextmanager
def open_directory_run(
    spec: EncryptSpec, plan: Plan, credentials: Credentials, *, now: datetime
) -> Iterator[DirectoryRun]:
    """Take the lock of the sink, and find out what is to be done; the lock is given back when the block ends.

    Args:
        spec: what to do.
        plan: all of its tasks.
        credentials: what opens the signing keys.
        now: the time, in UTC.

    Raises:
        UnsafeSinkError: the storage cannot exclude a second run, and nobody vouched that there is none.
        ConflictError: another run is writing there, was not finished, or what is there stands in the way.
        UnlistedColumnError: a new column, which no rule of the policy covers, would go out in plaintext.
        NotTrustedError: other keys signed what the sink holds.
        IntegrityError: what earlier runs left is not as they wrote it.
        AccessError: a signing key is missing, or the credentials do not open it.
        PipecryptError: see `pipecrypt.errors`; nothing was written.
    """
    sink = plan.sink
    keeps_apart = False
    if spec.run.keeps_journal:
        keeps_apart = check_writers(open_store(sink), is_only_writer=spec.run.is_only_writer).keeps_writers_apart
    with contextlib.ExitStack() as stack:
        signers = open_signers(spec.policy, credentials, accept_future_statement=spec.run.accept_future_statement)
        if signers is not None:
            stack.enter_context(signers)
        run_id = new_run_id(now)
        lock = stack.enter_context(locked_sink(sink, run_id, keeps_apart=keeps_apart))
        state = replace(_read_sink(spec, sink, signers), keeps_apart=keeps_apart)
        decision = _decide(spec, plan, state, credentials)
        columns = PlannedColumns(spec.policy, plan.tasks, decision.to_do, past=state.past, version=state.earlier)
        columns.check()
        earlier_ids = _earlier_ids(state)
        if any(earlier >= run_id for earlier in earlier_ids):  # of the same second, or of a clock that is ahead
            run_id = new_run_id(now, earlier=earlier_ids)
        header = _make_header(spec, plan, state, decision, run_id)
        yield DirectoryRun(spec, plan, lock=lock, state=state, decision=decision, header=header, columns=columns)


def _read_sink(spec: EncryptSpec, sink: Location, signers: OpenSigners | None) -> SinkState:
    """Return what a sink holds, once what was left half done there is put in place; the caller holds the lock."""
    seal: Seal = plain_seal() if signers is None else signed_seal(signers)
    earlier = None if signers is None else read_version_to_follow(sink, signers.memory, signers.requirements)
    put_in_place(sink, earlier, seal)

    def look() -> RunHistory | None:
        if not spec.run.keeps_journal:
            return None
        return RunHistory.look(sink, lambda _: seal, earlier, is_signed=signers is not None)

    past, there = call_both(look, lambda: sizes_below(sink))
    if past is not None and past.over is not None:
        Journal(sink, past.over.header, seal).finish(utc_now())
    return SinkState(sink=sink, seal=seal, signers=signers, earlier=earlier, past=past, there=there)


def _decide(spec: EncryptSpec, plan: Plan, state: SinkState, credentials: Credentials) -> Decision:
    """Return what a run does, once nothing that is there stands in the way."""

    def open_ids(reference: str) -> frozenset[str]:
        with KeySession((reference,), credentials=credentials) as session:
            return frozenset(session.master_key_ids())

    decision = decide(
        spec,
        plan,
        past=state.past,
        version=state.earlier,
        found=state.there,
        ids_of=open_ids,
        credentials=credentials,
    )
    for check in find_conflicts(spec, state.past, decision, state.there):
        check()
    if decision.lost:
        _log.warning("%s: written before and gone, so made again", name_some(state.sink, decision.lost))
    if decision.orphaned:
        names = name_some(state.sink, decision.orphaned)
        _log.warning("%s: the sources are gone, and these stay; run.on_source_change: replace removes them", names)
    return decision


def _make_header(spec: EncryptSpec, plan: Plan, state: SinkState, decision: Decision, run_id: str) -> RunHeader:
    """Return what a run is: that of the run that it continues, or a new one of the dataset that is there."""
    if decision.continued is not None:
        return decision.continued.header
    dataset_id = plan.dataset_id
    if state.earlier is not None:
        dataset_id = state.earlier.manifest.dataset_id
    elif state.past is not None and state.past.dataset_id is not None and not spec.overwrite:
        dataset_id = state.past.dataset_id  # so that keys of the whole directory are shared and rotated as those of one
    if dataset_id is None:
        raise AssertionError("what is encrypted has a dataset")
    return RunHeader(run_id=run_id, dataset_id=dataset_id, token=plan.tasks[0].target.token, is_staged=state.is_staged)


def _earlier_ids(state: SinkState) -> tuple[str, ...]:
    """Return the ids of runs that left something; a run that stages its files comes after all of them."""
    if state.past is not None:
        return state.past.run_ids
    if not state.is_staged:
        return ()
    runs = {entry.path.partition("/")[0] for entry in open_store(state.sink).list(RUNS_DIRECTORY)}
    return tuple(sorted(filter(is_run_id, runs)))


def _writing_plan(
    plan: Plan,
    to_do: tuple[Task, ...],
    header: RunHeader,
    may_replace: Callable[[str], bool],
    is_free: Callable[[Task], bool],
) -> Plan:
    """Return the plan of the tasks that are left, each writing where its file has to appear."""
    staged = plan.sink.child(staged_path(header.run_id))
    tasks = tuple(
        task.with_target(
            Target(
                sink=staged.child(task.path) if header.is_staged else task.sink,
                path=task.path,
                token=header.token,
                dataset_id=header.dataset_id,
                # In its own directory the run replaces its own files, never what another attempt publishes meanwhile.
                overwrite=not header.is_staged and may_replace(task.path),
                is_repeated=header.is_staged,
                is_free=is_free(task),
            )
        )
        for task in to_do
    )
    workers, helpers = workers_and_helpers(tasks, plan.workers + plan.helpers, plan.options)
    keys = replace(plan.keys, dataset_id=header.dataset_id)
    return replace(plan, tasks=tasks, keys=keys, workers=workers, helpers=helpers)


def _with_task(file: SignableFile, task_id: str) -> SignableFile:
    return replace(file, entry=replace(file.entry, task_id=task_id))


def _check_promise(
    tasks: Sequence[Task],
    promise: PromisedPolicy,
    columns: PlannedColumns,
    lacks_earlier: Callable[[tuple[str, ...]], bool],
) -> None:
    """Refuse now, not after the last file, what cannot be promised of new files and of those that stay.

    Args:
        tasks: what is to be done.
        promise: of the files that stay.
        columns: of all their sources.
        lacks_earlier: says of a leaf column whether no file that stays has it in plaintext.

    Raises:
        ConflictError: there is such a file or column.
        PipecryptError: a source cannot be read.
    """
    for task in tasks:
        if task.kind.policy is not None:
            check_frame(promise, task.kind.policy)
    if promise.other_key_ids is None:
        if columns.seen.problem is not None:
            raise columns.seen.problem
        for schema in columns.seen.schemas:
            check_columns(promise, schema, lacks_earlier=lacks_earlier)
