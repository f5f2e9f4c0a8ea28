"""What all ways to publish a file share: written front to back, then published whole or discarded.

How that is done is in local_publication, s3 and fsspec_publication.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from pipecrypt.store.location import NAME_BYTES, Location

__all__ = [
    "Publication",
    "is_temporary",
    "is_temporary_of",
    "new_token",
    "temporary_name",
    "temporary_prefix",
    "write_fully",
]

_MARK: Final = ".pipecrypt-"
_SUFFIX: Final = ".tmp"
_TOKEN_BYTES: Final = 4
# `temporary_name`, and undo files of `tail`: their temporary names have "undo" where others have the run's token.
_TEMPORARY: Final = re.compile(
    r"\..+\.pipecrypt-(?:undo|(?P<token>undo|[0-9a-f]{8})-[0-9a-f]{8})\.tmp", re.ASCII | re.DOTALL
)


class Publication(ABC):
    """A new file that is not there yet; a context manager that discards what was not published.

    Fits `parquet.protocols.AppendSink`. Writing may happen in one other thread; publishing and discarding wait for it.

    Args:
        location: where the file will be.
    """

    def __init__(self, location: Location) -> None:
        """Touch nothing: the first write does."""
        self.location = location
        self._lock = threading.Lock()
        self._is_open = True
        self._is_complete = False
        self._process = os.getpid()
        self._attributes: tuple[int | None, int | None] = (None, None)

    @property
    def name(self) -> str:
        """What errors call this file."""
        return self.location.display

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`.

        Raises:
            StorageError: the storage refused or failed.
        """
        with self._lock:
            self._check_growing()
            self._append(memoryview(data))

    def complete(self) -> None:
        """Say that nothing follows: until it is published, the file then takes as little as its storage lets.

        Raises:
            StorageError: the storage refused or failed.
        """
        with self._lock:
            self._check_open()
            self._make_complete()
            self._park()

    def _make_complete(self) -> None:
        if not self._is_complete:
            self._complete()
            self._is_complete = True

    def restore_attributes(self, *, mode: int | None, mtime_ns: int | None) -> None:
        """Set what the file will have when it appears; storages that keep no such thing ignore it.

        As tar does for users other than root, permissions are those of `mode` less the umask; the setuid, setgid
        and sticky bits are never set. Where the file system refuses, that is logged, and the file appears without.
        Called before the first write, the file is private to this user until then.

        Args:
            mode: permission bits, or None for those of any new file.
            mtime_ns: time of the last change, in nanoseconds since 1970, or None for now.
        """
        self._attributes = (mode, mtime_ns)

    def publish(self, *, just_before: Callable[[], None] | None = None) -> None:
        """Make the file appear under its name, whole and durable.

        Args:
            just_before: called when all that takes long is done, as far as the storage lets it be done before the file
                appears. What it raises passes through, and nothing appears.

        Raises:
            SinkNotEmptyError: something else appeared there first.
            StorageError: the storage refused or failed; nothing was published.
            ConflictError: it is unknown whether the file was published.
        """
        with self._lock:
            self._check_open()
            self._make_complete()
            if just_before is not None:
                just_before()
            self._publish()
            self._is_open = False

    def discard(self) -> None:
        """Remove all that was written and not published. Safe to call twice, and after publishing."""
        if os.getpid() != self._process:
            return  # a forked child's copy: the file is its parent's
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._discard()

    def _check_growing(self) -> None:
        self._check_open()
        if self._is_complete:
            raise RuntimeError("nothing may follow what was said to be complete")

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("this publication is over")

    @abstractmethod
    def _append(self, data: memoryview) -> None: ...

    def _complete(self) -> None:  # noqa: B027 - most storages have nothing to do
        """Do what can be done before the file appears."""

    def _park(self) -> None:  # noqa: B027 - likewise
        """Give back memory: the file is complete, and is published later."""

    @abstractmethod
    def _publish(self) -> None: ...

    @abstractmethod
    def _discard(self) -> None:
        """Raise nothing: another error is on its way."""

    def __enter__(self) -> Self:
        """Return the publication."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not published."""
        self.discard()


def write_fully(descriptor: int, data: memoryview) -> None:
    """Write all of `data`: one call takes at most 2 GiB, and less on a disk that fills up."""
    octets, written = data.cast("B"), 0
    while written < len(octets):
        written += os.write(descriptor, octets[written:])


def new_token() -> str:
    """Return a random token for temporary names."""
    return secrets.token_hex(_TOKEN_BYTES)


def temporary_prefix(name: str, token: str) -> str:
    """Return how all temporary names of the file `name` and the run `token` begin; hidden from dataset readers."""
    # 2 x 8 digits, a dash, the mark, the suffix and the first dot come on top of the name.
    room = NAME_BYTES - len(_MARK) - len(_SUFFIX) - len(token) - 2 * _TOKEN_BYTES - 2
    shortened = name.encode(errors="surrogateescape")[:room].decode(errors="ignore")
    return f".{shortened}{_MARK}{token}-"


def temporary_name(name: str, token: str) -> str:
    """Return a fresh temporary name for the file `name` in the same directory."""
    return temporary_prefix(name, token) + new_token() + _SUFFIX


def is_temporary(name: str) -> bool:
    """Say whether a regular file of this name is what a run that was killed leaves behind; nothing else ever is."""
    return _TEMPORARY.fullmatch(name) is not None


def is_temporary_of(name: str, token: str) -> bool:
    """Say whether `name` is a temporary file of the run `token`."""
    found = _TEMPORARY.fullmatch(name)
    return found is not None and found["token"] == token
