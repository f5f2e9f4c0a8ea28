"""Carry out one task in whatever process it is called: the function that clusters run. Driving them is left to dask.

Nothing secret travels with a task. The process opens the keys with what its own environment holds, and open_runs keeps
them for the run's next tasks. Data keys are made inside the attempt, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pipecrypt.errors import ConflictError, InterruptedRunError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.report.events import FileDone
from pipecrypt.runs.task import Task, run_task
from pipecrypt.runs.workers.attempts import attempt_of
from pipecrypt.runs.workers.open_runs import OpenRuns
from pipecrypt.store.lease import HeldLease
from pipecrypt.store.location import Location

__all__ = ["AloneSetup", "check_lock", "end_run", "run_task_alone"]

_runs: Final = OpenRuns()


@dataclass(frozen=True, slots=True)
class AloneSetup:
    """What a process needs to know of a run.

    Args:
        name: of the run, another for each.
        key_references: all that may be used.
        dataset_id: of the dataset that is written, or None.
        also: key references of further master keys that each KEK is wrapped for.
        lock: the run's, of its sink; None where nobody looks.
        attempts: where attempts publish; None: at the places that tasks name.
    """

    name: str
    key_references: tuple[str, ...]
    dataset_id: str | None
    also: tuple[str, ...] = ()
    lock: HeldLease | None = None
    attempts: Location | None = None


def run_task_alone(task: Task, setup: AloneSetup) -> FileDone:
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
    task, attempt = (task, None) if setup.attempts is None else attempt_of(task, setup.attempts)
    with _runs.using(setup.name, lambda: _open_session(setup)) as run:
        done = run_task(
            task,
            run.session,
            lambda _: _check_going_on(setup.name),
            before_publishing=lambda: _check_may_publish(setup),
        )
        return replace(done, grants=_runs.add_grants(run, done.grants), attempt=attempt)


def _open_session(setup: AloneSetup) -> KeySession:
    credentials = Credentials.from_environment()
    return KeySession(setup.key_references, credentials=credentials, dataset_id=setup.dataset_id, also=setup.also)


def _check_going_on(name: str) -> None:
    _runs.check_going_on(name)


def _check_may_publish(setup: AloneSetup) -> None:
    """Pass if the run goes on: its driver may have died, or been stopped, and another run may write there by now."""
    _check_going_on(setup.name)
    try:
        check_lock(setup)
    except ConflictError as error:
        raise InterruptedRunError(
            "the run does not hold the lock of its sink any more, so this task publishes nothing",
            hint="look which run goes on there",
        ) from error


def check_lock(setup: AloneSetup) -> None:
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
