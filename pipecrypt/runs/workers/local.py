"""Worker processes of this machine: the driver that starts, feeds, replaces and stops them, and what runs in each.

Each worker has its own key session and a pipe of its own, and is forked by a process that holds no secret
(`fork_server.py`), or spawned. A shared queue, as in `concurrent.futures`, has a lock that a
killed worker takes along, and does not tell which file it was at. A worker outlives neither a stop nor its driver:
SIGTERM and a broken pipe unwind the task at hand, which removes its temporary file. Signals from the terminal go to the
driver, which decides.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker, spawn
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType, TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias, cast

from pipecrypt.errors import PipecryptError, WorkerError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.plan.plan import RunKeys
from pipecrypt.runs.report.events import BytesDone, Event, FileDone, FileStarted, Part, TaskRetried
from pipecrypt.runs.report.logs import LogSetup, current_logs, ignore_unraisable, write_logs, write_stray_output_as_logs
from pipecrypt.runs.report.run_id import current_run_id, running
from pipecrypt.runs.task import OnBytes, Task, run_task
from pipecrypt.runs.workers.executor import OnEvent, TaskLedger, TaskThreads
from pipecrypt.runs.workers.fork_server import ForkedProcess, ForkServer
from pipecrypt.runs.workers.limits import FlightLimits
from pipecrypt.runs.workers.sealing import HelpRequest, Rooms, help_with
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary.once import mark_given, warnings_given

__all__ = [
    "BLOCKED_WHILE_STARTING",
    "STOPPED_EXIT_CODE",
    "Message",
    "WorkerProcess",
    "WorkerSetup",
    "become_worker",
    "describe_exit",
    "end_workers",
    "run_in_processes",
    "work",
]

STOPPED_EXIT_CODE: Final = 128 + signal.SIGTERM
# The driver starts workers with these blocked, so that a Ctrl-C while Python starts up prints no traceback.
BLOCKED_WHILE_STARTING: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_NAME: Final = "pipecrypt-worker"
_REPORT_BYTES: Final = 4 << 20
_log: Final = logging.getLogger(__name__)
_STOP_SECONDS: Final = 10.0
_EXIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs before its first task.

    Args:
        directory: the driver's current directory, which relative paths start from.
        keys: all that the worker may use.
        credentials: what opens them.
        logs: how logs are written; default: as in this process.
        said: warnings that need not be said again; default: those of this process.
        run_id: of the run; default: the one at work here.
        limits: how many files it is at work on at once.
    """

    directory: str
    keys: RunKeys
    credentials: Credentials
    logs: LogSetup | None = field(default_factory=current_logs)
    said: frozenset[str] = field(default_factory=warnings_given)
    run_id: str | None = field(default_factory=current_run_id)
    limits: FlightLimits = field(default_factory=FlightLimits)


class TaskEvent(NamedTuple):
    """What happens to a task.

    Args:
        task_id: of the task.
        event: that happens.
    """

    task_id: str
    event: Event


# What a worker sends: what happens, what made it fail, or None once it has its keys and waits for a task.
Message: TypeAlias = TaskEvent | Exception | None


class _StopError(BaseException):
    """The driver wants this worker to end, or is gone."""


