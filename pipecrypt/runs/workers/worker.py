"""A worker process: its own key session, one task at a time, events back over its own pipe. The driver is in local.

A worker outlives neither a stop nor its driver: SIGTERM and a broken pipe unwind the task at hand, which removes its
temporary file. Signals from the terminal go to the driver, which decides.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Final, TypeAlias

from pipecrypt.errors import PipecryptError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.report.events import BytesDone, Event, FileStarted
from pipecrypt.runs.report.logs import LogSetup, current_logs, ignore_unraisable, write_logs, write_stray_output_as_logs
from pipecrypt.runs.report.run_id import current_run_id, running
from pipecrypt.runs.task import Task, run_task
from pipecrypt.vocabulary.once import mark_given, warnings_given

__all__ = ["BLOCKED_WHILE_STARTING", "STOPPED_EXIT_CODE", "Failed", "Message", "Ready", "WorkerSetup", "work"]

STOPPED_EXIT_CODE: Final = 128 + signal.SIGTERM
# The driver starts workers with these blocked, so that a Ctrl-C while Python starts up prints no traceback.
BLOCKED_WHILE_STARTING: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_REPORT_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs before its first task.

    Args:
        directory: the driver's current directory, which relative paths start from.
        key_references: all that the worker may use.
        credentials: what opens them.
        dataset_id: of the dataset that is written, or None.
        also: key references of further master keys that each KEK is wrapped for.
        logs: how logs are written; default: as in this process.
        said: warnings that need not be said again; default: those of this process.
        run_id: of the run; default: the one at work here.
    """

    directory: str
    key_references: tuple[str, ...]
    credentials: Credentials
    dataset_id: str | None
    also: tuple[str, ...] = ()
    logs: LogSetup | None = field(default_factory=current_logs)
    said: frozenset[str] = field(default_factory=warnings_given)
    run_id: str | None = field(default_factory=current_run_id)


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has its keys and waits for a task."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker's task, or its start, failed.

    Args:
        error: as it was raised.
    """

    error: Exception


Message: TypeAlias = Event | Ready | Failed


class _StopError(BaseException):
    """The driver wants this worker to end, or is gone."""


_is_stopping: Final = threading.Event()


def work(connection: Connection, setup: WorkerSetup) -> None:
    """Do tasks from `connection` until it closes; the target of the process."""
    try:
        try:
            _work(connection, setup)
        finally:
            # From here on Python tidies up after itself, and would print what is raised in between.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except _StopError:
        sys.exit(STOPPED_EXIT_CODE)


def _work(connection: Connection, setup: WorkerSetup) -> None:
    if setup.logs is not None:
        write_logs(setup.logs)
        write_stray_output_as_logs()
    ignore_unraisable(_StopError)  # it came while a finalizer ran, where Python drops it: the next step stops then
    _take_over_signals()
    threading.Thread(target=_watch_driver, name="pipecrypt-watch", daemon=True).start()
    os.chdir(setup.directory)
    mark_given(setup.said)
    with contextlib.nullcontext() if setup.run_id is None else running(setup.run_id):
        _serve(connection, setup)


def _take_over_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_WHILE_STARTING)


def _watch_driver() -> None:
    """Stop this process when the driver dies, also in the middle of a long wait."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _on_stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the next one must not disturb the tidying up
    _is_stopping.set()
    raise _StopError


def _check_going_on() -> None:
    if _is_stopping.is_set():
        raise _StopError


def _serve(connection: Connection, setup: WorkerSetup) -> None:
    try:
        with KeySession(
            setup.key_references, credentials=setup.credentials, dataset_id=setup.dataset_id, also=setup.also
        ) as session:
            _send(connection, Ready())
            while (task := _receive(connection)) is not None:
                _carry_out(connection, task, session)
    except Exception as error:
        _send(connection, Failed(_portable(error)))


def _carry_out(connection: Connection, task: Task, session: KeySession) -> None:
    progress = _Progress(connection, task.input_bytes)
    _send(connection, FileStarted(task.path))
    _send(connection, run_task(task, session, progress.on_bytes))


class _Progress:
    """Tells the driver about progress, now and then, and about the end, just before publishing.

    Sending is also how a worker finds out that its driver is gone, in time to publish nothing.
    """

    def __init__(self, connection: Connection, source_bytes: int) -> None:
        self._connection = connection
        self._left = source_bytes
        self._unsent = 0

    def on_bytes(self, count: int) -> None:
        _check_going_on()
        self._unsent += count
        self._left -= count
        if self._left <= 0 or self._unsent >= _REPORT_BYTES:
            _send(self._connection, BytesDone(self._unsent))
            self._unsent = 0


def _send(connection: Connection, message: Message) -> None:
    _check_going_on()
    try:
        connection.send(message)
    except OSError as error:
        raise _StopError from error


def _receive(connection: Connection) -> Task | None:
    _check_going_on()
    try:
        task: Task | None = connection.recv()
    except (EOFError, OSError):
        return None
    return task


def _portable(error: Exception) -> Exception:
    """Return the error in a form that survives the way to the driver."""
    if isinstance(error, PipecryptError):
        return error
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
        return error
    return RuntimeError(f"{type(error).__name__} in a worker process: {error}")
