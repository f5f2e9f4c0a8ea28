"""Open the keystore at a path: authenticated as a whole, and not older than it was seen before. Changing: changing.

What is read without the secret is a `KeystoreDocument` of `lookup`, of which nothing is authenticated. It serves to
list keys and to show public halves, never to decide what a writer accepts.
"""

from __future__ import annotations

import hmac
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.errors import DamagedKeystoreError, PassphraseError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.services.keystore.document import KeystoreDocument, StoredKey, encode_keystore
from pipecrypt.keys.services.keystore.lookup import KeyPlace, find_versions, read_keystore
from pipecrypt.keys.services.keystore.memory import KeystoreMemory
from pipecrypt.keys.services.keystore.seal import (
    UnlockedKeystore,
    has_secret,
    secret_fingerprint,
    unlock_keystore,
)
from pipecrypt.vocabulary.once import warn_once

__all__ = ["ReadKeystore", "missing_secret", "open_keystore", "open_versions", "read_as_can_be", "warn_of_old_version"]

_MOST_TRIES: Final = 3
_MOST_PROVEN: Final = 64
_NO_SECRET: Final = "no passphrase or key file was given"  # noqa: S105 - a reason, no secret
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadKeystore:
    """What a keystore says, to somebody who may lack its secret.

    Args:
        document: what it says.
        doubt: why nothing of it is authenticated; None where all of it is.
    """

    document: KeystoreDocument
    doubt: str | None


def open_keystore(path: Path, credentials: Credentials) -> UnlockedKeystore:
    """Return the keystore at a path; the caller wipes it.

    Raises:
        KeystoreError: it is missing or cannot be read.
        PassphraseError: passphrase or key file is missing or wrong.
        DamagedKeystoreError: it was changed by somebody without them, or is older than it was seen before.
    """
    memory = KeystoreMemory.of_user(credentials.environ)
    document = _read_newest(path, memory)
    unlocked = unlock_keystore(document, str(path), credentials)
    memory.remember(document, path)
    warn_of_old_version(document, path)
    return unlocked


def open_versions(place: KeyPlace, credentials: Credentials) -> tuple[UnlockedKeystore, tuple[StoredKey, ...]]:
    """Return the keystore that a reference names, which the caller wipes, and its key's versions, oldest first.

    Raises:
        KeyNotFoundError: it has no such key.
        KeystoreError, PassphraseError, DamagedKeystoreError: as `open_keystore`.
    """
    try:
        unlocked = open_keystore(place.path, credentials)
    except PassphraseError:
        find_versions(read_keystore(place.path), place)  # that there is no such key is the better error
        raise
    try:
        return unlocked, find_versions(unlocked.document, place)
    except BaseException:
        unlocked.wipe()
        raise


def read_as_can_be(path: Path, credentials: Credentials) -> ReadKeystore:
    """Return what a keystore says: authenticated where its secret is at hand, without asking anybody for it.

    What was authenticated before in this process, under the same secret, costs no derivation again.

    Raises:
        KeystoreError: it is missing or cannot be read.
        PassphraseError: a secret is at hand, and does not open it, of whichever kind it is.
        DamagedKeystoreError: it was changed by somebody without the secret, or is older than it was seen before.
    """
    memory = KeystoreMemory.of_user(credentials.environ)
    document = _read_newest(path, memory)
    if not has_secret(document, str(path), credentials):
        return ReadKeystore(document, _NO_SECRET)
    # The secret is part of the name: what one secret opened is not proven to who holds another.
    secret = secret_fingerprint(document, str(path), credentials, _process_key)
    name = hmac.digest(_process_key, encode_keystore(document) + secret, "sha256")
    if name not in _proven:
        try:
            unlock_keystore(document, str(path), credentials).wipe()
        finally:
            credentials.forget()
        _proven[name] = None
        while len(_proven) > _MOST_PROVEN:
            _proven.popitem(last=False)
    memory.remember(document, path)
    warn_of_old_version(document, path)
    return ReadKeystore(document, None)


def missing_secret(path: Path, credentials: Credentials) -> str | None:
    """Return why nothing proves what a keystore says; None where its secret is at hand, which may be the wrong one.

    Raises:
        KeystoreError: it is missing or cannot be read.
        PassphraseError: a secret is at hand that is not of its kind.
    """
    return None if has_secret(read_keystore(path), str(path), credentials) else _NO_SECRET


def warn_of_old_version(document: KeystoreDocument, path: Path) -> None:
    """Say once in a process that a keystore is of the old version."""
    if not document.is_sealed:
        warn_once(
            _logger,
            "keystore %s is not sealed as a whole: a key that was taken out is not noticed; "
            "pipecrypt keys accept-backup seals it, as does any change",
            path,
        )


_proven: OrderedDict[bytes, None] = OrderedDict()
_process_key: Final = random_bytes(32)


def _read_newest(path: Path, memory: KeystoreMemory) -> KeystoreDocument:
    document = read_keystore(path)
    for _ in range(_MOST_TRIES):
        try:
            memory.check(document, str(path))
        except DamagedKeystoreError:
            # Another process may have replaced the file, and remembered it, after it was read here.
            again = read_keystore(path)
            if again == document:
                raise
            document = again
        else:
            return document
    raise DamagedKeystoreError(f"keystore {path} changes faster than it can be read", hint="run the command again")
