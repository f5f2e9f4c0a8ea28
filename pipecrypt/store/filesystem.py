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
from pipecrypt.store.location import OPTION, Location, TransferSettings, transfer_settings
from pipecrypt.store.problems import describe, map_errors
from pipecrypt.vocabulary.retry import Retry, http_status, is_transient

__all__ = [
    "S3_PROTOCOLS",
    "RemoteFilesystem",
    "fingerprint_of",
    "look_up",
    "open_filesystem",
    "open_filesystem_for_others",
    "protocol_of",
    "size_of",
    "strip_protocol",
]

# What tells two versions of an object apart, best first; stores name it differently.
_VERSION_FIELDS: Final = (
    *("ETag", "etag", "generation", "md5Hash", "content_md5", "crc32c"),
    *("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created"),
)
S3_PROTOCOLS: Final = frozenset({"s3", "s3a"})
# An object appears when its upload is complete, and `mode="create"` fails if another one is there.
_ATOMIC_UPLOADS: Final = S3_PROTOCOLS | {"gs", "gcs", "az", "abfs", "abfss"}
_ABSENT: Final = frozenset({None, 404, 410})
# s3fs makes five attempts around five of botocore. One is left: Retry makes the others, and knows when time is over.
_ONE_ATTEMPT: Final = {"retries": {"total_max_attempts": 1, "mode": "standard"}, "max_pool_connections": 32}


@dataclass(frozen=True, slots=True)
class RemoteFilesystem:
    """A file system and a path in its own spelling.

    Args:
        fs: an `fsspec.AbstractFileSystem`.
        path: the path without scheme.
        protocol: the scheme.
        settings: how calls are made.
        retry: makes them, again where a failure passes.
    """

    fs: Any
    path: str
    protocol: str
    settings: TransferSettings
    retry: Retry

    @property
    def is_s3(self) -> bool:
        """Whether calls of S3 can be made past the file system, by s3fs."""
        return self.protocol in S3_PROTOCOLS and hasattr(self.fs, "call_s3")

    @property
    def uploads_whole(self) -> bool:
        """Whether an object appears under its name when its upload is complete, and may be created only if absent."""
        return self.protocol in _ATOMIC_UPLOADS


def open_filesystem(location: Location) -> RemoteFilesystem:
    """Open the file system of a location that is not local. It makes one attempt where it can be told to.

    Raises:
        MissingExtraError: the package for this storage is not installed.
        UsageError: no storage has this scheme or takes these options.
        StorageError: the storage cannot be reached.
    """
    settings = transfer_settings(location.options)
    options = _options(location)
    protocol = protocol_of(location)
    if protocol in S3_PROTOCOLS and not location.is_chained:
        given = options.get("config_kwargs")
        options["config_kwargs"] = _ONE_ATTEMPT | (dict(given) if isinstance(given, Mapping) else {})
    with _map_open_errors(location):
        fs, path = fsspec.core.url_to_fs(location.url, **options)
    remote = RemoteFilesystem(fs, str(path), protocol, settings, Retry(settings.deadline_seconds))
    if remote.is_s3 and not location.is_chained:
        fs.retries = 1  # of this instance, which nobody has who did not ask for one attempt
    return remote


def open_filesystem_for_others(location: Location) -> Any:
    """Open the file system of a location that is not local, for a library that leaves trying again to it.

    Raises:
        PipecryptError: as `open_filesystem`.
    """
    with _map_open_errors(location):
        return fsspec.core.url_to_fs(location.url, **_options(location))[0]


def _options(location: Location) -> dict[str, Any]:
    options = {name: value for name, value in location.options.items() if name != OPTION}
    if not location.is_chained:
        options.setdefault("use_listings_cache", False)
    return options


def look_up(remote: RemoteFilesystem) -> dict[str, Any] | None:
    """Return what the storage says about a path, or None if nothing is there.

    `exists` and `isdir` of fsspec say no to whatever goes wrong, which would let an unreachable file be replaced.
    """
    try:
        return dict(remote.retry.call(lambda: remote.fs.info(remote.path)))
    except FileNotFoundError as error:
        # Of a web server fsspec says "not found" whatever went wrong.
        if error.__cause__ is not None and (is_transient(error) or http_status(error) not in _ABSENT):
            raise error.__cause__ from None
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
