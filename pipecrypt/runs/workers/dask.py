"""Carry out tasks on a Dask cluster, of this machine or another.

Dask may do a task twice, and may lose its result. So results count by the id of their task, the first one only, and
files reach their places only with it: see attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
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
    WorkerError,
)
from pipecrypt.runs.report.events import BytesDone, FileStarted, Part, TaskRetried
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

__all__ = ["run_on_dask"]

_log = logging.getLogger(__name__)
_POLL_SECONDS: Final = 0.5  # how long Ctrl-C may wait
_CONNECT_SECONDS: Final = 30
_END_SECONDS: Final = 5
_LOST_SECONDS: Final = 10.0
# Schedulers serve HTTP, with a dashboard or not. On Dask's own port, a second run of this machine would warn about it.
_HTTP_ADDRESS: Final = "127.0.0.1:0"


def run_on_dask(
    tasks: Sequence[Task],
    on_event: OnEvent,
    setup: RemoteSetup,
    *,
    address: str | None,
    workers: int,
    attempts: int,
    wait_seconds: float,
) -> list[Part]:
    """Carry out tasks by the workers of a Dask cluster.

    Args:
        tasks: what to do.
        on_event: told about progress, in this thread.
        setup: what each worker needs to know.
        address: of the scheduler; None: a cluster of this machine is started, and ended.
        workers: how many processes a cluster of this machine has.
        attempts: how often a task is tried whose worker died.
        wait_seconds: how long it waits for a worker while there is none.

    Raises:
        PipecryptError: what the first failing task raised.
        WorkerError: workers died as often at one task as the run lets them, or the scheduler, or all workers for too
            long, are gone.
        ConflictError: the run does not hold the lock of its sink any more.
    """
    try:
        with _quiet(), _client(address, workers) as client:
            run = _Run(client, setup, TaskLedger(tasks, attempts), on_event, wait_seconds)
            try:
                return run.finish()
            finally:
                run.end()
    finally:
        # The processes of our own cluster are no more. One elsewhere may still write there, and nowhere else.
        if setup.attempts is not None:
            drop_attempts(setup.attempts)


class _Run:
    """The way of tasks through a cluster."""

    def __init__(
        self, client: Any, setup: RemoteSetup, ledger: TaskLedger, on_event: OnEvent, wait_seconds: float
    ) -> None:
        self._wait_seconds = wait_seconds
        self._alone_since: float | None = None
        self._client = client
        self._setup = setup
        self._ledger = ledger
        self._on_event = on_event
        self._waiting = deque((portable_task(task), 1) for task in ledger.tasks.values())
        self._flying: dict[Any, tuple[Task, int]] = {}
        self._heard = time.monotonic()

    def finish(self) -> list[Part]:
        while not self._ledger.is_complete:
            with self._told_of_lost_schedulers():
                if self._client.status == "running":  # else each call waits for half a minute
                    self._submit()
                ended = self._ended()
            for future in ended:
                self._settle(future, *self._flying.pop(future))
            self._on_event(BytesDone(0))  # so that what is done is noted, and a lost lock seen, while tasks take long
        return self._ledger.parts()

    def end(self) -> None:
        """Leave nothing at work that can be told to end, and no key open; an error may be on its way."""
        if self._client.status != "running":
            self._flying.clear()  # nobody is there to be told
            return
        with contextlib.suppress(Exception):
            self._client.run(end_run, self._setup.name, on_error="ignore")
        # Cancelling stops no function that is at work. They have been told, and end before the lock is given back.
        with contextlib.suppress(Exception), self._client.as_current():
            _distributed().wait(list(self._flying), timeout=_END_SECONDS)
        with contextlib.suppress(Exception):
            self._client.cancel(list(self._flying), force=True)
        self._flying.clear()

    @contextmanager
    def _told_of_lost_schedulers(self) -> Iterator[None]:
        lost = WorkerError("the Dask scheduler does not answer any more", hint="--resume goes on once it runs again")
        if self._client.status == "running":
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > _LOST_SECONDS:
            raise lost
        try:
            yield
        except _lost_connections() as error:
            raise lost from error

    def _submit(self) -> None:
        # No task waits at a worker: Dask blames the death of one on all that it had.
        threads = sum(self._client.nthreads().values())
        self._check_workers(threads)
        most = max(threads, 1)
        while self._waiting and len(self._flying) < most:
            task, attempt = self._waiting.popleft()
            key = f"pipecrypt-{self._setup.name}-{task.id[:16]}-{attempt}"
            future = self._client.submit(run_remotely, task, self._setup, key=key, pure=False, retries=0)
            self._flying[future] = task, attempt
            if attempt == 1:
                self._on_event(FileStarted(task.path))

    def _check_workers(self, threads: int) -> None:
        """Pass if there is a worker, or was one a while ago: the sink stays locked as long as a run waits."""
        now = time.monotonic()
        if threads:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
            _log.warning("the Dask cluster has no worker; waiting for one, at most %d s", self._wait_seconds)
        elif now - self._alone_since > self._wait_seconds:
            raise WorkerError(
                f"the Dask cluster has had no worker for {self._wait_seconds:.0f} s",
                hint="start workers and go on with --resume; run.worker_wait_seconds lets a run wait longer",
            )

    def _ended(self) -> list[Any]:
        if not self._flying:  # the scheduler is being looked for
            time.sleep(_POLL_SECONDS)
            return []
        with contextlib.suppress(TimeoutError), self._client.as_current():
            _distributed().wait(list(self._flying), timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
        return [future for future in self._flying if future.done()]

    def _settle(self, future: Any, task: Task, attempt: int) -> None:
        error = None if future.status == "finished" else _error_of(future)
        if error is None:
            with self._told_of_lost_schedulers():
                result = future.result()
            take_result(self._ledger, result, self._setup.attempts, self._on_event)
            return
        if isinstance(error, InterruptedRunError):
            check_lock(self._setup)
        if not isinstance(error, _distributed().KilledWorker):
            raise error
        again, attempt = self._ledger.fail(task, "died")
        self._on_event(TaskRetried(task.path, attempt, "died", 0))
        self._waiting.appendleft((again, attempt))


def _error_of(future: Any) -> BaseException:
    if future.status != "error":
        return WorkerError(f"the Dask scheduler has lost a task ({future.status})", hint="look at the scheduler's log")
    error: BaseException = future.exception()
    if isinstance(error, (PipecryptError, _distributed().KilledWorker)):
        return error
    return WorkerError(f"a Dask worker failed with {type(error).__name__}: {error}", hint="look at the worker's log")


def _lost_connections() -> tuple[type[BaseException], ...]:
    client = _distributed().client
    found = (getattr(client, name, None) for name in ("FutureCancelledError", "FuturesCancelledError"))
    own = tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseException))
    return (OSError, TimeoutError, asyncio.CancelledError, *own)  # older versions have asyncio's only


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log off the terminal, tracebacks of lost connections above all; debugging shows it."""
    logger = logging.getLogger("distributed")
    old = logger.level
    if logging.getLogger().getEffectiveLevel() > logging.DEBUG:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(old)


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
