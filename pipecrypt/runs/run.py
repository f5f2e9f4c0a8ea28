"""Carry out what is asked for: plan it, run its tasks here or elsewhere, sign and publish, add up.

A run of files in a directory is `DirectoryRun`; one of a single file, or that decrypts, is `FileRun`. The life of one
file is in `task.py`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipecrypt.dataset.sign.next_version import FileSigning
from pipecrypt.dataset.sign.records import SignedStatement
from pipecrypt.dataset.statement.paths import attempts_path
from pipecrypt.errors import PipecryptError, SinkNotEmptyError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.directory_run import DirectoryRun, open_directory_run
from pipecrypt.runs.journal.sink_locking import check_unlocked
from pipecrypt.runs.output import open_signers, store_grants
from pipecrypt.runs.plan.output_checks import statement_places
from pipecrypt.runs.plan.plan import Plan, make_plan
from pipecrypt.runs.report.events import Event, FileDone, Part, RunFinished, RunStarted, Summary, ignore
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.runs.report.report import RunCollector, store_report
from pipecrypt.runs.report.run_id import current_run_id, new_run_id, running
from pipecrypt.runs.spec.spec import EncryptSpec, Spec
from pipecrypt.runs.workers.executor import OnEvent, run_here
from pipecrypt.runs.workers.fork_server import ForkServer
from pipecrypt.runs.workers.helpers import run_with_helpers
from pipecrypt.runs.workers.limits import flight_limits, needs_no_workers
from pipecrypt.runs.workers.local import WorkerSetup, run_in_processes
from pipecrypt.runs.workers.remote import MapTasks, RemoteSetup, run_mapped
from pipecrypt.store.open import client_modules
from pipecrypt.store.publication import new_token
from pipecrypt.vocabulary.clock import utc_now

__all__ = ["run", "run_tasks"]


def run(
    spec: Spec,
    *,
    credentials: Credentials,
    on_event: Callable[[Event], None] = ignore,
    map_tasks: MapTasks | None = None,
) -> Summary:
    """Encrypt or decrypt all files of a source, each published whole or not at all.

    With several workers the calling script must guard its start with `if __name__ == "__main__":`, as always when
    processes are spawned.

    Args:
        spec: what to do.
        credentials: what opens the keys.
        on_event: told about progress, in this thread. If it raises, the run stops.
        map_tasks: calls the tasks in processes of the caller's own, such as those of Ray or Spark.

    Raises:
        InterruptedRunError: Ctrl-C, SIGTERM or SIGHUP; what was published stays, all else is removed.
        ConflictError: another run is writing to the sink, or what is there stands in the way.
        WorkerError: a worker process died.
        PipecryptError: the first failure of any file, as its own class.
    """
    started = time.perf_counter()
    with Interruption() as interruption:
        try:
            plan = _make_plan(spec)
            with _opened(spec, plan, credentials) as opened, _reported(opened, on_event) as tell:
                tell(RunStarted(len(opened.plan.tasks), opened.plan.source_bytes))
                parts, signed = list[Part](), tuple[SignedStatement, ...]()
                if opened.has_work:
                    parts, signed = _carry_out(opened, tell, credentials, interruption, map_tasks)
                seconds = time.perf_counter() - started
                summary = opened.described(Summary.of(plan.operation, parts, seconds, signed=signed))
                tell(RunFinished(summary))
        except KeyboardInterrupt:
            raise interruption.error(is_resumable=spec.run.keeps_journal) from None
    return summary


def _make_plan(spec: Spec) -> Plan:
    try:
        return make_plan(spec)
    except SinkNotEmptyError:
        if spec.policy is not None and not spec.sink.is_standard_stream:
            check_unlocked(spec.sink)  # what is there may be in the making
        raise


class FileRun:
    """A run that encrypts a single file, which a statement may be beside, or that decrypts: without lock or journal.

    Attributes:
        plan: what the run does, bound to the dataset that it continues.
        run_id: names it in logs.
        has_work: as of a `DirectoryRun`; there is always something to do.
        is_reported: no report of it is kept.
        is_first_report: likewise of no use.

    Args:
        plan: what the run does.
        signing: how its files are signed; None where they are not.
    """

    has_work = True
    is_reported = False
    is_first_report = True

    def __init__(self, plan: Plan, signing: FileSigning | None) -> None:
        """Bind the plan."""
        self._signing = signing
        self.run_id = new_run_id(utc_now())
        dataset_id = None if signing is None else signing.dataset_id
        self.plan = plan if dataset_id is None else plan.in_dataset(dataset_id)

    def add(self, done: FileDone) -> None:
        """Note files that were published."""
        if self._signing is not None:
            self._signing.add(done.signable)

    def begin(self) -> None:
        """Do nothing: there is no journal."""

    def check_quickly(self) -> None:
        """Pass: there is no lock."""

    def flush(self) -> None:
        """Do nothing: there is no journal."""

    def publish(self) -> tuple[SignedStatement, ...]:
        """Sign all files, once every one of them is published, and publish the statements."""
        if self._signing is None or self.plan.dataset_id is None:
            return ()
        return self._signing.publish(self.plan.dataset_id)

    def described(self, summary: Summary) -> Summary:
        """Return the summary: nothing was left alone."""
        return summary


@contextmanager
def _opened(spec: Spec, plan: Plan, credentials: Credentials) -> Iterator[FileRun | DirectoryRun]:
    """Open the signing keys, take the lock where the sink is a directory, and look at what the sink holds."""
    if isinstance(spec, EncryptSpec) and not plan.is_single_file:
        with open_directory_run(spec, plan, credentials, now=utc_now()) as directory_run:
            yield directory_run
        return
    signers = open_signers(spec.policy, credentials, accept_future_statement=spec.run.accept_future_statement)
    if signers is None:
        yield FileRun(plan, None)
        return
    with signers:
        yield FileRun(plan, FileSigning(statement_places(plan.sink, plan.tasks), signers, overwrite=spec.overwrite))


@contextmanager
def _reported(opened: FileRun | DirectoryRun, on_event: Callable[[Event], None]) -> Iterator[Callable[[Event], None]]:
    """Yield what is told the events of a run; of one that keeps a journal they make a report, however it ends."""
    with running(opened.run_id):
        if not opened.is_reported:
            yield on_event
            return
        collector = RunCollector(opened.run_id, opened.plan.operation, now=utc_now, clock=time.monotonic)

        def tell(event: Event) -> None:
            collector.take(event)
            on_event(event)

        try:
            yield tell
        except BaseException as error:
            if opened.is_reported:  # it may have lost its lock meanwhile
                store_report(opened.plan.sink, collector.report(error), is_free=opened.is_first_report)
            raise
        store_report(opened.plan.sink, collector.report(), is_free=opened.is_first_report)


def _carry_out(
    opened: FileRun | DirectoryRun,
    on_event: OnEvent,
    credentials: Credentials,
    interruption: Interruption,
    map_tasks: MapTasks | None,
) -> tuple[list[Part], tuple[SignedStatement, ...]]:
    plan, parts = opened.plan, list[Part]()
    grants = _Grants(plan)

    def on_event_too(event: Event) -> None:
        if isinstance(event, FileDone):
            grants.store(event)
            opened.add(event)
        else:
            opened.check_quickly()
        on_event(event)

    try:
        if plan.tasks:
            parts = run_tasks(plan, credentials, on_event_too, interruption, map_tasks, on_ready=opened.begin)
        else:
            opened.begin()
    except BaseException:
        # What is noted need not be done again. Another error is on its way.
        with contextlib.suppress(PipecryptError):
            opened.flush()
        raise
    return parts, opened.publish()


class _Grants:
    """Stores the grants that a run makes, each once at each place."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[Grant, None] = {}
        self._stored: defaultdict[str, set[Grant]] = defaultdict(set)

    def store(self, done: FileDone) -> None:
        """Store what is not beside the files yet. Each event brings all grants of its process once more."""
        plan = self._plan
        self._known.update(dict.fromkeys(done.grants))
        # A single file has them beside itself, those of an earlier one under the same KEK too.
        for path in [part.path for part in done.parts] if plan.is_single_file else [""]:
            stored = self._stored[path]
            due = [grant for grant in self._known if grant not in stored]
            store_grants(plan.sink, [path], due, is_single_file=plan.is_single_file)
            stored.update(due)


