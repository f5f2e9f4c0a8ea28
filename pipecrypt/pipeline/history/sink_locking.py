"""Hold the lock of a sink while files are written there or signed, or footers changed. Locks: storage/sink_lock."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipecrypt.errors import ConflictError, PipecryptError
from pipecrypt.manifest.envelope import MAX_ENVELOPE_BYTES
from pipecrypt.manifest.paths import LOCK_DIRECTORY, MANIFEST_PATH, RESERVED_DIRECTORY
from pipecrypt.storage.location import Location
from pipecrypt.storage.move import remove_empty_directories, remove_if_empty
from pipecrypt.storage.revision import read_revision, replace_revision
from pipecrypt.storage.sink import is_directory
from pipecrypt.storage.sink_lock import SinkLock, current_holder

__all__ = ["check_unlocked", "locked_sink"]

_log = logging.getLogger(__name__)
_TRIES: Final = 3
_MOST_LINE_FEEDS: Final = 16


def check_unlocked(sink: Location) -> None:
    """Pass if nobody is writing to a sink now.

    Raises:
        ConflictError: somebody is.
        StorageError: the storage refused or failed.
    """
    holder = current_holder(sink.child(LOCK_DIRECTORY))
    if holder is not None:
        raise ConflictError(
            f"{sink.display}: {holder.who!a} is writing there now",
            hint="let it end first: one run at a time writes to a sink",
        )


@contextmanager
def locked_sink(sink: Location, who: str) -> Iterator[SinkLock]:
    """Hold the lock of a sink until the block ends; what was made for the lock only goes with it.

    Args:
        sink: the directory.
        who: the name that others are told.

    Raises:
        ConflictError: somebody else holds it.
        LockLostError: somebody took it before the block ended; instead of whatever else the block raises.
        StorageError: the storage refused or failed.
    """
    was_there = is_directory(sink)
    try:
        with SinkLock(sink.child(LOCK_DIRECTORY), who) as lock:
            if lock.took_over:
                _fence(sink)
            try:
                yield lock
            except PipecryptError as error:
                lock.settle(error)
                raise
            lock.settle(None)
    finally:
        with contextlib.suppress(PipecryptError):  # another error is on its way
            remove_empty_directories(sink.child(LOCK_DIRECTORY))
            remove_if_empty(sink.child(RESERVED_DIRECTORY))
            if not was_there:
                remove_if_empty(sink)


def _fence(sink: Location) -> None:
    """Let no statement appear any more that a dead holder has sent, and that a network still holds back.

    It would replace the statement that it has read. So that one is written once more, with one line feed more, which is
    another object to the store and the same statement to readers. The first statement of a dataset replaces none: it
    appears only where no other run has published one.
    """
    place = sink.child(MANIFEST_PATH)
    for _ in range(_TRIES):
        revision = None if sink.is_local else read_revision(place, MAX_ENVELOPE_BYTES)
        if revision is None or revision.tag is None or len(revision.data) > MAX_ENVELOPE_BYTES - _MOST_LINE_FEEDS:
            return
        text = revision.data.rstrip(b"\n")
        feeds = (len(revision.data) - len(text)) % _MOST_LINE_FEEDS + 1
        try:
            replace_revision(place, text + b"\n" * feeds, expected=revision)
        except ConflictError as error:
            _log.info("once more: %s", error.message)
        else:
            return
    raise ConflictError(f"{place.display} changes all the time", hint="let one run at a time write there")
