"""Make a task one that a process elsewhere can carry out, perhaps once more. Carrying it out is left to alone."""

from __future__ import annotations

import os
from dataclasses import replace

from pipecrypt.context import Context
from pipecrypt.pipeline.task.earlier_attempt import is_written_as
from pipecrypt.pipeline.task.operation import Decryption, Ingestion, Task
from pipecrypt.pipeline.task.output import numbered
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink_lock import HeldLock

__all__ = ["has_published", "portable_lock", "portable_task"]


def portable_task(task: Task) -> Task:
    """Return the task with absolute local paths, which all machines must see, and free to replace its own output.

    An engine may carry it out twice. What somebody else put there is no output of the task, and stays.
    """
    source = replace(task.source, location=_absolute(task.source.location))
    return replace(task, source=source, sink=_absolute(task.sink), is_repeated=True)


def portable_lock(lock: HeldLock | None) -> HeldLock | None:
    """Return the lock as a process elsewhere can look at it."""
    return None if lock is None else replace(lock, directory=_absolute(lock.directory))


def has_published(task: Task) -> bool:
    """Say whether an attempt at a task has published its output, or the first of several."""
    operation, path, place = task.operation, task.path, task.sink
    if isinstance(operation, Decryption):
        return False  # plaintext does not tell
    if isinstance(operation, Ingestion) and operation.max_file_bytes is not None:
        path, place = numbered(path, 0), place.sibling(numbered(place.name, 0))
    return is_written_as(place, Context(operation.dataset_id, path))


def _absolute(location: Location) -> Location:
    return Location(os.path.abspath(location.local_path), location.options) if location.is_local else location
