"""Carry out a task in whatever process it is called, perhaps twice: what a cluster or an engine of the caller's runs.

Nothing secret travels with a task. The process opens the keys with what its own environment holds, and keeps them for
the run's next tasks. It lives longer than a run, and is not told when one ends, so keys that no task has used for a
while are wiped, by the next task of any run or by a timer; a task that comes later opens them again.

Each attempt at a task makes other bytes, because its keys are its own, and only one of them can be what is signed. So
each publishes in a directory of its own, `_pipecrypt/runs/<run>/attempts/<attempt>/`, and the driver alone moves files
from there: nothing that comes late or comes twice touches the dataset.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from pipecrypt.errors import ConflictError, InterruptedRunError, PipecryptError, SinkNotEmptyError, WorkerError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.plan.plan import RunKeys
from pipecrypt.runs.report.events import BytesDone, FileDone, Part
from pipecrypt.runs.task import Task, run_task
from pipecrypt.runs.workers.executor import OnEvent, TaskLedger
from pipecrypt.store.lease import HeldLease
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.publication import new_token

__all__ = [
    "IDLE_SECONDS",
    "MapTasks",
    "OpenRun",
    "OpenRuns",
    "RemoteSetup",
    "TaskCall",
    "as_attempt",
    "check_lock",
    "drop_attempts",
    "end_run",
    "portable_task",
    "put_in_place",
    "run_mapped",
    "run_remotely",
    "take_result",
]

IDLE_SECONDS: Final = 120.0  # tasks of two runs may take turns in one process, and opening keys may take a second
_MOST_ENDED: Final = 1000  # a process that lives for months need not know all of them


@dataclass(slots=True)
class OpenRun:
    """A run that this process has done tasks of.

    Args:
        session: its keys.
        grants: all that the session has made.
        users: how many tasks are at work with it.
        last_used_seconds: when a task began or ended last, by the clock.
        is_over: whether it is closed as soon as nobody uses it.
    """

    session: KeySession
    grants: dict[Grant, None] = field(default_factory=dict)
    users: int = 0
    last_used_seconds: float = 0.0
    is_over: bool = False


class OpenRuns:
    """The runs whose keys are open in this process. Safe to use from several threads.

    Nothing is wiped under a task that is at work: the last one that uses a run's keys closes them.

    Args:
        idle_seconds: for how long keys stay open that no task uses.
        clock: a clock that never goes back, in seconds.
    """

    def __init__(self, *, idle_seconds: float = IDLE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none."""
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, OpenRun] = {}
        self._ended: dict[str, None] = {}
        self._timer: threading.Timer | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The runs whose keys are open."""
        return tuple(self._open)

    @contextmanager
    def using(self, name: str, open_session: Callable[[], KeySession]) -> Iterator[OpenRun]:
        """Let a task use a run's keys until the block ends.

        Args:
            name: of the run.
            open_session: called where they are not open.

        Raises:
            InterruptedRunError: the run has ended.
            PipecryptError: what `open_session` raises.
        """
        with self._lock:
            self.check_running(name)
            self._close_idle()
            run = self._open.get(name)
            if run is None:
                run = self._open[name] = OpenRun(open_session())
            run.users += 1
            run.last_used_seconds = self._clock()
        try:
            yield run
        finally:
            with self._lock:
                run.users -= 1
                run.last_used_seconds = self._clock()
                if run.is_over and not run.users:
                    run.session.close()
                self._set_timer()

    def add_grants(self, run: OpenRun, grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
        """Note grants that were made for a run, and return all of them."""
        with self._lock:
            run.grants.update(dict.fromkeys(grants))
            return tuple(run.grants)

    def check_running(self, name: str) -> None:
        """Pass if a run has not ended, as far as this process was told.

        Raises:
            InterruptedRunError: it has.
        """
        if name in self._ended:
            raise InterruptedRunError("the run has ended elsewhere, so this task ends too")

    def end(self, name: str) -> None:
        """Wipe the keys of a run, once no task is at work with them, and let no task begin; an unknown run is fine."""
        with self._lock:
            self._ended[name] = None
            while len(self._ended) > _MOST_ENDED:
                del self._ended[next(iter(self._ended))]
            if name in self._open:
                self._close(name)
            if not self._open and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _close(self, name: str) -> None:
        run = self._open.pop(name)
        run.is_over = True
        if not run.users:
            run.session.close()

    def _close_idle(self) -> None:
        before = self._clock() - self._idle_seconds
        for name in [name for name, run in self._open.items() if not run.users and run.last_used_seconds <= before]:
            self._close(name)

    def _set_timer(self) -> None:
        due = [run.last_used_seconds + self._idle_seconds for run in self._open.values() if not run.users]
        if due and self._timer is None:
            self._timer = threading.Timer(max(min(due) - self._clock(), 0.0), self._on_time)
            self._timer.name, self._timer.daemon = "pipecrypt-idle-keys", True
            self._timer.start()

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
            self._close_idle()
            self._set_timer()


_runs: Final = OpenRuns()


@dataclass(frozen=True, slots=True)
class RemoteSetup:
    """What a process needs to know of a run.

    Args:
        name: of the run, another for each.
        keys: all that may be used.
        lock: the run's, of its sink; None where nobody looks.
        attempts: where attempts publish; None: at the places that tasks name.
    """

    name: str
    keys: RunKeys
    lock: HeldLease | None = None
    attempts: Location | None = None


def run_remotely(task: Task, setup: RemoteSetup) -> FileDone:
    """Carry out a task with the keys that this process can open, and return the records of its files.

    The result may get lost, and with it what the files of a later result need. So each one brings all grants that this
    process has made for the run.

    Args:
        task: what to do.
        setup: of its run.

    Raises:
        InterruptedRunError: `end_run` was called here for this run, or it does not hold the lock of its sink any more.
        PipecryptError: as `run_task`; nothing of this file is left in the sink.
    """
    task, attempt = (task, None) if setup.attempts is None else as_attempt(task, setup.attempts)
    with _runs.using(setup.name, lambda: setup.keys.open(Credentials.from_environment())) as run:
        done = run_task(
            task,
            run.session,
            lambda _: _runs.check_running(setup.name),
            before_publishing=lambda: _check_may_publish(setup),
        )
        return replace(done, grants=_runs.add_grants(run, done.grants), attempt=attempt)


def _check_may_publish(setup: RemoteSetup) -> None:
    """Pass if the run goes on: its driver may have died, or been stopped, and another run may write there by now."""
    _runs.check_running(setup.name)
    try:
        check_lock(setup)
    except ConflictError as error:
        raise InterruptedRunError(
            "the run does not hold the lock of its sink any more, so this task publishes nothing",
            hint="look which run goes on there",
        ) from error


def check_lock(setup: RemoteSetup) -> None:
    """Pass if a run holds the lock of its sink, or has none, by a look at the storage.

    Raises:
        ConflictError: it does not hold it any more.
        StorageError: the storage refused or failed.
    """
    if setup.lock is not None:
        setup.lock.check()


def end_run(name: str) -> None:
    """Wipe the keys of a run in this process, and let none of its tasks publish any more.

    A task that is at work stops at its next step, before its file appears. A run that is not open here is fine.
    """
    _runs.end(name)


_log: Final = logging.getLogger(__name__)


def as_attempt(task: Task, attempts: Location) -> tuple[Task, str]:
    """Return a task that publishes in a directory of its own, and the directory's name.

    Args:
        task: as its run wants it done.
        attempts: where the run's attempts publish.
    """
    name = new_token() + new_token()
    apart = replace(task.target, sink=attempts.child(name).child(task.path), overwrite=False, is_repeated=False)
    return task.with_target(apart), name


def put_in_place(done: FileDone, task: Task, attempts: Location) -> None:
    """Move the files of an attempt to where the run wants them.

    Args:
        done: what the attempt returned.
        task: as the run wants it done.
        attempts: where the run's attempts publish.

    Raises:
        SinkNotEmptyError: somebody else's file is at one of the places.
        StorageError: the storage refused or failed.
    """
    if done.attempt is None:
        return
    places = {
        part.path: task.sink if part.path == task.path else task.sink.sibling(part.path.rpartition("/")[2])
        for part in done.parts
    }
    for path, place in places.items():
        # Nobody but this driver puts files there while it holds the lock, so looking first is enough.
        if not task.target.overwrite and open_store(place).stat().exists() and not _is_our_own(task, path, place):
            raise SinkNotEmptyError(f"{place.display} exists already")
    for path, place in places.items():
        open_store(attempts.child(done.attempt).child(path)).move(place)


def take_result(ledger: TaskLedger, result: FileDone, attempts: Location | None, on_event: OnEvent) -> None:
    """Take the result of an attempt in, with its files, and tell of it; what does not count is dropped.

    Args:
        ledger: of the run.
        result: what the attempt returned.
        attempts: where the run's attempts publish; None: at the places that tasks name.
        on_event: told that the task is done.

    Raises:
        SinkNotEmptyError: somebody else's file is at one of the places.
        StorageError: the storage refused or failed.
    """
    done = ledger.accept(result)
    if done is None:
        if attempts is not None and result.attempt is not None:
            drop_attempts(attempts.child(result.attempt))
        return
    task = ledger.tasks[done.task_id]
    if attempts is not None:
        put_in_place(done, task, attempts)
    on_event(BytesDone(task.input_bytes))
    on_event(done)


def drop_attempts(attempts: Location) -> None:
    """Remove what attempts left, as far as it is listed; `clean` removes the rest."""
    try:
        for entry in open_store(attempts).list():
            open_store(entry.location).remove()
        open_store(attempts).remove_empty_directories()
    except PipecryptError as error:
        _log.warning("files of attempts stay in %s: %s", attempts.display, error.message)


def _is_our_own(task: Task, path: str, place: Location) -> bool:
    """Return whether a place is in the run's own directory, and holds what the run wrote there before."""
    return task.target.is_repeated and task.target.is_own_file(place, path)


