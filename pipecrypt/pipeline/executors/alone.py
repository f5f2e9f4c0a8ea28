"""Carry out one task in whatever process it is called: the function that clusters run. Driving them is left to dask.

Nothing secret travels with a task. The process opens the keys with what its own environment holds, once for each run,
and keeps that session for the run's next tasks. Data keys are made inside the attempt, as everywhere.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Final

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.pipeline.events import FileDone
from pipecrypt.pipeline.operation import Task
from pipecrypt.pipeline.task import run_task

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


def run_task_alone(task: Task, setup: AloneSetup) -> FileDone:
    """Carry out a task with the keys that this process can open, and return the records of its files.

    The result may get lost, and with it what the files of a later result need. So each one brings all grants that this
    process has made for the run.

    Args:
        task: what to do.
        setup: of its run.

    Raises:
        PipecryptError: as `run_task`; nothing of this file is left in the sink.
    """
    with _lock:
        run = _open.get(setup.name)
        if run is None:
            credentials = Credentials.from_environment()
            session = KeySession(
                setup.key_references, credentials=credentials, dataset_id=setup.dataset_id, also=setup.also
            )
            run = _open[setup.name] = _OpenRun(session.__enter__())
    done = run_task(task, run.session, lambda _: None)
    with _lock:
        run.grants.update(dict.fromkeys(done.grants))
        return replace(done, grants=tuple(run.grants))


def end_run(name: str) -> None:
    """Wipe the keys of a run in this process. A run that is not open here is fine."""
    with _lock:
        run = _open.pop(name, None)
    if run is not None:
        run.session.__exit__(None, None, None)
