"""Name everything below a directory, whatever it is called. Which of it should be there is left to the callers.

Listing a source refuses names that cannot be mirrored and leaves out hidden ones. Here nothing is left out and no name
stops the walk: whoever put a strange file there would else choose what is seen. A link is named where it is, and never
followed: only what the caller named may be one.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import Enum
from os import stat_result
from typing import Any, Final, TypeAlias

from pipecrypt.errors import IntegrityError, LinkError, NoRegularFileError
from pipecrypt.store.beneath import own_status, status, walk
from pipecrypt.store.filesystem import RemoteFilesystem, fingerprint_of, look_up, open_filesystem, size_of
from pipecrypt.store.listing import Pattern, SourceFile, list_sources, local_fingerprint
from pipecrypt.store.location import Location
from pipecrypt.store.problems import map_errors
from pipecrypt.store.publication import is_temporary

__all__ = [
    "Admits",
    "Found",
    "Kind",
    "list_in_place",
    "look_at",
    "pin",
    "pin_regular",
    "refuse_links",
    "take_inventory",
]

# A path below the directory, with `/`, and the file; None for a link, for whatever else is not a regular file, and for
# what a server lists by a name that leads elsewhere. Which of these it is, `look_at` and `Location.child` tell.
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


def pin_regular(location: Location, relative_path: str) -> SourceFile | None:
    """Return one file, or None if nothing or a directory is there.

    Raises:
        LinkError: it is a link, or lies behind one, that the caller did not name.
        NoRegularFileError: it is something else that is not a regular file.
        StorageError: the storage refused or failed.
    """
    found = pin(location, relative_path)
    return None if found is None else _regular(location, found)


def list_in_place(location: Location, below: Pattern) -> tuple[SourceFile, ...]:
    """Return the files that a location names, to change or to share them where they are.

    They are those of `list_sources`, but no link below the location is followed.

    Raises:
        LinkError: a link is where such a file, or a directory of such files, could be.
        PipecryptError: as `list_sources`.
    """
    if not location.is_local or look_at(location) is not Kind.DIRECTORY:
        return list_sources(location, below)
    found = []
    for path, file in take_inventory(location, below.admits_directory):
        names = tuple(path.split("/"))
        if below.matches(names) and not is_temporary(names[-1]):
            found.append(_regular(location.child(path), (path, file)))
        elif file is None and below.admits_directory(names):
            _refuse_link(location.child(path))
    return tuple(sorted(found, key=lambda file: file.relative_path)) or list_sources(location, below)


def refuse_links(directory: Location, found: Iterable[Found]) -> Iterator[Found]:
    """Yield what an inventory of a directory finds, as far as it is not a link.

    Raises:
        LinkError: it is.
    """
    for path, file in found:
        if file is None and directory.is_local:
            _refuse_link(directory.child(path))
        yield path, file


def _regular(location: Location, found: Found) -> SourceFile:
    if found[1] is None:
        _refuse_link(location)
        raise NoRegularFileError(f"{location.display} is not a regular file")
    return found[1]


def _refuse_link(location: Location) -> None:
    if look_at(location) is Kind.LINK:
        raise LinkError(f"{location.display} is a symbolic link")


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
            yield relative_path, _found_below(directory, relative_path, info)


def _found_below(directory: Location, relative_path: str, info: dict[str, Any]) -> SourceFile | None:
    try:
        location = directory.child(relative_path)
    except IntegrityError:  # whoever removes or moves what is found must not do so elsewhere
        return None
    return _remote(location, relative_path, info)


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
