"""Change a keystore: all of it is authenticated before, and sealed after, under a counter that has grown. Keys: making.

A keystore of the old version gets its seal with the first change, and each of its keys is sealed anew.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipecrypt.crypto.kdf import KDFParameters, new_parameters
from pipecrypt.errors import DamagedKeystoreError, KeystoreError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.services.keystore.document import (
    MAX_COUNTER,
    KeystoreDocument,
    StoredKey,
    encode_keystore,
    parse_keystore,
)
from pipecrypt.keys.services.keystore.file import LockedDirectory, locked_directory
from pipecrypt.keys.services.keystore.lookup import read_keystore, read_keystore_if_any
from pipecrypt.keys.services.keystore.memory import KeystoreMemory
from pipecrypt.keys.services.keystore.opening import open_keystore
from pipecrypt.keys.services.keystore.seal import UnlockedKeystore, new_keystore, reprotected, unlock_keystore

__all__ = ["NewKeystore", "accept_backup", "change_keystore", "change_passphrase", "make_or_change_keystore"]

# What the keystore is, of the present version -> the keys that it has from then on.
Change = Callable[[UnlockedKeystore], Iterable[StoredKey]]
_LONGEST_LEAP: Final = 1_000_000  # changes since a backup was made; all that the counter holds are 9e15
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKeystore:
    """What holds of a keystore that is made where there is none.

    Args:
        kdf: how it turns its passphrase into a key; None for the default.
        replaces_lost: it is made even where one stood before, which is gone.
        made: told the path of one that was made.
    """

    kdf: KDFParameters | None = None
    replaces_lost: bool = False
    made: Callable[[Path], object] = lambda _: None


def change_keystore(path: Path, credentials: Credentials, change: Change) -> KeystoreDocument:
    """Change the keystore at a path, and return what it is then. Two changes at once take turns.

    Args:
        path: of the keystore.
        credentials: open it.
        change: makes the keys that it has from then on. Called twice: before the lock is taken, for what may be
            refused, and for good.

    Raises:
        KeystoreError: it is missing, or cannot be read or written.
        PassphraseError: passphrase or key file is missing or wrong; nothing was changed.
        DamagedKeystoreError: it was changed by somebody without them, or is older than it was seen before.
    """
    try:
        _rehearse(path, credentials, change)
        with locked_directory(path) as directory:
            return _change(path, credentials, change, directory)
    finally:
        credentials.forget()


def make_or_change_keystore(path: Path, credentials: Credentials, change: Change, new: NewKeystore) -> KeystoreDocument:
    """Change the keystore at a path, which is made if there is none; otherwise as `change_keystore`.

    Args:
        path: as for `change_keystore`.
        credentials: as for `change_keystore`; or become those of the new keystore.
        change: as for `change_keystore`.
        new: what holds of the keystore if it is made.

    Raises:
        KeystoreError: one stood there before; or as `change_keystore`.
        UsageError: the passphrase of the new keystore is too short.
    """
    if read_keystore_if_any(path) is not None:
        return change_keystore(path, credentials, change)
    if not new.replaces_lost:
        KeystoreMemory.of_user(credentials.environ).check_none_stood(path)
    try:
        with new_keystore(str(uuid.uuid4()), str(path), credentials, new.kdf or new_parameters()) as empty:
            change(empty)
            with locked_directory(path) as directory:
                if read_keystore_if_any(path) is not None:  # another writer was faster: what is there is extended
                    return _change(path, credentials, change, directory)
                made = _write(path, credentials, directory, empty, change(empty))
        new.made(path)
        return made
    finally:
        credentials.forget()


def change_passphrase(path: Path, credentials: Credentials, kdf: KDFParameters | None = None) -> KeystoreDocument:
    """Put a keystore under another passphrase or key file; each of its keys is sealed anew.

    Args:
        path: of the keystore.
        credentials: open it; `Credentials.for_new_secret` tells the other secret.
        kdf: how the other passphrase is turned into a key; None for the default.

    Raises:
        PassphraseError: one of the two secrets is missing, or the first one is wrong.
        UsageError: the other passphrase is too short.
        KeystoreError, DamagedKeystoreError: as `change_keystore`.
    """
    others = credentials.for_new_secret()
    try:
        # Both secrets may wait for a person, who is not to hold the lock meanwhile.
        with (
            open_keystore(path, credentials) as unlocked,
            reprotected(unlocked, others, kdf or new_parameters()) as rehearsed,
            locked_directory(path) as directory,
            open_keystore(path, credentials) as again,
        ):
            if again.document == unlocked.document:
                return _write(path, credentials, directory, rehearsed, rehearsed.document.keys)
            with reprotected(again, others, kdf or new_parameters()) as fresh:
                return _write(path, credentials, directory, fresh, fresh.document.keys)
    finally:
        credentials.forget()
        others.forget()


def accept_backup(path: Path, credentials: Credentials) -> KeystoreDocument:
    """Take an older keystore for the newest on purpose: it is written anew, with a counter above all that was seen.

    It is authenticated as ever. One of the old version gets its seal. What was remembered of it is replaced: a record
    that is far ahead of the keystore is not believed, and a counter at its end begins again.

    Raises:
        KeystoreError, PassphraseError, DamagedKeystoreError: as `change_keystore`, but for its age.
    """
    memory = KeystoreMemory.of_user(credentials.environ)
    try:
        unlock_keystore(read_keystore(path), str(path), credentials).wipe()  # may wait for a person: before the lock
        with locked_directory(path) as directory:
            document = read_keystore(path)
            with (
                unlock_keystore(document, str(path), credentials) as unlocked,
                _of_present_version(unlocked, credentials) as present,
            ):
                accepted = _counter_above(document.counter, memory.counter(document))
                return _write(path, credentials, directory, present, present.document.keys, accepted=accepted)
    finally:
        credentials.forget()


def _rehearse(path: Path, credentials: Credentials, change: Change) -> None:
    with open_keystore(path, credentials) as unlocked, _of_present_version(unlocked, credentials) as present:
        change(present)


def _change(path: Path, credentials: Credentials, change: Change, directory: LockedDirectory) -> KeystoreDocument:
    with open_keystore(path, credentials) as unlocked, _of_present_version(unlocked, credentials) as present:
        document = _write(path, credentials, directory, present, change(present))
    if not unlocked.document.is_sealed:
        _logger.warning("keystore %s is sealed as a whole from now on; older releases cannot open it", path)
    return document


def _of_present_version(unlocked: UnlockedKeystore, credentials: Credentials) -> UnlockedKeystore:
    return unlocked if unlocked.document.is_sealed else reprotected(unlocked, credentials, None)


def _write(
    path: Path,
    credentials: Credentials,
    directory: LockedDirectory,
    unlocked: UnlockedKeystore,
    keys: Iterable[StoredKey],
    *,
    accepted: int | None = None,
) -> KeystoreDocument:
    counter = unlocked.document.counter + 1 if accepted is None else accepted
    if counter > MAX_COUNTER:
        raise KeystoreError(
            f"keystore {path} was written as often as can be counted",
            hint=f"pipecrypt keys accept-backup {path} begins the count again",
        )
    document = unlocked.with_keys(keys, counter)
    data = encode_keystore(document)
    try:
        parse_keystore(data, str(path))  # never write what could not be read, such as one key too many
    except DamagedKeystoreError as error:
        raise KeystoreError(error.message, hint="nothing was changed") from error
    directory.replace(data)
    try:
        KeystoreMemory.of_user(credentials.environ).remember(document, path, replaces=accepted is not None)
    except DamagedKeystoreError as error:  # the keystore is written, which no record undoes
        _logger.warning("keystore %s is written, and cannot be remembered: %s", path, error.message)
    return document


def _counter_above(written: int, seen: int) -> int:
    """Return the next counter. Nothing authenticates the number that was seen, so it decides of a short way only."""
    if written >= MAX_COUNTER:
        return 1
    return min(max(written, seen if seen - written <= _LONGEST_LEAP else 0) + 1, MAX_COUNTER)
