"""Hand record batches from a caller to a thread that encrypts them. What is done with them there is left to writer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from typing import Any, Final

from pipecrypt.errors import InterruptedRunError
from pipecrypt.formats.batches import BatchStream

__all__ = ["Feed"]

_MOST_WAITING: Final = 4


class Feed(BatchStream):
    """A stream of batches that is filled as it is read.

    At most a few batches wait, so a caller that is faster than encryption waits too.

    Args:
        schema: of every batch.
    """

    def __init__(self, schema: Any) -> None:
        """Wait for the first batch."""
        super().__init__(schema, self._read(), may_change_thread=False)
        self._waiting: deque[Any] = deque()
        self._changed = threading.Condition()
        self._is_whole = False
        self._is_aborted = False
        self._is_closed = False

    def put(self, batch: object) -> bool:
        """Hand over a batch; say no if nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING or self._is_closed)
            if not self._is_closed:
                self._waiting.append(batch)
                self._changed.notify_all()
            return not self._is_closed

    def finish(self) -> None:
        """Say that no batch follows."""
        with self._changed:
            self._is_whole = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Say that what was handed over must not be used."""
        with self._changed:
            self._is_aborted = True
            self._changed.notify_all()

    def _read(self) -> Generator[Any]:
        """Yield the batches.

        Raises:
            InterruptedRunError: the caller gave up.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_whole or self._is_aborted)
                if self._is_aborted:
                    raise InterruptedRunError("the writer was left before it was closed")
                if not self._waiting:
                    return
                batch = self._waiting.popleft()
                self._changed.notify_all()
            yield batch
            del batch  # else it would live until the next one is there

    def close(self) -> None:
        """Stop reading, and let a caller that waits go on."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
