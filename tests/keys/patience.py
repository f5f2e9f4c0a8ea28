"""Patience with key services for tests: nobody waits."""

from __future__ import annotations

import random

from pipecrypt.keys.schemes.caller import Patience


class FakeClock:
    """A clock that goes on while somebody sleeps, and by nothing else."""

    def __init__(self) -> None:
        self.now = 1000.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def fake_patience(*, answer_seconds: float = 10, clock: FakeClock | None = None) -> Patience:
    clock = clock or FakeClock()
    return Patience(
        answer_seconds=answer_seconds,
        clock=clock.read,
        sleep=clock.sleep,
        chance=random.Random(7).random,  # noqa: S311 - tests repeat
    )
