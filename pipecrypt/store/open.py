"""Open the store of a place, whichever kind it is, and open sources as ranges or as Python files.

Standard input as a source and standard output as a sink are both called `-`. Neither is a file: input has no size and
cannot be read twice, and what was written to output cannot be taken back.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Final, cast

from pipecrypt.errors import StorageError, UsageError
from pipecrypt.store.filesystem import S3_PROTOCOLS, RemoteFilesystem, protocol_of
from pipecrypt.store.fsspec import FsspecStore
from pipecrypt.store.local import LocalStore
from pipecrypt.store.location import Location, Pattern
from pipecrypt.store.problems import map_errors
from pipecrypt.store.protocol import Admits, Entry, EntryKind, Ranges, SourceFile, Store
from pipecrypt.store.publication import Publication
from pipecrypt.store.s3 import S3Store
from pipecrypt.vocabulary.ranges import MemorySource, RangeSource, read_into

__all__ = [
    "RangeFile",
    "StreamFile",
    "client_modules",
    "open_range_source",
    "open_source_file",
    "open_store",
]

_STANDARD_INPUT: Final = "standard input"


def open_store(location: Location) -> Store:
    """Return the store whose root is this place; nothing is looked at yet."""
    if location.is_standard_stream:
        return _StandardStreams(location)
    if location.is_local:
        return LocalStore(location)
    if protocol_of(location) in S3_PROTOCOLS:
        return S3Store(location)
    return FsspecStore(location)


def client_modules(locations: Iterable[Location]) -> set[str]:
    """Return the modules that speak with the stores of these places, of those that start no thread as they load."""
    return {"s3fs" for location in locations if isinstance(open_store(location), S3Store)}


def open_range_source(source: SourceFile, *, reads_all: bool = False) -> AbstractContextManager[Ranges]:
    """Open a pinned file, wherever it is; see `Store.opened`."""
    return open_store(source.location).opened(source, reads_all=reads_all)


@contextmanager
def open_source_file(source: SourceFile, *, reads_all: bool = False) -> Iterator[RangeFile | StreamFile]:
    """Open a pinned file, or standard input; on leaving the block, check that it is still the file that was pinned.

    Arguments are those of `Store.open`.

    Raises:
        ConflictError: it is not, or no longer, that file.
        StorageError: the storage refused or failed.
    """
    if source.location.is_standard_stream:
        yield StreamFile(_standard_input(), source.location.display)
        return
    with open_range_source(source, reads_all=reads_all) as opened:
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


# ---- standard input and output ----


def _standard_input() -> BinaryIO:
    """Return standard input as bytes.

    Raises:
        StorageError: this process has none.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise StorageError("there is no standard input", hint="give a file")
    return cast("BinaryIO", sys.stdin.buffer)


class _StandardStreams(FsspecStore):
    """Both streams as a store that holds nothing: it can be read once and written once, and has no other file."""

    answers_late = False
    is_remote = False

    def _open_filesystem(self, place: Location) -> RemoteFilesystem:
        raise UsageError(f"{self.root.display} is not a file", hint="give a file")

    def stat(self, path: str = "") -> Entry:
        """Say that nothing is there."""
        return Entry(self.root, path, EntryKind.NOTHING)

    def list(self, path: str = "", admits: Admits | None = None) -> Iterator[Entry]:
        """Yield nothing."""
        return iter(())

    def is_empty(self, *, besides: str | None = None) -> bool:
        """Say yes."""
        return True

    def find_sources(self, below: Pattern) -> Iterator[SourceFile]:
        """Yield standard input."""
        yield SourceFile(self.root, self.root.name, 0, "")

    def open(self, source: SourceFile, *, reads_all: bool = False) -> Ranges:
        """Read all of standard input."""
        return _StandardInput()

    def write(
        self,
        path: str = "",
        *,
        overwrite: bool,
        token: str | None = None,
        expected_bytes: int | None = None,
        is_free: bool = False,
    ) -> Publication:
        """Open standard output."""
        return _StandardOutput(self.root)


class _StandardInput(MemorySource):
    """All of standard input, held in memory: what is read from its end needs the end first.

    It is never spooled to a disk, where plaintext would be left after a crash.
    """

    def __init__(self) -> None:
        """Read everything."""
        with map_errors(f"cannot read {_STANDARD_INPUT}"):
            super().__init__(_standard_input().read(), _STANDARD_INPUT)

    def check_unchanged(self) -> None:
        """Pass: nobody changes it."""

    def close(self) -> None:
        """Forget what was read."""
        self._data = memoryview(b"")


class _StandardOutput(Publication):
    """Standard output. It appears as it is written; a failure in the middle shows in the exit code only."""

    def __init__(self, location: Location) -> None:
        """Look whether there is one.

        Raises:
            StorageError: this process has none.
        """
        super().__init__(location)
        if sys.stdout is None or sys.stdout.closed:
            raise StorageError("there is no standard output", hint="give a file")

    @property
    def name(self) -> str:
        """What errors call it."""
        return "standard output"

    def _append(self, data: memoryview) -> None:
        with map_errors(f"cannot write {self.name}"):
            sys.stdout.buffer.write(data)

    def _publish(self) -> None:
        with map_errors(f"cannot write {self.name}"):
            sys.stdout.buffer.flush()

    def _discard(self) -> None:
        """Do nothing: what was written is gone."""
