"""A clock that moves only when somebody sleeps, so that what a call takes on a busy machine counts for nothing.

Sockets wait by the real clock. So nothing short of a hang runs into their limits, unless a test asks for short ones.
"""

from __future__ import annotations

from typing import Final

from pipecrypt.keys.schemes.caller import Patience

# Longer than a machine that is busy stops a process, and shorter than the limit of a test.
PATIENT_SECONDS: Final = 120.0


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def patience(self, *, answer_seconds: float = PATIENT_SECONDS) -> Patience:
        """Four tries: after waits of 0.1, 0.2 and 0.4 seconds."""
        return Patience(
            total_seconds=1.2,
            connect_seconds=PATIENT_SECONDS,
            answer_seconds=answer_seconds,
            clock=lambda: self.seconds,
            sleep=self.sleep,
            chance=lambda: 1.0,
        )
