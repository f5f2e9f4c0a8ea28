"""Remember how far each keystore was seen, so that an older file in its place shows. Reading keystores: opening.

One small JSON file for each keystore, by its id, in the directory of this user's state::

    {"keystore": uuid, "counter": 7, "seal_sha256": <64 hex>, "path": where it was when it was written last}

A counter never goes back here, whichever of several processes is the last to write. What cannot be kept is warned about
once in a process: reading goes on, and an older keystore will not be noticed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pipecrypt.crypto.digest import digest
from pipecrypt.errors import ConflictError, DamagedKeystoreError, KeystoreError
from pipecrypt.keys.services.keystore.document import MAX_COUNTER, KeystoreDocument
from pipecrypt.vocabulary.documents import Document, DocumentError
from pipecrypt.vocabulary.once import warn_once
from pipecrypt.vocabulary.state import StateRecords, state_directory

__all__ = ["KeystoreMemory"]

_ACCEPT: Final = "if you put a backup there yourself: pipecrypt keys accept-backup KEYSTORE"
_MALFORMED_HINT: Final = "remove it if you know why, and look whether the keystore is the newest"
_MAX_PATH: Final = 4096
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _LastSeal:
    counter: int
    seal_sha256: str


@dataclass(frozen=True, slots=True)
class KeystoreMemory:
    """The keystores seen so far.

    Args:
        directory: where they are kept, made with the first one; None to remember nothing.
    """

    directory: str | None

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Self:
        """Return this user's memory; see `state_directory`."""
        return cls(state_directory(environ))

    def check(self, document: KeystoreDocument, name: str) -> None:
        """Pass if a document is not older than what was seen of its keystore, nor another one of the same age.

        Nothing of the document needs to be authenticated: who changes its id or counter breaks its seal.

        Raises:
            DamagedKeystoreError: it is; or the record is malformed, and ignoring it would let an old keystore pass.
        """
        seen = self._recall(document.id)
        if seen is None:
            return
        if not document.is_sealed:
            raise DamagedKeystoreError(
                f"keystore {name} was sealed when it was seen last, and is not now", hint=_ACCEPT
            )
        if document.counter < seen.counter:
            raise DamagedKeystoreError(
                f"keystore {name} is older than when it was seen last: it was written {document.counter} times, and "
                f"{seen.counter} times then",
                hint=_ACCEPT,
            )
        if document.counter == seen.counter and digest(document.seal) != seen.seal_sha256:
            raise DamagedKeystoreError(
                f"keystore {name} is another than was seen last, and was written as often", hint=_ACCEPT
            )

    def check_none_stood(self, path: Path) -> None:
        """Pass if no keystore was seen at a path where there is none now.

        Else whoever can rename a keystore makes its owner begin another one, and take its keys for the true ones.

        Raises:
            KeystoreError: one was.
            DamagedKeystoreError: the records cannot be read.
        """
        if self.directory is None:
            return
        place = os.path.realpath(path)
        if any(os.path.realpath(seen) == place for seen in self._records(self.directory).each(_parse_path) if seen):
            raise KeystoreError(
                f"keystore {path} is gone: there was one when it was seen last, and a new one would have other keys",
                hint="put it back, or its backup and pipecrypt keys accept-backup; or if you removed it yourself, and "
                "need nothing that it encrypted: repeat with --new-keystore",
            )

    def counter(self, document: KeystoreDocument) -> int:
        """Return how often the keystore was written when it was seen last; 0 where it was not."""
        seen = self._recall(document.id)
        return 0 if seen is None else seen.counter

    def remember(self, document: KeystoreDocument, path: Path, *, replaces: bool = False) -> None:
        """Keep what was seen of an authenticated document, unless more was seen before and it does not replace that."""
        if self.directory is None or not document.is_sealed:
            return
        now = _LastSeal(document.counter, digest(document.seal))
        if not replaces and self._recall(document.id) == now:
            return
        try:
            with self._records(self.directory).changing(document.id) as record:
                seen = None if replaces else record.read(_parse)
                if seen is None or seen.counter < now.counter:
                    record.put(_members(document.id, now, path))
        except (OSError, ConflictError) as error:
            warn_once(
                _logger,
                "cannot remember keystore %s in %s: %s; an older one in its place will not be noticed",
                path,
                self.directory,
                error.strerror if isinstance(error, OSError) else error.message,
            )

    def _recall(self, keystore_id: str) -> _LastSeal | None:
        # The id has the form of a UUID, and nothing else in it.
        return None if self.directory is None else self._records(self.directory).read(keystore_id, _parse)

    def _records(self, directory: str) -> StateRecords:
        return StateRecords(directory, "keystores", "record of keystores", DamagedKeystoreError, _MALFORMED_HINT)


def _parse(document: Document) -> _LastSeal:
    counter = document.integer("counter")
    if not 0 < counter <= MAX_COUNTER:
        raise DocumentError("'counter' is out of range")
    return _LastSeal(counter, document.text("seal_sha256", max_characters=64))


def _parse_path(document: Document) -> str | None:
    return document.text("path", max_characters=_MAX_PATH) if "path" in document else None


def _members(keystore_id: str, seen: _LastSeal, path: Path) -> Mapping[str, object]:
    return {
        "keystore": keystore_id,
        "counter": seen.counter,
        "seal_sha256": seen.seal_sha256,
        "path": os.path.abspath(path),
    }
