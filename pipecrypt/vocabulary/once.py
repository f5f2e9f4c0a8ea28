"""Warnings that are given once in a run, however many files and worker processes meet their cause.

A worker process learns at its start which ones its driver has given.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Final

__all__ = ["mark_given", "warn_once", "warnings_given", "was_given"]

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


def warnings_given() -> frozenset[str]:
    """Return the warnings that were given so far, for a worker process."""
    with _lock:
        return frozenset(_said)


def was_given(text: str) -> bool:
    """Return whether this warning was given before, in this process or in that of its driver."""
    return text in _said


def mark_given(texts: Iterable[str]) -> None:
    """Do not give these warnings again: a driver gave them, or a caller did without a logger."""
    with _lock:
        _said.update(texts)
