"""Carry out one task in whatever process it is called: the function that clusters run. Driving them is left to dask.

Nothing secret travels with a task. The process opens the keys with what its own environment holds, once for each run,
and keeps that session for the run's next tasks. Data keys are made inside the attempt, as everywhere.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Final

from pipecrypt.errors import InterruptedRunError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.pipeline.progress.events import FileDone
from pipecrypt.pipeline.task.operation import Task
from pipecrypt.pipeline.task.task import run_task

__all__ = ["AloneSetup", "end_run", "run_task_alone"]


@dataclass(frozen=True, slots=True)
class AloneSetup:
    """What a process needs to know of a run.

    Args:
        name: of the run, another for each.
        key_references: all that may be used.
        dataset_id: of the dataset that is written, or None.
        also: key references of further master keys that each KEK is wrapped for.
    """

    name: str
    key_references: tuple[str, ...]
    dataset_id: str | None
    also: tuple[str, ...] = ()


@dataclass(slots=True)
class _OpenRun:
    session: KeySession
    grants: dict[Grant, None] = field(default_factory=dict)


_lock: Final = threading.Lock()
_open: Final[dict[str, _OpenRun]] = {}
_ended: Final[dict[str, None]] = {}
_MOST_ENDED: Final = 1000  # a process that lives for months need not know all of them


def run_task_alone(task: Task, setup: AloneSetup) -> FileDone:
    """Carry out a task with the keys that this process can open, and return the records of its files.

    The result may get lost, and with it what the files of a later result need. So each one brings all grants that this
    process has made for the run.

    Args:
        task: what to do.
        setup: of its run.

    Raises:
        InterruptedRunError: `end_run` was called here for this run.
        PipecryptError: as `run_task`; nothing of this file is left in the sink.
    """
    with _lock:
        if setup.name in _ended:
            raise _over()
        run = _open.get(setup.name)
        if run is None:
            credentials = Credentials.from_environment()
            session = KeySession(
                setup.key_references, credentials=credentials, dataset_id=setup.dataset_id, also=setup.also
            )
            run = _open[setup.name] = _OpenRun(session.__enter__())
    done = run_task(task, run.session, lambda _: _check_going_on(setup.name))
    with _lock:
        run.grants.update(dict.fromkeys(done.grants))
        return replace(done, grants=tuple(run.grants))


def _check_going_on(name: str) -> None:
    if name in _ended:
        raise _over()


def _over() -> InterruptedRunError:
    return InterruptedRunError("the run has ended elsewhere, so this task ends too")


def end_run(name: str) -> None:
    """Wipe the keys of a run in this process, and let none of its tasks publish any more.

    A task that is at work stops at its next step, before its file appears. A run that is not open here is fine.
    """
    with _lock:
        run = _open.pop(name, None)
        _ended[name] = None
        while len(_ended) > _MOST_ENDED:
            del _ended[next(iter(_ended))]
    if run is not None:
        run.session.__exit__(None, None, None)
