"""Drive worker processes: start them, hand out tasks, notice failures and deaths, stop them. Work is left to worker.

Each worker has a pipe of its own. A shared queue, as in `concurrent.futures`, has a lock that a killed worker takes
along, and does not tell which file it was at.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Final, Self, cast

from pipecrypt.errors import WorkerError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.pipeline.events import Event, FileDone
from pipecrypt.pipeline.operation import Task
from pipecrypt.pipeline.plan import Plan
from pipecrypt.pipeline.summary import Part
from pipecrypt.pipeline.worker import (
    BLOCKED_WHILE_STARTING,
    STOPPED_EXIT_CODE,
    Failed,
    Message,
    Ready,
    WorkerSetup,
    work,
)
from pipecrypt.storage.sink import remove_leftovers

__all__ = ["run_in_workers"]

_STOP_SECONDS: Final = 10.0
_EXIT_SECONDS: Final = 10.0


def run_in_workers(plan: Plan, credentials: Credentials, on_event: Callable[[Event], None]) -> list[Part]:
    """Carry out the tasks of a plan in worker processes, and return their parts in the order of the tasks.

    The first failure stops all workers; what they had begun is removed, what was published stays.

    Raises:
        PipecryptError: what the first failing task raised.
        WorkerError: a worker process died.
    """
    setup = WorkerSetup(os.getcwd(), plan.key_references, credentials, plan.dataset_id, plan.also)
    tasks, done = deque(plan.tasks), dict[str, tuple[Part, ...]]()
    with _Workers(plan.workers, setup) as workers:
        while len(done) < len(plan.tasks):
            for worker, message in workers.messages():
                if isinstance(message, Failed):
                    raise message.error
                if isinstance(message, FileDone) and worker.task is not None:
                    done[worker.task.id] = message.parts
                    worker.task = None
                if isinstance(message, Ready | FileDone) and tasks:
                    worker.begin(tasks.popleft())
                if not isinstance(message, Ready):
                    on_event(message)
    return [part for task in plan.tasks for part in done[task.id]]


class _Worker:
    """One worker process, from the driver's side."""

    def __init__(self, setup: WorkerSetup) -> None:
        context = multiprocessing.get_context("spawn")  # fsspec and its threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self.task: Task | None = None
        self.is_ready = False
        self.process: SpawnProcess = context.Process(
            target=work, args=(theirs, setup), name="pipecrypt-worker", daemon=True
        )
        # It is started with the first process otherwise, and then takes SIGINT and SIGTERM out of the mask again.
        resource_tracker.ensure_running()
        old = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_WHILE_STARTING)
        try:
            self.process.start()
        finally:
            theirs.close()  # else its end would never be seen
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def begin(self, task: Task) -> None:
        self.task = task
        try:
            self.connection.send(task)
        except OSError as error:
            raise self.death() from error

    def receive(self) -> Message:
        try:
            message = cast(Message, self.connection.recv())
        except (EOFError, OSError) as error:
            raise self.death() from error
        self.is_ready = True
        return message

    def death(self) -> WorkerError:
        self.process.join(_EXIT_SECONDS)
        how = _describe_exit(self.process.exitcode)
        if self.task is not None:
            return WorkerError(f"the worker process at {self.task.source.location.display} {how}")
        if self.is_ready:
            return WorkerError(f"a worker process {how}")
        hint = "see its message above; a script that starts workers needs `if __name__ == '__main__':`"
        return WorkerError(f"a worker process {how} while it started", hint=hint)


class _Workers:
    """All worker processes of a run; leaving the block ends them, gently after success."""

    def __init__(self, count: int, setup: WorkerSetup) -> None:
        self._count = count
        self._setup = setup
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(_Worker(self._setup))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            for worker in self._workers:
                worker.connection.close()  # an idle worker ends when its pipe does
            self._join(_EXIT_SECONDS)
        self._stop()

    def messages(self) -> Iterator[tuple[_Worker, Message]]:
        """Wait until some worker has something to say; yield one message of each that has."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for ready in wait(list(by_connection)):
            worker = by_connection[cast("Connection", ready)]
            yield worker, worker.receive()

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.process.join(max(deadline - time.monotonic(), 0))

    def _stop(self) -> None:
        """Stop what still runs, by force if need be, and remove what that leaves."""
        for worker in self._workers:
            worker.process.terminate()
        self._join(_STOP_SECONDS)
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            if worker.task is not None and worker.process.exitcode not in {0, STOPPED_EXIT_CODE}:
                remove_leftovers(worker.task.sink, worker.task.token)
            worker.connection.close()


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return "was told to stop" if code == STOPPED_EXIT_CODE else f"died with exit code {code}"
