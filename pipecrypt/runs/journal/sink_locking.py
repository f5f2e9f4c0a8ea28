"""Hold the lock of a sink while files are written there or signed, or footers changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from pipecrypt.dataset.sign.next_version import fence
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY, RESERVED_DIRECTORY
from pipecrypt.errors import ConflictError, PipecryptError
from pipecrypt.store.lease import Lease, LeaseWatch
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store

__all__ = ["check_unlocked", "locked_sink"]


def check_unlocked(sink: Location) -> None:
    """Pass if nobody is writing to a sink now.

    Raises:
        ConflictError: somebody is, or too many lock files lie there to tell.
        StorageError: the storage refused or failed.
    """
    holder = LeaseWatch(sink.child(LOCK_DIRECTORY)).living()
    if holder is not None:
        raise ConflictError(
            f"{sink.display}: {holder.who!a} is writing there now",
            hint="let it end first: one run at a time writes to a sink",
        )


@contextmanager
def locked_sink(sink: Location, who: str, *, keeps_apart: bool = False) -> Iterator[Lease]:
    """Hold the lock of a sink until the block ends; what was made for the lock only goes with it.

    Args:
        sink: the directory.
        who: the name that others are told.
        keeps_apart: whether it was tried that the storage refuses a second file of one name.

    Raises:
        ConflictError: somebody else holds it.
        LockLostError: somebody took it before the block ended; instead of whatever else the block raises.
        StorageError: the storage refused or failed.
    """
    store = open_store(sink)
    was_there = store.is_remote or store.stat().is_directory()  # elsewhere directories end with their files
    try:
        with Lease(sink.child(LOCK_DIRECTORY), who, keeps_apart=keeps_apart) as lock:
            if lock.took_over:
                fence(sink)
            try:
                yield lock
            except PipecryptError as error:
                lock.settle(error)
                raise
            lock.settle(None)
    finally:
        with contextlib.suppress(PipecryptError):  # another error is on its way
            open_store(sink.child(LOCK_DIRECTORY)).remove_empty_directories()
            open_store(sink.child(RESERVED_DIRECTORY)).remove_directory()
            if not was_there:
                store.remove_directory()