_is_stopping: Final = threading.Event()


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What a process that was forked does not know yet: what `multiprocessing` tells one that it spawns.

    Args:
        preparation: as `multiprocessing.spawn` makes it.
        environment: all variables of the driver.
    """

    preparation: Mapping[str, Any]
    environment: Mapping[str, str] = field(repr=False)


def become_worker(connection: Connection, alive: int) -> None:
    """Do the tasks of a driver, as a process that was forked for that.

    Args:
        connection: to the driver, which tells all that is needed.
        alive: a descriptor that ends when the driver does.
    """
    try:
        beginning: _Beginning = connection.recv()
        os.environ.clear()
        os.environ.update(beginning.environment)
        _prepare(beginning.preparation)
        setup: WorkerSetup = connection.recv()
    except (EOFError, OSError):  # nobody wants it any more
        return
    work(connection, setup, alive)


def _prepare(preparation: Mapping[str, Any]) -> None:
    """Load the script that was started, and refuse to start workers meanwhile, as in a process that was spawned."""
    current: Any = multiprocessing.current_process()
    current._inheriting = True
    try:
        spawn.prepare(dict(preparation))
    finally:
        del current._inheriting


def work(connection: Connection, setup: WorkerSetup, alive: int | None = None) -> None:
    """Do tasks from `connection` until it closes; the target of the process.

    Args:
        connection: to the driver.
        setup: what is needed.
        alive: a descriptor that ends when the driver does; default: that of `multiprocessing`.
    """
    try:
        try:
            _serve_run(connection, setup, alive)
        finally:
            # From here on Python tidies up after itself, and would print what is raised in between.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            gc.freeze()  # looking for cycles would take long, and the process ends anyway
    except _StopError:
        sys.exit(STOPPED_EXIT_CODE)


def _serve_run(connection: Connection, setup: WorkerSetup, alive: int | None) -> None:
    if setup.logs is not None:
        write_logs(setup.logs)
        write_stray_output_as_logs()
    ignore_unraisable(_StopError)  # it came while a finalizer ran, where Python drops it: the next step stops then
    _install_signal_handlers()
    threading.Thread(target=_watch_driver, args=(alive,), name="pipecrypt-watch", daemon=True).start()
    os.chdir(setup.directory)
    mark_given(setup.said)
    with contextlib.nullcontext() if setup.run_id is None else running(setup.run_id):
        _serve(connection, setup)


def _install_signal_handlers() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_WHILE_STARTING)


def _watch_driver(alive: int | None) -> None:
    """Stop this process when the driver dies, also in the middle of a long wait."""
    driver = multiprocessing.parent_process()
    if alive is None and driver is not None:
        alive = driver.sentinel
    if alive is not None:
        wait([alive])
        os.kill(os.getpid(), signal.SIGTERM)


def _on_stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the next one must not disturb the tidying up
    _is_stopping.set()
    raise _StopError


def _check_not_stopped() -> None:
    if _is_stopping.is_set():
        raise _StopError


def _serve(connection: Connection, setup: WorkerSetup) -> None:
    driver = _Driver(connection)
    try:
        with setup.keys.open(setup.credentials) as session:
            driver.send(None)
            _carry_out_all(driver, session, setup.limits.files)
    except Exception as error:
        driver.send(_portable(error))


def _carry_out_all(driver: _Driver, session: KeySession, files: int) -> None:
    if files == 1:  # in the main thread, which a stop interrupts wherever it is
        rooms: Rooms | None = None
        while (order := driver.receive()) is not None:
            if isinstance(order, HelpRequest):
                rooms = driver.help(order, session, rooms)
            else:
                _carry_out(driver, order, session)
        return

    def carry_out(task: Task) -> None:
        try:
            try:
                _carry_out(driver, task, session)
            except Exception as error:
                driver.send(_portable(error))
        except BaseException:  # told to stop, or nobody can be told: then the driver sees this process end
            if not _is_stopping.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    with TaskThreads(files, carry_out) as threads:
        while (task := driver.receive()) is not None:
            if isinstance(task, HelpRequest):
                raise AssertionError("only a process that does one thing at once is asked to help")
            threads.begin(task)


def _carry_out(driver: _Driver, task: Task, session: KeySession) -> None:
    driver.send(TaskEvent(task.id, FileStarted(task.path)))
    driver.send(TaskEvent(task.id, run_task(task, session, _progress(driver, task))))


def _progress(driver: _Driver, task: Task) -> OnBytes:
    """Return what tells the driver how much of a source is done."""
    left, unsent = task.input_bytes, 0

    def on_bytes(count: int) -> None:
        """Tell the driver about progress, now and then, and about the end, just before publishing.

        Sending is also how a worker finds out that its driver is gone, in time to publish nothing.
        """
        nonlocal left, unsent
        _check_not_stopped()
        unsent += count
        left -= count
        if left <= 0 or unsent >= _REPORT_BYTES:
            driver.send(TaskEvent(task.id, BytesDone(unsent)))
            unsent = 0

    return on_bytes


class _Driver:
    """The driver, from a worker's side; may be told from several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        _check_not_stopped()
        try:
            with self._lock:
                self._connection.send(message)
        except OSError as error:
            raise _StopError from error

    def receive(self) -> Task | HelpRequest | None:
        _check_not_stopped()
        try:
            order: Task | HelpRequest | None = self._connection.recv()
        except (EOFError, OSError):
            return None
        return order

    def help(self, request: HelpRequest, session: KeySession, rooms: Rooms | None) -> Rooms | None:
        try:
            return help_with(request, self._connection, session, rooms, _portable)
        except (EOFError, ConnectionError) as error:  # the driver is gone
            raise _StopError from error


