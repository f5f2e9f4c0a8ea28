from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import pytest

from pipecrypt.formats.stream import map_ahead, read_ahead


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("pipecrypt-")}


def _mapped(items: Iterator[int]) -> Generator[int]:
    return map_ahead(lambda item: item, items)


def _both(items: Iterator[int]) -> Generator[int]:
    return map_ahead(lambda item: item, read_ahead(items))


_STAGES = pytest.mark.parametrize("stage", [read_ahead, _mapped, _both])
_Stage = Callable[[Iterator[int]], Generator[int]]


@_STAGES
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_items_stay_in_order(stage: _Stage, count: int) -> None:
    assert list(stage(iter(range(count)))) == list(range(count))
    assert not _threads()


@_STAGES
def test_at_most_a_few_items_are_in_flight(stage: _Stage) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(100):
            taken = item + 1
            yield item

    with closing(stage(items())) as staged:
        for item in staged:
            assert taken - item <= 8
    assert not _threads()


@_STAGES
def test_errors_come_after_the_items_before_them(stage: _Stage) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise KeyError("x")

    seen: list[int] = []
    with pytest.raises(KeyError):
        seen.extend(stage(items()))
    assert seen == list(range(len(seen)))
    assert not _threads()


def test_errors_of_the_function_are_raised_here() -> None:
    seen: list[int] = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(map_ahead(lambda item: 1 // (3 - item), iter(range(10))))
    assert seen == [0, 0, 1]
    assert not _threads()


@_STAGES
@pytest.mark.parametrize("reason", [None, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("consumed", [0, 1, 5])
def test_leaving_early_ends_threads_and_closes_the_input(
    stage: _Stage, reason: type[BaseException] | None, consumed: int
) -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.append(True)

    staged = stage(items())
    for _ in range(consumed):
        next(staged)
    if reason is None:
        staged.close()
    else:
        with pytest.raises(reason):
            staged.throw(reason)
    assert closed == [True] * bool(consumed)
    assert not _threads()
