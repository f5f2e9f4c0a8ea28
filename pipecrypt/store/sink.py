"""Open a new file for publishing, and look at what a sink holds. What is written is left to the callers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from pipecrypt.store.beneath import own_status, status, walk
from pipecrypt.store.filesystem import look_up, open_filesystem
from pipecrypt.store.fsspec_publication import RemotePublication
from pipecrypt.store.local_publication import LocalPublication, remove_local_leftovers, remove_run_leftovers
from pipecrypt.store.location import Location
from pipecrypt.store.problems import map_errors
from pipecrypt.store.publication import Publication, is_temporary, new_token
from pipecrypt.store.s3 import S3Publication
from pipecrypt.store.streams import StandardOutput

__all__ = [
    "Publication",
    "exists",
    "is_directory",
    "is_link",
    "new_token",
    "open_sink",
    "remove_leftovers",
    "remove_leftovers_in",
    "sink_is_empty",
]


def open_sink(
    location: Location, *, overwrite: bool, token: str | None = None, expected_bytes: int | None = None
) -> Publication:
    """Open a new file at `location`; nothing is made before the first write, nothing appears before `publish`.

    Args:
        location: the file.
        overwrite: whether it may replace a file.
        token: the run's, for `remove_leftovers`.
        expected_bytes: about how large the file will be, where that is known.

    Raises:
        SinkNotEmptyError: the file exists, and may not be replaced.
        StorageError: the storage refused or failed.
    """
    if location.is_standard_stream:
        return StandardOutput(location)
    token = token or new_token()
    if location.is_local:
        return LocalPublication(location, overwrite=overwrite, token=token)
    remote = open_filesystem(location)
    if remote.is_s3:
        return S3Publication(location, remote, overwrite=overwrite, expected_bytes=expected_bytes)
    return RemotePublication(location, remote, overwrite=overwrite, token=token)


def remove_leftovers(location: Location, token: str) -> None:
    """Remove the temporary files that a dead worker of the run `token` left beside `location`.

    Object stores and other remote storages show no part of an upload under a name that this could find safely.
    """
    if location.is_local:
        remove_local_leftovers(location, token)


def is_directory(location: Location) -> bool:
    """Say whether `location` is a directory that exists.

    Raises:
        LinkError: it, or what leads to it, is a link that the caller did not name.
        StorageError: the storage refused or failed.
    """
    if location.is_standard_stream:
        return False
    if location.is_local:
        return _is_local_directory(location)
    remote = open_filesystem(location)
    with map_errors(f"cannot read {location.display}"):
        return (look_up(remote) or {}).get("type") == "directory"


def is_link(location: Location) -> bool:
    """Say whether a symbolic link is at `location`, whether or not the caller named it; other storages know none.

    Raises:
        LinkError: what leads to it is a link that the caller did not name.
        StorageError: the storage refused or failed.
    """
    if location.is_standard_stream or not location.is_local:
        return False
    with map_errors(f"cannot read {location.display}"):
        try:
            return stat.S_ISLNK(own_status(location).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def exists(location: Location) -> bool:
    """Say whether a file, a directory or a link is at `location`.

    Raises:
        LinkError: what leads to it is a link that the caller did not name.
        StorageError: the storage refused or failed.
    """
    if location.is_standard_stream:
        return False
    with map_errors(f"cannot read {location.display}"):
        if location.is_local:
            return _is_there(location)
        return look_up(open_filesystem(location)) is not None


def remove_leftovers_in(locations: Iterable[Location], token: str) -> None:
    """Remove the temporary files of the run `token` from the directories of these files, each looked at once.

    Raises:
        LinkError: what leads to one is a link that the caller did not name.
        StorageError: the storage refused or failed.
    """
    for file in {os.path.dirname(each.local_path): each for each in locations if each.is_local}.values():
        remove_run_leftovers(file, token)


def sink_is_empty(location: Location, *, besides: str | None = None) -> bool:
    """Say whether nothing is at `location`, or a directory without files.

    What runs that were killed left behind does not count.

    Args:
        location: a file or a directory.
        besides: path of a directory below it whose files do not count either.

    Raises:
        StorageError: the storage refused or failed.
    """
    if location.is_standard_stream:
        return True
    with map_errors(f"cannot read {location.display}"):
        if location.is_local:
            return _local_is_empty(location, None if besides is None else tuple(besides.split("/")))
        left_out = None if besides is None else open_filesystem(location.child(besides)).path
        return _remote_is_empty(location, left_out)


def _is_local_directory(location: Location) -> bool:
    with map_errors(f"cannot read {location.display}"):
        try:
            return stat.S_ISDIR(status(location).st_mode)
        except OSError:
            return False


def _is_there(location: Location) -> bool:
    try:
        own_status(location)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _local_is_empty(location: Location, besides: tuple[str, ...] | None) -> bool:
    try:
        if not stat.S_ISDIR(status(location).st_mode):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return not _is_there(location)
    found = walk(location, lambda names: names != besides)
    return all(stat.S_ISREG(entry.st_mode) and is_temporary(names[-1]) for names, entry in found)


def _remote_is_empty(location: Location, besides: str | None) -> bool:
    remote = open_filesystem(location)
    try:
        found = remote.retry.call(lambda: remote.fs.find(remote.path, detail=True))
    except FileNotFoundError:
        return True
    prefix = None if besides is None else besides.rstrip("/") + "/"
    return not any(
        info.get("type", "file") == "file"
        and not path.endswith("/")
        and not is_temporary(path.rsplit("/", 1)[-1])
        and (prefix is None or not path.startswith(prefix))
        for path, info in found.items()
    )
