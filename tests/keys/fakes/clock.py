"""A clock that moves only when somebody sleeps, so that what a call takes on a busy machine counts for nothing."""

from __future__ import annotations

from pipecrypt.keys.services.retry import Patience


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def patience(self, *, answer_seconds: float = 10.0) -> Patience:
        """Four tries: after waits of 1, 2 and 4 seconds."""
        return Patience(
            total_seconds=8,
            first_delay_seconds=1,
            answer_seconds=answer_seconds,
            clock=lambda: self.seconds,
            sleep=self.sleep,
            chance=lambda: 1.0,
        )
