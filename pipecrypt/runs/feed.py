"""Hand record batches from a caller to a thread that encrypts them. What is done with them there is left to writer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from pipecrypt.errors import InterruptedRunError

__all__ = ["Feed"]

_WAITING: Final = 4


class Feed:
    """A stream of batches that is filled as it is read; fits `sources.stream.BatchStream`.

    At most a few batches wait, so a caller that is faster than encryption waits too.

    Args:
        schema: of every batch.
    """

    may_change_thread = False
    bad_rows = 0

    def __init__(self, schema: Any) -> None:
        """Wait for the first batch."""
        self.schema = schema
        self._batches: deque[Any] = deque()
        self._changed = threading.Condition()
        self._is_whole = False
        self._is_aborted = False
        self._is_closed = False

    def put(self, batch: object) -> bool:
        """Hand over a batch; say no if nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._batches) < _WAITING or self._is_closed)
            if not self._is_closed:
                self._batches.append(batch)
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

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            InterruptedRunError: the caller gave up.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._batches or self._is_whole or self._is_aborted)
                if self._is_aborted:
                    raise InterruptedRunError("the writer was left before it was closed")
                if not self._batches:
                    return
                batch = self._batches.popleft()
                self._changed.notify_all()
            yield batch
            del batch  # else it would live until the next one is there

    def close(self) -> None:
        """Stop reading, and let a caller that waits go on."""
        with self._changed:
            self._is_closed = True
            self._batches.clear()
            self._changed.notify_all()
