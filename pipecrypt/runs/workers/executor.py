"""What all ways to carry out tasks keep of attempts and results; and the plainest way.

Each way is a function that takes tasks, whose ids differ, and what is told about progress, in the caller's thread:
FileDone once for each task. It returns the parts in the order of the tasks. The first failure ends all, also one that
is raised by who is told; what was begun is removed, what was published stays.

A task may be done twice, because its worker died, or because a cluster took it for lost. The first result counts. A
later one is dropped; its file replaced nothing, or was itself replaced by the attempt whose result counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from pipecrypt.errors import WorkerError
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.report.events import BytesDone, Event, FileDone, FileStarted, Part
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.runs.task import Task, run_task

__all__ = ["OnEvent", "TaskLedger", "run_here"]

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

    def parts(self) -> list[Part]:
        """Return the records of all files, in the order of the tasks."""
        return [part for task_id in self.tasks for part in self._done[task_id]]


def run_here(tasks: Sequence[Task], on_event: OnEvent, session: KeySession, interruption: Interruption) -> list[Part]:
    """Carry out tasks in this process, one after the other.

    Args:
        tasks: what to do.
        on_event: told about progress.
        session: the keys; they stay the caller's.
        interruption: asked now and then whether to stop.
    """

    def on_bytes(count: int) -> None:
        interruption.check()
        on_event(BytesDone(count))

    parts: list[Part] = []
    for task in tasks:
        on_event(FileStarted(task.path))
        done = run_task(task, session, on_bytes)
        parts += done.parts
        on_event(done)
    return parts
