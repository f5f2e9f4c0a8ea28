from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipecrypt.dataset.verify.threads import StoppedError, Tell, WorkResult, work_through


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pipecrypt-verify"]


def _square(number: int, tell: Tell[str]) -> int:
    tell(f"at {number}")
    return number * number


@pytest.mark.parametrize("workers", [1, 3, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_everything_is_done_and_told(workers: int, count: int) -> None:
    news = list(work_through(range(count), _square, workers=workers))

    assert sorted(each.result for each in news if isinstance(each, WorkResult)) == [n * n for n in range(count)]
    assert {each for each in news if isinstance(each, str)} == {f"at {n}" for n in range(count)}
    assert _threads() == []


def test_things_are_taken_only_as_they_are_needed() -> None:
    taken = 0
    gate = threading.Event()

    def things() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    def wait(number: int, _: Tell[str]) -> int:
        gate.wait(30)
        return number

    threading.Timer(0.2, gate.set).start()
    first = next(iter(work_through(things(), wait, workers=2)))

    assert isinstance(first, WorkResult)
    assert taken <= 6


def test_no_more_threads_than_things() -> None:
    seen = set()

    def note(number: int, _: Tell[str]) -> int:
        seen.add(threading.get_ident())
        return number

    list(work_through([1, 2], note, workers=8))

    assert len(seen) <= 2


def test_what_the_work_raises_is_raised() -> None:
    def fail(number: int, _: Tell[str]) -> int:
        if number == 5:
            raise ZeroDivisionError
        return number

    with pytest.raises(ZeroDivisionError):
        list(work_through(range(100), fail, workers=3))
    assert _threads() == []


def test_what_the_things_raise_is_raised() -> None:
    def things() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(work_through(things(), _square, workers=3))
    assert _threads() == []


def test_leaving_stops_the_work_in_the_middle() -> None:
    stopped = threading.Event()

    def endless(_: int, tell: Tell[str]) -> int:
        try:
            while True:
                tell("more")
                time.sleep(0.001)
        except StoppedError:
            stopped.set()
            raise

    news = work_through(range(10), endless, workers=1)
    assert next(news) == "more"
    news.close()

    assert stopped.is_set()
    assert _threads() == []
