"""Name everything below a directory, whatever it is called. Which of it should be there is left to the callers.

Listing a source refuses names that cannot be mirrored and leaves out hidden ones. Here nothing is left out and no name
stops the walk: whoever put a strange file there would else choose what is seen. A link is named where it is, and never
followed: only what the caller named may be one.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from os import stat_result
from typing import Any, Final, TypeAlias

from pipecrypt.errors import LinkError
from pipecrypt.storage.beneath import own_status, status, walk
from pipecrypt.storage.filesystem import RemoteFilesystem, fingerprint_of, look_up, open_filesystem, size_of
from pipecrypt.storage.listing import SourceFile, local_fingerprint
from pipecrypt.storage.location import Location
from pipecrypt.storage.problems import map_errors

__all__ = ["Admits", "Found", "Kind", "look_at", "pin", "take_inventory"]

# A path below the directory, with `/`, and the file; None for a link, and for what else is no regular file. Which of
# these it is, `look_at` tells.
Found: TypeAlias = "tuple[str, SourceFile | None]"
# Says of the names that lead to a directory whether the walk goes into it.
Admits: TypeAlias = Callable[[tuple[str, ...]], bool]
# Stores name the time of an object's last change differently: S3, Azure, GCS, and what keeps files in memory.
_TIME_FIELDS: Final = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_NANOSECONDS: Final = 1_000_000_000


class Kind(Enum):
    """What is at a place."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"  # a symbolic link, or what such a link would lead to, where the caller did not name it
    NOTHING = "nothing"


def look_at(location: Location) -> Kind:
    """Return what is at a place; what is neither link, file nor directory counts as a file.

    A link that the caller named counts as what it leads to, and as a file where it leads nowhere.

    Raises:
        StorageError: the storage refused or failed.
    """
    with map_errors(f"cannot read {location.display}"):
        if location.is_local:
            return _look_at_local(location)
        info = look_up(open_filesystem(location))
        if info is None:
            return Kind.NOTHING
        return Kind.DIRECTORY if info.get("type") == "directory" else Kind.FILE


def _look_at_local(location: Location) -> Kind:
    try:
        mode = own_status(location).st_mode
    except LinkError:  # on the way
        return Kind.LINK
    except (FileNotFoundError, NotADirectoryError):
        return Kind.NOTHING
    if stat.S_ISLNK(mode):
        if location.depth:
            return Kind.LINK
        with contextlib.suppress(OSError):
            mode = status(location).st_mode
    return Kind.DIRECTORY if stat.S_ISDIR(mode) else Kind.FILE


def pin(location: Location, relative_path: str) -> Found | None:
    """Return one file as the inventory would, or None if nothing or a directory is there.

    Raises:
        LinkError: a link that the caller did not name leads there.
        StorageError: the storage refused or failed.
    """
    with map_errors(f"cannot read {location.display}"):
        if location.is_local:
            return _pin_local(location, relative_path)
        info = look_up(open_filesystem(location))
        if info is None or info.get("type") == "directory":
            return None
        return relative_path, _remote(location, relative_path, info)


def _pin_local(location: Location, relative_path: str) -> Found | None:
    try:
        found = own_status(location)
        if stat.S_ISLNK(found.st_mode) and location.depth == 0:
            found = status(location)
    except (FileNotFoundError, NotADirectoryError):
        return (relative_path, None) if _look_at_local(location) is Kind.FILE else None  # a link that leads nowhere
    return None if stat.S_ISDIR(found.st_mode) else (relative_path, _local(location, relative_path, found))


def take_inventory(directory: Location, admits: Admits) -> Iterator[Found]:
    """Yield everything below a directory that is not a directory itself, each once, and follow no link.

    Local directories are read one at a time, in no order between them; other storages answer with one list.

    Args:
        directory: where to begin; nothing is yielded if it does not exist.
        admits: which directories below it are looked into; asked where that saves reading them.

    Raises:
        LinkError: where to begin is a link that the caller did not name, or lies behind one.
        StorageError: the storage refused or failed: what was yielded until then is not all.
    """
    with map_errors(f"cannot list {directory.display}"):
        yield from _walk_local(directory, admits) if directory.is_local else _find_remote(directory)


# ---- local ----


def _walk_local(directory: Location, admits: Admits) -> Iterator[Found]:
    for names, found in walk(directory, admits):
        path = "/".join(names)
        yield path, _local(directory.child(path), path, found)


def _local(location: Location, relative_path: str, found: stat_result) -> SourceFile | None:
    if not stat.S_ISREG(found.st_mode):
        return None
    return SourceFile(location, relative_path, found.st_size, local_fingerprint(found), mtime_ns=found.st_mtime_ns)


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
            yield relative_path, _remote(directory.listed(relative_path), relative_path, info)


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
