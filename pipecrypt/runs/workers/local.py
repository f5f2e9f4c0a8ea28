"""Drive worker processes: start them, hand out tasks, replace those that die, stop them. Work is left to worker.

Each worker has a pipe of its own. A shared queue, as in `concurrent.futures`, has a lock that a killed worker takes
along, and does not tell which file it was at.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Final, Self, cast

from pipecrypt.errors import WorkerError
from pipecrypt.runs.report.events import BytesDone, Event, FileDone, Part, TaskRetried
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers.ledger import Ledger
from pipecrypt.runs.workers.protocol import OnEvent
from pipecrypt.runs.workers.worker import (
    BLOCKED_WHILE_STARTING,
    STOPPED_EXIT_CODE,
    Failed,
    Message,
    Ready,
    WorkerSetup,
    work,
)
from pipecrypt.store.sink import remove_leftovers

__all__ = ["LocalExecutor"]

_log: Final = logging.getLogger(__name__)
_STOP_SECONDS: Final = 10.0
_EXIT_SECONDS: Final = 10.0


class LocalExecutor:
    """Worker processes of this machine. One that dies is replaced, and its task is tried again.

    Args:
        setup: what each worker needs.
        workers: how many.
        attempts: how often a task is tried whose worker died.
    """

    def __init__(self, setup: WorkerSetup, *, workers: int, attempts: int) -> None:
        """Start nothing yet."""
        self._setup = setup
        self._workers = workers
        self._attempts = attempts

    def run(self, tasks: Sequence[Task], on_event: OnEvent) -> list[Part]:
        """Carry out all tasks, as `Executor`.

        Raises:
            PipecryptError: what the first failing task raised.
            WorkerError: a worker process ended while it started, or one too many was killed, at a task or before.
        """
        with _Workers(self._workers, self._setup) as workers:
            return _Run(workers, tasks, self._attempts, on_event).finish()


class _Run:
    """The way of tasks through workers."""

    def __init__(self, workers: _Workers, tasks: Sequence[Task], attempts: int, on_event: OnEvent) -> None:
        self._workers = workers
        self._waiting = deque(tasks)
        self._ledger = Ledger(tasks, attempts)
        self._idle_deaths_left = attempts
        self._on_event = on_event

    def finish(self) -> list[Part]:
        while not self._ledger.is_complete:
            for worker, message in self._workers.messages():
                if isinstance(message, _Died):
                    self._replace(worker, message)
                elif isinstance(message, Failed):
                    raise message.error
                else:
                    self._go_on(worker, message)
        return self._ledger.parts()

    def _go_on(self, worker: _Worker, message: Event | Ready) -> None:
        event = None if isinstance(message, Ready) else message
        if isinstance(event, BytesDone):
            worker.bytes_done += event.bytes
        elif isinstance(event, FileDone):
            worker.task, event = None, self._ledger.take(event)
        if isinstance(message, Ready | FileDone) and self._waiting:
            worker.begin(self._waiting.popleft())
        if event is not None:
            self._on_event(event)

    def _replace(self, worker: _Worker, died: _Died) -> None:
        if not worker.is_ready and not died.is_killed:  # it would do the same again
            hint = "see its message above; a script that starts workers needs `if __name__ == '__main__':`"
            raise WorkerError(f"a worker process {died.how} while it started", hint=hint)
        task = worker.task
        self._workers.remove(worker)
        if task is not None:
            again, attempt = self._ledger.fail(task, died.how)
            self._waiting.appendleft(again)
            self._on_event(TaskRetried(task.path, attempt, died.how, worker.bytes_done))
        else:
            self._idle_deaths_left -= 1
            what = f"a worker process {died.how}{'' if worker.is_ready else ' while it started'}"
            if not self._idle_deaths_left:
                raise WorkerError(what)
            _log.warning("%s: starting another one", what)
        self._workers.add()


@dataclass(frozen=True, slots=True)
class _Died:
    """A worker has ended.

    Args:
        how: the end of a sentence about it.
        is_killed: whether somebody killed it, rather than that it ended by itself.
    """

    how: str
    is_killed: bool = False


class _Worker:
    """One worker process, from the driver's side."""

    def __init__(self, setup: WorkerSetup) -> None:
        context = multiprocessing.get_context("spawn")  # fsspec and its threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self.task: Task | None = None
        self.bytes_done = 0
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
        self.task, self.bytes_done = task, 0
        with contextlib.suppress(OSError):  # it died: its pipe says so next
            self.connection.send(task)

    def receive(self) -> Message | _Died:
        try:
            message = cast(Message, self.connection.recv())
        except (EOFError, OSError):
            self.process.join(_EXIT_SECONDS)
            code = self.process.exitcode
            return _Died(_describe_exit(code), is_killed=code is not None and code < 0)
        self.is_ready = True
        return message

    def tidy_up(self) -> None:
        """Make sure that it is no more, and remove what it left."""
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        if self.task is not None and self.process.exitcode not in {0, STOPPED_EXIT_CODE}:
            remove_leftovers(self.task.sink, self.task.target.token)
        self.connection.close()


class _Workers:
    """All worker processes of a run; leaving the block ends them, gently after success."""

    def __init__(self, count: int, setup: WorkerSetup) -> None:
        self._count = count
        self._setup = setup
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self.add()
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

    def add(self) -> None:
        """Start one more."""
        self._workers.append(_Worker(self._setup))

    def remove(self, worker: _Worker) -> None:
        """Make sure that a worker is no more, so that nothing of it appears later, and remove what it left."""
        worker.tidy_up()
        self._workers.remove(worker)

    def messages(self) -> Iterator[tuple[_Worker, Message | _Died]]:
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
            worker.tidy_up()


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL (possibly because memory ran out)"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return "was told to stop" if code == STOPPED_EXIT_CODE else f"died with exit code {code}"
