"""Read a source file by byte range or as a Python file, and notice when it changes meanwhile."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from pipecrypt.errors import FormatError, IntegrityError, NoRegularFileError, StorageError
from pipecrypt.store.beneath import open_to_read, status
from pipecrypt.store.filesystem import open_filesystem, size_of
from pipecrypt.store.listing import SourceFile, local_fingerprint
from pipecrypt.store.local_file import read_stored
from pipecrypt.store.location import Location
from pipecrypt.store.problems import map_errors
from pipecrypt.store.remote_source import RemoteRanges, changed, check_range
from pipecrypt.store.streams import InputInMemory, standard_input
from pipecrypt.vocabulary.ranges import RangeSource, SourceTraits, read_each, read_into
from pipecrypt.vocabulary.retry import Retry, TruncatedError

__all__ = [
    "RangeFile",
    "StreamFile",
    "check_small",
    "open_range_source",
    "open_source_file",
    "read_small_file",
    "read_small_object",
    "read_start",
]

_ONCE: Final = Retry(0)  # a caller's file system has its own way of trying again
_NOT_EXPECTED: Final = "this is not what it should be"
_UNTOLD_BYTES: Final = 64 * 1024  # of a file that does not tell its size


@contextmanager
def open_range_source(source: SourceFile) -> Iterator[RangeSource]:
    """Open a pinned file; on leaving the block, check that it is still the file that was pinned.

    The caller publishes what it made from the file only after leaving the block.

    Raises:
        ConflictError: the file is not, or no longer, the one that was pinned. This also replaces an error about the
            content, which a file that changes under the reader is bound to give.
        StorageError: the storage refused or failed.
    """
    opened = _open_ranges(source)
    try:
        opened.check_unchanged()
        yield opened
        opened.check_unchanged()
    except (FormatError, IntegrityError):
        opened.check_unchanged()
        raise
    finally:
        opened.close()


def _open_ranges(source: SourceFile) -> _LocalRanges | RemoteRanges | InputInMemory:
    if source.location.is_standard_stream:
        return InputInMemory()
    return _LocalRanges(source) if source.location.is_local else RemoteRanges(source)


def read_small_file(location: Location, max_bytes: int) -> bytes | None:
    """Return a whole small file, or None if there is none.

    Raises:
        FormatError: it is larger than `max_bytes`, or no regular file.
        StorageError: the storage refused or failed.
    """
    if not location.is_local:
        remote = open_filesystem(location)
        return _read_small(remote.fs, remote.path, max_bytes, location.display, remote.retry)
    with map_errors(f"cannot read {location.display}"):
        try:
            data = _local_start(location, max_bytes + 1, refuse_from=max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return check_small(data, max_bytes, location.display)


def read_small_object(fs: Any, path: str, max_bytes: int, name: str) -> bytes | None:
    """Return a whole small file of an fsspec file system, or None if there is none; errors call it `name`.

    Raises:
        FormatError: it is larger than `max_bytes`, or a directory.
        StorageError: the storage refused or failed.
    """
    return _read_small(fs, path, max_bytes, name, _ONCE)


def _read_small(fs: Any, path: str, max_bytes: int, name: str, retry: Retry) -> bytes | None:
    with map_errors(f"cannot read {name}"):
        try:
            data = retry.call(lambda: _object_start(fs, path, max_bytes + 1, name, refuse_from=max_bytes + 1))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (IsADirectoryError, NoRegularFileError) as error:
            raise _no_regular_file(name) from error
    return check_small(data, max_bytes, name)


def _no_regular_file(name: str) -> FormatError:
    return FormatError(f"{name} is not a regular file", hint=_NOT_EXPECTED)


def check_small(data: bytes, max_bytes: int, name: str) -> bytes:
    """Return what was read of a small file; refuse one that is larger than it may be.

    Raises:
        FormatError: it is larger than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise _too_large(name, max_bytes)
    return data


def _too_large(name: str, max_bytes: int) -> FormatError:
    return FormatError(f"{name} is larger than {max_bytes} bytes", hint=_NOT_EXPECTED)


