"""Open the fsspec file system of a URL, look up what is there, and read it.

No listing is cached, because a stale one gives wrong bytes. A file system never crosses a process border. fsspec opens
a local file by its name, however long that takes: where a named pipe was put since the name was looked up, until
somebody writes to it. So local files of a file system that a caller brought are opened here, as a regular file or not
at all.
"""

from __future__ import annotations

import datetime
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipecrypt.errors import StorageError, UsageError
from pipecrypt.store.beneath import open_regular
from pipecrypt.store.location import OPTION, Location, TransferSettings, transfer_settings
from pipecrypt.store.problems import describe, map_errors
from pipecrypt.vocabulary.retry import Retry, http_status, is_transient

__all__ = [
    "S3_PROTOCOLS",
    "LocalFile",
    "RemoteFilesystem",
    "bare_tag",
    "fingerprint_of",
    "is_local_filesystem",
    "look_up",
    "open_filesystem",
    "open_filesystem_for_others",
    "path_for_others",
    "pinned_version",
    "protocol_of",
    "read_stored",
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
    if protocol in S3_PROTOCOLS:
        given = options.get("config_kwargs")
        options["config_kwargs"] = _ONE_ATTEMPT | (dict(given) if isinstance(given, Mapping) else {})
    with _map_open_errors(location):
        fs, path = fsspec.core.url_to_fs(location.url, **options)
    remote = RemoteFilesystem(fs, str(path), protocol, settings, Retry(settings.deadline_seconds))
    if remote.is_s3:
        fs.retries = 1  # of this instance, which nobody has who did not ask for one attempt
    return remote


def path_for_others(location: Location) -> str:
    """Return the path of a location as its file system spells it, absolute where it is local."""
    return os.path.abspath(location.local_path) if location.is_local else open_filesystem(location).path


def open_filesystem_for_others(location: Location) -> Any:
    """Open the file system of a location for a library that leaves trying again to it; None for local files.

    Raises:
        PipecryptError: as `open_filesystem`.
    """
    if location.is_local:
        return None
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
    """Return the scheme of a location that is not local; of a chain, what is no scheme of one storage."""
    return location.url.split("://", 1)[0]


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
    return f"{info.get('size')}-{bare_tag(version)}"


def pinned_version(fingerprint: str) -> str:
    """Return what a fingerprint says beside the size: of an S3 object its tag, as `bare_tag` has it."""
    return fingerprint.partition("-")[2]


def bare_tag(version: object) -> str:
    """Return the text of a tag without its quotes, and without the mark of a weak one."""
    return str(version).removeprefix("W/").strip('"')


def is_local_filesystem(fs: Any) -> bool:
    """Return whether a file system is fsspec's own of local files."""
    return isinstance(fs, LocalFileSystem)


def read_stored(fs: Any, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of each range (start, length) of a file, fewer where it ends before.

    Args:
        fs: an fsspec file system.
        path: as the file system spells it.
        ranges: one request each, several side by side where the file system can.

    Raises:
        NoRegularFileError: a directory, a named pipe, a socket or a device is there, and the file system is local.
    """
    if is_local_filesystem(fs):
        with LocalFile(path) as file:
            return [_read_at(file, start, length) for start, length in ranges]
    if len(ranges) == 1:
        start, length = ranges[0]
        return [bytes(fs.cat_file(path, start=start, end=start + length))]
    starts, ends = [start for start, _ in ranges], [start + length for start, length in ranges]
    return list(fs.cat_ranges([path] * len(ranges), starts, ends, on_error="raise"))


def _read_at(file: LocalFile, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


class LocalFile(io.BufferedReader):
    """A local file, with what fsspec's files have besides.

    Args:
        path: of the file.
        details: what `info()` returns.

    Raises:
        NoRegularFileError: it is a directory, a named pipe, a socket or a device.
        OSError: it is not there, or the system refused.
    """

    def __init__(self, path: str, details: Mapping[str, Any] | None = None) -> None:
        """Open it."""
        descriptor = open_regular(path, os.O_RDONLY, place=path)
        super().__init__(io.FileIO(descriptor, "rb"))
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self._details = dict(details or {})

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def info(self) -> dict[str, Any]:
        """Return what the file system says about the file."""
        return dict(self._details)
