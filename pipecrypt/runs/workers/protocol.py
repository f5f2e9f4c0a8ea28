"""What an executor is: any way to carry out tasks. Choosing one is left to choice, what a task does to task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from pipecrypt.runs.report.events import Event, Part
from pipecrypt.runs.task import Task

__all__ = ["Executor", "OnEvent"]

OnEvent: TypeAlias = Callable[[Event], None]


class Executor(Protocol):
    """Carries out tasks in any order, perhaps one of them twice."""

    def run(self, tasks: Sequence[Task], on_event: OnEvent) -> list[Part]:
        """Carry out all tasks, and return their parts in the order of the tasks.

        The first failure ends all; what was begun is removed, what was published stays.

        Args:
            tasks: their ids differ.
            on_event: told about progress, in this thread; FileDone once for each task. If it raises, all ends.

        Raises:
            PipecryptError: what the first failing task raised.
            WorkerError: a task's worker died as often as the run lets it.
        """