def _portable(error: Exception) -> Exception:
    """Return the error in a form that survives the way to the driver."""
    if not isinstance(error, PipecryptError):
        error.add_note("".join(traceback.format_exception(error)).rstrip())
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
        return error
    if isinstance(error, PipecryptError):  # of a class of others, or holding what cannot be sent
        ours = next(each for each in type(error).__mro__ if each.__module__ == PipecryptError.__module__)
        return cast("type[PipecryptError]", ours)(error.message, hint=error.hint)
    return RuntimeError(f"{type(error).__name__} in a worker process: {error}")


def run_in_processes(
    tasks: Sequence[Task],
    on_event: OnEvent,
    setup: WorkerSetup,
    *,
    workers: int,
    attempts: int,
    forks: ForkServer | None = None,
) -> list[Part]:
    """Carry out tasks in worker processes of this machine. One that dies is replaced, its tasks are tried again.

    Args:
        tasks: what to do.
        on_event: told about progress, in this thread.
        setup: what each worker needs.
        workers: how many.
        attempts: how often a task is tried whose worker died.
        forks: forks the workers where it can; default: they are spawned.

    Raises:
        PipecryptError: what the first failing task raised.
        WorkerError: a worker process ended while it started, or one too many was killed, at a task or before.
    """
    with _Workers(setup, TaskLedger(tasks, attempts), attempts, on_event, forks) as running_workers:
        running_workers.start(workers)
        return running_workers.finish()


