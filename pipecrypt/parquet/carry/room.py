"""The output of who seals a part of a file whose place is not known yet: into memory of another's, never beyond it."""

from __future__ import annotations

from typing import Final

from pipecrypt.parquet.carry.writing import Body, ignore_bytes

__all__ = ["RoomBody", "RoomFullError"]

_NOTHING: Final = memoryview(b"")


class RoomFullError(Exception):
    """What was to be written does not fit."""


class _NoSink:
    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError("what is sealed into memory is written by others")


class RoomBody(Body):
    """A body whose output is memory; what is copied is left out, and only moves the position.

    Attributes:
        position: how far the part goes, from its own beginning.
    """

    def __init__(self) -> None:
        """Have no room yet."""
        super().__init__(_NoSink(), ignore_bytes)
        self._target = _NOTHING
        self._used = 0

    def begin_part(self, room: memoryview) -> None:
        """Begin a part, which is written to the start of `room`."""
        self._target = room
        self._used = self.position = 0

    def end_part(self) -> None:
        """Let go of the room."""
        self._target = _NOTHING
        self._used = 0

    @property
    def copies_files(self) -> bool:
        """Say that what is copied need not be read ahead."""
        return True

    def reserve(self, length: int, *, overlap: int = 0) -> memoryview:
        """Return room for `length` bytes.

        Raises:
            RoomFullError: there is none.
        """
        start = self._used - overlap
        if start < 0 or self._used + length > len(self._target):
            raise RoomFullError
        return self._target[start : self._used + length]

    def commit(self, length: int) -> None:
        """Append the first `length` bytes of the room that `reserve` returned."""
        self._used += length
        self.position += length

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; raises what `reserve` raises."""
        self.reserve(len(data))[:] = data
        self.commit(len(data))

    def copy(self, start: int, length: int) -> None:
        """Leave room in the output, not in memory: who has the output copies that himself."""
        self.position += length

    def done(self, count: int) -> None:
        """Count nothing: who has the output does."""
