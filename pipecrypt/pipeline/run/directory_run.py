"""A run that writes a directory, from the lock to the last file in its place. The life of one file is in task.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from pipecrypt.dataset.signing.directory_state import name_some, sizes_below
from pipecrypt.dataset.signing.earlier_version import EarlierVersion, read_earlier_dataset
from pipecrypt.dataset.signing.next_version import DatasetSigning
from pipecrypt.dataset.signing.records import SignableFile, SignedStatement
from pipecrypt.dataset.signing.signers import OpenSigners, utc_now
from pipecrypt.dataset.signing.staged_version import finish_version, set_aside
from pipecrypt.errors import SinkNotEmptyError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.manifest.paths import RESERVED_DIRECTORY, staged_path
from pipecrypt.pipeline.history.journal.block import RunHeader, TaskRecord
from pipecrypt.pipeline.history.journal.journal import Journal
from pipecrypt.pipeline.history.journal.seal import PlainSeal, Seal, SignedSeal
from pipecrypt.pipeline.history.past_runs import PastRuns, put_in_place
from pipecrypt.pipeline.history.sink_locking import locked_sink
from pipecrypt.pipeline.planning.changes import (
    Changes,
    check_changes,
    check_sizes,
    compare_with_done,
    superseded_by,
    written_by,
)
from pipecrypt.pipeline.planning.plan import Plan
from pipecrypt.pipeline.progress.events import FileDone
from pipecrypt.pipeline.progress.run_id import new_run_id
from pipecrypt.pipeline.progress.summary import Part
from pipecrypt.pipeline.request.request import EncryptRequest
from pipecrypt.pipeline.run.signed_run import check_promise
from pipecrypt.pipeline.task.operation import Task
from pipecrypt.pipeline.task.output import unnumbered
from pipecrypt.storage.exclusive import remove_file
from pipecrypt.storage.location import Location
from pipecrypt.storage.preconditions import Writers, check_writers
from pipecrypt.storage.sink import remove_leftovers_in, sink_is_empty
from pipecrypt.storage.sink_lock import SinkLock

__all__ = ["DirectoryRun", "open_directory_run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the sink holds as the run begins."""

    sink: Location
    seal: Seal
    signers: OpenSigners | None
    earlier: EarlierVersion | None
    past: PastRuns | None

    @property
    def is_staged(self) -> bool:
        return self.earlier is not None


