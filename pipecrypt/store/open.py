"""Open the store of a place, whichever kind it is, and open sources as ranges or as Python files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from pipecrypt.store.filesystem import S3_PROTOCOLS, protocol_of
from pipecrypt.store.fsspec import FsspecStore
from pipecrypt.store.local import LocalStore
from pipecrypt.store.location import Location
from pipecrypt.store.operations import opened
from pipecrypt.store.problems import map_errors
from pipecrypt.store.protocol import Ranges, SourceFile, Store
from pipecrypt.store.s3 import S3Store
from pipecrypt.store.streams import StandardStreams, standard_input
from pipecrypt.vocabulary.ranges import RangeSource, read_into

__all__ = [
    "RangeFile",
    "StreamFile",
    "open_range_source",
    "open_source_file",
    "open_store",
    "read_small_file",
    "read_start",
]


def open_store(location: Location) -> Store:
    """Return the store whose root is this place; nothing is looked at yet."""
    if location.is_standard_stream:
        return StandardStreams(location)
    if location.is_local:
        return LocalStore(location)
    if protocol_of(location) in S3_PROTOCOLS and not location.is_chained:
        return S3Store(location)
    return FsspecStore(location)


def open_range_source(source: SourceFile) -> AbstractContextManager[Ranges]:
    """Open a pinned file; on leaving the block, check that it is still the file that was pinned.

    The caller publishes what it made from the file only after leaving the block.

    Raises:
        ConflictError: the file is not, or no longer, the one that was pinned. This also replaces an error about the
            content, which a file that changes under the reader is bound to give.
        StorageError: the storage refused or failed.
    """
    return opened(open_store(source.location), source)


def read_small_file(location: Location, max_bytes: int) -> bytes | None:
    """Return a whole small file, or None if there is none; see `Store.read_small`."""
    return open_store(location).read_small(max_bytes=max_bytes)


def read_start(location: Location, length: int) -> bytes:
    """Return the first bytes of a file, at most `length`; see `Store.read_start`."""
    return open_store(location).read_start(length)


@contextmanager
def open_source_file(source: SourceFile) -> Iterator[RangeFile | StreamFile]:
    """Open a pinned file, or standard input; on leaving the block, check that it is still the file that was pinned.

    Raises:
        ConflictError: it is not, or no longer, that file.
        StorageError: the storage refused or failed.
    """
    if source.location.is_standard_stream:
        yield StreamFile(standard_input(), source.location.display)
        return
    with open_range_source(source) as opened:
        yield RangeFile(opened)


class StreamFile(io.RawIOBase):
    """A readable file that counts, over a stream that stays open.

    Args:
        stream: what is read.
        name: what errors call it.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Read nothing yet."""
        super().__init__()
        self._stream = stream
        self._name = name
        self.bytes_read = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer
        """Fill a buffer, or the beginning of it; return how many bytes that were, 0 at the end."""
        with map_errors(f"cannot read {self._name}"):
            data = self._stream.read(len(memoryview(buffer).cast("B")))
        memoryview(buffer).cast("B")[: len(data)] = data
        self.bytes_read += len(data)
        return len(data)


class RangeFile(io.RawIOBase):
    """A readable, seekable file over ranges; closing it leaves the source open.

    Args:
        source: an open source.
    """

    def __init__(self, source: RangeSource) -> None:
        """Begin at the start."""
        super().__init__()
        self._source = source
        self._position = 0
        self.bytes_read = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the offset of the next byte that is read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset, which may lie behind the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError("a file has no place before its start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer
        """Fill a buffer from here on, as far as the file goes; return how many bytes that were."""
        if self.closed:
            raise ValueError("the file is closed")
        room = memoryview(buffer).cast("B")
        count = max(0, min(len(room), self._source.size_bytes - self._position))
        if count:
            read_into(self._source, self._position, room[:count])
            self._position += count
            self.bytes_read += count
        return count
