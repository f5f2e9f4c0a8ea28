"""Seal and open the keys of a keystore under its passphrase or key file. The text and the file are left to siblings.

Each message is AES-256-GCM under the keystore's wrapping key, a key from the KDF or the key file. Its AAD::

    part(label) || part(keystore id) || part(protection) || part(each field)      part(x) = length (8 hex digits) || x

The verifier seals an empty message and no field: it tells a wrong passphrase from a damaged key. Each key's fields are
name, id, type, version, time and public key, so no entry can be moved, renamed or given another public key.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pipecrypt.crypto.aead import open_sealed, seal
from pipecrypt.crypto.kdf import KDFParameters, derive_key
from pipecrypt.errors import IntegrityError, KeystoreError, PassphraseError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.services.keystore.document import (
    KeyFileProtection,
    KeystoreDocument,
    PassphraseProtection,
    Protection,
    StoredKey,
    protection_text,
)
from pipecrypt.keys.services.wrapping import join_parts
from pipecrypt.secret import DataKey

__all__ = ["new_keystore", "open_stored_key", "seal_key", "unlock_keystore"]

_VERIFIER_LABEL: Final = b"pipecrypt keystore verifier v1"
_ENTRY_LABEL: Final = b"pipecrypt keystore entry v1"


def new_keystore(
    keystore_id: str, name: str, credentials: Credentials, kdf: KDFParameters
) -> tuple[KeystoreDocument, DataKey]:
    """Return an empty keystore and its wrapping key, which the caller wipes.

    It is protected by the key file where one is given, else by a passphrase.

    Raises:
        PassphraseError: neither is there.
    """
    protection: Protection = KeyFileProtection() if credentials.has_key_file() else PassphraseProtection(kdf)
    if isinstance(protection, PassphraseProtection):
        credentials.new_passphrase(_label(name))
    wrapping = _wrapping_key(protection, name, credentials)
    empty = KeystoreDocument(id=keystore_id, protection=protection, verifier=b"", keys=())
    return replace(empty, verifier=seal(wrapping, b"", _verifier_aad(empty))), wrapping


def unlock_keystore(document: KeystoreDocument, name: str, credentials: Credentials) -> DataKey:
    """Return the wrapping key of a keystore, which the caller wipes.

    Raises:
        PassphraseError: passphrase or key file is missing or wrong.
    """
    wrapping = _wrapping_key(document.protection, name, credentials)
    try:
        open_sealed(wrapping, document.verifier, _verifier_aad(document))
    except IntegrityError as error:
        wrapping.wipe()
        what = "passphrase" if isinstance(document.protection, PassphraseProtection) else "key file"
        raise PassphraseError(
            f"the {what} does not open keystore {name}", hint=f"check the {what}; a damaged keystore looks the same"
        ) from error
    return wrapping


def seal_key(document: KeystoreDocument, entry: StoredKey, key: DataKey, wrapping: DataKey) -> StoredKey:
    """Return `entry` with `key` sealed into it."""
    return replace(entry, sealed=seal(wrapping, key.expose_key_bytes(), _entry_aad(document, entry)))


def open_stored_key(document: KeystoreDocument, entry: StoredKey, wrapping: DataKey, name: str) -> DataKey:
    """Return the key in `entry`, whose fields are authentic then; the caller wipes it.

    Raises:
        IntegrityError: the entry was changed after it was written.
    """
    try:
        return DataKey(open_sealed(wrapping, entry.sealed, _entry_aad(document, entry)))
    except IntegrityError as error:
        raise IntegrityError(
            f"key {entry.name} (version {entry.version}) in keystore {name} was changed after it was written",
            hint="restore the keystore from its backup",
        ) from error
    except ValueError as error:
        raise KeystoreError(f"key {entry.name} in keystore {name} has no valid size") from error


def _wrapping_key(protection: Protection, name: str, credentials: Credentials) -> DataKey:
    if isinstance(protection, KeyFileProtection):
        return credentials.key_file()
    passphrase = credentials.passphrase(_label(name))
    kdf = protection.kdf
    # The passphrase is part of the name: one set of parameters may meet two passphrases.
    return credentials.derive_once(
        (kdf, passphrase), lambda: derive_key(passphrase.encode(errors="surrogateescape"), kdf)
    )


def _label(name: str) -> str:
    return f"passphrase for keystore {name}"


def _verifier_aad(document: KeystoreDocument) -> bytes:
    return _aad(_VERIFIER_LABEL, document)


def _entry_aad(document: KeystoreDocument, entry: StoredKey) -> bytes:
    fields = (entry.name, entry.id, entry.type, str(entry.version), entry.created, entry.public_key or "")
    return _aad(_ENTRY_LABEL, document, *(field.encode() for field in fields))


def _aad(label: bytes, document: KeystoreDocument, *fields: bytes) -> bytes:
    return join_parts(label, document.id.encode(), protection_text(document.protection), *fields)