class DirectoryRun:
    """A run, and what it has done.

    Attributes:
        plan: what is left to do; its tasks write where this run's files have to appear.
        run_id: the run's id; of the run that it continues, where it does.
        adopted: records of files that the run it continues has written.
        changes: what is done already, and what the run replaces or removes.
    """

    def __init__(self, request: EncryptRequest, plan: Plan, lock: SinkLock, found: _Found, run_id: str) -> None:
        """Compare what is to be done with what is done; write nothing."""
        self._lock = lock
        self._found = found
        self.run_id = run_id
        self._header = _header(plan, found, run_id)
        adopted, self._dropped = _resumed(request, plan, found)
        self.changes = _changes(request, plan, found, adopted)
        self.adopted: tuple[Part, ...] = tuple(part for record in adopted.values() for part in record.parts)
        self._signing = self._open_signing(adopted)
        for record in adopted.values():
            self._sign(record.task_id, record.signable)
        self._tasks = {task.id: task for task in self.changes.to_do}
        may_replace = _may_replace(request, self.changes, is_resumed=self._is_resumed)
        writing = _writing_plan(plan, self.changes.to_do, self._header, may_replace)
        self.plan = replace(writing, lock=lock.held)  # so that tasks elsewhere can see that it is held
        self._keeps_journal = request.run.keeps_journal
        resumed = found.past.unfinished if self._is_resumed and found.past is not None else None
        sequence = 0 if resumed is None else resumed.next_sequence
        self._journal = Journal(plan.sink, self._header, found.seal, sequence=sequence)

    @property
    def has_work(self) -> bool:
        """Whether anything is to be written, removed or signed."""
        return bool(self._tasks or self.changes.removed or self.adopted or self._is_expired)

    @property
    def is_reported(self) -> bool:
        """Whether a report of the run is kept: it keeps a journal, and has something to do."""
        return self._keeps_journal and self.has_work

    def begin(self) -> None:
        """Note that the run begins."""
        if self._keeps_journal:
            self._journal.begin()
            if self._is_resumed:
                remove_leftovers_in((task.sink for task in self.plan.tasks), self._header.token)
            for path in self._dropped:
                remove_file(self._found.sink.child(path))

    def add(self, done: FileDone) -> None:
        """Note files that were published."""
        self.check_quickly()
        self._sign(done.task_id, done.signable)
        if self._keeps_journal:
            signable = tuple(_with_task(file, done.task_id) for file in done.signable)
            source = self._tasks[done.task_id].source.relative_path
            self._journal.add(TaskRecord(done.task_id, source, done.parts, signable))

    def check_quickly(self) -> None:
        """Pass if nobody took the lock away, as far as the last beat knows; write what waits to be noted.

        Raises:
            ConflictError: another run writes to the sink.
        """
        if self._lock.is_lost:
            self._lock.check()
        if self._keeps_journal:
            self._journal.flush_if_due()

    def flush(self) -> None:
        """Write what was not noted yet, before the run ends early."""
        if self._keeps_journal and not self._lock.is_lost:
            self._journal.flush()

    def publish(self) -> tuple[SignedStatement, ...]:
        """Sign the next version, and put its files in place.

        Raises:
            ConflictError: another run took the lock, or published a version in the meantime.
            PipecryptError: signing or publishing failed; the version before stays.
        """
        self.flush()
        self._lock.check()
        statements = () if self._signing is None else self._publish_signed(self._signing)
        if self._signing is None and self.changes.removed:
            self._journal.removes(self.changes.removed)
            for path in self.changes.removed:
                remove_file(self._found.sink.child(path))
        if self._keeps_journal:
            self._journal.finish(utc_now())
        return statements

    @property
    def _is_resumed(self) -> bool:
        past = self._found.past
        return past is not None and past.unfinished is not None and past.unfinished.header == self._header

    @property
    def _is_expired(self) -> bool:
        earlier = self._found.earlier
        expires = None if earlier is None else earlier.manifest.expires
        return expires is not None and utc_now() >= expires

    def _publish_signed(self, signing: DatasetSigning) -> tuple[SignedStatement, ...]:
        removes = self._removes(signing)
        if removes:
            self._journal.removes(removes)
            self._set_aside(removes)
        run = self.run_id if self._header.is_staged or self._keeps_journal else None
        statements = signing.publish(self._header.dataset_id, run=run, removes=removes)
        if run is not None:
            finish_version(self._found.sink, run, signing.listed, removes=removes)
        return statements

    def _set_aside(self, paths: Iterable[str]) -> None:
        """Let no file lie where the next version has none. What no run wrote that keeps a journal goes afterwards."""
        earlier = self._found.earlier
        if earlier is not None and earlier.manifest.run is not None:
            listed = {entry.path for entry in earlier.entries}
            set_aside(self._found.sink, earlier.manifest.run, (path for path in paths if path in listed))

    def _removes(self, signing: DatasetSigning) -> tuple[str, ...]:
        """Return what is removed after signing. What attempts that failed left, no version ever listed: it goes now."""
        if not self._keeps_journal:
            return ()
        listed = {entry.path for entry in self._found.earlier.entries} if self._found.earlier is not None else set()
        for path in signing.left_over - listed:
            remove_file(self._found.sink.child(path))
        return tuple(sorted(signing.left_over))

    def _open_signing(self, adopted: Mapping[str, TaskRecord]) -> DatasetSigning | None:
        found = self._found
        if found.signers is None:
            return None
        superseded, removed = superseded_by(self.changes.to_do), {*self.changes.removed, *self._dropped}
        noted = {part.path for record in adopted.values() for part in record.parts}
        signing = DatasetSigning(
            found.sink,
            found.signers,
            found.earlier,
            replaces=lambda path: path in removed or path in noted or superseded(path),
        )
        if signing.staying_promise is not None:
            check_promise(self.changes.to_do, signing.staying_promise)
        return signing

    def _sign(self, task_id: str, files: tuple[SignableFile, ...]) -> None:
        if self._signing is not None:
            self._signing.add(_with_task(file, task_id) for file in files)


@contextmanager
def open_directory_run(
    request: EncryptRequest, plan: Plan, credentials: Credentials, *, now: datetime
) -> Iterator[DirectoryRun]:
    """Take the lock of the sink, and find out what is to be done; the lock is given back when the block ends.

    Args:
        request: what to do.
        plan: all of its tasks.
        credentials: what opens the signing keys.
        now: the time, in UTC.

    Raises:
        UnsafeSinkError: the storage cannot exclude a second run, and nobody vouched that there is none.
        ConflictError: another run is writing there, was not finished, or what is there stands in the way.
        NotTrustedError: other keys signed what the sink holds.
        IntegrityError: what earlier runs left is not as they wrote it.
        AccessError: a signing key is missing, or the credentials do not open it.
        PipecryptError: see `pipecrypt.errors`; nothing was written.
    """
    sink, run_id = plan.sink, new_run_id(now)
    if request.run.keeps_journal:
        check_writers(sink, Writers.ONE if request.run.is_only_writer else Writers.SEVERAL)
    with contextlib.ExitStack() as stack:
        signers = None
        if request.policy.signing is not None:
            signers = stack.enter_context(OpenSigners(request.policy.signing, credentials))
        lock = stack.enter_context(locked_sink(sink, run_id))
        found = _look(request, sink, signers)
        if found.past is not None and request.run.resumes and found.past.unfinished is not None:
            run_id = found.past.unfinished.header.run_id
        elif found.past is not None:
            run_id = new_run_id(now, earlier=found.past.run_ids)
        yield DirectoryRun(request, plan, lock, found, run_id)


