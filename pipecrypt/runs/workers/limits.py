"""How many files one process is at work on at once, and how much memory they may take.

A file of an object store waits for answers most of the time, so many are at work side by side. A large one of a local
disk waits for the processor: beside another one it would only take memory. A small one waits for the disk, which makes
each durable, and makes several so in the time that one takes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.task import Task
from pipecrypt.store.open import open_store

__all__ = ["FlightLimits", "flight_limits", "machine_memory_bytes", "needs_no_workers"]

_REMOTE_FILES: Final = 16
_LOCAL_FILES: Final = 8
_LOCAL_BYTES: Final = 32 << 20  # as kinds count them: two files of 4 MiB, or eight of 1 MiB
_LOCAL_TASKS: Final = 16  # of a process for each file beside others: where there are few, nobody waits long for them
_MEMORY_PART: Final = 4  # of the machine's memory one in so many
# What a worker process takes to start, to load what speaks with a store, and to unlock keys; and what the work takes.
_START_SECONDS: Final = 2.0
_FILE_SECONDS: Final = 0.01
_BYTES_PER_SECOND: Final = 400 << 20
# What a container may use, less than the machine has: version 2 and version 1 of Linux's control groups.
_GROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class FlightLimits:
    """What one process may be at work on at once.

    Args:
        files: how many files at most, from 1.
        memory_bytes: how much memory they may take together, as far as their kinds tell. A single one may take more.
    """

    files: int = 1
    memory_bytes: int = 0

    def allow(self, task: Task, flying: Collection[Task]) -> bool:
        """Return whether a process that is at work on some tasks may begin another one."""
        if not flying:
            return True
        if len(flying) >= self.files:
            return False
        return sum(each.kind.memory_bytes(each.input_bytes) for each in (task, *flying)) <= self.memory_bytes


def flight_limits(plan: Plan) -> FlightLimits:
    """Return the limits of each process of a run, which share what its options say or the machine has."""
    options = plan.options
    memory = machine_memory_bytes() // _MEMORY_PART if options.memory_bytes is None else options.memory_bytes
    files = options.files_in_flight
    memory //= plan.workers
    if files is None:
        files = _REMOTE_FILES
        if not _waits_for_stores(plan):
            files = max(1, min(_LOCAL_FILES, len(plan.tasks) // (_LOCAL_TASKS * plan.workers)))
            memory = memory if files == 1 else min(memory, _LOCAL_BYTES)
    return FlightLimits(files, memory)


def needs_no_workers(plan: Plan) -> bool:
    """Return whether this process alone is done sooner than others would have started: most of the time it waits."""
    work_seconds = len(plan.tasks) * _FILE_SECONDS + plan.source_bytes / _BYTES_PER_SECOND
    return work_seconds <= _START_SECONDS and _waits_for_stores(plan)


def _waits_for_stores(plan: Plan) -> bool:
    places = [plan.sink, *(task.source.location for task in plan.tasks[:1])]  # sources lie together
    return any(open_store(place).is_remote and not place.is_in_this_process for place in places)


def machine_memory_bytes() -> int:
    """Return how much memory this machine has, or its container may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _GROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # the other version, or "max"
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found)
