"""Reach local files below a place that the caller named, without following a link.

Whoever can write to a sink can put a symbolic link in the place of any file or directory in it, at any moment. So
nothing below a sink is opened by its whole path. The directory that was named is opened as it is, link or not; each
part behind it is opened from the directory before, and refused where it is a link. What holds a directory holds that
directory: a link put in its place afterwards changes nothing. All code of this room that makes, changes, moves, removes
or lists local files comes here (`tests/test_architecture.py`).

    location         "/data/sink/_pipecrypt/runs/r/staged/a.parquet", depth 5
    as it is         "/data/sink"
    part by part                "_pipecrypt", "runs", "r", "staged", and "a.parquet", which is never followed

A hard link cannot be told from a file's first name. To remove or to replace one touches that name only; what is written
into a file shows under all of its names, so who changes a file in place looks first how many there are.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, TypeAlias

from pipecrypt.errors import IntegrityError, LinkError, NoRegularFileError
from pipecrypt.store.location import Location

__all__ = [
    "HeldDirectory",
    "Names",
    "apply_attributes",
    "hold_directory",
    "hold_parent",
    "make_directories_above",
    "move",
    "open_regular",
    "open_to_change",
    "open_to_read",
    "own_status",
    "remove",
    "remove_directory",
    "remove_empty",
    "status",
    "sync_directory",
    "walk",
]

# The names that lead from a directory to something below it.
Names: TypeAlias = tuple[str, ...]
_NO_NAMES: Final = frozenset({"", ".", ".."})
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


# ---- a directory that is held open ----


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


# ---- ways to it ----


def hold_directory(location: Location) -> HeldDirectory:
    """Open a local directory.

    Raises:
        LinkError: it, or a directory above it that the caller did not name, is a link.
        OSError: it is not there, or not a directory.
    """
    base, names = _way(location)
    return HeldDirectory.beneath(base, names)


def hold_parent(location: Location) -> tuple[HeldDirectory, str]:
    """Open the directory of a local place; return it, and the name that the place has there.

    Raises:
        LinkError: the directory, or one above it that the caller did not name, is a link.
        OSError: it is not there, or not a directory.
    """
    base, names = _way(location)
    if names:
        return HeldDirectory.beneath(base, names[:-1]), names[-1]
    head, name = os.path.split(base.rstrip("/"))
    if name in _NO_NAMES:
        head, name = base, "."
    return HeldDirectory.named(head or "."), name


def _way(location: Location) -> tuple[str, Names]:
    """Split the path of a location into what the caller named and the names behind it."""
    path = location.local_path
    if not location.depth:
        return path, ()
    base, *names = path.rstrip("/").rsplit("/", location.depth)
    if len(names) < location.depth:  # a relative path, all of which was found
        base, names = ".", [base, *names]
    if len(names) != location.depth or not _NO_NAMES.isdisjoint(names):
        raise IntegrityError(f"{location.display} leads out of its directory")
    return base or "/", tuple(names)


# ---- looking and opening ----


def status(location: Location) -> os.stat_result:
    """Return what the system says about a file or directory; where the caller named it, of what a link leads to.

    Raises:
        LinkError: it, or what leads to it, is a link that the caller did not name.
        OSError: it is not there, or the system refused.
    """
    if location.depth == 0:
        return os.stat(location.local_path)
    directory, name = hold_parent(location)
    with directory:
        directory.check_no_link(name)
        return directory.status(name)


def own_status(location: Location) -> os.stat_result:
    """Return what the system says about what is at a place, of a link itself; otherwise as `status`."""
    directory, name = hold_parent(location)
    with directory:
        return directory.status(name)


def open_to_read(location: Location) -> int:
    """Open a regular file for reading, without waiting for anybody; as `status`.

    Raises:
        NoRegularFileError: it is a directory, a named pipe, a socket or a device.
    """
    return _open(location, os.O_RDONLY)


def open_to_change(location: Location) -> int:
    """Open a regular file to change it in place; otherwise as `open_to_read`.

    The caller looks at `st_nlink` first: what changes is changed under every name of the file, also outside of a sink.
    """
    return _open(location, os.O_RDWR)


def _open(location: Location, flags: int) -> int:
    if location.depth == 0:
        return open_regular(location.local_path, flags, place=location.display)
    directory, name = hold_parent(location)
    with directory:
        return directory.open_file(name, flags)


def walk(location: Location, admits: Callable[[Names], bool]) -> Iterator[tuple[Names, os.stat_result]]:
    """Yield everything below a directory that is not a directory itself, links as such and not followed.

    Args:
        location: where to begin; nothing is yielded where no directory is.
        admits: which directories below it are looked into.

    Raises:
        LinkError: it, or what leads to it, is a link that the caller did not name.
        OSError: the system refused.
    """
    base, above = _way(location)
    pending: list[Names] = [()]
    while pending:
        names = pending.pop()
        try:
            with HeldDirectory.beneath(base, (*above, *names)) as held:
                entries = held.entries()
        except (FileNotFoundError, NotADirectoryError):  # never there, or gone since
            continue
        for name, found in entries:
            below = (*names, name)
            if not stat.S_ISDIR(found.st_mode):
                yield below, found
            elif admits(below):
                pending.append(below)


# ---- making, moving and removing ----


def make_directories_above(location: Location) -> list[Location]:
    """Make the directory of a local place and those above it; return those that were not there, the uppermost first.

    Raises:
        LinkError: one of them is a link that the caller did not name.
        OSError: the system refused.
    """
    missing: list[Location] = []
    directory = location.above
    while not _is_there(directory):
        missing.append(directory)
        directory = directory.above
    made = []
    for each in reversed(missing):
        # Another process makes the same ones, or removes one that it made a moment ago.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            parent, name = hold_parent(each)
            with parent:
                parent.make(name)
            made.append(each)
    return made


def _is_there(directory: Location) -> bool:
    try:
        hold_directory(directory).close()
    except FileNotFoundError:
        if directory.above == directory:  # a working directory that was removed
            raise
        return False
    return True


def move(old: Location, new: Location) -> None:
    """Give a file another name in one step, in place of the file that has it, durably; directories above are made.

    Raises:
        LinkError: a link is where one of the two, or what leads to it, should be.
        NoRegularFileError: no file has the old name.
        OSError: it is not there, they are on different file systems, or the system refused.
    """
    source, old_name = hold_parent(old)
    with source:
        try:
            target, new_name = hold_parent(new)
        except FileNotFoundError:
            make_directories_above(new)
            target, new_name = hold_parent(new)
        with target:
            source.check_no_link(old_name)
            target.check_no_link(new_name)
            if not stat.S_ISREG(source.status(old_name).st_mode):
                raise NoRegularFileError(f"{old.display} is not a regular file")
            source.move(old_name, new_name, to=target)
            with contextlib.suppress(OSError):  # it is moved; whether that survives a power failure is unknown
                target.sync()
                source.sync()


def remove(location: Location) -> None:
    """Remove a file.

    Raises:
        LinkError: it, or what leads to it, is a link that the caller did not name.
        OSError: it is not there, or the system refused.
    """
    directory, name = hold_parent(location)
    with directory:
        if location.depth:
            directory.check_no_link(name)
        directory.remove(name)


def remove_directory(location: Location) -> None:
    """Remove an empty directory; otherwise as `remove`."""
    directory, name = hold_parent(location)
    with directory:
        directory.remove_directory(name)


def remove_empty(location: Location) -> None:
    """Remove a directory and those below it, as far as they hold nothing else.

    Raises:
        LinkError: it, or what leads to it, is a link that the caller did not name.
    """
    base, above = _way(location)
    with contextlib.suppress(OSError):
        HeldDirectory.beneath(base, above).close()  # refuses a link before anything below is looked at
        found: list[Names] = []

        def note(names: Names) -> bool:
            found.append(names)
            return True

        collections.deque(walk(location, note), maxlen=0)
        for names in sorted(found, key=len, reverse=True):
            with contextlib.suppress(OSError), HeldDirectory.beneath(base, (*above, *names[:-1])) as held:
                held.remove_directory(names[-1])
        remove_directory(location)


def sync_directory(location: Location) -> None:
    """Make the names in a directory durable, where the file system can and they may be listed."""
    with hold_directory(location) as held:
        held.sync()