def _look(request: EncryptRequest, sink: Location, signers: OpenSigners | None) -> _Found:
    seal: Seal = PlainSeal() if signers is None else SignedSeal(signers)
    earlier = None if signers is None else read_earlier_dataset(sink, signers)
    put_in_place(sink, earlier, seal)
    past = None
    if request.run.keeps_journal:
        past = PastRuns.look(sink, seal, earlier, is_signed=signers is not None)
    return _Found(sink=sink, seal=seal, signers=signers, earlier=earlier, past=past)


def _header(plan: Plan, found: _Found, run_id: str) -> RunHeader:
    past = found.past
    if past is not None and past.unfinished is not None and past.unfinished.header.run_id == run_id:
        return past.unfinished.header
    dataset_id = plan.dataset_id if found.earlier is None else found.earlier.manifest.dataset_id
    if dataset_id is None:
        raise AssertionError("what is encrypted has a dataset")
    return RunHeader(run_id=run_id, dataset_id=dataset_id, token=plan.tasks[0].token, is_staged=found.is_staged)


def _resumed(request: EncryptRequest, plan: Plan, found: _Found) -> tuple[Mapping[str, TaskRecord], tuple[str, ...]]:
    """Return what the run that is continued has done of the plan, and paths of files that it would not write now."""
    past = found.past
    if past is None or past.unfinished is None or not request.run.resumes:
        return {}, ()
    planned = {task.id for task in plan.tasks}
    adopted = {task_id: record for task_id, record in past.adopted.items() if task_id in planned}
    writes, kept = written_by(plan.tasks), {part.path for record in adopted.values() for part in record.parts}
    noted = {part.path for record in past.unfinished.records.values() for part in record.parts}
    # A source was changed or taken away since. What is staged needs no care: no version lists it.
    dropped = [] if past.unfinished.header.is_staged else [path for path in noted - kept if not writes(path)]
    return adopted, tuple(sorted(dropped))


def _changes(request: EncryptRequest, plan: Plan, found: _Found, adopted: Mapping[str, TaskRecord]) -> Changes:
    past = found.past
    if past is None or request.overwrite:
        return Changes(to_do=plan.tasks, skipped=0)
    if not request.run.resumes:
        past.check_finished()
    is_known = bool(past.done) or past.unfinished is not None
    if (not is_known and not sink_is_empty(found.sink, besides=RESERVED_DIRECTORY)) or any(
        not file.task_id for file in past.done.values()
    ):
        raise SinkNotEmptyError(f"the sink {found.sink.display} holds files that no run of a configuration wrote")
    there = sizes_below(found.sink) if found.signers is None else None
    changes = compare_with_done(plan.tasks, past.done, adopted, there)
    if request.only_tasks is not None:
        # A saved plan leaves sources out on purpose: what has no task in it is not gone.
        changes = replace(changes, removed=())
    check_changes(changes, request.run.on_source_change)
    if there is not None:
        check_sizes(found.sink, changes, there)
    if changes.lost:
        _log.warning("%s: written before and gone, so made again", name_some(found.sink, changes.lost))
    return changes


def _may_replace(request: EncryptRequest, changes: Changes, *, is_resumed: bool) -> Callable[[str], bool]:
    """Return what says of a task's path whether its output may replace a file.

    What a run that is continued wrote without noting it is written once more; nobody else wrote there meanwhile.
    """
    if request.overwrite or is_resumed:
        return lambda path: True
    known = {*changes.replaced, *changes.made_again}
    replaced = known.union(unnumbered(path) or path for path in known)
    return lambda path: path in replaced


def _writing_plan(plan: Plan, to_do: tuple[Task, ...], header: RunHeader, may_replace: Callable[[str], bool]) -> Plan:
    """Return the plan of the tasks that are left, each writing where its file has to appear."""
    staged = plan.sink.child(staged_path(header.run_id))
    tasks = tuple(
        replace(
            task,
            sink=staged.child(task.path) if header.is_staged else task.sink,
            overwrite=header.is_staged or may_replace(task.path),
            token=header.token,
        )
        for task in to_do
    )
    return replace(plan, tasks=tasks, workers=max(1, min(plan.workers, len(tasks)))).in_dataset(header.dataset_id)


def _with_task(file: SignableFile, task_id: str) -> SignableFile:
    return replace(file, entry=replace(file.entry, task_id=task_id))
