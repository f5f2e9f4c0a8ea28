"""Make a task one that a process elsewhere can carry out, perhaps once more. Carrying it out is left to alone."""

from __future__ import annotations

import os
from dataclasses import replace

from pipecrypt.pipeline.task.operation import Task
from pipecrypt.storage.location import Location

__all__ = ["portable_task"]


def portable_task(task: Task) -> Task:
    """Return the task with absolute local paths, which all machines must see, and free to replace its own output.

    An engine may carry it out twice. Nobody else writes there, because the run holds the lock of its sink.
    """
    source = replace(task.source, location=_absolute(task.source.location))
    return replace(task, source=source, sink=_absolute(task.sink), overwrite=True)


def _absolute(location: Location) -> Location:
    return Location(os.path.abspath(location.local_path), location.options) if location.is_local else location
