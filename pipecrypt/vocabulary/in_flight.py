"""Do the same with many items, several at once on threads, because each waits for a network or a disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar, cast

__all__ = ["AT_ONCE", "call_both", "map_in_flight"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Other = TypeVar("_Other")

AT_ONCE: Final = 16
"""How many requests for small things a process makes at once, unless there is a reason for another number."""
_WAITING_FOR_EACH: Final = 2


def _weighs_nothing(_: object) -> int:
    return 0


def map_in_flight(
    call: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    name: str,
    at_once: int = AT_ONCE,
    weigh: Callable[[_Item], int] = _weighs_nothing,
    most_weight: int = 0,
) -> Iterator[_Result]:
    """Yield `call(item)` for each item, in the order of the items.

    Items are taken in the caller's thread, not long before they are needed. Results that wait for a slow one before
    them are bounded too. The error that is raised is that of the first item, in their order, that failed. Then, and
    when the caller stops early, no further call begins, and those under way are waited for.

    Args:
        call: is called on several threads; with `at_once=1`, in the caller's.
        items: any number of them.
        name: of the threads, behind `pipecrypt-`.
        at_once: how many calls there are at once, from 1.
        weigh: says how heavy an item is, such as how much memory it and its result take; called once for each.
        most_weight: how heavy items may be together that are under way or whose results wait. A single one may be
            heavier.

    Raises:
        Exception: what `call`, or taking an item, raised.
    """
    if at_once <= 1:
        yield from map(call, items)
        return
    most = at_once * _WAITING_FOR_EACH
    waiting: deque[tuple[Future[_Result], int]] = deque()
    weight = 0
    with ThreadPoolExecutor(at_once, thread_name_prefix=f"pipecrypt-{name}") as threads:
        try:
            for item in items:
                added = weigh(item)
                while waiting and (len(waiting) >= most or weight + added > most_weight > 0):
                    first, lifted = waiting.popleft()
                    yield first.result()
                    weight -= lifted
                waiting.append((threads.submit(call, item), added))
                weight += added
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for each, _ in waiting:
                each.cancel()


def call_both(one: Callable[[], _Result], other: Callable[[], _Other]) -> tuple[_Result, _Other]:
    """Call two at once, because each waits, and return what both return.

    Raises:
        Exception: what the first, or else the other, raised.
    """

    def call(given: Callable[[], object]) -> object:
        return given()

    first, second = map_in_flight(call, [one, other], name="both", at_once=2)
    return cast("_Result", first), cast("_Other", second)
