"""Lock a file or directory that is open, and wait for the lock no longer than told. What it guards is left to callers.

The system drops a lock when its holder dies. A process that is stopped keeps it, so nobody waits without an end.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from typing import Final

from pipecrypt.errors import ConflictError

__all__ = ["take_lock"]

_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.1


def take_lock(
    descriptor: int, name: str, *, wait_seconds: float = 10.0, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Take the only lock of an open file or directory; closing the descriptor drops it.

    Args:
        descriptor: of the file or directory.
        name: what errors call it.
        wait_seconds: how long to wait while another holds the lock; 0 for one attempt.
        sleep: waits so many seconds.

    Raises:
        ConflictError: another holds it all that time.
        OSError: the file system has no locks, or refused.
    """
    waited, pause = 0.0, _FIRST_PAUSE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if waited >= wait_seconds:
                raise ConflictError(
                    f"another process holds the lock of {name}",
                    hint="if it was stopped, let it go on or end it; run again",
                ) from error
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE_SECONDS)
