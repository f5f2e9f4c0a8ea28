"""What all ways to carry out tasks keep of attempts and results; and the plainest way.

Each way is a function that takes tasks, whose ids differ, and what is told about progress, in the caller's thread:
FileDone once for each task. It returns the parts in the order of the tasks. The first failure ends all, also one that
is raised by who is told; what was begun is removed, what was published stays.

A task may be done twice, because its worker died, or because a cluster took it for lost. The first result counts. A
later one is dropped; its file replaced nothing, or was itself replaced by the attempt whose result counts.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Self, TypeAlias

from pipecrypt.errors import WorkerError
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.report.events import BytesDone, Event, FileDone, FileStarted, Part
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.runs.task import Task, run_task
from pipecrypt.runs.workers.limits import FlightLimits

__all__ = ["OnEvent", "TaskLedger", "TaskThreads", "run_here"]

OnEvent: TypeAlias = Callable[[Event], None]

_log = logging.getLogger(__name__)


class TaskLedger:
    """The attempts at tasks, and their results.

    Attributes:
        tasks: all of them, by id.

    Args:
        tasks: all of them; their ids differ.
        attempts: how often each may be tried.
    """

    def __init__(self, tasks: Sequence[Task], attempts: int) -> None:
        """Begin with nothing done."""
        self.tasks = {task.id: task for task in tasks}
        if len(self.tasks) != len(tasks):
            raise AssertionError("two tasks have one id")
        self._attempts = attempts
        self._failed: dict[str, int] = {}
        self._done: dict[str, tuple[Part, ...]] = {}
        self._grants: set[Grant] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every task has its result."""
        return len(self._done) == len(self.tasks)

    @property
    def missing(self) -> list[Task]:
        """The tasks that have no result."""
        return [task for task_id, task in self.tasks.items() if task_id not in self._done]

    def accept(self, done: FileDone) -> FileDone | None:
        """Take a result in; return it with those grants that are new, or None for one that is dropped."""
        if done.task_id not in self.tasks:
            _log.warning("dropped the result of a task that is none of this run")
            return None
        if done.task_id in self._done:
            _log.warning("dropped a second result of %s", self.tasks[done.task_id].path)
            return None
        self._done[done.task_id] = done.parts
        grants = tuple(grant for grant in done.grants if grant not in self._grants)
        self._grants.update(grants)
        return replace(done, grants=grants)

    def fail(self, task: Task, reason: str) -> tuple[Task, int]:
        """Note that a worker died at a task; return what is to be tried next, and the number of that attempt.

        What an attempt published before it died is replaced by the next one.

        Args:
            task: as it was tried.
            reason: what became of the worker, such as `was killed by SIGKILL`.

        Raises:
            WorkerError: it was tried as often as it may be.
        """
        failed = self._failed[task.id] = self._failed.get(task.id, 0) + 1
        if failed >= self._attempts:
            times = "" if failed == 1 else f", as were {failed - 1} before it"
            raise WorkerError(f"the worker process at {task.source.location.display} {reason}{times}")
        _log.info("the worker process at %s %s: trying again", task.source.location.display, reason)
        return task.again(), failed + 1

    def may_join(self, task: Task, flying: Collection[Task], limits: FlightLimits) -> bool:
        """Return whether a process that is at work on some tasks may begin another one.

        A task whose worker died is alone in the next: if it is the reason, the next death tells which it was.
        """
        is_alone = not flying or not any(each.id in self._failed for each in (task, *flying))
        return is_alone and limits.allow(task, flying)

    def parts(self) -> list[Part]:
        """Return the records of all files, in the order of the tasks."""
        return [part for task_id in self.tasks for part in self._done[task_id]]


_ONE_AT_ONCE: Final = FlightLimits()


class TaskThreads:
    """Tasks at work on threads of this process.

    Args:
        files: how many at once.
        carry_out: does a task; called on the threads. It tells what becomes of the task, and raises nothing.
    """

    def __init__(self, files: int, carry_out: Callable[[Task], None]) -> None:
        """Start no thread yet."""
        self._threads = ThreadPoolExecutor(files, thread_name_prefix="pipecrypt-file")
        self._carry_out = carry_out

    def begin(self, task: Task) -> None:
        """Begin a task."""
        self._threads.submit(self._carry_out, task)

    def __enter__(self) -> Self:
        """Return the threads."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until no task is at work; after an error those that wait do not begin."""
        try:
            self._threads.shutdown(wait=True, cancel_futures=error is not None)
        finally:  # a signal may have ended the waiting, and keys must not be wiped under a task
            self._threads.shutdown(wait=True, cancel_futures=True)


def run_here(
    tasks: Sequence[Task],
    on_event: OnEvent,
    session: KeySession,
    interruption: Interruption,
    limits: FlightLimits = _ONE_AT_ONCE,
) -> list[Part]:
    """Carry out tasks in this process.

    Args:
        tasks: what to do.
        on_event: told about progress, in this thread.
        session: the keys; they stay the caller's.
        interruption: asked now and then whether to stop.
        limits: how many at once.
    """
    ledger = TaskLedger(tasks, 1)
    if limits.files > 1 and len(tasks) > 1:
        return _run_on_threads(ledger, on_event, session, interruption, limits)

    def on_bytes(count: int) -> None:
        interruption.check()
        on_event(BytesDone(count))

    for task in tasks:
        on_event(FileStarted(task.path))
        _accept(ledger, run_task(task, session, on_bytes), on_event)
    return ledger.parts()


def _accept(ledger: TaskLedger, done: FileDone, on_event: OnEvent) -> None:
    accepted = ledger.accept(done)
    if accepted is not None:
        on_event(accepted)


class _StoppedError(Exception):
    """Another task failed, or the run was stopped: this one ends, too."""


def _run_on_threads(
    ledger: TaskLedger, on_event: OnEvent, session: KeySession, interruption: Interruption, limits: FlightLimits
) -> list[Part]:
    told: SimpleQueue[Event | BaseException] = SimpleQueue()
    is_over = threading.Event()

    def on_bytes(count: int) -> None:
        if is_over.is_set():
            raise _StoppedError
        told.put(BytesDone(count))

    def carry_out(task: Task) -> None:
        try:
            told.put(FileStarted(task.path))
            told.put(run_task(task, session, on_bytes))
        except BaseException as error:  # raised in the thread of the run
            told.put(error)

    waiting, flying = deque(ledger.tasks.values()), dict[str, Task]()
    try:
        with TaskThreads(limits.files, carry_out) as threads:
            try:
                while not ledger.is_complete:
                    while waiting and ledger.may_join(waiting[0], flying.values(), limits):
                        task = waiting.popleft()
                        flying[task.id] = task
                        threads.begin(task)
                    event = told.get()
                    interruption.check()
                    if isinstance(event, BaseException):
                        raise event
                    if isinstance(event, FileDone):
                        del flying[event.task_id]
                        _accept(ledger, event, on_event)
                    else:
                        on_event(event)
            finally:
                is_over.set()
    except BaseException:
        _accept_published(told, ledger, on_event)
        raise
    return ledger.parts()


def _accept_published(told: SimpleQueue[Event | BaseException], ledger: TaskLedger, on_event: OnEvent) -> None:
    """Tell of files that were published while the run came to its end; an error is on its way, so none is raised."""
    with contextlib.suppress(Exception):
        while True:
            event = told.get_nowait()
            if isinstance(event, FileDone):
                _accept(ledger, event, on_event)
