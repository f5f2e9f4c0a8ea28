"""Turn Ctrl-C, SIGTERM and a lost terminal into one exception, once, so that what was begun is tidied up."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final, Self

from pipecrypt.errors import InterruptedRunError

__all__ = ["Interruption"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """A block in which the first of these signals raises KeyboardInterrupt, and further ones wait for its end.

    Signals that this process ignores, as under nohup, stay ignored. Outside of the main thread the block does nothing,
    because Python delivers signals to the main thread only.
    """

    def __init__(self) -> None:
        """Begin with no signal seen."""
        self._seen: int | None = None
        self._replaced: dict[int, Any] = {}

    @property
    def reason(self) -> str:
        """What happened, for an error message."""
        return signal.Signals(self._seen).name if self._seen is not None else "Ctrl-C"

    def error(self, *, is_resumable: bool) -> InterruptedRunError:
        """Return the error of a run that was stopped.

        Args:
            is_resumable: whether the run keeps a journal, so that it can be continued.
        """
        hint = (
            "files already published are whole; continue with pipecrypt run CONFIG --resume" if is_resumable else None
        )
        return InterruptedRunError(f"the run was stopped by {self.reason}", hint=hint)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal was seen.

        An exception that a signal raises inside a finalizer is swallowed by Python, so long work asks now and then.
        """
        if self._seen is not None:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                current = signal.getsignal(number)
                if current is not signal.SIG_IGN and current is not None:  # None: not set from Python
                    self._replaced[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._seen is None:
            self._seen = number
            raise KeyboardInterrupt
