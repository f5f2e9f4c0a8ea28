"""Keep a statement from appearing late that a dead holder of the lock has sent."""

from __future__ import annotations

import logging
from typing import Final

from pipecrypt.errors import ConflictError
from pipecrypt.manifest.envelope import MAX_ENVELOPE_BYTES
from pipecrypt.manifest.paths import MANIFEST_PATH
from pipecrypt.store.location import Location
from pipecrypt.store.revision import read_revision, replace_revision

__all__ = ["MOST_LINE_FEEDS", "fence"]

MOST_LINE_FEEDS: Final = 16
_TRIES: Final = 3
_log = logging.getLogger(__name__)


def fence(sink: Location) -> None:
    """Let no statement appear any more that a dead holder has sent, and that a network still holds back.

    It would replace the statement that it has read. So that one is written once more, with one line feed more, which is
    another object to the store and the same statement to readers. The first statement of a dataset replaces none: it
    appears only where no other run has published one.

    Raises:
        ConflictError: the statement is too large for that, or changes all the time.
        StorageError: the storage refused or failed.
    """
    place = sink.child(MANIFEST_PATH)
    for _ in range(_TRIES):
        revision = None if sink.is_local else read_revision(place, MAX_ENVELOPE_BYTES)
        if revision is None or revision.tag is None:
            return
        text = revision.data.rstrip(b"\n")
        feeds = (len(revision.data) - len(text)) % MOST_LINE_FEEDS + 1
        if len(text) + feeds > MAX_ENVELOPE_BYTES:
            raise ConflictError(
                f"{place.display} is too large to be written once more, so what a run that died has sent may still "
                "replace it",
                hint="make sure that the other machine is down, wait some minutes, then run again",
            )
        try:
            replace_revision(place, text + b"\n" * feeds, expected=revision)
        except ConflictError as error:
            _log.info("once more: %s", error.message)
        else:
            return
    raise ConflictError(f"{place.display} changes all the time", hint="let one run at a time write there")
