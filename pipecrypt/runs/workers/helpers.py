"""Other processes help with one large file: this one writes it, they seal row groups of it.

Where a run has fewer files than processes, each file is done here, and the others help. They start while the file is
begun already, and get row groups as they come. One that cannot start is done without. One that dies takes the keys of
its row groups along, so the file is begun anew, as if this process had died.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from types import TracebackType
from typing import Final, Self, cast

from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.files import FileStart, NextRowGroup, PlacedRowGroup, SealedRowGroup
from pipecrypt.runs.report.events import BytesDone, FileDone, FileStarted, Part, TaskRetried
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.runs.task import Task, run_task
from pipecrypt.runs.workers.executor import OnEvent, TaskLedger
from pipecrypt.runs.workers.fork_server import ForkServer
from pipecrypt.runs.workers.local import WorkerProcess, WorkerSetup, describe_exit, end_workers
from pipecrypt.runs.workers.sealing import ROOMS, Helped, HelpRequest, PlaceOrder, Rooms, SealOrder

__all__ = ["HelperLostError", "HelperPool", "SharedTask", "run_with_helpers"]

_log: Final = logging.getLogger(__name__)
_MOST_ROOM_BYTES: Final = 256 << 20
_POLL_SECONDS: Final = 0.002
_SHARE_STEP: Final = 1.1
_LEAST_SHARE: Final = 0.05
_MOST_QUEUED: Final = 2  # row groups that one process seals, or seals next


class HelperLostError(Exception):
    """A process died that had sealed row groups of the file, or was about to; its text says how."""


class HelperPool:
    """Processes that help with one file after another; leaving the block ends them.

    Args:
        setup: what each needs.
        count: how many.
        memory_bytes: what each may take for row groups.
        forks: forks them where it can; default: they are spawned.
    """

    def __init__(self, setup: WorkerSetup, count: int, memory_bytes: int, forks: ForkServer | None = None) -> None:
        """Start none yet."""
        self._forks = forks
        self._setup = setup
        self._count = count
        self._room_bytes = min(_MOST_ROOM_BYTES, memory_bytes // ROOMS)
        self._helpers: list[_Helper] = []
        self._requests = 0

    def __enter__(self) -> Self:
        """Start them, and do not wait."""
        try:
            for _ in range(self._count):
                self._helpers.append(_Helper(self._setup, self._forks))
        except BaseException:
            end_workers([each.process for each in self._helpers], is_gentle=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them, gently after success."""
        try:
            end_workers([each.process for each in self._helpers], is_gentle=error is None)
        finally:
            for each in self._helpers:
                if each.rooms is not None:
                    each.rooms.close()

    def share(self, task: Task) -> SharedTask:
        """Return the help with a task, of those who are there."""
        self._requests += 1
        return SharedTask(self._helpers, self._requests, task, self._room_bytes)


class _Helper:
    """One process, from the side of who is helped."""

    def __init__(self, setup: WorkerSetup, forks: ForkServer | None) -> None:
        self.process = WorkerProcess(setup, forks)
        self.connection = self.process.connection
        self.rooms: Rooms | None = None
        self.is_gone = False
        self.begin()

    def begin(self) -> None:
        """Forget the file before: what it sealed of that counts no more."""
        self.free = list(range(ROOMS))
        self.used: dict[int, int] = {}  # the rooms of row groups
        self.queued = 0
        self.owes: set[int] = set()  # row groups of which something is due
        self.is_asked = self.has_failed = self.is_idle = False


