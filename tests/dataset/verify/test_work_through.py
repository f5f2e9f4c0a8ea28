from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from pipecrypt.dataset.verify.inspection import StoppedError, Tell, work_through


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pipecrypt-verify"]


def _nothing(number: int, tell: Tell) -> None:
    tell(lambda: None)


@pytest.mark.parametrize("workers", [1, 3, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_everything_is_done_and_told_on_this_thread(workers: int, count: int) -> None:
    told: list[tuple[str, int, int]] = []

    def note(what: str, number: int) -> None:
        told.append((what, number, threading.get_ident()))

    def work(number: int, tell: Tell) -> None:
        tell(partial(note, "begun", number))
        tell(partial(note, "done", number))

    work_through(range(count), work, workers=workers)

    here = threading.get_ident()
    assert sorted(told) == [(what, number, here) for what in ("begun", "done") for number in range(count)]
    assert [what for what, number, _ in told if number == count - 1] == (["begun", "done"] if count else [])
    assert _threads() == []


def test_things_are_taken_only_as_they_are_needed() -> None:
    taken, taken_at_first = 0, []
    gate = threading.Event()

    def things() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    def wait(number: int, tell: Tell) -> None:
        gate.wait(30)
        tell(lambda: taken_at_first.append(taken))

    threading.Timer(0.2, gate.set).start()
    work_through(things(), wait, workers=2)

    assert taken_at_first[0] <= 6
    assert taken == 100


def test_no_more_threads_than_things() -> None:
    seen = set()

    def note(number: int, _: Tell) -> None:
        seen.add(threading.get_ident())

    work_through([1, 2], note, workers=8)

    assert len(seen) <= 2


def test_what_the_work_raises_is_raised() -> None:
    def fail(number: int, _: Tell) -> None:
        if number == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work_through(range(100), fail, workers=3)
    assert _threads() == []


def test_what_the_things_raise_is_raised() -> None:
    def things() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work_through(things(), _nothing, workers=3)
    assert _threads() == []


def test_what_is_told_stops_the_work_in_the_middle() -> None:
    stopped = threading.Event()

    def leave() -> None:
        raise ZeroDivisionError

    def endless(_: int, tell: Tell) -> None:
        try:
            while True:
                tell(leave)
                time.sleep(0.001)
        except StoppedError:
            stopped.set()
            raise

    with pytest.raises(ZeroDivisionError):
        work_through(range(10), endless, workers=1)

    assert stopped.is_set()
    assert _threads() == []
