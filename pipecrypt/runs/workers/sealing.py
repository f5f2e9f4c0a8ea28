"""What a process does that helps another one with its file: seal row groups into memory that both of them see.

The memory has no name, so nothing is left of it when both processes are gone, and it only ever holds ciphertext.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Final, NamedTuple, TypeAlias

from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.parquet.files import FileStart, PlacedRowGroup, RowGroupSealer, SealedRowGroup
from pipecrypt.runs.task import Task
from pipecrypt.vocabulary.shared_memory import open_shared_memory

__all__ = [
    "ROOMS",
    "HelpRequest",
    "Helped",
    "KeysUsed",
    "PlaceOrder",
    "Rooms",
    "SealOrder",
    "help_with",
]

ROOMS: Final = 4  # one is sealed into, one waits for that, one for being written, one is written from


@dataclass(frozen=True, slots=True)
class HelpRequest:
    """Asks a process to help with a task, until it is sent None.

    Args:
        number: of the request; stands in each answer.
        task: that another process carries out.
        start: what that one says of the file.
        room_bytes: how much of a row group may be sealed at most.
    """

    number: int
    task: Task
    start: FileStart
    room_bytes: int


class SealOrder(NamedTuple):
    """Asks to seal a row group into a room."""

    row_group: int
    room: int


class PlaceOrder(NamedTuple):
    """Tells where a row group is that was sealed, and its Bloom filters that lie elsewhere, by column."""

    row_group: int
    start: int
    blooms: dict[int, int]


class KeysUsed(NamedTuple):
    """What was done with keys for a row group.

    Args:
        kek_ids: of all KEKs that this process used for the file so far.
        grants: all that its session has made.
        service_calls: calls to key services since the last time.
    """

    kek_ids: tuple[str, ...]
    grants: tuple[Grant, ...]
    service_calls: int


# What was asked for: rooms, which a handle follows; a row group, only its ordinal where it did not fit; the rest of it.
_Answer: TypeAlias = "int | SealedRowGroup | SealOrder | tuple[PlacedRowGroup, KeysUsed] | Exception"


class Helped(NamedTuple):
    """An answer to a request.

    Args:
        number: of the request.
        answer: the length of the rooms, whose handle follows; a row group that is sealed; the order, where it did not
            fit; what follows of a row group; or what went wrong.
    """

    number: int
    answer: _Answer


class Rooms:
    """Memory for several row groups, which two processes see.

    Args:
        handle: of the memory, which stays its owner's.
        room_bytes: how large each room is; memory is taken as it is written to.
        is_writable: whether this is the process that seals.
    """

    def __init__(self, handle: int, room_bytes: int, *, is_writable: bool) -> None:
        """Map the memory."""
        access = mmap.ACCESS_WRITE if is_writable else mmap.ACCESS_READ
        self._memory = mmap.mmap(handle, ROOMS * room_bytes, access=access)
        self._area = memoryview(self._memory)
        self.room_bytes = room_bytes

    def __getitem__(self, room: int) -> memoryview:
        return self._area[room * self.room_bytes : (room + 1) * self.room_bytes]

    def close(self) -> None:
        """Give the memory back; if an error on its way still holds a piece of it, when that is forgotten."""
        self._area.release()
        with contextlib.suppress(BufferError):
            self._memory.close()

    @classmethod
    def receive(cls, connection: Connection, room_bytes: int) -> Rooms:
        """Take the handle that follows, and map the memory to read from."""
        handle = recv_handle(connection)
        try:
            return cls(handle, room_bytes, is_writable=False)
        finally:
            os.close(handle)


def _make_rooms(connection: Connection, number: int, room_bytes: int) -> Rooms:
    handle = open_shared_memory(ROOMS * room_bytes)
    try:
        rooms = Rooms(handle, room_bytes, is_writable=True)
        connection.send(Helped(number, room_bytes))
        send_handle(connection, handle, os.getppid())
    finally:
        os.close(handle)
    return rooms


def help_with(
    request: HelpRequest, connection: Connection, session: KeySession, rooms: Rooms | None, portable: _Portable
) -> Rooms | None:
    """Do what is asked for until None comes; return the rooms, for the next request.

    Args:
        request: with what.
        connection: to the process that carries out the task.
        session: the keys of this process.
        rooms: of the request before.
        portable: returns an error in a form that can be sent.

    Raises:
        EOFError: the other process is gone.
        OSError: likewise.
    """
    number, is_over = request.number, False
    try:
        if rooms is None:
            rooms = _make_rooms(connection, number, request.room_bytes)
        with contextlib.ExitStack() as stack:
            sealer: RowGroupSealer | None = None
            while not is_over:
                order = connection.recv()
                if order is None:
                    is_over = True
                    break
                if sealer is None:  # who comes late has nothing to do, and need not open the file
                    keys = FileKeys(session)
                    sealer = stack.enter_context(request.task.kind.open_sealer(request.task, keys, request.start))
                connection.send(Helped(number, _do(order, sealer, keys, session, rooms)))
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        if not is_over:  # else the other process needs nothing more, and looks at the source itself
            connection.send(Helped(number, portable(error)))
            while connection.recv() is not None:
                pass
    return rooms


_Portable: TypeAlias = Callable[[Exception], Exception]


def _do(
    order: SealOrder | PlaceOrder, sealer: RowGroupSealer, keys: FileKeys, session: KeySession, rooms: Rooms
) -> _Answer:
    if isinstance(order, SealOrder):
        return sealer.seal(order.row_group, rooms[order.room]) or order
    placed = sealer.place(*order)
    return placed, KeysUsed(keys.kek_ids, session.grants, session.take_service_calls())
