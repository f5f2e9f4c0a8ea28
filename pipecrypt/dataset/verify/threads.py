"""Do the same with many things on several threads, bounded and stoppable.

Things are taken from their iterator, and everything that the threads tell is yielded, on the caller's thread. No more
than twice as many things as threads wait, however many there are. The threads are daemons: one that hangs in a read of
a dead network keeps nobody from leaving.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeAlias, TypeVar

__all__ = ["StoppedError", "Tell", "WorkResult", "work_through"]


_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")
_News = TypeVar("_News")
# Tells the caller something in the middle of the work; raises StoppedError when the work is to end.
Tell: TypeAlias = Callable[[_News], None]

_STOP_SECONDS: Final = 5.0


class StoppedError(Exception):
    """The caller has left; whoever works on lets it pass. It never reaches a user."""


@dataclass(frozen=True, slots=True)
class WorkResult(Generic[_Result]):
    """The work on one thing is done.

    Args:
        result: what it gave.
    """

    result: _Result


@dataclass(frozen=True, slots=True)
class _WorkFailure:
    error: BaseException


def work_through(
    things: Iterable[_Thing], work: Callable[[_Thing, Tell[_News]], _Result], *, workers: int
) -> Generator[_News | WorkResult[_Result]]:
    """Yield what `work` tells about each thing, and a WorkResult for each, in the order in which they come.

    Leaving the generator, by an exception too, stops the threads: each ends when it next tells something.

    Args:
        things: taken one by one, on this thread.
        work: done on another thread, for several things at once. What it raises is raised here.
        workers: how many threads.
    """
    crew: _Crew[_Thing, _News, _Result] = _Crew(work, workers)
    try:
        for thing in things:
            crew.give(thing)
            yield from crew.news(most_waiting=2 * workers)
        yield from crew.news(most_waiting=0)
    finally:
        crew.stop()


class _Crew(Generic[_Thing, _News, _Result]):
    """Threads that begin with the first thing, as many as there are things."""

    def __init__(self, work: Callable[[_Thing, Tell[_News]], _Result], workers: int) -> None:
        self._work = work
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._things: SimpleQueue[_Thing | None] = SimpleQueue()
        self._news: SimpleQueue[_News | WorkResult[_Result] | _WorkFailure] = SimpleQueue()
        self._stopped = threading.Event()
        self._waiting = 0

    def give(self, thing: _Thing) -> None:
        self._things.put(thing)
        self._waiting += 1
        if len(self._threads) < min(self._workers, self._waiting):
            thread = threading.Thread(target=self._run, name="pipecrypt-verify", daemon=True)
            self._threads.append(thread)
            thread.start()

    def news(self, *, most_waiting: int) -> Generator[_News | WorkResult[_Result]]:
        """Yield what there is, and wait while more things wait than may."""
        while True:
            try:
                news = self._news.get(block=self._waiting > most_waiting)
            except Empty:
                return
            if isinstance(news, _WorkFailure):
                raise news.error
            if isinstance(news, WorkResult):
                self._waiting -= 1
            yield news
            if not self._waiting:
                return

    def stop(self) -> None:
        self._stopped.set()
        for _ in self._threads:
            self._things.put(None)
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _run(self) -> None:
        while (thing := self._things.get()) is not None and not self._stopped.is_set():
            try:
                self._news.put(WorkResult(self._work(thing, self._tell)))
            except StoppedError:
                return
            except BaseException as error:  # raised again on the caller's thread
                self._news.put(_WorkFailure(error))
                return

    def _tell(self, news: _News) -> None:
        if self._stopped.is_set():
            raise StoppedError
        self._news.put(news)
