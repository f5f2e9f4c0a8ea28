"""Keys stay open as long as tasks use them: counted, wiped when idle, by the next task or by a timer."""

from __future__ import annotations

import threading
import time
from typing import cast

import pytest

from pipecrypt.errors import InterruptedRunError
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.workers.remote import OpenRuns


class _Session:
    """Stands in for a KeySession: says whether it was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class _Opener:
    """Opens sessions and remembers them."""

    def __init__(self) -> None:
        self.opened: list[_Session] = []

    def __call__(self) -> KeySession:
        self.opened.append(_Session())
        return cast("KeySession", self.opened[-1])


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_next_task_of_a_run_finds_its_keys_open() -> None:
    runs, opener = OpenRuns(), _Opener()
    for _ in range(3):
        with runs.using("a", opener):
            pass
    assert len(opener.opened) == 1
    runs.end("a")
    assert opener.opened[0].is_closed
    assert runs.names == ()


def test_idle_keys_are_wiped_when_a_task_of_any_run_begins() -> None:
    clock, first, second = _Clock(), _Opener(), _Opener()
    runs = OpenRuns(idle_seconds=60, clock=clock)
    with runs.using("a", first):
        clock.now += 1000  # a long task is no idle time
    clock.now += 59
    with runs.using("b", second):
        assert runs.names == ("a", "b")
    clock.now += 1
    with runs.using("b", second):
        assert runs.names == ("b",)
    assert [session.is_closed for session in first.opened] == [True]
    assert [session.is_closed for session in second.opened] == [False]
    with runs.using("a", first):
        assert len(first.opened) == 2
    runs.end("a")
    runs.end("b")


def test_nothing_is_wiped_under_a_task_that_is_at_work() -> None:
    clock, opener, other = _Clock(), _Opener(), _Opener()
    runs = OpenRuns(idle_seconds=60, clock=clock)
    with runs.using("a", opener):
        clock.now += 1000
        with runs.using("b", other), runs.using("a", opener):
            assert not opener.opened[0].is_closed
        runs.end("a")
        assert not opener.opened[0].is_closed  # one of two is still at work
        with pytest.raises(InterruptedRunError):
            runs.using("a", opener).__enter__()
    assert opener.opened[0].is_closed
    assert len(opener.opened) == 1
    runs.end("b")


def test_idle_keys_are_wiped_in_a_process_that_gets_no_more_tasks() -> None:
    runs, opener = OpenRuns(idle_seconds=0.05), _Opener()
    with runs.using("a", opener):
        time.sleep(0.1)
        assert not opener.opened[0].is_closed
    deadline = time.monotonic() + 10
    while not opener.opened[0].is_closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opener.opened[0].is_closed
    assert runs.names == ()


def test_a_run_that_ended_leaves_no_timer() -> None:
    runs, opener, before = OpenRuns(), _Opener(), set(threading.enumerate())
    with runs.using("a", opener):
        pass
    timers = [thread for thread in threading.enumerate() if thread not in before]
    assert len(timers) == 1
    runs.end("a")
    timers[0].join(10)
    assert not timers[0].is_alive()


def test_keys_that_do_not_open_leave_nothing_behind() -> None:
    def refuse() -> KeySession:
        raise PermissionError

    runs, opener = OpenRuns(), _Opener()
    with pytest.raises(PermissionError):
        runs.using("a", refuse).__enter__()
    assert runs.names == ()
    with runs.using("a", opener):
        assert runs.names == ("a",)
    runs.end("a")


def test_tasks_of_several_threads_share_one_session() -> None:
    runs, opener, barrier = OpenRuns(), _Opener(), threading.Barrier(4)
    seen: list[object] = []

    def work() -> None:
        barrier.wait(10)
        with runs.using("a", opener) as run:
            barrier.wait(10)  # all are at work at once
            seen.append(run.session)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(seen) == 4
    assert len(opener.opened) == 1
    runs.end("a")
    assert opener.opened[0].is_closed
