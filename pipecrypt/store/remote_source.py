"""Read ranges of an object that is not local, several at once, each tried again by itself. When is left to parquet.

On S3 every range is asked for on condition that the object is still the pinned one; elsewhere that is checked before
and after. A body that was cut short never counts as whole.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pipecrypt.errors import ConflictError, FormatError, StorageError
from pipecrypt.store.conditional import is_condition_failed
from pipecrypt.store.filesystem import fingerprint_of, look_up, open_filesystem
from pipecrypt.store.listing import SourceFile
from pipecrypt.store.problems import map_errors
from pipecrypt.store.s3_object import S3Object
from pipecrypt.vocabulary.ranges import SourceTraits
from pipecrypt.vocabulary.retry import TruncatedError, http_status

__all__ = ["RemoteRanges", "changed", "check_range"]

_WEAK: Final = "W/"
_RANGE_NOT_SATISFIABLE: Final = 416  # the object became shorter


def check_range(source: SourceFile, start: int, length: int) -> None:
    """Refuse a range that a pinned file does not have.

    Raises:
        FormatError: it ends behind the file's end.
    """
    if start < 0 or length < 0 or start + length > source.size_bytes:
        end = start + length
        raise FormatError(
            f"{source.location.display} has {source.size_bytes} bytes, but bytes {start} to {end} are due"
        )


def changed(source: SourceFile) -> ConflictError:
    """Return the error for a file that is not the pinned one any more."""
    return ConflictError(
        f"{source.location.display} changed while it was read", hint="wait until its writer is done, then run again"
    )


class RemoteRanges:
    """Ranges of an object; all methods may be called on several threads at once.

    Args:
        source: the object, pinned.

    Raises:
        StorageError: the storage cannot be reached.
    """

    __slots__ = ("_lock", "_object", "_pool", "_remote", "_source", "_tag", "name", "size_bytes", "traits")

    def __init__(self, source: SourceFile) -> None:
        """Ask for nothing yet."""
        self._source = source
        self._remote = open_filesystem(source.location)
        self._object = S3Object(self._remote) if self._remote.is_s3 and not source.location.is_chained else None
        self._tag: str | None = None
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self.name = source.location.display
        self.size_bytes = source.size_bytes
        self.traits = SourceTraits(reads_in_flight=self._remote.settings.ranges_in_flight)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`, in memory of their own.

        Raises:
            FormatError: the file is shorter than that.
            ConflictError: the object is not the pinned one any more.
            StorageError: the storage refused or failed.
        """
        check_range(self._source, start, length)
        if length <= self._remote.settings.range_bytes:
            return memoryview(self._fetch(start, length))
        out = memoryview(bytearray(length))
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""
        check_range(self._source, start, len(out))
        step = self._remote.settings.range_bytes
        self._fill([(start + at, out[at : at + step]) for at in range(0, len(out), step)])

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length); raises what `read_range` raises."""
        step, pieces, found = self._remote.settings.range_bytes, list[tuple[int, memoryview]](), list[memoryview]()
        for start, length in ranges:
            check_range(self._source, start, length)
            out = memoryview(bytearray(length))
            pieces += [(start + at, out[at : at + step]) for at in range(0, length, step)]
            found.append(out)
        self._fill(pieces)
        return found

    def _fill(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        if len(pieces) <= 1:
            for start, out in pieces:
                out[:] = self._fetch(start, len(out))
            return
        running = [self._threads().submit(self._fill, [piece]) for piece in pieces]
        try:
            for each in running:
                each.result()
        finally:
            for each in running:
                each.cancel()

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.traits.reads_in_flight, thread_name_prefix="pipecrypt-range")
            return self._pool

    def _fetch(self, start: int, length: int) -> bytes:
        if not length:
            return b""
        with map_errors(f"cannot read {self.name}"):
            try:
                return self._remote.retry.call(lambda: self._fetch_once(start, length))
            except TruncatedError as error:
                self.check_unchanged()
                raise StorageError(
                    f"{self.name}: of the bytes from {start} on, {error}",
                    hint="run again; if this stays, the storage does not serve ranges: copy the file first",
                ) from error
            except Exception as error:
                if is_condition_failed(error) or http_status(error) == _RANGE_NOT_SATISFIABLE:
                    raise changed(self._source) from error
                raise

    def _fetch_once(self, start: int, length: int) -> bytes:
        if self._object is not None:
            return self._object.get(start, length, self._tag)
        data = bytes(self._remote.fs.cat_file(self._remote.path, start=start, end=start + length))
        if len(data) > length:  # all of the file: trying again does not help
            raise StorageError(
                f"{self.name}: the storage returned {len(data)} bytes where {length} were asked for",
                hint="the storage does not serve ranges: copy the file first",
            )
        if len(data) < length:
            raise TruncatedError(f"{len(data)} bytes came where {length} were asked for")
        return data

    def check_unchanged(self) -> None:
        """Look whether the object is still the pinned one.

        Raises:
            ConflictError: it is not.
            StorageError: the storage refused or failed.
        """
        with map_errors(f"cannot read {self.name}"):
            info = look_up(self._remote)
        if info is None or fingerprint_of(info) != self._source.fingerprint:
            raise changed(self._source)
        tag = info.get("ETag")
        self._tag = tag if isinstance(tag, str) and tag and not tag.startswith(_WEAK) else None

    def close(self) -> None:
        """End the threads, and leave the file system to fsspec, which shares it."""
        self._remote.retry.stop()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
