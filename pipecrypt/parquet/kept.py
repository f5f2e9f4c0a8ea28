"""Keep plaintext of the chunks that were read last, of one view or of several. Decrypting them is left to view."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeAlias

__all__ = ["KeptChunks"]

_Name: TypeAlias = tuple[object, int]


class KeptChunks:
    """Plaintext by its owner and a number; the last that was put is always kept, others within the bound.

    Safe to use from several threads.

    Args:
        bound_bytes: of all plaintext together.
    """

    def __init__(self, bound_bytes: int) -> None:
        """Keep nothing yet."""
        self._bound_bytes = bound_bytes
        self._bytes = 0
        self._chunks: OrderedDict[_Name, memoryview] = OrderedDict()
        # May be taken again: a view that is collected forgets its plaintext on whatever thread is at work, perhaps
        # in here.
        self._guard = threading.RLock()

    def get(self, owner: object, index: int) -> memoryview | None:
        """Return what is kept under a number of the owner, or None."""
        with self._guard:
            plain = self._chunks.get((owner, index))
            if plain is not None:
                self._chunks.move_to_end((owner, index))
            return plain

    def put(self, owner: object, index: int, plain: memoryview) -> None:
        """Keep plaintext, and drop what was used longest ago."""
        with self._guard:
            replaced = self._chunks.pop((owner, index), None)
            self._bytes += len(plain) - (0 if replaced is None else len(replaced))
            self._chunks[owner, index] = plain
            while len(self._chunks) > 1 and self._bytes > self._bound_bytes:
                _, dropped = self._chunks.popitem(last=False)
                self._bytes -= len(dropped)

    def forget(self, owner: object) -> None:
        """Drop all plaintext of an owner."""
        with self._guard:
            for name in [name for name in self._chunks if name[0] is owner]:
                self._bytes -= len(self._chunks.pop(name))