def portable_task(task: Task) -> Task:
    """Return the task with absolute local paths, which all machines must see."""
    source = replace(task.source, location=task.source.location.absolute())
    return replace(task, source=source, target=replace(task.target, sink=task.sink.absolute()))


@dataclass(frozen=True, slots=True)
class TaskCall:
    """One task, to be called in any process that sees source and sink and can open the keys.

    Nothing in it is secret, unless storage options are.

    Args:
        task: what to do.
        setup: of its run.
    """

    task: Task
    setup: RemoteSetup

    def __call__(self) -> FileDone:
        """Carry it out; what it returns goes back to the driver, in any order, once or more often."""
        return run_remotely(self.task, self.setup)


# Calls each of the calls somewhere, and yields what they return as it comes.
MapTasks: TypeAlias = Callable[[Sequence[TaskCall]], Iterable[FileDone]]


def run_mapped(tasks: Sequence[Task], on_event: OnEvent, setup: RemoteSetup, map_tasks: MapTasks) -> list[Part]:
    """Carry out tasks by an engine that the caller brings: Ray, Spark, or any that maps a function.

    Args:
        tasks: what to do.
        on_event: told about progress, in this thread.
        setup: what each process needs to know.
        map_tasks: calls the tasks.

    Raises:
        WorkerError: the engine came to an end without the result of a task.
        ConflictError: the run does not hold the lock of its sink any more.
        PipecryptError: what a task raised, if the engine passes it on as it is.
    """
    results: Iterable[FileDone] = ()
    ledger = TaskLedger(tasks, 1)
    try:
        results = map_tasks([TaskCall(portable_task(task), setup) for task in tasks])
        for result in results:
            if not isinstance(result, FileDone):
                raise WorkerError(
                    f"map_tasks gave back a {type(result).__name__} that no call returned",
                    hint="yield what the calls return, as it is",
                )
            take_result(ledger, result, setup.attempts, on_event)
    except InterruptedRunError:
        check_lock(setup)
        raise
    finally:
        # Calls may be at work in threads of this process: they end before the lock is given back.
        end_run(setup.name)
        if isinstance(results, Generator):
            results.close()
        if setup.attempts is not None:
            drop_attempts(setup.attempts)
    if ledger.missing:
        raise WorkerError(
            f"no result of {len(ledger.missing)} tasks came back, such as {ledger.missing[0].path!a}",
            hint="look at the engine's log; --resume does what is missing",
        )
    return ledger.parts()
