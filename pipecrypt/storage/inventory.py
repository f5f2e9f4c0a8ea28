"""Name everything below a directory, whatever it is called. Which of it should be there is left to the callers.

Listing a source refuses names that cannot be mirrored and leaves out hidden ones. Here nothing is left out and no name
stops the walk: whoever put a strange file there would else choose what is seen. Links are followed, not in circles.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypeAlias

from pipecrypt.storage.filesystem import RemoteFilesystem, fingerprint_of, look_up, open_filesystem, size_of
from pipecrypt.storage.listing import SourceFile, local_fingerprint
from pipecrypt.storage.location import Location
from pipecrypt.storage.problems import map_errors

__all__ = ["Admits", "Found", "Kind", "look_at", "pin", "take_inventory"]

# A path below the directory, with `/`, and the file; None for what is neither a file nor a directory, and for a link
# that leads to a directory above itself.
Found: TypeAlias = "tuple[str, SourceFile | None]"
# Says of the names that lead to a directory whether the walk goes into it.
Admits: TypeAlias = Callable[[tuple[str, ...]], bool]
# Stores name the time of an object's last change differently: S3, Azure, GCS, and what keeps files in memory.
_TIME_FIELDS: Final = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_NANOSECONDS: Final = 1_000_000_000
_Identity: TypeAlias = tuple[int, int]  # device and inode


class Kind(Enum):
    """What is at a place."""

    FILE = "file"
    DIRECTORY = "directory"
    NOTHING = "nothing"


def look_at(location: Location) -> Kind:
    """Return what is at a place; what is neither file nor directory counts as a file.

    Raises:
        StorageError: the storage refused or failed.
    """
    with map_errors(f"cannot read {location.display}"):
        if location.is_local:
            path = location.local_path
            if os.path.isdir(path):
                return Kind.DIRECTORY
            return Kind.FILE if os.path.lexists(path) else Kind.NOTHING
        info = look_up(open_filesystem(location))
        if info is None:
            return Kind.NOTHING
        return Kind.DIRECTORY if info.get("type") == "directory" else Kind.FILE


def pin(location: Location, relative_path: str) -> Found | None:
    """Return one file as the inventory would, or None if nothing or a directory is there.

    Raises:
        StorageError: the storage refused or failed.
    """
    with map_errors(f"cannot read {location.display}"):
        if location.is_local:
            try:
                status = os.stat(location.local_path)
            except (FileNotFoundError, NotADirectoryError):
                return (relative_path, None) if os.path.islink(location.local_path) else None
            return None if stat.S_ISDIR(status.st_mode) else (relative_path, _local(location, relative_path, status))
        info = look_up(open_filesystem(location))
        if info is None or info.get("type") == "directory":
            return None
        return relative_path, _remote(location, relative_path, info)


def take_inventory(directory: Location, admits: Admits) -> Iterator[Found]:
    """Yield everything below a directory that is no directory itself, and links that lead in a circle, each once.

    Local directories are read one at a time, in no order between them; other storages answer with one list.

    Args:
        directory: where to begin; nothing is yielded if it does not exist.
        admits: which directories below it are looked into; asked where that saves reading them.

    Raises:
        StorageError: the storage refused or failed: what was yielded until then is not all.
    """
    with map_errors(f"cannot list {directory.display}"):
        yield from _walk_local(directory, admits) if directory.is_local else _find_remote(directory)


# ---- local ----


def _walk_local(directory: Location, admits: Admits) -> Iterator[Found]:
    base = directory.local_path
    try:
        first = _identity(os.stat(base))
    except (FileNotFoundError, NotADirectoryError):
        return
    # Each directory with its names below the first one and the identities of its ancestors, to see circles.
    pending: list[tuple[tuple[str, ...], tuple[_Identity, ...]]] = [((), (first,))] if os.path.isdir(base) else []
    while pending:
        names, ancestors = pending.pop()
        with os.scandir(os.path.join(base, *names)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                below = (*names, entry.name)
                try:
                    status = _follow(entry)
                except FileNotFoundError:  # gone since, as what a running writer publishes
                    continue
                if status is None or not stat.S_ISDIR(status.st_mode):
                    path = "/".join(below)
                    yield path, None if status is None else _local(directory.child(path), path, status)
                elif _identity(status) in ancestors:
                    # A link back up: others who follow it read every file above once more.
                    yield "/".join(below), None
                elif admits(below):
                    pending.append((below, (*ancestors, _identity(status))))


def _follow(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what a link leads to, or None where it leads nowhere."""
    try:
        return entry.stat()
    except OSError:
        if entry.is_symlink():  # broken, or a circle of links
            return None
        raise


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _local(location: Location, relative_path: str, status: os.stat_result) -> SourceFile | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    return SourceFile(location, relative_path, status.st_size, local_fingerprint(status), mtime_ns=status.st_mtime_ns)


# ---- any other storage ----


def _find_remote(directory: Location) -> Iterator[Found]:
    remote = open_filesystem(directory)
    try:
        found = remote.retry.call(lambda: remote.fs.find(remote.path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return
    for path, info in found.items():
        relative_path = _below(remote, path)
        # An empty object whose name ends so stands for a directory.
        is_marker = relative_path.endswith("/") and not info.get("size")
        if info.get("type", "file") != "directory" and relative_path and not is_marker:
            yield relative_path, _remote(directory.child(relative_path), relative_path, info)


def _below(remote: RemoteFilesystem, path: str) -> str:
    base = remote.path.rstrip("/") + "/"
    return path[len(base) :] if path.startswith(base) else path.lstrip("/")


def _remote(location: Location, relative_path: str, info: dict[str, Any]) -> SourceFile:
    size = size_of(info, location.display)
    return SourceFile(location, relative_path, size, fingerprint_of(info), mtime_ns=_modified_ns(info))


def _modified_ns(info: dict[str, Any]) -> int | None:
    for name in _TIME_FIELDS:
        moment = info.get(name)
        if isinstance(moment, str):
            with contextlib.suppress(ValueError):
                moment = datetime.fromisoformat(moment)
        if isinstance(moment, datetime):
            moment = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        if isinstance(moment, int | float):
            return int(moment) * _NANOSECONDS
    return None
