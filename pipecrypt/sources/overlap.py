"""Run one stage of a stream ahead of the next, in order and bounded. What the stages do is left to their callers.

Threads end with the generator that started them: when it is exhausted, closed, or left by an exception. Ending waits
for the work under way; a read of a silent pipe ends when the pipe's other side closes. The reading thread is a daemon,
so that a second interrupt leaves even then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

__all__ = ["map_ahead", "read_ahead"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_DEPTH: Final = 2


def read_ahead(items: Iterable[_Out], *, depth: int = _DEPTH, name: str = "read") -> Generator[_Out]:
    """Yield the items, which another thread takes from their iterator, at most `depth` ahead.

    An exception of the iterator is raised here, after the items before it.
    """
    ahead = _Ahead(iter(items), depth, name)
    try:
        yield from ahead.items()
    finally:
        ahead.close()


def map_ahead(
    function: Callable[[_In], _Out], items: Iterable[_In], *, depth: int = _DEPTH, name: str = "map"
) -> Generator[_Out]:
    """Yield `function(item)` for each item in order; another thread computes, at most `depth` ahead.

    The items are taken on the caller's thread: some iterators may not change theirs.
    """
    iterator = iter(items)
    pending: deque[Future[_Out]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"pipecrypt-{name}")
    try:
        for item in iterator:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _close(iterator)


class _Ahead(Generic[_Out]):
    """A thread that fills a short queue. One lock guards queue and flags, so that no wake-up is lost."""

    def __init__(self, iterator: Iterator[_Out], depth: int, name: str) -> None:
        self._iterator = iterator
        self._depth = depth
        self._queue: deque[_Out] = deque()
        self._error: BaseException | None = None
        self._is_done = False
        self._is_stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"pipecrypt-{name}", daemon=True)
        self._thread.start()

    def items(self) -> Iterator[_Out]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_done)
                if not self._queue:
                    break
                item = self._queue.popleft()
                self._changed.notify_all()
            yield item
            # Else the item would live in this frame until the next one is there.
            del item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join()
        _close(self._iterator)

    def _run(self) -> None:
        try:
            for item in self._iterator:
                if not self._put(item):
                    return
                del item
        except BaseException as error:  # raised again where the items are used
            self._error = error
        finally:
            with self._changed:
                self._is_done = True
                self._changed.notify_all()

    def _put(self, item: _Out) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) < self._depth or self._is_stopped)
            if not self._is_stopped:
                self._queue.append(item)
                self._changed.notify_all()
            return not self._is_stopped


def _close(iterator: Iterator[object]) -> None:
    if isinstance(iterator, Generator):
        iterator.close()
