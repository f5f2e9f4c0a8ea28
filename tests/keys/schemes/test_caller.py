"""What all key services share: tries, rate, quiet logs, and errors from a table."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyServiceError, UsageError
from pipecrypt.keys.schemes.caller import (
    Caller,
    CallRate,
    Failure,
    FailureKind,
    PassingError,
    Patience,
    Rule,
    quiet_loggers,
    retry_after,
    take_data_key,
)
from tests.keys.fakes.clock import FakeTime

NAMES = ("some.sdk", "some.sdk.transport")
RULES = (
    Rule(kind=FailureKind.LOST, message="no answer to {action} ({shown})", hint="run {action} again", passes=True),
    Rule(statuses=range(500, 600), message="busy", passes=True),
    Rule(codes=frozenset({"NoKey", "Gone"}), message="no such key", error=KeyNotFoundError),
    Rule(words=("not authentic",), actions=frozenset({"decrypt"}), message="not ours", error=IntegrityError),
    Rule(message="refused {action} ({shown})"),
)


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
    return Patience(total_seconds=60, clock=lambda: time.seconds, sleep=time.sleep, chance=lambda: chance)


def _caller(time: FakeTime, **options: object) -> Caller:
    return Caller("memory://pii", "the memory", RULES, patience=_patience(time), describe=_describe, **options)  # type: ignore[arg-type]


def _describe(error: Exception) -> Failure:
    lost = isinstance(error, OSError)
    return Failure(kind=FailureKind.LOST if lost else FailureKind.NONSENSE, shown=type(error).__name__)


def _raising(error: Exception) -> Callable[[], str]:
    def send() -> str:
        raise error

    return send


def _refused(**failure: object) -> Callable[[], str | Failure]:
    return lambda: Failure(**failure)  # type: ignore[arg-type]


def test_passing_failures_are_waited_for() -> None:
    time = FakeTime()
    assert _patience(time).call(Attempts(failures=8)) == "done"
    assert time.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10])


def test_a_service_is_given_the_time_it_asks_for() -> None:
    time = FakeTime()
    assert _patience(time, 0.0).call(Attempts(failures=2, wait_seconds=5)) == "done"
    assert time.slept == pytest.approx([5.05, 5.1])
    too_long = Attempts(failures=1, wait_seconds=3600)
    with pytest.raises(KeyServiceError):
        _patience(time).call(too_long)
    assert too_long.made == 1


def test_the_error_inside_is_shown_when_time_runs_out() -> None:
    time, attempts = FakeTime(), Attempts(failures=1000)
    with pytest.raises(KeyServiceError) as caught:
        _patience(time).call(attempts)
    assert caught.value.__cause__ is None
    assert 40 < sum(time.slept) <= 60
    assert attempts.made > 5


def test_slow_tries_count_too() -> None:
    time, tries = FakeTime(), []

    def attempt() -> None:
        tries.append(time.seconds)
        time.seconds += 25
        raise PassingError(KeyServiceError("slow"))

    with pytest.raises(KeyServiceError, match="slow"):
        _patience(time).call(attempt)
    assert len(tries) == 3


def test_waits_differ_between_workers() -> None:
    time = FakeTime()
    Patience(clock=lambda: time.seconds, sleep=time.sleep).call(Attempts(failures=2))
    assert time.slept[0] != time.slept[1] / 2
    assert time.slept[0] < 0.1
    assert time.slept[1] < 0.2


def test_other_errors_end_it_at_once() -> None:
    time = FakeTime()
    with pytest.raises(IntegrityError):
        _patience(time).call(_raising(IntegrityError("not ours")))
    assert time.slept == []


def test_the_first_rule_that_applies_counts() -> None:
    time = FakeTime()
    caller = _caller(time)
    for send, action, error in (
        (_refused(codes=("Gone",)), "decrypt", KeyNotFoundError),
        (_refused(words="it is not authentic"), "decrypt", IntegrityError),
        (_refused(words="it is not authentic"), "encrypt", KeyServiceError),
        (_refused(status=403, shown="403 Denied"), "encrypt", KeyServiceError),
        (_raising(ZeroDivisionError("a secret")), "encrypt", KeyServiceError),
        (_raising(UsageError("of ours")), "encrypt", UsageError),
    ):
        with pytest.raises(error) as caught:
            caller.call(action, send, str)
        assert caught.type is error
        assert caught.value.__cause__ is None
        assert "a secret" not in str(caught.value)
    assert time.slept == []
    with pytest.raises(KeyServiceError, match=r"memory://pii: refused encrypt \(403 Denied\)"):
        caller.call("encrypt", _refused(status=403, shown="403 Denied"), str)


def test_what_passes_is_sent_again_and_then_shown() -> None:
    time, failures = FakeTime(), [503, 500]

    def send() -> str | Failure:
        return Failure(status=failures.pop()) if failures else "an answer"

    assert _caller(time).call("encrypt", send, len) == 9
    assert len(time.slept) == 2
    with pytest.raises(KeyServiceError, match=r"no answer to encrypt \(TimeoutError\)") as caught:
        _caller(time).call("encrypt", _raising(TimeoutError("nobody")), str)
    assert caught.value.hint == "run encrypt again"
    assert len(time.slept) > 5


def test_damage_that_the_reader_of_an_answer_finds_passes_too() -> None:
    time, damaged = FakeTime(), [True]

    def read(answer: str) -> str:
        if damaged.pop():
            damaged.append(False)
            raise PassingError(KeyServiceError("damaged"))
        return answer

    assert _caller(time).call("encrypt", lambda: "whole", read) == "whole"
    assert len(time.slept) == 1


def test_each_try_keeps_to_the_rate() -> None:
    time, calls = FakeTime(), []
    rate = CallRate(0.5, clock=lambda: time.seconds, sleep=time.sleep)
    for _ in range(3):
        _caller(time, rate=rate).call("encrypt", lambda: calls.append(time.seconds), str)
    assert [each - calls[0] for each in calls] == [0, 2, 4]


def test_rate() -> None:
    time = FakeTime()
    rate = CallRate(4, clock=lambda: time.seconds, sleep=time.sleep)
    began, times = time.seconds, []
    for _ in range(9):
        rate.wait()
        times.append(time.seconds - began)
    assert times == [number * 0.25 for number in range(9)]
    time.seconds += 10
    rate.wait()
    assert time.seconds - began == 12  # what was not used before is not caught up with
    rate.wait()
    assert time.seconds - began == 12.25


def test_rate_over_threads() -> None:
    slept: list[float] = []
    rate = CallRate(10, clock=lambda: 0.0, sleep=slept.append)
    threads = [threading.Thread(target=rate.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slept) == pytest.approx([number / 10 for number in range(1, 20)])


def test_a_rate_is_positive() -> None:
    for rate in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            CallRate(rate, clock=lambda: 0.0, sleep=lambda _: None)


def test_debug_records_are_dropped_inside_of_the_block_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        with quiet_loggers(NAMES):
            for name in NAMES:
                logging.getLogger(name).debug("secret")
                logging.getLogger(name).warning("trouble")
            logging.getLogger("other").debug("other")
        logging.getLogger(NAMES[0]).debug("later")
    assert [record.message for record in caplog.records] == ["trouble", "trouble", "other", "later"] * 2


def test_an_error_ends_the_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ZeroDivisionError), quiet_loggers(NAMES):
        _ = 1 / 0
    logging.getLogger(NAMES[0]).debug("later")
    assert caplog.messages == ["later"]


def test_only_seconds_that_can_be_waited_for_are_believed() -> None:
    texts = {"2": 2.0, "soon": 0.0, "999999": 0.0, "": 0.0, "-1": 0.0}
    assert {text: retry_after({"Retry-After": text}) for text in texts} == texts
    assert retry_after({}) == 0.0


def test_a_key_is_taken_out_of_its_buffer() -> None:
    buffer = bytearray(range(32))
    with take_data_key(buffer, KeyServiceError("wrong size")) as key:
        assert key.expose_key_bytes() == bytes(range(32))
    assert not any(buffer)
    buffer = bytearray(b"\x01" * 16)
    with pytest.raises(KeyServiceError, match="wrong size"):
        take_data_key(buffer, KeyServiceError("wrong size"))
    assert not any(buffer)
