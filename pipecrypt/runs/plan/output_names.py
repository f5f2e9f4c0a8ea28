"""Refuse outputs whose names their storage cannot hold, before anything is written. Paths that nobody can sign: plan.

A file system ends names at 255 bytes, and an output's name is longer than its source's: `.chunks.parquet`, or a number.
Some file systems take `A.parquet` and `a.parquet` for one file, where two sources would replace each other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from pipecrypt.errors import UsageError
from pipecrypt.runs.output import numbered
from pipecrypt.runs.task import Task
from pipecrypt.store.location import NAME_BYTES, Location

__all__ = ["check_output_names"]

_SHOWN: Final = 60


def check_output_names(sink: Location, tasks: Sequence[Task], rolled: Sequence[Task]) -> None:
    """Pass if a local sink can hold all outputs under their names; what object stores take is left to them.

    Args:
        sink: the directory, or the one file.
        tasks: all of them.
        rolled: those that may write several files, numbered.

    Raises:
        UsageError: a name is too long, or two outputs would be one file.
    """
    if not sink.is_local or sink.is_standard_stream:
        return
    numbers = {task.id for task in rolled}
    for task in tasks:
        *directories, name = task.path.split("/")
        for each in (*directories, numbered(name, 0) if task.id in numbers else name):
            if len(os.fsencode(each)) > NAME_BYTES:
                what = f"{task.source.location.display} would be written as {each[:_SHOWN]!a}..."
                raise UsageError(
                    f"{what}, a name of {len(os.fsencode(each))} bytes, and file systems end names at {NAME_BYTES}",
                    hint="rename the source file, or choose an object store as the sink",
                )
    if _ignores_case(sink.local_path):
        _check_case(tasks)


def _check_case(tasks: Sequence[Task]) -> None:
    seen: dict[str, Task] = {}
    for task in tasks:
        other = seen.setdefault(task.path.casefold(), task)
        if other.path != task.path:
            raise UsageError(
                f"{task.sink.display} and {other.sink.display} are one file there: the file system ignores case",
                hint="name the source files apart",
            )


def _ignores_case(path: str) -> bool:
    """Say whether the file system of a path takes names that differ in case for the same, by a look at what exists."""
    place = os.path.abspath(path)
    while place != os.path.dirname(place):
        name = os.path.basename(place)
        other = os.path.join(os.path.dirname(place), name.swapcase())
        if other != place and os.path.lexists(place):
            try:
                return os.path.samestat(os.lstat(place), os.lstat(other))
            except OSError:
                return False
        place = os.path.dirname(place)
    return False
