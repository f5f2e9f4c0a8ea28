"""Small files that lie beside or above data, by paths with `/`.

Two ways lead to a path: a location, whose paths are URLs or absolute local paths, and an fsspec file system that a
caller brought. Both come down to one reader here, so that whoever climbs from a file to its dataset need not ask which.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, Protocol

from pipecrypt.errors import IntegrityError
from pipecrypt.store.fsspec import read_small_object
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store

__all__ = ["FilesystemFiles", "LocatedFiles", "SmallFiles", "directories_above", "locate"]

_MOST_LEVELS: Final = 64
_SAME_STORAGE: Final = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}


class SmallFiles(Protocol):
    """Reads small files of one storage."""

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """Return a whole file, or None if there is none.

        Raises:
            FormatError: it is larger than `max_bytes`.
            StorageError: the storage refused or failed.
        """

    def display(self, path: str) -> str:
        """Return how errors name a path: a URL without secrets, `file://` for local files."""

    def _is_local(self, path: str) -> bool: ...

    def place(self, path: str, *, follows_name: bool = True) -> str:
        """Return the one name of a place, however it is spelled: links are resolved, doubled slashes dropped."""
        real_path, url = self.real_path(path, follows_name=follows_name), self.display(path)
        if real_path is not None:
            return f"file://{real_path}"
        scheme, separator, below = url.rpartition("::")[2].partition("://")
        if not separator:
            return url
        steps = [step for step in below.split("/") if step not in {"", "."}]
        return f"{_SAME_STORAGE.get(scheme.lower(), scheme.lower())}://{'/'.join(steps)}"

    def real_path(self, path: str, *, follows_name: bool = True) -> str | None:
        """Return a path with its links resolved; None where the storage has none.

        Args:
            path: of a file or a directory.
            follows_name: whether its last part is resolved, too; not that of a file which is never read through a link.
        """
        if not self._is_local(path):
            return None
        directory, _, name = path.rpartition("/")
        real = os.path.realpath((path if follows_name else directory) or "/")
        real = "" if real == "/" else real
        return real if follows_name else f"{real}/{name}"


@dataclass(frozen=True, slots=True)
class LocatedFiles(SmallFiles):
    """The storage of a location.

    Args:
        options: its storage options.
        named: the parts of the path that the caller named; None where all paths are. Below them, and beside them, no
            link is followed.
    """

    options: Mapping[str, object]
    named: tuple[str, ...] | None = field(default=None, compare=False)

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """Return a whole file, or None if there is none; see `SmallFiles`."""
        return open_store(self.location(path)).read_small(max_bytes=max_bytes)

    def display(self, path: str) -> str:
        """Return the path as a URL; see `SmallFiles`."""
        location = self.location(path)
        return f"file://{path}" if location.is_local else location.display

    def _is_local(self, path: str) -> bool:
        return self.location(path).is_local

    def location(self, path: str) -> Location:
        """Return the location of a path.

        Raises:
            IntegrityError: it leads out of the directory that the caller named.
        """
        if self.named is None:
            return Location(path or "/", self.options)
        parts = _parts(path)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.named, parts, strict=False)))
        beyond = parts[shared:]
        if not {".", ".."}.isdisjoint(beyond):
            raise IntegrityError(f"{path!a} leads out of its directory")
        return Location(path or "/", self.options, len(beyond))


@dataclass(frozen=True, slots=True)
class FilesystemFiles(SmallFiles):
    """The storage of an fsspec file system.

    Args:
        fs: the file system.
    """

    fs: Any

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """Return a whole file, or None if there is none; see `SmallFiles`."""
        return read_small_object(self.fs, path, max_bytes, self.display(path))

    def display(self, path: str) -> str:
        """Return the path as a URL; see `SmallFiles`."""
        return f"{self._protocols()[0]}://{path}"

    def _is_local(self, path: str) -> bool:
        return "file" in self._protocols()

    def _protocols(self) -> tuple[str, ...]:
        protocol = self.fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def locate(location: Location) -> tuple[LocatedFiles, str]:
    """Return the storage of a location and its path there, absolute where it is local, without a `/` at its end."""
    path = (os.path.abspath(location.local_path) if location.is_local else location.url).rstrip("/")
    parts = _parts(path)
    return LocatedFiles(location.options, parts[: len(parts) - location.depth]), path


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def directories_above(path: str) -> Iterator[str]:
    """Yield the directories above a path, the nearest first; the root of a file system is the empty text.

    A bucket or a host is the last one. At most 64 levels are climbed: each may cost a request.
    """
    for _ in range(_MOST_LEVELS):
        path, slash, _ = path.rpartition("/")
        if not slash or path.endswith(("/", ":")):
            return
        yield path
