"""Bound the memory that journals take which anybody may have written, however many lie in a sink.

A block is bounded before it is parsed, and goes when it was read. What is kept of all of them together is charged here,
before the next block is read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY
from pipecrypt.errors import ConflictError
from pipecrypt.store.location import Location

__all__ = ["MOST_KEPT_BYTES", "Allowance", "memory_of"]

# With a hostile block that is parsed, and those that are fetched ahead, less than 512 MiB. The files that unsigned runs
# have written take some 400 bytes each, and 700 until their run was read; of a run to be continued, 1,000 to 2,000.
MOST_KEPT_BYTES: Final = 288 << 20
_OWN_BYTES: Final = 16  # what the garbage collector keeps for an object, rounded up


class Allowance:
    """What may be kept in memory of the journals in a sink.

    Args:
        sink: the directory.
        most_bytes: how much.
    """

    def __init__(self, sink: Location, most_bytes: int = MOST_KEPT_BYTES) -> None:
        """Nothing is kept yet."""
        self._sink = sink
        self._most_bytes = most_bytes
        self.kept_bytes = 0

    def charge(self, run_id: str, count: int) -> None:
        """Take so many bytes for what a run noted.

        Raises:
            ConflictError: they are too many.
        """
        self.kept_bytes += count
        if self.kept_bytes > self._most_bytes:
            raise ConflictError(
                f"{self._sink.child(f'{RUNS_DIRECTORY}/{run_id}').display}: the journals up to this one note more than "
                f"{self._most_bytes >> 20} MiB of memory hold",
                hint="if no run of yours made that directory, remove it; sign what you write, or use several sinks",
            )

    def give_back(self, count: int) -> None:
        """Say that so many bytes are not kept any more."""
        self.kept_bytes -= count


def memory_of(things: Iterable[object]) -> int:
    """Return how many bytes things take, with all that is in them; what is in them twice counts once."""
    waiting, seen, total = list(things), set[int](), 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        if isinstance(thing, tuple | list | frozenset):
            waiting.extend(thing)
        elif (names := getattr(thing, "__slots__", None)) is not None:
            total += _OWN_BYTES
            waiting.extend(getattr(thing, name) for name in names)
    return total
