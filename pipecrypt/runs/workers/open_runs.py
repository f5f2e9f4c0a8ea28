"""Keep the keys of runs open in a process that does their tasks, as long as they are used. Tasks are left to alone.

A process of a cluster lives longer than a run, and is not told when one ends. So keys that no task has used for a while
are wiped, by the next task of any run or by a timer; a task that comes later opens them again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.errors import InterruptedRunError
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import KeySession

__all__ = ["IDLE_SECONDS", "OpenRun", "OpenRuns"]

IDLE_SECONDS: Final = 120.0  # tasks of two runs may take turns in one process, and opening keys may take a second
_MOST_ENDED: Final = 1000  # a process that lives for months need not know all of them


@dataclass(slots=True)
class OpenRun:
    """A run that this process has done tasks of.

    Args:
        session: its keys.
        grants: all that the session has made.
        users: how many tasks are at work with it.
        last_used_seconds: when a task began or ended last, by the clock.
        is_over: whether it is closed as soon as nobody uses it.
    """

    session: KeySession
    grants: dict[Grant, None] = field(default_factory=dict)
    users: int = 0
    last_used_seconds: float = 0.0
    is_over: bool = False


class OpenRuns:
    """The runs whose keys are open in this process. Safe to use from several threads.

    Nothing is wiped under a task that is at work: the last one that uses a run's keys closes them.

    Args:
        idle_seconds: for how long keys stay open that no task uses.
        clock: a clock that never goes back, in seconds.
    """

    def __init__(self, *, idle_seconds: float = IDLE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none."""
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, OpenRun] = {}
        self._ended: dict[str, None] = {}
        self._timer: threading.Timer | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The runs whose keys are open."""
        return tuple(self._open)

    @contextmanager
    def using(self, name: str, open_session: Callable[[], KeySession]) -> Iterator[OpenRun]:
        """Let a task use a run's keys until the block ends.

        Args:
            name: of the run.
            open_session: called where they are not open.

        Raises:
            InterruptedRunError: the run has ended.
            PipecryptError: what `open_session` raises.
        """
        with self._lock:
            self.check_going_on(name)
            self._close_idle()
            run = self._open.get(name)
            if run is None:
                run = self._open[name] = OpenRun(open_session())
            run.users += 1
            run.last_used_seconds = self._clock()
        try:
            yield run
        finally:
            with self._lock:
                run.users -= 1
                run.last_used_seconds = self._clock()
                if run.is_over and not run.users:
                    run.session.close()
                self._set_timer()

    def add_grants(self, run: OpenRun, grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
        """Note grants that were made for a run, and return all of them."""
        with self._lock:
            run.grants.update(dict.fromkeys(grants))
            return tuple(run.grants)

    def check_going_on(self, name: str) -> None:
        """Pass if a run has not ended, as far as this process was told.

        Raises:
            InterruptedRunError: it has.
        """
        if name in self._ended:
            raise InterruptedRunError("the run has ended elsewhere, so this task ends too")

    def end(self, name: str) -> None:
        """Wipe the keys of a run, once no task is at work with them, and let no task begin; an unknown run is fine."""
        with self._lock:
            self._ended[name] = None
            while len(self._ended) > _MOST_ENDED:
                del self._ended[next(iter(self._ended))]
            if name in self._open:
                self._close(name)
            if not self._open and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _close(self, name: str) -> None:
        run = self._open.pop(name)
        run.is_over = True
        if not run.users:
            run.session.close()

    def _close_idle(self) -> None:
        before = self._clock() - self._idle_seconds
        for name in [name for name, run in self._open.items() if not run.users and run.last_used_seconds <= before]:
            self._close(name)

    def _set_timer(self) -> None:
        due = [run.last_used_seconds + self._idle_seconds for run in self._open.values() if not run.users]
        if due and self._timer is None:
            self._timer = threading.Timer(max(min(due) - self._clock(), 0.0), self._on_time)
            self._timer.name, self._timer.daemon = "pipecrypt-idle-keys", True
            self._timer.start()

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
            self._close_idle()
            self._set_timer()
