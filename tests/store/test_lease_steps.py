"""The lock of a sink, step by step: several processes that take turns at each call of the storage, in many orders.

Nobody is called dead here who lives; that is what the beats are for, and test_lease.py looks at them.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable

import pytest

from pipecrypt.errors import ConflictError, SinkNotEmptyError
from pipecrypt.store import lease
from pipecrypt.store.lease import Lease, LeaseHolder, LeaseTiming, LeaseWatch
from pipecrypt.store.location import Location
from pipecrypt.store.process_identity import ProcessIdentity

_DIRECTORY = Location("memory://steps/lock")
_ORDERS = 300
_PROCESSES = 4
_TIMES = 4
_CHANGE = 0.1
_DEATH = 0.002


class _Killed(BaseException):
    """Ends a process; what it would tidy up stays."""


class _World:
    """A storage of lock files, and processes of which one goes on at a time.

    Args:
        order: chooses who goes on.
    """

    def __init__(self, order: random.Random) -> None:
        """Begin with the files of two that died."""
        self.order = order
        self.files = {number: _holder(number, f"dead-{number}") for number in (1, 2) if order.random() < 0.5}
        self.alive: set[str] = set()
        self.inside: set[str] = set()
        self.problems: list[str] = []
        self._turns: dict[str, threading.Semaphore] = {}
        self._main = threading.Semaphore(0)
        self._me = threading.local()

    def step(self) -> None:
        """Let another one go on; some die here."""
        name = self._me.name
        self._main.release()
        self._turns[name].acquire()
        if name not in self.alive:
            raise _Killed

    def start(self, name: str) -> threading.Thread:
        """Return a process that takes the lock and gives it back, several times."""
        self._turns[name] = threading.Semaphore(0)
        self.alive.add(name)
        thread = threading.Thread(target=self._live, args=(name,), daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        """Let all of them go on in turns until they ended."""
        threads = {name: self.start(name) for name in map(str, range(_PROCESSES))}
        name = "0"
        while threads:
            # Several steps in a row reach what single ones seldom do: one is late while others come and go.
            if name not in threads or self.order.random() < _CHANGE:
                name = self.order.choice(sorted(threads))
            if self.order.random() < _DEATH:
                self.alive.discard(name)
            self._turns[name].release()
            self._main.acquire()
            if name not in self._turns:
                threads.pop(name).join()

    def _live(self, name: str) -> None:
        self._me.name = name
        self._turns[name].acquire()
        try:
            for _ in range(_TIMES):
                self._work(name)
        except _Killed:
            pass
        finally:
            self.inside.discard(name)
            self.alive.discard(name)
            del self._turns[name]
            self._main.release()

    def _work(self, name: str) -> None:
        try:
            lock = Lease(_DIRECTORY, name, timing=LeaseTiming(sleep=lambda _: self.step()))
        except ConflictError:
            return
        self.inside.add(name)
        if len(self.inside) > 1:
            self.problems.append(f"{sorted(self.inside)} hold it, of {self.files}")
        self.step()
        with contextlib.suppress(ConflictError):
            lock.check()  # one who came too late may have died before it took its file back: the holder gives up
        self.inside.discard(name)
        lock.release()

    def numbers(self, _: Location) -> list[int]:
        self.step()
        return list(self.files)

    def read(self, _: Location, number: int) -> LeaseHolder | None:
        self.step()
        return self.files.get(number)

    def write(self, _: Location, holder: LeaseHolder, *, overwrite: bool, is_free: bool) -> None:
        self.step()
        if holder.number in self.files and not overwrite:
            raise SinkNotEmptyError(f"{holder.number} exists")
        self.files[holder.number] = holder

    def remove(self, _: Location, number: int) -> None:
        self.step()
        self.files.pop(number, None)

    def living(self, seen: dict[int, LeaseHolder]) -> LeaseHolder | None:
        """Say what beats would say in the end: the living beat, and what was given back is gone."""
        highest_first = (seen[number] for number in sorted(seen, reverse=True))
        living = (each for each in highest_first if each.who in self.alive)
        return next((each for each in living if self.read(_DIRECTORY, each.number) is not None), None)


def _holder(number: int, who: str) -> LeaseHolder:
    return LeaseHolder(number, who, f"of {who}", ProcessIdentity("elsewhere", 1, "1"), 10, 0)


@pytest.fixture
def explore(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], _World]:
    def look(seed: int) -> _World:
        world = _World(random.Random(seed))  # noqa: S311
        monkeypatch.setattr(lease, "numbers", world.numbers)
        monkeypatch.setattr(lease, "read_holder", world.read)
        monkeypatch.setattr(lease, "write_holder", world.write)
        monkeypatch.setattr(LeaseWatch, "living", lambda _, seen: world.living(seen))
        monkeypatch.setattr(lease, "remove_holder", world.remove)
        monkeypatch.setattr(Lease, "_beat", lambda _: None)
        world.run()
        return world

    return look


def test_whatever_the_order_one_at_a_time_holds_the_lock(explore: Callable[[int], _World]) -> None:
    problems = {seed: world.problems for seed in range(_ORDERS) if (world := explore(seed)).problems}
    assert problems == {}


def test_the_orders_find_a_lock_that_trusts_numbers(
    explore: Callable[[int], _World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "is_same", lambda one, other: other is not None and one.number == other.number)
    assert any(explore(seed).problems for seed in range(_ORDERS))
