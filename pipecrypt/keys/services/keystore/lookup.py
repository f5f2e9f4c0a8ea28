"""Find the keystore and the key that a reference names. Opening and changing them is left to siblings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipecrypt.crypto.recipient import parse_recipient
from pipecrypt.errors import KeyNotFoundError, KeyReferenceError, KeystoreError, UsageError
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.services.keystore.document import KeystoreDocument, StoredKey, is_key_name, parse_keystore
from pipecrypt.keys.services.private_file import read_private_file
from pipecrypt.keys.services.recipient import recipient_id

__all__ = [
    "KeyPlace",
    "find_versions",
    "keystore_path",
    "locate_key",
    "master_key_id",
    "read_keystore",
    "read_keystore_if_any",
]

_SCHEME: Final = "keystore"


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where a key is: the keystore's path, the key's name, and the reference's text for errors."""

    path: Path
    name: str
    text: str


def keystore_path(reference: KeyReference) -> Path:
    """Return the path of the keystore that a reference names.

    Raises:
        UsageError: the reference is of another scheme.
        KeyReferenceError: it has options, which a keystore does not take.
    """
    if reference.scheme != _SCHEME:
        raise UsageError(f"{reference.text} is not in a keystore", hint="write keystore://PATH#NAME")
    reference.check_options()
    return reference.local_path


def locate_key(reference: KeyReference) -> KeyPlace:
    """Return the keystore and key that a reference names; neither has to exist.

    Raises:
        UsageError: the reference is of another scheme.
        KeyReferenceError: it names no key, or not in the form of a name.
    """
    path = keystore_path(reference)
    if not reference.fragment:
        raise KeyReferenceError(f"key reference {reference.text} names no key", hint="append #NAME, such as #pii")
    if not is_key_name(reference.fragment):
        raise KeyReferenceError(
            f"key reference {reference.text} has no valid key name",
            hint="a name has up to 64 letters, digits, _, - or ., and starts with none of the last two",
        )
    return KeyPlace(path, reference.fragment, reference.text)


def read_keystore_if_any(path: Path) -> KeystoreDocument | None:
    """Return the keystore at `path`, or None if there is none.

    Raises:
        KeystoreError: it cannot be read or is malformed.
    """
    data = read_private_file(path, "keystore")
    return None if data is None else parse_keystore(data, str(path))


def read_keystore(path: Path) -> KeystoreDocument:
    """Return the keystore at `path`.

    Raises:
        KeystoreError: it is missing, cannot be read, or is malformed.
    """
    document = read_keystore_if_any(path)
    if document is None:
        raise KeystoreError(f"keystore {path} does not exist")
    return document


def find_versions(document: KeystoreDocument, place: KeyPlace) -> tuple[StoredKey, ...]:
    """Return the versions of a key, oldest first, at least one.

    Raises:
        KeyNotFoundError: there is no such key; the hint lists those there are.
    """
    versions = document.versions(place.name)
    if not versions:
        names = ", ".join(sorted({key.name for key in document.keys})) or "no keys"
        raise KeyNotFoundError(f"{place.text}: keystore {place.path} has no key {place.name}", hint=f"it has {names}")
    return versions


def master_key_id(entry: StoredKey) -> str:
    """Return what data files store, never a path: the key's name and the version's UUID; or its recipient's id.

    Raises:
        UsageError: the public key of an identity is none.
    """
    if entry.type.is_identity and entry.public_key is not None:
        return recipient_id(parse_recipient(entry.public_key))
    return f"{_SCHEME}/{entry.name}/{entry.id}"
