"""Upload the parts of one S3 object beside their making, a few at a time. When the object appears is left to s3_sink.

Parts have one size as long as their number lets, because some stores (Cloudflare R2) insist on it. Where a file turns
out longer than was expected, parts grow, so that 10,000 of them hold 5 TiB.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from pipecrypt.errors import LimitError
from pipecrypt.store.location import TransferSettings
from pipecrypt.store.s3_object import S3Object
from pipecrypt.vocabulary.retry import Retry

__all__ = ["MOST_PARTS", "PartUpload", "first_part_bytes", "part_bytes"]

MOST_PARTS: Final = 10_000
_UNIFORM_PARTS: Final = 6_000
_PARTS_PER_STEP: Final = 400
_MOST_BYTES: Final = 5 << 30  # of a part
_SPARE: Final = 1.1  # encrypting adds a little to what is expected
_MIB: Final = 1 << 20


def first_part_bytes(settings: TransferSettings, expected_bytes: int | None) -> int:
    """Return the size of parts with which a file of the expected size needs no larger ones."""
    needed = int((expected_bytes or 0) * _SPARE) // _UNIFORM_PARTS
    return min(_MOST_BYTES, max(settings.part_bytes, -(-needed // _MIB) * _MIB))


def part_bytes(first_bytes: int, number: int) -> int:
    """Return the size of the part at a number from 1: it doubles again and again where a file has very many."""
    steps = -(-max(0, number - _UNIFORM_PARTS) // _PARTS_PER_STEP)
    return int(min(_MOST_BYTES, first_bytes << steps))


class PartUpload:
    """An upload in parts, not complete yet.

    Args:
        target: the object.
        settings: how many parts travel at once: fewer where they are larger, so that memory stays bounded.
        write_id: what the object is marked with.

    Raises:
        Exception: as the store's client says; nothing was begun.
    """

    def __init__(self, target: S3Object, settings: TransferSettings, write_id: str) -> None:
        """Begin it at the store."""
        self._target = target
        self._retry = Retry(settings.deadline_seconds)
        self._in_flight_bytes = settings.parts_in_flight * settings.part_bytes
        self._parts: list[Future[str]] = []
        self._running: deque[Future[str]] = deque()
        self._pool = ThreadPoolExecutor(settings.parts_in_flight, thread_name_prefix="pipecrypt-upload")
        self.size_bytes = 0
        self.upload_id = self._retry.call(lambda: target.begin_upload(write_id))

    @property
    def next_number(self) -> int:
        """Number of the part that is added next."""
        return len(self._parts) + 1

    def add(self, data: bytes | bytearray) -> None:
        """Send a part on its way, which nobody changes any more; waits where too much is on its way.

        Raises:
            LimitError: there are 10,000 parts already.
            Exception: a part before could not be stored.
        """
        number = self.next_number
        if number > MOST_PARTS:
            raise LimitError("an object of S3 has at most 10,000 parts", hint="roll the output over to several files")
        self._make_room(len(data))
        part = self._pool.submit(self._store, number, data)
        self._parts.append(part)
        self._running.append(part)
        self.size_bytes += len(data)

    def finish(self) -> list[str]:
        """Wait for all parts and return their tags.

        Raises:
            Exception: a part could not be stored.
        """
        tags = [part.result() for part in self._parts]
        self._pool.shutdown()
        return tags

    def abandon(self) -> None:
        """Stop, and wait for the calls under way: only then an abort leaves nothing behind."""
        self._retry.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _make_room(self, length: int) -> None:
        most = max(1, self._in_flight_bytes // max(1, length))
        while self._running and self._running[0].done():
            self._running.popleft().result()
        while len(self._running) >= most:
            wait(self._running, return_when="FIRST_COMPLETED")
            done = [part for part in self._running if part.done()]
            for part in done:
                part.result()
                self._running.remove(part)

    def _store(self, number: int, data: bytes | bytearray) -> str:
        return self._retry.call(lambda: self._target.put_part(self.upload_id, number, data))
