"""Carry out tasks in this process, one after the other. Worker processes are left to local."""

from __future__ import annotations

from collections.abc import Sequence

from pipecrypt.keys.session import KeySession
from pipecrypt.pipeline.executors.protocol import OnEvent
from pipecrypt.pipeline.progress.events import BytesDone, FileStarted
from pipecrypt.pipeline.progress.interruption import Interruption
from pipecrypt.pipeline.progress.summary import Part
from pipecrypt.pipeline.task.operation import Task
from pipecrypt.pipeline.task.task import run_task

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