class SharedTask:
    """The help with one attempt at a file; fits `RowGroupHelpers`, whose methods raise what went wrong in a helper.

    Attributes:
        kek_ids: of the KEKs that the helpers used for the file.

    Raises (all methods):
        HelperLostError: a helper died that row groups were given to.
        PipecryptError: what a helper raised.
    """

    def __init__(self, helpers: Sequence[_Helper], number: int, task: Task, room_bytes: int) -> None:
        """Ask nobody yet."""
        self._helpers = [each for each in helpers if not each.is_gone]
        self._number = number
        self._task = task
        self._room_bytes = room_bytes
        self._next: NextRowGroup | None = None
        # How many row groups the writer seals itself for each that a helper is given: more where it had to wait for
        # one, fewer where one had to wait for it.
        self._own_share = 1 / max(len(self._helpers), 1)
        self._own_due = 0.0
        self._owner: dict[int, _Helper] = {}
        self._sealed: dict[int, SealedRowGroup | None] = {}
        self._placed: dict[int, PlacedRowGroup] = {}
        self._writes: list[tuple[Future[None], _Helper, int]] = []
        self._grants: dict[Grant, None] = {}
        self._service_calls = 0
        self.kek_ids: set[str] = set()
        for each in self._helpers:
            each.begin()

    def __enter__(self) -> Self:
        """Return the help."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell all that they are not needed any more; what they still answer is dropped."""
        self._next = None  # it refers to this help: without a circle, handles are closed at once
        for each in self._helpers:
            if each.is_asked and not each.is_gone:
                with contextlib.suppress(OSError):  # it died, which matters no more
                    each.connection.send(None)

    def added_to(self, done: FileDone) -> FileDone:
        """Return the record of the task with what the helpers did with keys."""
        first, *others = done.parts
        first = replace(first, service_calls=first.service_calls + self._service_calls)
        grants = tuple(dict.fromkeys((*done.grants, *self._grants)))
        return replace(done, parts=(first, *others), grants=grants)

    def begin(self, start: FileStart, next_row_group: NextRowGroup) -> None:
        """Ask all to open the file."""
        self._next = next_row_group
        request = HelpRequest(self._number, self._task, start, self._room_bytes)
        for each in self._helpers:
            each.is_asked = True
            self._send(each, request)
        self.poll()

    def poll(self) -> None:
        """Hear what was done, and give row groups to who has nothing to do."""
        for each in self._helpers:
            while not each.is_gone and each.connection.poll():
                self._receive(each)
        for write, helper, room in [each for each in self._writes if each[0].done()]:
            self._writes.remove((write, helper, room))
            helper.free.append(room)
        for each in self._helpers:
            self._hand_out(each)

    def _hand_out(self, helper: _Helper) -> None:
        while self._next is not None and helper.rooms is not None and not (helper.is_gone or helper.has_failed):
            if not helper.free or helper.queued >= _MOST_QUEUED:
                if not helper.queued and not helper.is_idle:
                    helper.is_idle = True
                    self._own_share = max(self._own_share / _SHARE_STEP, _LEAST_SHARE)
                return
            row_group = self._next(helper.rooms.room_bytes, int(self._own_due))
            if row_group is None:
                return
            self._own_due += self._own_share - int(self._own_due)
            helper.is_idle = False
            self._owner[row_group] = helper
            helper.used[row_group] = room = helper.free.pop()
            helper.queued += 1
            helper.owes.add(row_group)
            self._send(helper, SealOrder(row_group, room))

    def sealed(self, row_group: int) -> tuple[SealedRowGroup, memoryview] | None:
        """Wait for a row group that was handed out."""
        helper = self._owner[row_group]
        if row_group not in self._sealed:
            self.poll()
        if row_group not in self._sealed:
            self._own_share = min(self._own_share * _SHARE_STEP, 1 / _LEAST_SHARE)
        while row_group not in self._sealed:
            self._wait()
        sealed, room = self._sealed.pop(row_group), helper.used.pop(row_group)
        if sealed is None or helper.rooms is None:
            helper.free.append(room)
            return None
        helper.used[row_group] = room
        return sealed, helper.rooms[room]

    def written(self, row_group: int, write: Future[None]) -> None:
        """Let the room of a row group be used again when `write` is done."""
        helper = self._owner[row_group]
        self._writes.append((write, helper, helper.used.pop(row_group)))

    def place(self, row_group: int, start: int, blooms: Mapping[int, int]) -> None:
        """Say where a row group begins."""
        self._send(self._owner[row_group], PlaceOrder(row_group, start, dict(blooms)))

    def placed(self, row_group: int) -> PlacedRowGroup:
        """Wait for what follows of a row group."""
        while row_group not in self._placed:
            self._wait()
        return self._placed.pop(row_group)

    def _wait(self) -> None:
        # A write that ends says nothing: who waits for its room is given it soon after.
        wait([each.connection for each in self._helpers if not each.is_gone], _POLL_SECONDS if self._writes else None)
        self.poll()

    def _send(self, helper: _Helper, order: HelpRequest | SealOrder | PlaceOrder | None) -> None:
        try:
            helper.connection.send(order)
        except OSError:
            self._lose(helper)

    def _receive(self, helper: _Helper) -> None:
        try:
            message = cast("Helped | Exception | None", helper.connection.recv())
            if isinstance(message, Helped) and isinstance(message.answer, int):
                helper.rooms = Rooms.receive(helper.connection, message.answer)
                return
        except (EOFError, OSError):
            self._lose(helper)
            return
        if message is None:
            helper.process.is_ready = True  # with its keys
        elif isinstance(message, Exception):
            _log.warning("a process that was to help cannot: %s", message)
            helper.is_gone = True
            if helper.owes:
                raise message
        elif message.number == self._number:
            self._take(helper, message)

    def _take(self, helper: _Helper, message: Helped) -> None:
        answer = message.answer
        if isinstance(answer, Exception):
            if helper.owes:
                raise answer
            _log.warning("a process that was to help cannot: %s", answer)
            helper.has_failed = True
        elif isinstance(answer, SealedRowGroup):
            helper.queued -= 1
            self._sealed[answer.row_group] = answer
        elif isinstance(answer, SealOrder):
            helper.queued -= 1
            helper.owes.discard(answer.row_group)
            self._sealed[answer.row_group] = None
        elif isinstance(answer, tuple):
            placed, used = answer
            self._placed[placed.row_group] = placed
            helper.owes.discard(placed.row_group)
            self.kek_ids.update(used.kek_ids)
            self._grants.update(dict.fromkeys(used.grants))
            self._service_calls += used.service_calls

    def _lose(self, helper: _Helper) -> None:
        helper.is_gone = True
        how = describe_exit(helper.process.exit_code())
        if helper.owes:
            raise HelperLostError(how)
        _log.warning("a process that was to help with %s %s", self._task.source.location.display, how)


