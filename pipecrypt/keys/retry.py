"""Call a key service again where that helps, until a deadline. Which failures pass by is left to each service's file.

The wait before attempt n + 1 is random between 0 and `first_wait_seconds` * 2^n ("full jitter"), so that the workers
that one throttle hit do not come back together. A service that names a time to wait is given at least that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pipecrypt.errors import KeyServiceError

__all__ = ["Clock", "PassingError", "RetryLimits", "call_with_retries"]

_Result = TypeVar("_Result")
_MAX_DOUBLINGS: Final = 30


class PassingError(Exception):
    """A call failed in a way that may pass by itself: throttled, busy, no answer.

    Args:
        error: what the user sees when the deadline comes first.
        wait_seconds: what the service asked for, or None.
    """

    def __init__(self, error: KeyServiceError, *, wait_seconds: float | None = None) -> None:
        """Keep both."""
        super().__init__(error.message)
        self.error = error
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """How long and how often a call is tried.

    Args:
        deadline_seconds: for all attempts and waits together.
        attempt_seconds: for one attempt.
        first_wait_seconds: upper bound of the first wait; each later one doubles.
        longest_wait_seconds: upper bound of any wait that we choose.
    """

    deadline_seconds: float = 60.0
    attempt_seconds: float = 10.0
    first_wait_seconds: float = 0.2
    longest_wait_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time and chance, which tests replace.

    Args:
        now: seconds that never go backwards.
        sleep: waits for some seconds.
        fraction: a random number from 0 to below 1.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    fraction: Callable[[], float] = random.random


def call_with_retries(attempt: Callable[[float], _Result], *, limits: RetryLimits, clock: Clock) -> _Result:
    """Return what `attempt` returns, after as many attempts as fit before the deadline.

    Args:
        attempt: makes one call, given the seconds it may take; raises PassingError where another may help.
        limits: how long and how often.
        clock: time and chance.

    Raises:
        KeyServiceError: the error of the last PassingError.
    """
    deadline = clock.now() + limits.deadline_seconds
    failures = 0
    while True:
        try:
            return attempt(max(min(limits.attempt_seconds, deadline - clock.now()), 0.001))
        except PassingError as failure:
            wait = _wait_seconds(failures, limits, clock)
            if failure.wait_seconds is not None:
                wait += failure.wait_seconds
            if clock.now() + wait >= deadline:
                raise failure.error from failure
            failures += 1
            clock.sleep(wait)


def _wait_seconds(failures: int, limits: RetryLimits, clock: Clock) -> float:
    longest = limits.first_wait_seconds * (1 << min(failures, _MAX_DOUBLINGS))
    return min(longest, limits.longest_wait_seconds) * clock.fraction()
