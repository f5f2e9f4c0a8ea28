"""Carry out tasks in this process, one after the other. Worker processes are left to local."""

from __future__ import annotations

from collections.abc import Sequence

from pipecrypt.keys.session import KeySession
from pipecrypt.runs.report.events import BytesDone, FileStarted, Part
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.runs.task import Task, run_task
from pipecrypt.runs.workers.protocol import OnEvent

__all__ = ["HereExecutor"]


class HereExecutor:
    """This process.

    Args:
        session: its keys; they stay the caller's.
        interruption: asked now and then whether to stop.
    """

    def __init__(self, session: KeySession, interruption: Interruption) -> None:
        """Do nothing yet."""
        self._session = session
        self._interruption = interruption

    def run(self, tasks: Sequence[Task], on_event: OnEvent) -> list[Part]:
        """Carry out all tasks, as `Executor`."""

        def on_bytes(count: int) -> None:
            self._interruption.check()
            on_event(BytesDone(count))

        parts: list[Part] = []
        for task in tasks:
            on_event(FileStarted(task.path))
            done = run_task(task, self._session, on_bytes)
            parts += done.parts
            on_event(done)
        return parts