def run_with_helpers(
    tasks: Sequence[Task],
    on_event: OnEvent,
    session: KeySession,
    interruption: Interruption,
    *,
    setup: WorkerSetup,
    helpers: int,
    memory_bytes: int,
    attempts: int,
    forks: ForkServer | None = None,
) -> list[Part]:
    """Carry out tasks in this process, one after the other, with the help of others.

    Args:
        tasks: what to do.
        on_event: told about progress, in this thread.
        session: the keys; they stay the caller's.
        interruption: asked now and then whether to stop.
        setup: what each helper needs.
        helpers: how many.
        memory_bytes: what each may take for row groups.
        attempts: how often a task is tried.
        forks: forks the helpers where it can; default: they are spawned.

    Raises:
        PipecryptError: what the first failing task raised.
        WorkerError: a helper died, and a task may not be tried again.
    """
    ledger = TaskLedger(tasks, attempts)
    with HelperPool(setup, helpers, memory_bytes, forks) as pool:
        shared = _SharedRun(pool, ledger, on_event, session, interruption)
        for task in tasks:
            on_event(FileStarted(task.path))
            accepted = ledger.accept(shared.carry_out(task))
            if accepted is not None:
                on_event(accepted)
    return ledger.parts()


@dataclass(frozen=True, slots=True)
class _SharedRun:
    """What all tasks of a run have in common."""

    pool: HelperPool
    ledger: TaskLedger
    on_event: OnEvent
    session: KeySession
    interruption: Interruption

    def carry_out(self, task: Task) -> FileDone:
        bytes_done = 0

        def on_bytes(count: int) -> None:
            nonlocal bytes_done
            self.interruption.check()
            bytes_done += count
            self.on_event(BytesDone(count))

        try:
            with self.pool.share(task) as shared:
                return run_task(task, self.session, on_bytes, helpers=shared)
        except HelperLostError as error:
            how = str(error)
        again, attempt = self.ledger.fail(task, how)
        self.on_event(TaskRetried(task.path, attempt, how, bytes_done))
        return run_task(again, self.session, on_bytes)  # alone: a helper that dies again would be the reason
