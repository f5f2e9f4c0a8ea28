"""Carry out tasks on a Dask cluster, of this machine or another. What a worker does with one is left to alone.

Dask may do a task twice, and may lose its result. So results count by the id of their task, the first one only; and an
attempt may replace what an earlier one published. Of two attempts at once the one that publishes first wins: the other
ends in an error, which nobody hears if the result of the first one came, and is tried again if none did.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from pipecrypt.errors import (
    ConflictError,
    InterruptedRunError,
    MissingExtraError,
    PipecryptError,
    SinkNotEmptyError,
    WorkerError,
)
from pipecrypt.pipeline.executors.alone import AloneSetup, check_lock, end_run, run_task_alone
from pipecrypt.pipeline.executors.ledger import Ledger
from pipecrypt.pipeline.executors.portable import has_published, portable_task
from pipecrypt.pipeline.executors.protocol import OnEvent
from pipecrypt.pipeline.progress.events import BytesDone, FileStarted, TaskRetried
from pipecrypt.pipeline.progress.summary import Part
from pipecrypt.pipeline.task.operation import Task
from pipecrypt.storage.sink import remove_leftovers, remove_leftovers_in

__all__ = ["DaskExecutor"]

_log = logging.getLogger(__name__)
_POLL_SECONDS: Final = 0.5  # how long Ctrl-C may wait
_CONNECT_SECONDS: Final = 30
_END_SECONDS: Final = 5
# Schedulers serve HTTP, with a dashboard or not. On Dask's own port, a second run of this machine would warn about it.
_HTTP_ADDRESS: Final = "127.0.0.1:0"


class DaskExecutor:
    """The workers of a Dask cluster.

    Args:
        setup: what each worker needs to know.
        address: of the scheduler; None: a cluster of this machine is started, and ended.
        workers: how many processes a cluster of this machine has.
        attempts: how often a task is tried whose worker died.
    """

    def __init__(self, setup: AloneSetup, *, address: str | None, workers: int, attempts: int) -> None:
        """Start nothing yet."""
        self._setup = setup
        self._address = address
        self._workers = workers
        self._attempts = attempts

    def run(self, tasks: Sequence[Task], on_event: OnEvent) -> list[Part]:
        """Carry out all tasks, as `Executor`.

        Raises:
            PipecryptError: what the first failing task raised.
            WorkerError: workers died as often at one task as the run lets them, or the scheduler is gone.
            ConflictError: the run does not hold the lock of its sink any more.
        """
        at_work: list[Task] = []
        try:
            with _client(self._address, self._workers) as client:
                run = _Run(client, self._setup, Ledger(tasks, self._attempts), on_event)
                try:
                    return run.finish([portable_task(task) for task in tasks])
                finally:
                    at_work += run.end()
        finally:
            if self._address is None:
                # The processes of our own cluster are no more. One elsewhere removes what it has begun by itself.
                remove_leftovers_in((task.sink for task in at_work), tasks[0].token)


class _Run:
    """The way of tasks through a cluster."""

    def __init__(self, client: Any, setup: AloneSetup, ledger: Ledger, on_event: OnEvent) -> None:
        self._client = client
        self._setup = setup
        self._ledger = ledger
        self._on_event = on_event
        self._waiting: deque[tuple[Task, int]] = deque()
        self._flying: dict[Any, tuple[Task, int]] = {}

    def finish(self, tasks: Sequence[Task]) -> list[Part]:
        self._waiting.extend((task, 1) for task in tasks)
        while not self._ledger.is_complete:
            self._submit()
            for future in self._ended():
                self._settle(future, *self._flying.pop(future))
        return self._ledger.parts()

    def end(self) -> list[Task]:
        """Leave nothing at work that can be told to end, and no key open; return the tasks that were at work."""
        at_work = [task for task, _ in self._flying.values()]
        with contextlib.suppress(Exception):
            self._client.run(end_run, self._setup.name, on_error="ignore")
        # Cancelling stops no function that is at work. They have been told, and end before the lock is given back.
        with contextlib.suppress(Exception), self._client.as_current():
            _distributed().wait(list(self._flying), timeout=_END_SECONDS)
        with contextlib.suppress(Exception):
            self._client.cancel(list(self._flying), force=True)
        self._flying.clear()
        return at_work

    def _submit(self) -> None:
        # No task waits at a worker: Dask blames the death of one on all that it had.
        most = max(sum(self._client.nthreads().values()), 1)
        while self._waiting and len(self._flying) < most:
            task, attempt = self._waiting.popleft()
            key = f"pipecrypt-{self._setup.name}-{task.id[:16]}-{attempt}"
            future = self._client.submit(run_task_alone, task, self._setup, key=key, pure=False, retries=0)
            self._flying[future] = task, attempt
            if attempt == 1:
                self._on_event(FileStarted(task.path))

    def _ended(self) -> list[Any]:
        with contextlib.suppress(TimeoutError), self._client.as_current():
            _distributed().wait(list(self._flying), timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
        return [future for future in self._flying if future.done()]

    def _settle(self, future: Any, task: Task, attempt: int) -> None:
        error = None if future.status == "finished" else _error_of(future)
        if error is None:
            done = self._ledger.take(future.result())
            if done is not None:
                self._on_event(BytesDone(task.input_bytes))
                self._on_event(done)
            return
        self._try_again(task, self._reason_to_try_again(error, task))

    def _reason_to_try_again(self, error: BaseException, task: Task) -> str:
        """Return what became of a worker, at the end of a sentence; raise the error if trying again mends nothing."""
        if isinstance(error, _distributed().KilledWorker):
            remove_leftovers(task.sink, task.token)
            return "died"
        if isinstance(error, SinkNotEmptyError) and has_published(task):
            return "was overtaken by another attempt"
        if isinstance(error, InterruptedRunError):
            check_lock(self._setup)
        raise error

    def _try_again(self, task: Task, reason: str) -> None:
        again, attempt = self._ledger.fail(task, reason)
        self._on_event(TaskRetried(task.path, attempt, reason, 0))
        self._waiting.appendleft((again, attempt))


def _error_of(future: Any) -> BaseException:
    if future.status != "error":
        return WorkerError(f"the Dask scheduler has lost a task ({future.status})", hint="look at the scheduler's log")
    error: BaseException = future.exception()
    if isinstance(error, (PipecryptError, _distributed().KilledWorker)):
        return error
    return WorkerError(f"a Dask worker failed with {type(error).__name__}: {error}", hint="look at the worker's log")


@contextmanager
def _client(address: str | None, workers: int) -> Iterator[Any]:
    distributed = _distributed()
    with contextlib.ExitStack() as stack:
        if address is None:
            # A task whose worker died comes back to us, who count attempts and tell of them.
            stack.enter_context(_dask().config.set({"distributed.scheduler.allowed-failures": 0}))
            # TLS under a key of its own: whoever reaches a scheduler may run code in its workers, which open the keys,
            # and every user of this machine reaches a port.
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                security=True,
                scheduler_kwargs={"dashboard": False, "dashboard_address": _HTTP_ADDRESS},
                silence_logs=logging.CRITICAL,
            )
            target = stack.enter_context(cluster)
        else:
            target = address
        try:
            client = distributed.Client(target, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConflictError(
                f"no Dask scheduler answers at {address}", hint="check run.address, and that the cluster runs"
            ) from error
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=_END_SECONDS)


def _distributed() -> ModuleType:
    try:
        import distributed  # noqa: PLC0415 - takes a second, and only runs on a cluster need it
    except ImportError as error:
        raise MissingExtraError("Dask is not installed", hint="pip install pipecrypt[dask]") from error
    return distributed


def _dask() -> ModuleType:
    import dask  # noqa: PLC0415 - comes with distributed

    return dask
