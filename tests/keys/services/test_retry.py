import threading
from collections.abc import Callable

import pytest

from pipecrypt.keys.services.retry import CallRate, Patience


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _patience(clock: _Clock, *, chance: float = 0.999, **limits: float) -> Patience:
    return Patience(clock=clock.read, sleep=clock.sleep, chance=lambda: chance, **limits)


def test_an_answer_is_returned_at_once() -> None:
    clock = _Clock()
    assert _patience(clock).call(lambda: 7, lambda error: True, "x") == 7
    assert clock.slept == []


def test_failures_that_pass_are_waited_for() -> None:
    clock, failures = _Clock(), [OSError(), OSError(), OSError()]

    def attempt() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert _patience(clock, chance=0.5).call(attempt, lambda error: isinstance(error, OSError), "x") == "done"
    assert clock.slept == [0.05, 0.1, 0.2]


def test_failures_that_stay_are_raised_at_once() -> None:
    clock = _Clock()
    with pytest.raises(ValueError, match="once"):
        _patience(clock).call(_raising(ValueError("once")), lambda error: isinstance(error, OSError), "x")
    assert clock.slept == []


def test_time_ends() -> None:
    clock, tries = _Clock(), []

    def attempt() -> None:
        tries.append(clock.now)
        raise OSError("again")

    with pytest.raises(OSError, match="again"):
        _patience(clock, total_seconds=60, max_delay_seconds=10).call(attempt, lambda error: True, "x")
    assert 50 < clock.now <= 60
    assert max(clock.slept) <= 10
    assert len(tries) == len(clock.slept) + 1 < 20


def test_slow_tries_count_too() -> None:
    clock, tries = _Clock(), []

    def attempt() -> None:
        tries.append(clock.now)
        clock.now += 25
        raise OSError("slow")

    with pytest.raises(OSError, match="slow"):
        _patience(clock, total_seconds=60).call(attempt, lambda error: True, "x")
    assert len(tries) == 3


def test_waits_differ_between_workers() -> None:
    clock, failures = _Clock(), [OSError()] * 2

    def attempt() -> None:
        if failures:
            raise failures.pop()

    Patience(clock=clock.read, sleep=clock.sleep).call(attempt, lambda error: True, "x")
    assert clock.slept[0] != clock.slept[1] / 2
    assert clock.slept[0] < 0.1
    assert clock.slept[1] < 0.2


def test_rate() -> None:
    clock = _Clock()
    rate = CallRate(4, clock=clock.read, sleep=clock.sleep)
    times = []
    for _ in range(9):
        rate.wait()
        times.append(clock.now)
    assert times == [number * 0.25 for number in range(9)]
    clock.now += 10
    rate.wait()
    assert clock.now == 12  # what was not used before is not caught up with
    rate.wait()
    assert clock.now == 12.25


def test_rate_over_threads() -> None:
    clock = _Clock()
    slept: list[float] = []
    rate = CallRate(10, clock=clock.read, sleep=slept.append)
    threads = [threading.Thread(target=rate.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slept) == pytest.approx([number / 10 for number in range(1, 20)])


def test_a_rate_is_positive() -> None:
    for rate in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            CallRate(rate, clock=_Clock().read, sleep=_Clock().sleep)


def _raising(error: Exception) -> Callable[[], None]:
    def attempt() -> None:
        raise error

    return attempt
