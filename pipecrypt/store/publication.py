"""Publish a file whole or not at all: written front to back, then published or discarded.

What all ways share, and the way of a file system of the operating system: temporary name, fsync, rename or link, fsync.
There a crash leaves a temporary name at worst, never a short file, and no link that the caller did not name is followed
or replaced (see beneath). Objects are published in s3 and fsspec_changes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import stat
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from pipecrypt.errors import FormatError, PipecryptError, StorageError
from pipecrypt.store.beneath import (
    HeldDirectory,
    apply_attributes,
    hold_parent,
    make_directories_above,
    remove_directory,
    sync_directory,
)
from pipecrypt.store.location import NAME_BYTES, Location
from pipecrypt.store.problems import map_errors, occupied

__all__ = [
    "LocalPublication",
    "Publication",
    "is_temporary",
    "new_token",
    "remove_leftovers_beside",
    "temporary_name",
    "write_fully",
]

_log = logging.getLogger(__name__)
_MODE: Final = 0o666  # less the umask, as for any new file
_PRIVATE_MODE: Final = 0o600
_CREATE_ATTEMPTS: Final = 10
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})  # some file systems
_PIECE_BYTES: Final = 1 << 20
_WRITE_BACK_BYTES: Final = 8 << 20
_MARK: Final = ".pipecrypt-"
_SUFFIX: Final = ".tmp"
_TOKEN_BYTES: Final = 4
# `temporary_name`, and undo files of `tail`: their temporary names have "undo" where others have the run's token.
_TEMPORARY: Final = re.compile(
    r"\..+\.pipecrypt-(?:undo|(?P<token>undo|[0-9a-f]{8})-[0-9a-f]{8})\.tmp", re.ASCII | re.DOTALL
)


class Publication(ABC):
    """A new file that is not there yet; a context manager that discards what was not published.

    Fits `parquet.protocols.AppendSink`. Writing may happen in one other thread; publishing and discarding wait for it.

    Args:
        location: where the file will be.
    """

    def __init__(self, location: Location) -> None:
        """Touch nothing: the first write does."""
        self.location = location
        self._lock = threading.Lock()
        self._is_open = True
        self._is_complete = False
        self._process = os.getpid()
        self._attributes: tuple[int | None, int | None] = (None, None)

    @property
    def name(self) -> str:
        """What errors call this file."""
        return self.location.display

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`.

        Raises:
            StorageError: the storage refused or failed.
        """
        with self._lock:
            self._check_growing()
            self._append(memoryview(data))

    def complete(self) -> None:
        """Say that nothing follows: until it is published, the file then takes as little as its storage lets.

        Raises:
            StorageError: the storage refused or failed.
        """
        with self._lock:
            self._check_open()
            self._make_complete()
            self._park()

    def _make_complete(self) -> None:
        if not self._is_complete:
            self._complete()
            self._is_complete = True

    def restore_attributes(self, *, mode: int | None, mtime_ns: int | None) -> None:
        """Set what the file will have when it appears; storages that keep no such thing ignore it.

        As tar does for users other than root, permissions are those of `mode` less the umask; the setuid, setgid
        and sticky bits are never set. Where the file system refuses, that is logged, and the file appears without.
        Called before the first write, the file is private to this user until then.

        Args:
            mode: permission bits, or None for those of any new file.
            mtime_ns: time of the last change, in nanoseconds since 1970, or None for now.
        """
        self._attributes = (mode, mtime_ns)

    def publish(self, *, just_before: Callable[[], None] | None = None) -> None:
        """Make the file appear under its name, whole and durable.

        Args:
            just_before: called when all that takes long is done, as far as the storage lets it be done before the file
                appears. What it raises passes through, and nothing appears.

        Raises:
            SinkNotEmptyError: something else appeared there first.
            StorageError: the storage refused or failed; nothing was published.
            ConflictError: it is unknown whether the file was published.
        """
        with self._lock:
            self._check_open()
            self._make_complete()
            if just_before is not None:
                just_before()
            self._publish()
            self._is_open = False

    def discard(self) -> None:
        """Remove all that was written and not published. Safe to call twice, and after publishing."""
        if os.getpid() != self._process:
            return  # a forked child's copy: the file is its parent's
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._discard()

    def _check_growing(self) -> None:
        self._check_open()
        if self._is_complete:
            raise RuntimeError("nothing may follow what was said to be complete")

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("this publication is over")

    @abstractmethod
    def _append(self, data: memoryview) -> None: ...

    def _complete(self) -> None:  # noqa: B027 - most storages have nothing to do
        """Do what can be done before the file appears."""

    def _park(self) -> None:  # noqa: B027 - likewise
        """Give back memory: the file is complete, and is published later."""

    @abstractmethod
    def _publish(self) -> None: ...

    @abstractmethod
    def _discard(self) -> None:
        """Raise nothing: another error is on its way."""

    def __enter__(self) -> Self:
        """Return the publication."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not published."""
        self.discard()


def write_fully(descriptor: int, data: memoryview) -> None:
    """Write all of `data`: one call takes at most 2 GiB, and less on a disk that fills up."""
    octets, written = data.cast("B"), 0
    while written < len(octets):
        written += os.write(descriptor, octets[written:])


def new_token() -> str:
    """Return a random token for temporary names."""
    return secrets.token_hex(_TOKEN_BYTES)


def _temporary_prefix(name: str, token: str) -> str:
    """Return how all temporary names of the file `name` and the run `token` begin; hidden from dataset readers."""
    # 2 x 8 digits, a dash, the mark, the suffix and the first dot come on top of the name.
    room = NAME_BYTES - len(_MARK) - len(_SUFFIX) - len(token) - 2 * _TOKEN_BYTES - 2
    shortened = name.encode(errors="surrogateescape")[:room].decode(errors="ignore")
    return f".{shortened}{_MARK}{token}-"


def temporary_name(name: str, token: str) -> str:
    """Return a fresh temporary name for the file `name` in the same directory."""
    return _temporary_prefix(name, token) + new_token() + _SUFFIX


def is_temporary(name: str) -> bool:
    """Return whether a regular file of this name is what a run that was killed leaves behind; nothing else ever is."""
    return _TEMPORARY.fullmatch(name) is not None


# ---- on a file system of the operating system ----


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
            # A file that will be private must not be readable by others while it is written.
            return directory.create(self._temporary, _MODE if self._attributes[0] is None else _PRIVATE_MODE)
        except OSError:
            self._is_created = False  # there is nothing to remove
            raise

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
    prefix = _temporary_prefix(location.name, token)
    with (
        map_errors(f"cannot look for temporary files beside {location.display}"),
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
    ):
        directory, _ = hold_parent(location)
        with directory:
            for name in directory.names():
                found = _TEMPORARY.fullmatch(name)
                is_of_run = found is not None and found["token"] == token
                if is_of_run if of_any_name else name.startswith(prefix):
                    _remove_leftover(directory, name)


def _remove_leftover(directory: HeldDirectory, name: str) -> None:
    try:
        directory.remove(name)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("cannot remove the temporary file %s/%s: %s", directory.place, name, error.strerror)
