"""Warnings that are said once in a run, however many files and worker processes meet their cause.

What is said is left to each room. A worker process is told what its driver has said before it starts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Final

__all__ = ["already_said", "mark_said", "warn_once", "was_said"]

_MOST: Final = 4096
_LEFT_OUT: Final = f"{_MOST} different warnings were given; further warnings are left out"
_lock: Final = threading.Lock()
_said: Final[set[str]] = set()


def warn_once(logger: logging.Logger, message: str, *args: object) -> None:
    """Log a warning, unless the same one was logged before in this process or in that of its driver."""
    text = message % args
    with _lock:
        if text in _said:
            return
        if len(_said) >= _MOST:
            if _LEFT_OUT in _said:
                return
            text = _LEFT_OUT
        _said.add(text)
    logger.warning("%s", text)


def already_said() -> frozenset[str]:
    """Return what was said so far, for a worker process."""
    with _lock:
        return frozenset(_said)


def was_said(text: str) -> bool:
    """Say whether this was said before in this process or in that of its driver."""
    return text in _said


def mark_said(texts: Iterable[str]) -> None:
    """Say nothing of these any more: a driver said them, or a caller did without a logger."""
    with _lock:
        _said.update(texts)