def run_tasks(
    plan: Plan,
    credentials: Credentials,
    on_event: OnEvent,
    interruption: Interruption,
    map_tasks: MapTasks | None = None,
    *,
    on_ready: Callable[[], None] = lambda: None,
) -> list[Part]:
    """Carry out the tasks of a plan as its options say, and return their parts in the order of the tasks.

    Args:
        plan: what to do.
        credentials: what opens the keys.
        on_event: told about progress, in this thread. If it raises, all ends.
        interruption: asked now and then whether to stop.
        map_tasks: calls the tasks, instead of who the options name.
        on_ready: called once the keys are known to open, before the first file.

    Raises:
        AccessError: a key is missing, or the credentials do not open it; nothing was made.
        WorkerError: a task's worker died as often as the options let it.
        PipecryptError: what the first failing task raised.
    """
    # A single file is done here: without a lock nobody may do it twice.
    is_mapped = map_tasks is not None and plan.may_travel
    is_elsewhere = plan.is_on_cluster or is_mapped
    if not is_elsewhere and needs_no_workers(plan):
        plan = replace(plan, workers=1)
    with contextlib.ExitStack() as stack:
        # It loads while keys are opened, and is begun before: this process has none yet.
        is_forking = plan.workers + plan.helpers > 1 and not is_elsewhere
        places = [plan.sink, *(task.source.location for task in plan.tasks[:1])]  # sources lie together
        forks = stack.enter_context(ForkServer(client_modules(places))) if is_forking else None
        # Wrong passphrases and unknown keys show here, before a worker starts or a file is made. No key is made,
        # though a service may be asked what an alias stands for; what a person types is remembered for the workers.
        with plan.keys.open(credentials) as session:
            on_ready()
            if plan.helpers and not is_elsewhere:
                return _run_with_helpers(plan, credentials, on_event, session, interruption, forks=forks)
            if plan.workers == 1 and not is_elsewhere:
                return run_here(plan.tasks, on_event, session, interruption, flight_limits(plan))
        options = plan.options
        if map_tasks is not None and is_mapped:
            return run_mapped(plan.tasks, on_event, _remote_setup(plan), map_tasks)
        if plan.is_on_cluster:
            return _run_on_cluster(plan, on_event)
        setup = WorkerSetup(os.getcwd(), plan.keys, credentials, limits=flight_limits(plan))
        return run_in_processes(
            plan.tasks, on_event, setup, workers=plan.workers, attempts=options.attempts, forks=forks
        )


