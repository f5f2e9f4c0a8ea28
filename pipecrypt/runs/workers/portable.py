"""Make a task one that a process elsewhere can carry out, perhaps twice. Carrying it out is left to alone."""

from __future__ import annotations

import os
from dataclasses import replace

from pipecrypt.runs.task import Task
from pipecrypt.store.lease import HeldLease
from pipecrypt.store.location import Location

__all__ = ["portable_location", "portable_lock", "portable_task"]


def portable_task(task: Task) -> Task:
    """Return the task with absolute local paths, which all machines must see."""
    source = replace(task.source, location=portable_location(task.source.location))
    return replace(task, source=source, target=replace(task.target, sink=portable_location(task.sink)))


def portable_lock(lock: HeldLease | None) -> HeldLease | None:
    """Return the lock as a process elsewhere can look at it."""
    return None if lock is None else replace(lock, directory=portable_location(lock.directory))


def portable_location(location: Location) -> Location:
    """Return the location as a process elsewhere names it."""
    return replace(location, url=os.path.abspath(location.local_path)) if location.is_local else location
