import pytest

from pipecrypt.errors import IntegrityError, KeyServiceError
from pipecrypt.keys.services.retry import PassingError, Patience, ask_patiently
from tests.keys.fakes.clock import FakeTime


class Attempts:
    """Fails as often as it is told."""

    def __init__(self, failures: int, wait_seconds: float = 0.0) -> None:
        self.left = failures
        self.wait_seconds = wait_seconds
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        self.left -= 1
        if self.left >= 0:
            raise PassingError(KeyServiceError("throttled"), wait_seconds=self.wait_seconds)
        return "done"


def _patience(time: FakeTime, chance: float = 1.0) -> Patience:
    return Patience(
        total_seconds=60, first_delay_seconds=1, max_delay_seconds=8, clock=lambda: time.seconds,
        sleep=time.sleep, chance=lambda: chance,
    )  # fmt: skip


def test_passing_failures_are_waited_for() -> None:
    time = FakeTime()
    assert ask_patiently(_patience(time), Attempts(failures=6), "a call") == "done"
    assert time.slept == [1, 2, 4, 8, 8, 8]


def test_a_service_is_given_the_time_it_asks_for() -> None:
    time = FakeTime()
    assert ask_patiently(_patience(time, 0.5), Attempts(failures=2, wait_seconds=5), "a call") == "done"
    assert time.slept == [5.5, 6.0]
    too_long = Attempts(failures=1, wait_seconds=3600)
    with pytest.raises(KeyServiceError):
        ask_patiently(_patience(time), too_long, "a call")
    assert too_long.made == 1


def test_the_error_inside_is_shown_when_time_runs_out() -> None:
    time, attempts = FakeTime(), Attempts(failures=1000)
    with pytest.raises(KeyServiceError) as caught:
        ask_patiently(_patience(time), attempts, "a call")
    assert caught.value.__cause__ is None
    assert sum(time.slept) <= 60
    assert attempts.made > 5


def test_other_errors_end_it_at_once() -> None:
    def attempt() -> str:
        raise IntegrityError("not ours")

    time = FakeTime()
    with pytest.raises(IntegrityError):
        ask_patiently(_patience(time), attempt, "a call")
    assert time.slept == []
