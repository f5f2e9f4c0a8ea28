"""Publish a file on a file system of the operating system: temporary name, fsync, rename or link, fsync.

Deciding what is written is left to the callers. A crash leaves a temporary name at worst, never a short file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import stat
import sys
from typing import Final

from pipecrypt.errors import FormatError, StorageError
from pipecrypt.storage.attributes import apply_attributes
from pipecrypt.storage.location import Location
from pipecrypt.storage.problems import map_errors
from pipecrypt.storage.publication import (
    Publication,
    is_temporary_of,
    occupied,
    temporary_name,
    temporary_prefix,
    write_fully,
)

__all__ = ["LocalPublication", "remove_local_leftovers", "remove_run_leftovers"]

_log = logging.getLogger(__name__)
_CREATE_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
_MODE: Final = 0o666  # less the umask, as for any new file
_PRIVATE_MODE: Final = 0o600
_CREATE_ATTEMPTS: Final = 10
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})  # some file systems
_PIECE_BYTES: Final = 1 << 20
_WRITE_BACK_BYTES: Final = 8 << 20
_NO_DIRECTORY_FSYNC: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1


class LocalPublication(Publication):
    """A new local file.

    Args:
        location: where the file will be; directories above it are made.
        overwrite: whether it may replace a file.
        token: stands in the temporary name, so that the run's own leftovers can be told from others.

    Raises:
        SinkNotEmptyError: the file exists, and may not be replaced.
        StorageError: something there is no regular file.
    """

    def __init__(self, location: Location, *, overwrite: bool, token: str) -> None:
        """Look at what is there; make nothing yet."""
        super().__init__(location)
        self._path = location.local_path
        self._overwrite = overwrite
        self._directory = os.path.dirname(self._path) or "."
        self._temporary = os.path.join(self._directory, temporary_name(location.name, token))
        self._file: int | None = None
        self._is_created = False
        self._written_bytes = 0
        self._on_its_way_bytes = 0
        self._made_directories: list[str] = []
        with map_errors(f"cannot write {self.name}"):
            _check_replaceable(location, overwrite=overwrite)

    def _append(self, data: memoryview) -> None:
        with map_errors(f"cannot write {self.name}"):
            write_fully(self._open(), data)
        self._send_on(len(data))

    if sys.platform == "linux":  # elsewhere sendfile writes to sockets only

        def copy_range(self, descriptor: int, start: int, length: int) -> None:
            """Append a range of an open file without looking at it, as `parquet.protocols.CopiesRanges`.

            Raises:
                FormatError: the file is shorter than that.
                StorageError: the storage refused or failed.
            """
            with self._lock:
                self._check_growing()
                with map_errors(f"cannot write {self.name}"):
                    out, end = self._open(), start + length
                    while start < end:
                        count = _copy_some(out, descriptor, start, end - start)
                        if not count:
                            raise FormatError(f"the source of {self.name} became shorter while it was read")
                        start += count
                        self._send_on(count)

    def _send_on(self, count: int) -> None:
        """Have the system write to the disk while the next pages are encrypted; else fsync has all of it to wait for.

        Linux starts writing what it is told not to keep, and drops only what is on the disk already.
        """
        self._written_bytes += count
        waiting = self._written_bytes - self._on_its_way_bytes
        if sys.platform == "linux" and self._file is not None and waiting >= _WRITE_BACK_BYTES:
            with contextlib.suppress(OSError):  # advice: fsync tells what fails
                os.posix_fadvise(self._file, self._on_its_way_bytes, waiting, os.POSIX_FADV_DONTNEED)
            self._on_its_way_bytes = self._written_bytes

    def _complete(self) -> None:
        # Closed already: a process may have a thousand files open, and one source may become more files than that.
        with map_errors(f"cannot write {self.name}"):
            file = self._open()
            apply_attributes(file, *self._attributes, what=self.name)  # after the last write, which changes the time
            os.fsync(file)
            self._file = None
            os.close(file)  # NFS reports a full disk here

    def _publish(self) -> None:
        with map_errors(f"cannot publish {self.name}"):
            if self._overwrite:
                os.rename(self._temporary, self._path)
            else:
                self._appear()
        self._sync_directories()

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        if self._is_created:
            with contextlib.suppress(FileNotFoundError):
                _unlink_leftover(self._temporary)
        for directory in reversed(self._made_directories):
            with contextlib.suppress(OSError):  # another file is in it by now
                os.rmdir(directory)

    def _open(self) -> int:
        for _ in range(_CREATE_ATTEMPTS):
            if self._file is not None:
                return self._file
            self._make_directories()
            self._is_created = True  # set before, so that an interrupt in between leaves nothing
            # Another task that fails may remove the directory that it made a moment ago: then make it again.
            with contextlib.suppress(FileNotFoundError):
                self._file = self._create()
        if self._file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._directory)
        return self._file

    def _create(self) -> int:
        try:
            return os.open(self._temporary, _CREATE_FLAGS, self._first_mode)
        except OSError:
            self._is_created = False  # there is nothing to remove
            raise

    @property
    def _first_mode(self) -> int:
        # A file that will be private must not be readable by others while it is written.
        return _MODE if self._attributes[0] is None else _PRIVATE_MODE

    def _make_directories(self) -> None:
        missing: list[str] = []
        directory = self._directory
        while directory and not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(path)
                self._made_directories.append(path)

    def _appear(self) -> None:
        """Give the file its name, but never replace one: of two writers, one fails."""
        try:
            os.link(self._temporary, self._path, follow_symlinks=False)
        except FileExistsError as error:
            raise occupied(self.location) from error
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _rename_without_replacing(self._temporary, self.location)
            return
        with contextlib.suppress(OSError):  # the file is published; a second name for it is only untidy
            _unlink_leftover(self._temporary)

    def _sync_directories(self) -> None:
        """Make the name durable; an error here comes after the file appeared."""
        try:
            for directory in {self._directory, *(os.path.dirname(made) or "." for made in self._made_directories)}:
                _sync_directory(directory)
        except OSError as error:
            hint = "the file is there and whole; whether it survives a power failure is unknown"
            raise StorageError(f"cannot make {self.name} durable: {error.strerror}", hint=hint) from error


def _copy_some(out: int, descriptor: int, start: int, length: int) -> int:
    """Append up to `length` bytes of a file; return how many, 0 at its end."""
    try:
        return os.sendfile(out, descriptor, start, length)
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
    data = os.pread(descriptor, min(length, _PIECE_BYTES), start)
    write_fully(out, memoryview(data))
    return len(data)


def remove_local_leftovers(location: Location, token: str) -> None:
    """Remove the temporary files of `location` that a dead worker of the run `token` left behind."""
    directory = os.path.dirname(location.local_path) or "."
    prefix = temporary_prefix(location.name, token)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            if name.startswith(prefix):
                _unlink_leftover(os.path.join(directory, name))


def remove_run_leftovers(directory: str, token: str) -> None:
    """Remove the temporary files of any name that the run `token` left in a directory."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            if is_temporary_of(name, token):
                with contextlib.suppress(FileNotFoundError):
                    _unlink_leftover(os.path.join(directory, name))


def _check_replaceable(location: Location, *, overwrite: bool) -> None:
    path = location.local_path
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise StorageError(f"{location.display} is there and no regular file", hint="choose another sink")
    if not overwrite:
        raise occupied(location)


def _unlink_leftover(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        _log.warning("cannot remove the temporary file %s: %s", path, error.strerror)


def _sync_directory(directory: str) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a directory that one may write to, but not list
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(descriptor)


def _rename_without_replacing(temporary: str, location: Location) -> None:
    """Rename on file systems without hard links, such as exFAT. Python has no name for Linux's renameat2."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    path = os.fsencode(location.local_path)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, path, _RENAME_NOREPLACE) == 0:
            return
        if ctypes.get_errno() == errno.EEXIST:
            raise occupied(location)
    raise StorageError(
        f"cannot publish {location.display}: its file system has neither hard links nor a rename that spares files",
        hint="pass --overwrite, so that a plain rename is allowed, or choose another sink",
    )
