"""A directory that is held open, and what is done to names in it, without following a link. Ways to it: beneath.

What holds a directory holds that directory: a link put in its place afterwards changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import stat
import sys
import threading
from types import TracebackType
from typing import Final, Self

from pipecrypt.errors import LinkError, NoRegularFileError

__all__ = ["HeldDirectory", "apply_attributes", "open_regular"]

_log = logging.getLogger(__name__)
# Enough to go through a directory, also where its names may not be read.
_THROUGH: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW: Final = _THROUGH | os.O_NOFOLLOW
_READABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a named pipe in the place of a file would hang here until somebody writes.
_OPEN: Final = os.O_NONBLOCK | os.O_CLOEXEC
_IS_LINK: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EMLINK})  # what systems answer to O_NOFOLLOW
_NO_SYNC: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
_RENAME_NOREPLACE: Final = 1
_PERMISSION_BITS: Final = 0o777
_STRICT_UMASK: Final = 0o077
_STATUS: Final = "/proc/self/status"
_lock = threading.Lock()


class HeldDirectory:
    """A directory that is open. Each method takes a name in it, and follows no link there.

    Args:
        descriptor: of the directory; it is closed with this.
        place: what errors call it.
    """

    __slots__ = ("_descriptor", "place")

    def __init__(self, descriptor: int, place: str) -> None:
        """Take the descriptor over."""
        self._descriptor = descriptor
        self.place = place

    @classmethod
    def named(cls, path: str) -> Self:
        """Open a directory that the caller named, which may be a link.

        Raises:
            OSError: it is not there, or not a directory.
        """
        return cls(os.open(path, _THROUGH), path)

    @classmethod
    def beneath(cls, path: str, names: tuple[str, ...]) -> Self:
        """Open a directory below one that the caller named, which may be a link; none of these names may.

        Raises:
            LinkError: one is a link.
            OSError: one is not there, or not a directory.
        """
        held = cls.named(path)
        for name in names:
            above = held._descriptor
            try:
                held._descriptor = os.open(name, _BELOW, dir_fd=above)
            except OSError as error:
                with held:
                    held._refuse_link(name, error)
                    raise
            os.close(above)
            held.place = f"{held.place}/{name}"
        return held

    def status(self, name: str) -> os.stat_result:
        """Return what the system says about a file, or about a link itself."""
        return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)

    def check_no_link(self, name: str) -> None:
        """Pass if a name is free, or of anything but a link.

        Raises:
            LinkError: it is a link.
        """
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(self.status(name).st_mode):
                raise self._is_link(name)

    def open_file(self, name: str, flags: int) -> int:
        """Open a regular file, as `os.open`.

        Raises:
            LinkError: it is a link.
            NoRegularFileError: it is a directory, a named pipe, a socket or a device.
            OSError: it is not there, or the system refused.
        """
        place = self._path(name)
        try:
            return open_regular(name, flags | os.O_NOFOLLOW, place=place, directory=self._descriptor)
        except OSError as error:
            self._refuse_link(name, error)
            raise

    def create(self, name: str, mode: int) -> int:
        """Create a file and open it for writing; nothing may have the name, no link either."""
        return os.open(name, _CREATE, mode, dir_fd=self._descriptor)

    def make(self, name: str) -> None:
        """Make a directory."""
        os.mkdir(name, dir_fd=self._descriptor)

    def link(self, old: str, new: str) -> None:
        """Give a file a second name, which nothing has yet."""
        os.link(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor, follow_symlinks=False)

    def move(self, old: str, new: str, to: HeldDirectory | None = None) -> None:
        """Give a file another name, here or in another directory, in place of what has that name there."""
        os.rename(old, new, src_dir_fd=self._descriptor, dst_dir_fd=(to or self)._descriptor)

    def rename_without_replacing(self, old: str, new: str) -> bool:
        """Give a file a name that nothing has yet, in one step; say whether this system can.

        Raises:
            FileExistsError: something has the name.
        """
        # Python has no name for it. File systems without hard links need it, such as exFAT.
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
        if renameat2 is None:
            return False
        here = self._descriptor
        if renameat2(here, os.fsencode(old), here, os.fsencode(new), _RENAME_NOREPLACE) == 0:
            return True
        if ctypes.get_errno() == errno.EEXIST:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path(new))
        return False

    def remove(self, name: str) -> None:
        """Remove a file, or a link itself."""
        os.unlink(name, dir_fd=self._descriptor)

    def remove_directory(self, name: str) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=self._descriptor)

    def readable(self) -> int:
        """Return a descriptor of this directory for listing, locking or syncing; the caller closes it."""
        return os.open(".", _READABLE, dir_fd=self._descriptor)

    def entries(self) -> list[tuple[str, os.stat_result]]:
        """Return what is in it by name, links as such; not what goes away meanwhile."""
        descriptor = self.readable()
        try:
            found = []
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
        finally:
            os.close(descriptor)
        return sorted(found, key=lambda each: each[0])

    def names(self) -> list[str]:
        """Return the names in it."""
        descriptor = self.readable()
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Make names durable, where the file system can and they may be listed."""
        try:
            descriptor = self.readable()
        except PermissionError:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let it go. Safe to call twice; nothing was written through it that closing could fail to keep."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        """Return the directory."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go."""
        self.close()

    def _refuse_link(self, name: str, error: OSError) -> None:
        if error.errno in _IS_LINK:
            self.check_no_link(name)

    def _is_link(self, name: str) -> LinkError:
        return LinkError(f"{self._path(name)} is a symbolic link")

    def _path(self, name: str) -> str:
        return os.path.join(self.place, name)


def open_regular(path: str, flags: int, *, place: str, directory: int | None = None) -> int:
    """Open a regular file, as `os.open`, without waiting for anybody.

    Args:
        path: of the file, or its name in `directory`.
        flags: of `os.open`.
        place: what errors call the file.
        directory: a descriptor.

    Raises:
        NoRegularFileError: it is a directory, a named pipe, a socket or a device.
        OSError: it is not there, or the system refused.
    """
    descriptor = os.open(path, flags | _OPEN, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NoRegularFileError(f"{place} is not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def apply_attributes(descriptor: int, mode: int | None, mtime_ns: int | None, *, what: str) -> None:
    """Set permissions and time of an open file, as far as its file system lets.

    As tar does for users other than root: permissions less the umask, and never the setuid, setgid and sticky bits,
    because whoever wrote the encrypted file chose them.

    Args:
        descriptor: the file, open for writing.
        mode: permission bits; None leaves them.
        mtime_ns: time of the last change, in nanoseconds since 1970; None leaves it.
        what: what the log calls the file.
    """
    try:
        if mode is not None:
            os.fchmod(descriptor, mode & _PERMISSION_BITS & ~_umask())
        if mtime_ns is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    except (OSError, OverflowError) as error:
        _log.warning("cannot restore permissions or time of %s: %s", what, error)


def _umask() -> int:
    # The system tells the umask only to who sets it, which other threads would notice. Linux has another way.
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as file:
            found = re.search(r"^Umask:\s*([0-7]+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1], 8)
    with _lock:
        umask = os.umask(_STRICT_UMASK)
        os.umask(umask)
    return umask