def read_start(location: Location, length: int) -> bytes:
    """Return the first bytes of a file, at most `length`.

    Raises:
        FormatError: it is not a regular file.
        StorageError: the storage refused or failed.
    """
    with map_errors(f"cannot read {location.display}"):
        return _read_start(location, length)


def _read_start(location: Location, length: int) -> bytes:
    if location.is_local:
        return _local_start(location, length)
    remote = open_filesystem(location)
    return remote.retry.call(lambda: _object_start(remote.fs, remote.path, length, location.display))


def _local_start(location: Location, length: int, *, refuse_from: int | None = None) -> bytes:
    """Return the first bytes; of a file that says it has `refuse_from` or more, none is read."""
    try:
        with open(open_to_read(location), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if refuse_from is not None and size >= refuse_from:
                raise _too_large(location.display, refuse_from - 1)
            # Python makes room for all that it is asked for before it reads. Files of /proc say that they are empty.
            return file.read(min(length, max(size, _UNTOLD_BYTES)))
    except NoRegularFileError as error:
        raise _no_regular_file(location.display) from error


def _object_start(fs: Any, path: str, length: int, name: str, *, refuse_from: int | None = None) -> bytes:
    # Some stores refuse a range that reaches past the end.
    size = size_of(fs.info(path), name)
    if refuse_from is not None and size >= refuse_from:
        raise _too_large(name, refuse_from - 1)
    due = min(size, length)
    data = read_stored(fs, path, [(0, due)])[0] if due else b""
    if len(data) < due:
        raise TruncatedError(f"{len(data)} bytes came where {due} were asked for")
    return data[:due]


class _LocalRanges:
    """Ranges of a local file, in one buffer that grows and is used again.

    The file is not mapped into memory: another process that truncates it would then kill this one.
    """

    __slots__ = ("_buffer", "_file", "_source", "name", "size_bytes", "traits")

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._buffer = bytearray()
        self.name = source.location.display
        self.size_bytes = source.size_bytes
        with map_errors(f"cannot read {self.name}"):
            try:
                self._file = open_to_read(source.location)
            except (FileNotFoundError, NoRegularFileError) as error:
                raise changed(source) from error
            if local_fingerprint(os.fstat(self._file)) != source.fingerprint:  # another file by that name
                os.close(self._file)
                raise changed(source)
            self._check_end()
        self.traits = SourceTraits(seeks_cheaply=True, reads_in_flight=1, descriptor=self._file)

    def _check_end(self) -> None:
        # Files of /proc, and of some file systems in user space, have a size of 0 and content all the same.
        if not os.pread(self._file, 1, self.size_bytes):
            return
        has_grown = local_fingerprint(os.fstat(self._file)) != self._source.fingerprint
        os.close(self._file)
        if has_grown:
            raise changed(self._source)
        raise StorageError(
            f"{self.name} holds more than the {self.size_bytes} bytes that its file system reports",
            hint="copy it to a file first, or send it to standard input",
        )

    def read_range(self, start: int, length: int) -> memoryview:
        check_range(self._source, start, length)
        if length > len(self._buffer):
            self._buffer = bytearray(length + length // 8)
        view = memoryview(self._buffer)[:length]
        self.read_into(start, view)
        return view

    def read_into(self, start: int, out: memoryview) -> None:
        filled = 0
        with map_errors(f"cannot read {self.name}"):
            while filled < len(out):  # one call reads at most 2 GiB
                count = os.preadv(self._file, [out[filled:]], start + filled)
                if not count:
                    raise changed(self._source)
                filled += count

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return read_each(self, ranges)

    def check_unchanged(self) -> None:
        with map_errors(f"cannot read {self.name}"):
            try:
                found = status(self._source.location)
            except FileNotFoundError as error:
                raise changed(self._source) from error
        if local_fingerprint(found) != self._source.fingerprint:
            raise changed(self._source)

    def close(self) -> None:
        os.close(self._file)


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
