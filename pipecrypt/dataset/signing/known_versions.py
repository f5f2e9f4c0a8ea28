"""What a writer remembers of the versions that it followed and published. Readers share the records: accepted_versions.

So a version that is older than one that was seen, or that a retired key signed since, is not followed by the next one
either, and none begins anew where a statement was removed. Who did it on purpose says so: `pipecrypt verify --forget`.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from pipecrypt.dataset.opening import governing
from pipecrypt.dataset.opening.accepted_versions import VersionMemory
from pipecrypt.dataset.opening.unverified_version import UnverifiedVersion
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.paths import MANIFEST_PATH
from pipecrypt.manifest.verify import Remembered, check_remembered
from pipecrypt.store.location import Location
from pipecrypt.store.small_files import locate

__all__ = ["ANEW", "check_follows", "check_none_removed", "recall", "remember", "remember_published"]

ANEW = "if an older version, or another dataset, was put there on purpose, accept it first: pipecrypt verify --forget"
_log = logging.getLogger(__name__)


def recall(subject: Location, memory: VersionMemory | None) -> Remembered | None:
    """Return what was last accepted there, or None.

    Args:
        subject: the directory of a dataset, or the statement beside a single file.
        memory: of the user.

    Raises:
        IntegrityError: a record is malformed.
    """
    files, path = locate(subject)
    return governing.recall(files, path, memory)


def check_none_removed(subject: Location, memory: VersionMemory | None) -> None:
    """Pass if a writer that found no statement there may begin anew; raises as `governing.check_none_removed`."""
    files, path = locate(subject)
    governing.check_none_removed(files, path, memory)


def check_follows(subject: Location, version: UnverifiedVersion, memory: VersionMemory | None) -> None:
    """Pass if a version that nobody has verified is not older than what was last accepted there.

    Raises:
        IntegrityError: it is about another dataset, or a record is malformed.
        RolledBackError: it is older.
    """
    remembered = recall(subject, memory)
    try:
        check_remembered(version.manifest, version.statement_sha256, remembered)
    except IntegrityError as error:
        place = subject.child(MANIFEST_PATH)
        raise type(error)(f"{place.display}: {error.message}", hint=f"{error.hint}; {ANEW}") from error


def remember(subject: Location, remembered: Remembered, memory: VersionMemory | None) -> None:
    """Keep what was verified there; raises as `VersionMemory.remember`."""
    files, path = locate(subject)
    governing.remember(files, path, remembered, memory)


def remember_published(
    subject: Location, remembered: Remembered, memory: VersionMemory | None, *, is_first: bool
) -> None:
    """Keep what this writer has published there; where that cannot be, a warning says so.

    Args:
        subject: as in `recall`.
        remembered: the version.
        memory: of the user.
        is_first: whether it follows none, so that nothing was remembered before the first file.
    """
    if memory is None:
        return
    files, path = locate(subject)
    try:
        if is_first:
            place, *others = governing.spellings(files, path)
            replace(memory, starts_anew=True).remember(place, remembered)
            for other in others:
                memory.forget(other)
        else:
            governing.remember(files, path, remembered, memory)
    except IntegrityError as error:
        _log.warning("%s was published, and is not remembered: %s", subject.display, error.message)
