from dataclasses import dataclass, field

import pytest

from pipecrypt.errors import IntegrityError, KeyServiceError
from pipecrypt.keys.retry import Clock, PassingError, RetryLimits, call_with_retries

LIMITS = RetryLimits(deadline_seconds=60, attempt_seconds=10, first_wait_seconds=1, longest_wait_seconds=8)


@dataclass
class FakeTime:
    """A clock that moves when somebody sleeps."""

    seconds: float = 100.0
    slept: list[float] = field(default_factory=list)
    fraction: float = 1.0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def clock(self) -> Clock:
        return Clock(now=lambda: self.seconds, sleep=self.sleep, fraction=lambda: self.fraction)


class Attempts:
    """Fails as often as it is told, and notes the time that each attempt was given."""

    def __init__(self, failures: int, wait_seconds: float | None = None) -> None:
        self.left = failures
        self.wait_seconds = wait_seconds
        self.given: list[float] = []

    def __call__(self, seconds: float) -> str:
        self.given.append(seconds)
        self.left -= 1
        if self.left >= 0:
            raise PassingError(KeyServiceError("throttled"), wait_seconds=self.wait_seconds)
        return "done"


def test_waits_double_up_to_the_longest() -> None:
    time, attempts = FakeTime(), Attempts(failures=6)
    assert call_with_retries(attempts, limits=LIMITS, clock=time.clock()) == "done"
    assert time.slept == [1, 2, 4, 8, 8, 8]


def test_waits_are_random() -> None:
    time = FakeTime(fraction=0.25)
    call_with_retries(Attempts(failures=3), limits=LIMITS, clock=time.clock())
    assert time.slept == [0.25, 0.5, 1.0]


def test_the_deadline_ends_it() -> None:
    time, attempts = FakeTime(), Attempts(failures=1000)
    with pytest.raises(KeyServiceError):
        call_with_retries(attempts, limits=LIMITS, clock=time.clock())
    assert sum(time.slept) < LIMITS.deadline_seconds
    assert len(attempts.given) > 5


def test_an_attempt_gets_no_more_time_than_is_left() -> None:
    time, attempts = FakeTime(), Attempts(failures=3)
    limits = RetryLimits(deadline_seconds=8, attempt_seconds=6, first_wait_seconds=1)
    call_with_retries(attempts, limits=limits, clock=time.clock())
    assert attempts.given == [6, 6, 5, 1]


def test_a_service_is_given_the_time_it_asks_for() -> None:
    time = FakeTime(fraction=0.5)
    call_with_retries(Attempts(failures=2, wait_seconds=5), limits=LIMITS, clock=time.clock())
    assert time.slept == [5.5, 6.0]
    with pytest.raises(KeyServiceError):
        call_with_retries(Attempts(failures=1, wait_seconds=3600), limits=LIMITS, clock=time.clock())


def test_other_errors_end_it_at_once() -> None:
    def attempt(seconds: float) -> str:
        raise IntegrityError("not ours")

    time = FakeTime()
    with pytest.raises(IntegrityError):
        call_with_retries(attempt, limits=LIMITS, clock=time.clock())
    assert time.slept == []
