"""Many items at once: bounded, in order, the first error ends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipecrypt.vocabulary.in_flight import call_both, map_in_flight

_SECONDS = 10.0


class _Gauge:
    """Counts calls that are under way, and holds each until it is let go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self.free = threading.Event()

    def __call__(self, item: int) -> int:
        with self._lock:
            self.begun.append(item)
            self._now += 1
            self.most = max(self.most, self._now)
        self.free.wait(_SECONDS)
        with self._lock:
            self._now -= 1
        return item * 10


def test_results_come_in_the_order_of_the_items() -> None:
    second_is_done = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(_SECONDS)
        elif item == 1:
            second_is_done.set()
        return item

    assert list(map_in_flight(call, range(5), name="test", at_once=2)) == [0, 1, 2, 3, 4]


def test_so_many_calls_are_under_way_and_no_more() -> None:
    gauge = _Gauge()
    all_there = threading.Barrier(3)

    def call(item: int) -> int:
        if item < 3:
            all_there.wait(_SECONDS)  # passes only where three are under way together
        gauge.free.set()
        return gauge(item)

    assert list(map_in_flight(call, range(20), name="test", at_once=3)) == [item * 10 for item in range(20)]
    assert gauge.most <= 3


def test_one_at_once_needs_no_thread() -> None:
    here = threading.get_ident()
    assert set(map_in_flight(lambda _: threading.get_ident(), range(3), name="test", at_once=1)) == {here}


def test_items_are_not_taken_long_before_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = map_in_flight(lambda item: item, items(), name="test", at_once=4)
    assert next(results) == 0
    assert len(taken) <= 9
    results.close()


def test_weight_bounds_what_is_under_way_but_lets_a_single_heavy_item_through() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for weight in (4, 4, 4, 50, 4, 4):
            taken.append(weight)
            yield weight

    found = map_in_flight(
        lambda weight: weight, items(), name="test", at_once=6, weigh=lambda weight: weight, most_weight=8
    )
    assert next(found) == 4
    assert taken == [4, 4, 4]  # the third waits until the first is done
    assert list(found) == [4, 4, 50, 4, 4]


def test_the_first_item_that_failed_is_told_and_nothing_begins_afterwards() -> None:
    begun: list[int] = []
    third_failed = threading.Event()

    def call(item: int) -> int:
        begun.append(item)
        if item == 2:
            third_failed.set()
            raise ValueError("third")
        if item == 1:
            third_failed.wait(_SECONDS)
            raise ValueError("second")
        return item

    results = map_in_flight(call, range(1000), name="test", at_once=3)
    assert next(results) == 0
    with pytest.raises(ValueError, match="second"):
        next(results)
    count = len(begun)
    assert count <= 8
    assert len(begun) == count


def test_who_stops_early_waits_for_what_is_under_way() -> None:
    gauge = _Gauge()
    results = map_in_flight(gauge, range(100), name="test", at_once=2)
    gauge.free.set()
    assert next(results) == 0
    results.close()
    assert not any(thread.name.startswith("pipecrypt-test") for thread in threading.enumerate())


def test_an_error_of_the_items_ends_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError):
        list(map_in_flight(lambda item: item, items(), name="test", at_once=2))


def test_two_are_called_at_once() -> None:
    together = threading.Barrier(2, timeout=_SECONDS)

    def one() -> int:
        together.wait()
        return 1

    def other() -> str:
        together.wait()
        return "other"

    assert call_both(one, other) == (1, "other")


def test_of_two_errors_the_first_is_raised() -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(KeyError):
        call_both(lambda: fail(KeyError()), lambda: fail(IndexError()))
    with pytest.raises(IndexError):
        call_both(lambda: None, lambda: fail(IndexError()))
