"""Replace a small file only if it is still the one that was read, in one step where the storage has such a step.

So of two runs that read the same version only one publishes the next, however long a request of the other was held
back. Local files: compared under a lock on their directory, then renamed. Object stores: compared by the store, by the
object's tag; a random write id tells after a lost answer whose object is there. Any other storage: looked at just
before. What is in the file is left to the callers.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import FormatError, SinkNotEmptyError, StorageError
from pipecrypt.store.beneath import hold_parent
from pipecrypt.store.conditional import ConditionalChange, carry_out, replaced_meanwhile
from pipecrypt.store.filesystem import RemoteFilesystem, open_filesystem
from pipecrypt.store.location import Location
from pipecrypt.store.problems import map_errors
from pipecrypt.store.rename import conditional_object
from pipecrypt.store.sink import open_sink
from pipecrypt.store.source import check_small, read_small_file
from pipecrypt.vocabulary.state import take_lock

__all__ = ["Revision", "read_revision", "replace_revision"]

_WRITE_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Revision:
    """A small file as it was read.

    Args:
        data: all of it.
        tag: what its store compares; None where the bytes are compared.
    """

    data: bytes
    tag: str | None = None


def read_revision(location: Location, max_bytes: int) -> Revision | None:
    """Return a whole small file, or None if there is none.

    Raises:
        FormatError: it is larger than `max_bytes`, or not a regular file.
        StorageError: the storage refused or failed.
    """
    remote = None if location.is_local else open_filesystem(location)
    target = None if remote is None or location.is_chained else conditional_object(remote)
    if remote is None or target is None:
        data = read_small_file(location, max_bytes)
        return None if data is None else Revision(data)
    with map_errors(f"cannot read {location.display}"):
        found = remote.retry.call(lambda: target.read(max_bytes + 1))
    if found is None:
        return None
    return Revision(check_small(found[0], max_bytes, location.display), found[1])


def replace_revision(location: Location, data: bytes, *, expected: Revision | None) -> None:
    """Let a small file appear, if there is what was read there before.

    Args:
        location: the file.
        data: all of it.
        expected: what was read; None where there was nothing.

    Raises:
        ConflictError: something else is there by now, or it is unknown whether the file appeared. Nothing was deleted.
        StorageError: the storage refused or failed; what was there is there still.
    """
    if location.is_local:
        _replace_local(location, data, expected)
        return
    remote = open_filesystem(location)
    with map_errors(f"cannot publish {location.display}"):
        is_done = not location.is_chained and _replace_object(location, remote, data, expected)
    if not is_done:
        _check_same(location, expected)
        _publish(location, data, expected)


def _replace_object(location: Location, remote: RemoteFilesystem, data: bytes, expected: Revision | None) -> bool:
    target = conditional_object(remote)
    tag = None if expected is None else expected.tag
    if target is None or (expected is not None and tag is None):
        return False
    write_id = secrets.token_hex(_WRITE_ID_BYTES)
    change = ConditionalChange(
        target,
        location,
        tag,
        lambda: target.replace(data, write_id, expected=tag),
        lambda head: head is not None and head.write_id == write_id,
    )
    return carry_out(change, remote)


def _replace_local(location: Location, data: bytes, expected: Revision | None) -> None:
    if expected is None:
        _publish(location, data, expected)  # a link never replaces a file
        return
    with _locked_directory(location):
        _check_same(location, expected)
        _publish(location, data, expected)


def _check_same(location: Location, expected: Revision | None) -> None:
    wanted = None if expected is None else expected.data
    try:
        found = read_small_file(location, len(wanted or b""))
    except FormatError as error:  # a longer one
        raise replaced_meanwhile(location) from error
    if found != wanted:
        raise replaced_meanwhile(location)


def _publish(location: Location, data: bytes, expected: Revision | None) -> None:
    try:
        with open_sink(location, overwrite=expected is not None) as sink:
            sink.write(data)
            sink.publish()
    except SinkNotEmptyError as error:
        raise replaced_meanwhile(location) from error


@contextmanager
def _locked_directory(location: Location) -> Iterator[None]:
    """Hold the lock of a file's directory. Who is stopped while holding it keeps others out, but not waiting."""
    with map_errors(f"cannot lock {location.above.display}"):
        directory, _ = hold_parent(location)
        with directory:
            descriptor = directory.readable()
    try:
        _lock(descriptor, location.above.display)
        yield
    finally:
        os.close(descriptor)  # drops the lock


def _lock(descriptor: int, directory: str) -> None:
    try:
        take_lock(descriptor, directory)
    except OSError as error:
        # A file system without such locks; the lock of the sink keeps writers apart all the same.
        if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL}:
            raise StorageError(f"cannot lock {directory}: {error.strerror}") from error
