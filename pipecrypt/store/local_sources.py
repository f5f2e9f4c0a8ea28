"""List local source files, where links are the user's own: they are followed, but not in circles.

An exact name comes before a glob, so that a file called `a*b.parquet` can be named.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from pipecrypt.errors import NoRegularFileError, SourceNotFoundError
from pipecrypt.store.location import Location, Pattern, has_glob, split_glob
from pipecrypt.store.problems import map_errors
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.publication import is_temporary

__all__ = ["find_local_sources", "local_fingerprint"]

_PERMISSION_BITS = 0o777


def local_fingerprint(status: os.stat_result) -> str:
    """Return a text that changes when a local file is written to or replaced."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def find_local_sources(location: Location, below: Pattern) -> Iterator[SourceFile]:
    """Yield the files that a local location names; see `Store.find_sources`."""
    path = location.local_path
    with map_errors(f"cannot read {location.display}"):
        if os.path.isdir(path):
            yield from _walk_local(location, below)
        elif os.path.lexists(path):
            yield _local_file(location, location.name)
        elif has_glob(path):
            directory, pattern = split_glob(location)
            yield from _walk_local(directory, pattern)
        else:
            raise SourceNotFoundError(f"{location.display} does not exist")


def _local_file(location: Location, relative_path: str) -> SourceFile:
    try:
        status = os.stat(location.local_path)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{location.display} does not exist, or is a broken link") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SourceNotFoundError(f"{location.display} is a link that leads to itself") from error
    if not stat.S_ISREG(status.st_mode):
        raise NoRegularFileError(f"{location.display} is not a regular file")
    mode = stat.S_IMODE(status.st_mode) & _PERMISSION_BITS
    return SourceFile(
        location, relative_path, status.st_size, local_fingerprint(status), mode=mode, mtime_ns=status.st_mtime_ns
    )


def _walk_local(directory: Location, pattern: Pattern) -> Iterator[SourceFile]:
    # Below a directory that does not exist, a glob matches nothing.
    if not os.path.isdir(directory.local_path):
        return
    status = os.stat(directory.local_path)
    # Each directory with its names below the first one and the devices and inodes of its ancestors, to see circles.
    pending: list[tuple[tuple[str, ...], tuple[tuple[int, int], ...]]] = [((), ((status.st_dev, status.st_ino),))]
    while pending:
        names, ancestors = pending.pop()
        path = os.path.join(directory.local_path, *names)
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                below = (*names, entry.name)
                if _is_directory(entry):
                    status = os.stat(entry.path)
                    identity = status.st_dev, status.st_ino
                    if identity not in ancestors and pattern.admits_directory(below):
                        pending.append((below, (*ancestors, identity)))
                elif pattern.matches(below) and not is_temporary(entry.name):
                    yield _local_file(directory.listed("/".join(below)), "/".join(below))


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself is not a file either, and is named where it counts
            raise
        return False
