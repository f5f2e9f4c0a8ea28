"""Carry out tasks by an engine that a caller brings: Ray, Spark, or any that maps a function."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pipecrypt.errors import InterruptedRunError, WorkerError
from pipecrypt.runs.report.events import BytesDone, FileDone, Part
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers.executor import OnEvent, TaskLedger
from pipecrypt.runs.workers.remote import (
    RemoteSetup,
    check_lock,
    drop_attempts,
    end_run,
    portable_task,
    run_remotely,
    take_result,
)

__all__ = ["MapTasks", "MappedExecutor", "TaskCall"]


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


class MappedExecutor:
    """An engine of the caller's.

    Args:
        setup: what each process needs to know.
        map_tasks: calls the tasks.
    """

    def __init__(self, setup: RemoteSetup, map_tasks: MapTasks) -> None:
        """Start nothing yet."""
        self._setup = setup
        self._map_tasks = map_tasks

    def run(self, tasks: Sequence[Task], on_event: OnEvent) -> list[Part]:
        """Carry out all tasks, as `Executor`.

        Raises:
            WorkerError: the engine came to an end without the result of a task.
            ConflictError: the run does not hold the lock of its sink any more.
            PipecryptError: what a task raised, if the engine passes it on as it is.
        """
        results: Iterable[FileDone] = ()
        try:
            results = self._map_tasks([TaskCall(portable_task(task), self._setup) for task in tasks])
            return self._take(results, tasks, on_event)
        except InterruptedRunError:
            check_lock(self._setup)
            raise
        finally:
            # Calls may be at work in threads of this process: they end before the lock is given back.
            end_run(self._setup.name)
            if isinstance(results, Generator):
                results.close()
            if self._setup.attempts is not None:
                drop_attempts(self._setup.attempts)

    def _take(self, results: Iterable[FileDone], tasks: Sequence[Task], on_event: OnEvent) -> list[Part]:
        ledger, by_id = TaskLedger(tasks, 1), {task.id: task for task in tasks}
        for result in results:
            if not isinstance(result, FileDone):
                raise WorkerError(
                    f"map_tasks gave back a {type(result).__name__} that no call returned",
                    hint="yield what the calls return, as it is",
                )
            done = take_result(ledger, result, by_id, self._setup.attempts)
            if done is not None:
                on_event(BytesDone(by_id[done.task_id].input_bytes))
                on_event(done)
        missing = [task.path for task in tasks if not ledger.is_done(task.id)]
        if missing:
            raise WorkerError(
                f"no result of {len(missing)} tasks came back, such as {missing[0]!a}",
                hint="look at the engine's log; --resume does what is missing",
            )
        return ledger.parts()
