"""Reach local files below a place that the caller named, without following a link. What for is left to the callers.

Whoever can write to a sink can put a symbolic link in the place of any file or directory in it, at any moment. So
nothing below a sink is opened by its whole path. The directory that was named is opened as it is, link or not; each
part behind it is opened from the directory before, and refused where it is a link. All code of this room that makes,
changes, moves, removes or lists local files comes here (`tests/test_architecture.py`).

    location         "/data/sink/_pipecrypt/runs/r/staged/a.parquet", depth 5
    as it is         "/data/sink"
    part by part                "_pipecrypt", "runs", "r", "staged", and "a.parquet", which is never followed

A hard link cannot be told from a file's first name. To remove or to replace one touches that name only; what is written
into a file shows under all of its names, so who changes a file in place looks first how many there are.
"""

from __future__ import annotations

import collections
import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from pipecrypt.errors import IntegrityError, NoRegularFileError
from pipecrypt.store.held_directory import HeldDirectory, open_regular
from pipecrypt.store.location import Location

__all__ = [
    "Names",
    "hold_directory",
    "hold_parent",
    "make_directories_above",
    "move",
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