def _run_on_cluster(plan: Plan, on_event: OnEvent) -> list[Part]:
    # Dask and its network are loaded where a run wants them, and only there.
    from pipecrypt.runs.workers.dask import run_on_dask  # noqa: PLC0415

    return run_on_dask(
        plan.tasks,
        on_event,
        _remote_setup(plan),
        address=plan.options.address,
        workers=plan.workers,
        attempts=plan.options.attempts,
        wait_seconds=plan.options.worker_wait_seconds,
    )


def _run_with_helpers(
    plan: Plan,
    credentials: Credentials,
    on_event: OnEvent,
    session: KeySession,
    interruption: Interruption,
    *,
    forks: ForkServer | None,
) -> list[Part]:
    return run_with_helpers(
        plan.tasks,
        on_event,
        session,
        interruption,
        setup=WorkerSetup(os.getcwd(), plan.keys, credentials),
        helpers=plan.helpers,
        memory_bytes=flight_limits(plan).memory_bytes // (plan.helpers + 1),
        attempts=plan.options.attempts,
        forks=forks,
    )


def _remote_setup(plan: Plan) -> RemoteSetup:
    """Return what processes elsewhere need to know of a run: where they are, relative paths lead elsewhere."""
    lock = None if plan.lock is None else replace(plan.lock, directory=plan.lock.directory.absolute())
    run_id = current_run_id()
    attempts = None if run_id is None else plan.sink.child(attempts_path(run_id)).absolute()
    return RemoteSetup(new_token() + new_token(), plan.keys, lock, attempts)
