"""Ask a service again after passing failures, and not too often. Which failures pass is left to each key service.

The wait before try n is random between zero and `first_delay_seconds` * 2^n, so that many workers who were refused
together do not come back together ("full jitter").
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pipecrypt.errors import KeyServiceError

__all__ = ["CallRate", "PassingError", "Patience", "ask_patiently"]

_MAX_DOUBLINGS: Final = 30
_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class PassingError(Exception):
    """A failure that may be over soon: throttled, busy, no answer. Never shown; its `error` is.

    Args:
        error: what the user sees when time runs out.
        wait_seconds: what the service asked to wait at least.
    """

    def __init__(self, error: KeyServiceError, *, wait_seconds: float = 0.0) -> None:
        """Keep both."""
        super().__init__(error.message)
        self.error = error
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one call may take, with all its tries. Clock, sleep and chance are replaced in tests.

    Args:
        total_seconds: no new try begins later than this after the first.
        first_delay_seconds: the longest wait before the second try.
        max_delay_seconds: the longest wait at all.
        connect_seconds: how long one try waits for a connection.
        answer_seconds: how long one try waits for an answer.
        clock: a clock that never goes back, in seconds.
        sleep: waits.
        chance: returns a number from 0 up to 1.
    """

    total_seconds: float = 60.0
    first_delay_seconds: float = 0.1
    max_delay_seconds: float = 10.0
    connect_seconds: float = 5.0
    answer_seconds: float = 10.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = secrets.SystemRandom().random

    def call(self, attempt: Callable[[], _Result], passes: Callable[[Exception], bool], what: str) -> _Result:
        """Return what `attempt` returns, asking again while its failures pass and time is left.

        Args:
            attempt: one try, which may be repeated.
            passes: says whether a failure may be over soon.
            what: what logs call it.

        Raises:
            Exception: what the last try raised.
        """
        deadline = self.clock() + self.total_seconds
        tries = 0
        while True:
            try:
                return attempt()
            except Exception as error:
                delay = self._delay(tries)
                if isinstance(error, PassingError):
                    delay += error.wait_seconds
                if not passes(error) or self.clock() + delay > deadline:
                    raise
                tries += 1
                _logger.info("%s: try %d failed (%s), again in %.2f s", what, tries, type(error).__name__, delay)
            self.sleep(delay)

    def _delay(self, tries: int) -> float:
        longest = min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** min(tries, _MAX_DOUBLINGS))
        return self.chance() * longest


def ask_patiently(patience: Patience, attempt: Callable[[], _Result], what: str) -> _Result:
    """Return what `attempt` returns, asking again after each PassingError while time is left.

    Raises:
        KeyServiceError: that of the last PassingError.
        Exception: whatever else `attempt` raised.
    """
    try:
        return patience.call(attempt, lambda error: isinstance(error, PassingError), what)
    except PassingError as failure:
        raise failure.error from None


class CallRate:
    """An upper bound on calls in a second, over all threads that share it.

    Args:
        max_per_second: calls are at least the reciprocal of this apart.
        clock: a clock that never goes back, in seconds.
        sleep: waits.
    """

    __slots__ = ("_clock", "_gap_seconds", "_lock", "_next", "_sleep")

    def __init__(self, max_per_second: float, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        """Let the first call pass at once."""
        if not max_per_second > 0:
            raise ValueError("a rate is positive")
        self._gap_seconds = 1 / max_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Return when the next call may be made."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap_seconds
        if turn > now:
            self._sleep(turn - now)
