"""Tell whether a process that left its name somewhere is still alive, where that can be known at once.

Only on the machine it runs on, since its last start, and inside the same container. Elsewhere nobody knows.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final

__all__ = ["ProcessIdentity", "is_running", "this_process"]

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_PID_NAMESPACE: Final = "/proc/self/ns/pid"
_START_FIELD: Final = 21  # proc(5): starttime is field 22 of /proc/<pid>/stat


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Names one process among all there ever were.

    Args:
        place: of the machine, its start and the container: process numbers mean the same in there.
        number: of the process.
        started: when the process began, as the system says it: a number is given again to another process.
    """

    place: str
    number: int
    started: str


def this_process() -> ProcessIdentity:
    """Return the identity of the running process."""
    return ProcessIdentity(_place(), os.getpid(), _started(os.getpid()) or "")


def is_running(process: ProcessIdentity) -> bool | None:
    """Return whether a process lives; None where this process cannot know."""
    if process.place != _place() or not process.started:
        return None
    started = _started(process.number)
    if started is None:
        # Mounted with hidepid, /proc hides the processes of other users, or lets nobody read about them.
        return None if _may_exist(process.number) else False
    return started == process.started


def _place() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
        return f"{socket.gethostname()} {boot} {os.readlink(_PID_NAMESPACE)}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {os.getpid()}"  # equal to no other's: nobody can tell


def _may_exist(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _started(number: int) -> str | None:
    """Return when a process began, "" of one that has ended but is still listed, or None where that cannot be read."""
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8", errors="replace") as file:
            # The name in parentheses may hold spaces and parentheses.
            after_name = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    # After the name come fields 3 and up. A zombie writes no more.
    return "" if after_name[0] in {"Z", "X"} else after_name[_START_FIELD - 2]
