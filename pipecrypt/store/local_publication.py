"""Publish a file on a file system of the operating system: temporary name, fsync, rename or link, fsync.

A crash leaves a temporary name at worst, never a short file. No link that the caller did not name is followed or
replaced (see beneath).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
from typing import Final

from pipecrypt.errors import FormatError, PipecryptError, StorageError
from pipecrypt.store.beneath import (
    HeldDirectory,
    apply_attributes,
    hold_parent,
    make_directories_above,
    remove_directory,
    sync_directory,
)
from pipecrypt.store.location import Location
from pipecrypt.store.problems import map_errors, occupied
from pipecrypt.store.publication import (
    Publication,
    is_temporary_of,
    temporary_name,
    temporary_prefix,
    write_fully,
)

__all__ = [
    "LocalPublication",
    "remove_leftovers_beside",
]

_log = logging.getLogger(__name__)
_MODE: Final = 0o666  # less the umask, as for any new file
_PRIVATE_MODE: Final = 0o600
_CREATE_ATTEMPTS: Final = 10
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})  # some file systems
_PIECE_BYTES: Final = 1 << 20
_WRITE_BACK_BYTES: Final = 8 << 20


class LocalPublication(Publication):
    """A new local file.

    Args:
        location: where the file will be; directories above it are made.
        overwrite: whether it may replace a file.
        token: stands in the temporary name, so that the run's own leftovers can be told from others.

    Raises:
        SinkNotEmptyError: the file exists, and may not be replaced.
        LinkError: it, or what leads to it, is a link that the caller did not name.
        StorageError: something there is not a regular file.
    """

    def __init__(self, location: Location, *, overwrite: bool, token: str) -> None:
        """Look at what is there; make nothing yet."""
        super().__init__(location)
        self._overwrite = overwrite
        self._temporary = temporary_name(location.name, token)
        self._directory: HeldDirectory | None = None
        self._file_name = location.name
        self._file: int | None = None
        self._is_created = False
        self._written_bytes = 0
        self._on_its_way_bytes = 0
        self._made_directories: list[Location] = []
        with map_errors(f"cannot write {self.name}"):
            self._check_replaceable()

    def _check_replaceable(self) -> None:
        try:
            directory, name = self._held()
            mode = directory.status(name).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            is_link = stat.S_ISLNK(mode)
            if is_link and self.location.depth:
                directory.check_no_link(name)
            if not stat.S_ISREG(mode) and not is_link:
                raise StorageError(f"{self.name} is there, and is not a regular file", hint="choose another sink")
            if not self._overwrite:
                raise occupied(self.location)
        except BaseException:
            self._let_go()
            raise

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

    def _park(self) -> None:
        self._let_go()  # as the file itself

    def _publish(self) -> None:
        with map_errors(f"cannot publish {self.name}"):
            directory, name = self._held()
            if self._overwrite:
                directory.move(self._temporary, name)
            else:
                self._appear(directory, name)
        self._sync_directories(directory)
        self._let_go()

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        with contextlib.suppress(OSError, PipecryptError):
            if self._is_created:
                _remove_leftover(self._held()[0], self._temporary)
        self._let_go()
        for directory in reversed(self._made_directories):
            with contextlib.suppress(OSError, PipecryptError):  # another file is in it by now
                remove_directory(directory)

    def _held(self) -> tuple[HeldDirectory, str]:
        """Return the directory that the file is in, open, and the file's name there."""
        if self._directory is None:
            self._directory, self._file_name = hold_parent(self.location)
        return self._directory, self._file_name

    def _let_go(self) -> None:
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _open(self) -> int:
        for _ in range(_CREATE_ATTEMPTS):
            if self._file is not None:
                return self._file
            # Another task that fails may remove the directory that it made a moment ago: then make it again.
            with contextlib.suppress(FileNotFoundError):
                self._file = self._create()
                return self._file
            self._let_go()
            self._made_directories += make_directories_above(self.location)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.location.local_path)

    def _create(self) -> int:
        directory, _ = self._held()
        self._is_created = True  # set before, so that an interrupt in between leaves nothing
        try:
            return directory.create(self._temporary, self._first_mode)
        except OSError:
            self._is_created = False  # there is nothing to remove
            raise

    @property
    def _first_mode(self) -> int:
        # A file that will be private must not be readable by others while it is written.
        return _MODE if self._attributes[0] is None else _PRIVATE_MODE

    def _appear(self, directory: HeldDirectory, name: str) -> None:
        """Give the file its name, but never replace one: of two writers, one fails."""
        try:
            directory.link(self._temporary, name)
        except FileExistsError as error:
            raise occupied(self.location) from error
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            self._appear_without_links(directory, name)
            return
        with contextlib.suppress(OSError):  # the file is published; a second name for it is only untidy
            _remove_leftover(directory, self._temporary)

    def _appear_without_links(self, directory: HeldDirectory, name: str) -> None:
        try:
            has_appeared = directory.rename_without_replacing(self._temporary, name)
        except FileExistsError as error:
            raise occupied(self.location) from error
        if not has_appeared:
            raise StorageError(
                f"cannot publish {self.name}: its file system has neither hard links nor a rename that spares files",
                hint="pass --overwrite, so that a plain rename is allowed, or choose another sink",
            )

    def _sync_directories(self, directory: HeldDirectory) -> None:
        """Make the name durable; an error here comes after the file appeared."""
        try:
            directory.sync()
            for made in self._made_directories:
                sync_directory(made.above)
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


def remove_leftovers_beside(location: Location, token: str, *, of_any_name: bool) -> None:
    """Remove the temporary files that a dead worker of the run `token` left of a file, or of any beside it."""
    prefix = temporary_prefix(location.name, token)
    with (
        map_errors(f"cannot look for temporary files beside {location.display}"),
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
    ):
        directory, _ = hold_parent(location)
        with directory:
            for name in directory.names():
                if is_temporary_of(name, token) if of_any_name else name.startswith(prefix):
                    _remove_leftover(directory, name)


def _remove_leftover(directory: HeldDirectory, name: str) -> None:
    try:
        directory.remove(name)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("cannot remove the temporary file %s/%s: %s", directory.place, name, error.strerror)