class _Workers:
    """All worker processes of a run, and the way of its tasks through them.

    Leaving the block ends them, gently after success.
    """

    def __init__(
        self, setup: WorkerSetup, ledger: TaskLedger, attempts: int, on_event: OnEvent, forks: ForkServer | None
    ) -> None:
        self._setup = setup
        self._forks = forks
        self._ledger = ledger
        self._on_event = on_event
        self._waiting = deque(ledger.tasks.values())
        self._idle_deaths_left = attempts
        self._wanted = 0
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_workers(self._workers, is_gentle=error is None)

    def start(self, count: int) -> None:
        """Start so many, and keep their number."""
        self._wanted = count
        while len(self._workers) < self._wanted:
            self._workers.append(WorkerProcess(self._setup, self._forks))

    def finish(self) -> list[Part]:
        """Carry out all tasks."""
        while not self._ledger.is_complete:
            by_connection = {worker.connection: worker for worker in self._workers}
            for ready in wait(list(by_connection)):
                worker = by_connection[cast("Connection", ready)]
                try:
                    message = worker.receive()
                except (EOFError, OSError):
                    self._replace(worker)
                    continue
                if isinstance(message, Exception):
                    raise message
                self._go_on(worker, message)
        return self._ledger.parts()

    def _go_on(self, worker: WorkerProcess, message: TaskEvent | None) -> None:
        event = None
        if message is not None:
            task_id, event = message
            if isinstance(event, BytesDone):
                worker.bytes_done[task_id] += event.bytes
            elif isinstance(event, FileDone):
                worker.tasks.pop(task_id, None)
                event = self._ledger.accept(event)
        self._feed(worker)
        if event is not None:
            self._on_event(event)

    def _feed(self, worker: WorkerProcess) -> None:
        """Give a worker tasks, of few no more than the others get."""
        unfinished = len(self._waiting) + sum(len(each.tasks) for each in self._workers)
        share = -(-unfinished // self._wanted)
        while self._waiting and len(worker.tasks) < share:
            if not self._ledger.may_join(self._waiting[0], worker.tasks.values(), self._setup.limits):
                return
            worker.begin(self._waiting.popleft())

    def _replace(self, worker: WorkerProcess) -> None:
        code = worker.exit_code()
        how = describe_exit(code)
        if not worker.is_ready and (code is None or code >= 0):  # nobody killed it: it would do the same again
            hint = "see its message above; a script that starts workers needs `if __name__ == '__main__':`"
            raise WorkerError(f"a worker process {how} while it started", hint=hint)
        worker.tidy_up()  # so that nothing of it appears later
        self._workers.remove(worker)
        for task in worker.tasks.values():
            again, attempt = self._ledger.fail(task, how)
            self._waiting.appendleft(again)
            self._on_event(TaskRetried(task.path, attempt, how, worker.bytes_done[task.id]))
        if not worker.tasks:
            self._idle_deaths_left -= 1
            what = f"a worker process {how}{'' if worker.is_ready else ' while it started'}"
            if not self._idle_deaths_left:
                raise WorkerError(what)
            _log.warning("%s: starting another one", what)
        self.start(self._wanted)
        for each in self._workers:
            if each.is_ready:
                self._feed(each)


def end_workers(workers: Sequence[WorkerProcess], *, is_gentle: bool) -> None:
    """End workers, and remove what they leave.

    Args:
        workers: all of them.
        is_gentle: whether they may end by themselves, as all is done.
    """
    if is_gentle:
        for worker in workers:
            worker.connection.close()  # an idle worker ends when its pipe does
        _join(workers, _EXIT_SECONDS)
    for worker in workers:
        worker.process.terminate()
    _join(workers, _STOP_SECONDS)
    for worker in workers:
        worker.tidy_up()


def _join(workers: Sequence[WorkerProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.process.join(max(deadline - time.monotonic(), 0))


class WorkerProcess:
    """One worker process, from the driver's side."""

    def __init__(self, setup: WorkerSetup, forks: ForkServer | None = None) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.tasks: dict[str, Task] = {}
        self.bytes_done = Counter[str]()
        self.is_ready = False
        self.process: SpawnProcess | ForkedProcess
        with contextlib.closing(theirs):  # else its end would never be seen
            forked = self._fork(setup, theirs, forks)
            self.process = _spawn(setup, theirs) if forked is None else forked

    def _fork(self, setup: WorkerSetup, theirs: Connection, forks: ForkServer | None) -> ForkedProcess | None:
        if forks is None:
            return None
        preparation = spawn.get_preparation_data(_NAME)
        preparation.pop("authkey", None)  # of managers, which workers do not use
        forked = forks.fork(theirs)
        if forked is not None:
            with contextlib.suppress(OSError):  # it died: its pipe says so next
                self.connection.send(_Beginning(preparation, dict(os.environ)))
                self.connection.send(setup)
        return forked

    def begin(self, task: Task) -> None:
        """Give it a task."""
        self.tasks[task.id] = task
        self.bytes_done[task.id] = 0
        with contextlib.suppress(OSError):  # it died: its pipe says so next
            self.connection.send(task)

    def receive(self) -> Message:
        """Return what it says; raises EOFError or OSError where it has ended."""
        message = cast(Message, self.connection.recv())
        self.is_ready = True
        return message

    def exit_code(self) -> int | None:
        """Return the exit code of one that has ended; None where only its pipe is closed."""
        self.process.join(_EXIT_SECONDS)
        return self.process.exitcode

    def tidy_up(self) -> None:
        """Make sure that it is no more, and remove what it left."""
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        if self.process.exitcode not in {0, STOPPED_EXIT_CODE}:
            for task in self.tasks.values():
                open_store(task.sink).remove_leftovers(task.target.token)
        self.connection.close()
        self.process.close()


def _spawn(setup: WorkerSetup, theirs: Connection) -> SpawnProcess:
    context = multiprocessing.get_context("spawn")  # fsspec and its threads do not survive a fork
    process = context.Process(target=work, args=(theirs, setup), name=_NAME, daemon=True)
    # It is started with the first process otherwise, and then takes SIGINT and SIGTERM out of the mask again.
    resource_tracker.ensure_running()
    old = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_WHILE_STARTING)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    return process


def describe_exit(code: int | None) -> str:
    """Return how a process ended, after its name in a sentence."""
    if code is None:
        return "closed its pipe"
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL (possibly because memory ran out)"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return "was told to stop" if code == STOPPED_EXIT_CODE else f"died with exit code {code}"
