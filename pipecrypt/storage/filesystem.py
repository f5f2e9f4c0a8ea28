"""Open the fsspec file system of a URL. Local files do not come here: the operating system serves them better.

No listing is cached, because a stale one gives wrong bytes. A file system never crosses a process border.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import fsspec

from pipecrypt.errors import StorageError, UsageError
from pipecrypt.storage.location import Location
from pipecrypt.storage.problems import describe, map_errors

__all__ = [
    "RemoteFilesystem",
    "fingerprint_of",
    "look_up",
    "open_filesystem",
    "protocol_of",
    "size_of",
    "strip_protocol",
]

# What tells two versions of an object apart, best first; stores name it differently.
_VERSION_FIELDS: Final = (
    *("ETag", "etag", "generation", "md5Hash", "content_md5", "crc32c"),
    *("mtime", "LastModified", "last_modified", "updated", "modified", "created"),
)


@dataclass(frozen=True, slots=True)
class RemoteFilesystem:
    """A file system and a path in its own spelling.

    Args:
        fs: an `fsspec.AbstractFileSystem`.
        path: the path without scheme.
        protocol: the scheme.
    """

    fs: Any
    path: str
    protocol: str


def open_filesystem(location: Location) -> RemoteFilesystem:
    """Open the file system of a location that is not local.

    Raises:
        MissingExtraError: the package for this storage is not installed.
        UsageError: no storage has this scheme or takes these options.
        StorageError: the storage cannot be reached.
    """
    options = dict(location.options)
    if not location.is_chained:
        options.setdefault("use_listings_cache", False)
    with _map_open_errors(location):
        fs, path = fsspec.core.url_to_fs(location.url, **options)
    return RemoteFilesystem(fs, str(path), protocol_of(location))


def look_up(remote: RemoteFilesystem) -> dict[str, Any] | None:
    """Return what the storage says about a path, or None if nothing is there.

    `exists` and `isdir` of fsspec say no to whatever goes wrong, which would let an unreachable file be replaced.
    """
    try:
        return dict(remote.fs.info(remote.path))
    except FileNotFoundError:
        return None


@contextmanager
def _map_open_errors(location: Location) -> Iterator[None]:
    what = f"cannot open {location.display}"
    with map_errors(what):
        try:
            yield
        except (TypeError, ValueError) as error:  # of fsspec: an unknown scheme, an option that nobody takes
            raise UsageError(f"{what}: {describe(error)}", hint="check the URL and the storage options") from error


def protocol_of(location: Location) -> str:
    """Return the scheme of a location that is not local."""
    return location.url.split("://", 1)[0].split("::", 1)[0]


def strip_protocol(location: Location) -> tuple[str, str]:
    """Return the kind of storage (one name for s3 and s3a) and the path, without connecting.

    Raises:
        MissingExtraError: the package for this storage is not installed.
        UsageError: no storage has this scheme.
    """
    if location.is_chained:
        return "chain", location.url.rstrip("/")
    with _map_open_errors(location):
        kind = fsspec.get_filesystem_class(protocol_of(location))
        path = kind._strip_protocol(location.url)  # the only way without an instance
    return kind.__name__, str(path)


def size_of(info: Mapping[str, Any], what: str) -> int:
    """Return the size that a listing gives.

    Raises:
        StorageError: it gives none.
    """
    size = info.get("size")
    if not isinstance(size, int):
        raise StorageError(f"{what}: the storage does not tell the size", hint="copy the file to another storage first")
    return size


def fingerprint_of(info: Mapping[str, Any]) -> str:
    """Return a text that changes when the object does, the same for a listing and for a single lookup."""
    version = next((info[name] for name in _VERSION_FIELDS if info.get(name) is not None), "")
    if isinstance(version, datetime.datetime):
        version = version.timestamp()
    text = str(version).removeprefix("W/").strip('"')
    return f"{info.get('size')}-{text}"
