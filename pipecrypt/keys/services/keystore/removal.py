"""Take keys out of a keystore for good. Making keys is left to making, telling what becomes unreadable to pipeline.

The keystore's file is replaced. Copies of it, backups and the blocks of the disk where it lay are not reached.
"""

from __future__ import annotations

from dataclasses import replace

from pipecrypt.errors import KeyNotFoundError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.services.keystore.document import encode_keystore, parse_keystore
from pipecrypt.keys.services.keystore.file import locked_directory
from pipecrypt.keys.services.keystore.lookup import locate_key, read_keystore
from pipecrypt.keys.services.keystore.making import KeystoreEntry, list_keys
from pipecrypt.keys.services.keystore.seal import unlock_keystore

__all__ = ["find_doomed", "remove_keys"]


def find_doomed(reference: str, version: int | None) -> tuple[KeystoreEntry, ...]:
    """Return the versions of a key that would be removed; needs no passphrase.

    Args:
        reference: `keystore://PATH#NAME`.
        version: the one version that is meant; None for all.

    Raises:
        KeystoreError: the keystore is missing or malformed.
        KeyNotFoundError: it has no such key, or no such version of it.
        KeyReferenceError: the reference is none, or names no key.
    """
    place = locate_key(parse_key_reference(reference))
    found = tuple(each for each in list_keys(reference) if version in (None, each.version))
    if not found:
        raise KeyNotFoundError(f"{place.text}: there is no version {version} of key {place.name}")
    return found


def remove_keys(reference: str, version: int | None, credentials: Credentials) -> tuple[KeystoreEntry, ...]:
    """Remove versions of a key from its keystore, and return them; arguments and errors as of `find_doomed`.

    Raises:
        PassphraseError: passphrase or key file is missing or wrong; nothing was removed.
    """
    place = locate_key(parse_key_reference(reference))
    name = str(place.path)
    doomed = find_doomed(reference, version)
    versions = {each.version for each in doomed}
    try:
        unlock_keystore(read_keystore(place.path), name, credentials).wipe()  # may wait for a person: before the lock
        with locked_directory(place.path) as directory:
            document = read_keystore(place.path)
            with unlock_keystore(document, name, credentials):
                kept = tuple(key for key in document.keys if not (key.name == place.name and key.version in versions))
            data = encode_keystore(replace(document, keys=kept))
            parse_keystore(data, name)  # never write what could not be read
            directory.replace(data)
    finally:
        credentials.forget()
    return doomed
