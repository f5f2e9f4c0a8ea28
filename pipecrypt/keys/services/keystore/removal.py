"""Take keys out of a keystore for good, or out of use. What becomes unreadable then is left to pipeline.

The keystore's file is replaced. Copies of it, backups and the blocks of the disk where it lay are not reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from pipecrypt.errors import ConflictError, KeyNotFoundError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.services.keystore.changing import change_keystore
from pipecrypt.keys.services.keystore.document import KeystoreDocument, StoredKey
from pipecrypt.keys.services.keystore.lookup import KeyPlace, find_versions, locate_key
from pipecrypt.keys.services.keystore.making import KeystoreEntry, entries_of
from pipecrypt.keys.services.keystore.opening import missing_secret, open_keystore, read_as_can_be
from pipecrypt.keys.services.keystore.seal import UnlockedKeystore
from pipecrypt.vocabulary.clock import utc_now, utc_text

__all__ = ["find_doomed", "remove_keys", "retire_key", "usable_beside"]


def find_doomed(
    reference: str, version: int | None, credentials: Credentials, *, prove: bool = False
) -> tuple[KeystoreEntry, ...]:
    """Return the versions of a key that would be removed; authenticated where the secret is at hand.

    Args:
        reference: `keystore://PATH#NAME`.
        version: the one version that is meant; None for all.
        credentials: what may open the keystore.
        prove: open it, even if somebody has to be asked for the secret.

    Raises:
        KeystoreError: the keystore is missing or malformed.
        PassphraseError: a secret is wrong, or there is none to prove with.
        DamagedKeystoreError: it was changed by somebody without its secret, or is older than it was seen before.
        KeyNotFoundError: it has no such key, or no such version of it.
        KeyReferenceError: the reference is none, or names no key.
    """
    place = locate_key(parse_key_reference(reference))
    if not prove:
        return entries_of(_chosen(read_as_can_be(place.path, credentials).document, place, version))
    try:
        with open_keystore(place.path, credentials) as unlocked:
            return entries_of(_chosen(unlocked.document, place, version))
    finally:
        credentials.forget()


def usable_beside(reference: str, credentials: Credentials, *, ask: bool) -> tuple[str, ...] | None:
    """Return references to all keys of the same keystore that open something; None where its secret is not at hand.

    Args:
        reference: `keystore://PATH#NAME`.
        credentials: what may open the keystore.
        ask: somebody may be asked for the secret.

    Raises:
        KeystoreError, PassphraseError, DamagedKeystoreError: as `find_doomed`.
    """
    place = locate_key(parse_key_reference(reference))
    if not ask and missing_secret(place.path, credentials) is not None:
        return None
    with open_keystore(place.path, credentials) as unlocked:
        names = dict.fromkeys(key.name for key in unlocked.document.keys if not key.type.signs)
    head = place.text.partition("#")[0]
    return tuple(f"{head}#{name}" for name in names)


def remove_keys(reference: str, version: int | None, credentials: Credentials) -> tuple[KeystoreEntry, ...]:
    """Remove versions of a key from its keystore, and return them; arguments and errors as of `find_doomed`.

    Raises:
        PassphraseError: passphrase or key file is missing or wrong; nothing was removed.
    """
    place = locate_key(parse_key_reference(reference))
    removed: tuple[StoredKey, ...] = ()

    def change(unlocked: UnlockedKeystore) -> tuple[StoredKey, ...]:
        nonlocal removed
        removed = _chosen(unlocked.document, place, version)
        return tuple(key for key in unlocked.document.keys if key not in removed)

    change_keystore(place.path, credentials, change)
    return entries_of(removed)


def retire_key(
    reference: str,
    version: int,
    credentials: Credentials,
    *,
    at: datetime | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> KeystoreEntry:
    """Take one version of a key out of use: it signs and wraps nothing any more, and opens what it wrapped.

    What it signed counts where the statement says that it was made before.

    Args:
        reference: `keystore://PATH#NAME`.
        version: the version that is meant.
        credentials: open the keystore.
        at: from when on, not in the future, such as when somebody else got the key; default: now. A version that is
            retired can be retired from an earlier time on.
        clock: gives the present time.

    Raises:
        ConflictError: it is retired already, from that time on or an earlier one.
        UsageError: the time is in the future.
        KeyNotFoundError: there is no such key, or no such version of it.
        PassphraseError: passphrase or key file is missing or wrong; nothing was changed.
        KeystoreError, DamagedKeystoreError: as `find_doomed`.
    """
    place = locate_key(parse_key_reference(reference))
    now = clock()
    moment = now if at is None else at
    if moment > now:
        raise UsageError(
            f"{utc_text(moment)} is in the future", hint="a key is retired from now on, or an earlier time"
        )
    since = utc_text(moment)
    changed: list[StoredKey] = []

    def change(unlocked: UnlockedKeystore) -> tuple[StoredKey, ...]:
        (entry,) = _chosen(unlocked.document, place, version)
        if entry.retired is not None and entry.retired <= since:
            raise ConflictError(
                f"{place.text}: version {version} is retired already, since {entry.retired}",
                hint="nothing needs to be done",
            )
        changed[:] = [replace(entry, retired=since)]
        return tuple(changed[0] if key == entry else key for key in unlocked.document.keys)

    change_keystore(place.path, credentials, change)
    return entries_of(tuple(changed))[0]


def _chosen(document: KeystoreDocument, place: KeyPlace, version: int | None) -> tuple[StoredKey, ...]:
    versions = find_versions(document, place)
    found = tuple(each for each in versions if version in (None, each.version))
    if not found:
        there = ", ".join(str(each) for each in sorted(each.version for each in versions))
        raise KeyNotFoundError(
            f"{place.text}: there is no version {version} of key {place.name}", hint=f"it has versions {there}"
        )
    return found
