"""Change a small file, or hold a dataset, while nobody else does. What is in it is left to the callers.

Local files: a lock on the directory, which the system drops when its holder dies. Any other storage: a file
`<name>.lock` that only one can create. It stays where its holder dies, and nobody takes it over: whoever thinks it
forsaken may be wrong, and both would write.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pipecrypt.errors import ConflictError, IntegrityError, SinkNotEmptyError, StorageError
from pipecrypt.store.beneath import hold_directory, hold_parent, make_directories_above, open_to_change, remove
from pipecrypt.store.filesystem import look_up, open_filesystem
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, map_errors
from pipecrypt.store.publication import new_token
from pipecrypt.store.rename import remove_object
from pipecrypt.store.revision import read_revision, replace_revision
from pipecrypt.store.sink import open_sink
from pipecrypt.store.source import read_small_file
from pipecrypt.vocabulary.state import take_lock

__all__ = ["hold_exclusively", "remove_file", "replace_exclusively"]

_logger = logging.getLogger(__name__)
_SUFFIX: Final = ".lock"
_MAX_LOCK_BYTES: Final = 1024
_TRIES: Final = 40
_WAIT_SECONDS: Final = 0.25


def replace_exclusively(
    location: Location,
    change: Callable[[bytes | None], bytes | None],
    *,
    max_bytes: int,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Replace a small file by what `change` makes of it, while no other caller of this does.

    Args:
        location: the file.
        change: given its content, None where it does not exist, returns the new one, None to leave it as it is. It
            calls nothing slow: others wait.
        max_bytes: of the file.
        sleep: waits, in seconds, where another holds the lock.

    Raises:
        ConflictError: another holds the lock for too long, or replaced the file all the same.
        FormatError: the file is larger than `max_bytes`.
        StorageError: the storage refused or failed.
        IntegrityError: what was read back is not what was written.
    """
    with _locked(location, sleep) as check_lock:
        before = read_revision(location, max_bytes)
        data = change(None if before is None else before.data)
        if data is None:
            return
        check_lock()
        if location.is_local:  # the lock on its directory is held
            with open_sink(location, overwrite=True) as sink:
                sink.write(data)
                sink.publish()
        else:
            replace_revision(location, data, expected=before)
        if read_small_file(location, max_bytes) != data:
            raise IntegrityError(
                f"{location.display} is not what was written to it",
                hint="another program writes there too, or the storage serves old content; run again",
            )


@contextmanager
def hold_exclusively(
    location: Location, lock: Location, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """Hold a directory or file for as long as the block lasts; another caller of this is refused meanwhile.

    Args:
        location: what is held; it exists.
        lock: the file that stands for it where the storage is not local.
        sleep: waits, in seconds, where another holds the lock file.

    Raises:
        ConflictError: another holds it, or the lock file was taken away meanwhile.
        StorageError: the storage refused or failed.
    """
    if not location.is_local:
        with _lock_file(lock, sleep):
            yield
        return
    descriptor = _open_held(location)
    try:
        yield
    finally:
        os.close(descriptor)  # drops the lock


def _open_held(location: Location) -> int:
    with map_errors(f"cannot lock {location.display}"):
        descriptor = _open_to_lock(location)
        try:
            take_lock(descriptor, location.display, wait_seconds=0)
        except ConflictError as error:
            os.close(descriptor)
            raise ConflictError(
                f"another command is changing {location.display}", hint="wait until it is done, then run again"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _open_to_lock(location: Location) -> int:
    try:
        with hold_directory(location) as directory:
            return directory.readable()
    except NotADirectoryError:
        return open_to_change(location)  # NFS locks a file only for who may write to it


def remove_file(location: Location) -> None:
    """Remove the file that is there now; none is fine.

    Raises:
        LinkError: it, or what leads to it, is a link that the caller did not name.
        ConflictError: another process has put another file there meanwhile, or nobody knows what became of a request.
        StorageError: the storage refused or failed.
    """
    with map_errors(f"cannot remove {location.display}"), contextlib.suppress(FileNotFoundError):
        if location.is_local:
            remove(location)
        else:
            remote = open_filesystem(location)
            info = look_up(remote)
            if info is not None:
                remove_object(remote, info, location)


@contextmanager
def _locked(location: Location, sleep: Callable[[float], None]) -> Iterator[Callable[[], None]]:
    if not location.is_local:
        with _lock_file(location.sibling(location.name + _SUFFIX), sleep) as check:
            yield check
        return
    with map_errors(f"cannot lock {location.above.display}"):
        make_directories_above(location)
        directory, _ = hold_parent(location)
        with directory:
            descriptor = directory.readable()
        try:
            take_lock(descriptor, location.above.display, sleep=sleep)
            yield lambda: None
        finally:
            os.close(descriptor)  # drops the lock


@contextmanager
def _lock_file(lock: Location, sleep: Callable[[float], None]) -> Iterator[Callable[[], None]]:
    token = new_token().encode()
    for _ in range(_TRIES):
        if _create(lock, token):
            break
        sleep(_WAIT_SECONDS)
    else:
        raise ConflictError(
            f"{lock.display} is held by another command",
            hint="wait for it; if none is running, one died: remove that file, then run again",
        )

    def check() -> None:
        if read_small_file(lock, _MAX_LOCK_BYTES) != token:
            raise ConflictError(f"{lock.display} was taken away while it was held", hint="run again")

    try:
        check()  # a storage that ignores conditions lets two create it: the later one has it
        yield check
        check()
    finally:
        try:
            remove_file(lock)
        except StorageError as error:
            _logger.warning("the lock stays: %s", describe(error))


def _create(lock: Location, token: bytes) -> bool:
    try:
        with open_sink(lock, overwrite=False) as sink:
            sink.write(token)
            sink.publish()
    except SinkNotEmptyError:
        return False
    return True
