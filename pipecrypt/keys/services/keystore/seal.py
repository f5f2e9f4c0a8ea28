"""Seal and open keystores under their passphrase or key file. The text is left to document, files to opening.

The secret gives one wrapping key: the KDF's output, or the key file. Two keys are derived from it (HKDF-Expand), one
for each purpose, so that nothing of a sealed keystore opens in one of the old version::

    document key      tag of the whole document: "seal"; and of nothing: "verifier"          HMAC-SHA256
    entry key         each key of the keystore: "sealed"                                     AES-256-GCM

The seal covers every field of the document, the order of the keys and the counter. The verifier tells a wrong secret
from a changed document: where one of the two tags holds, the secret is right. The AAD of a key is::

    part(label) || part(keystore id) || part(protection) || part(each field)      part(x) = length (8 hex digits) || x

Its fields are name, id, type, version, time and public key. In the old version the wrapping key itself sealed keys and
verifier (an empty message without fields), with labels of that version, and nothing showed that a key had been removed.
Such a keystore is authenticated by opening every key in it, and gets its seal with the next change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from pipecrypt.crypto.aead import open_sealed, seal
from pipecrypt.crypto.kdf import KDFParameters, derive_key, derive_subkey
from pipecrypt.crypto.mac import authenticate, is_authentic
from pipecrypt.errors import DamagedKeystoreError, IntegrityError, KeystoreError, PassphraseError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.services.keystore.document import (
    KeyFileProtection,
    KeystoreDocument,
    PassphraseProtection,
    Protection,
    StoredKey,
    covered_text,
    protection_text,
)
from pipecrypt.keys.services.wrapping import join_parts
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["UnlockedKeystore", "has_secret", "new_keystore", "reprotected", "secret_fingerprint", "unlock_keystore"]

_OLD_VERIFIER: Final = b"pipecrypt keystore verifier v1"
_OLD_ENTRY: Final = b"pipecrypt keystore entry v1"
_DOCUMENT_KEY: Final = b"pipecrypt keystore document v2"
_ENTRY_KEY: Final = b"pipecrypt keystore entries v2"
_VERIFIER: Final = b"pipecrypt keystore verifier v2"
_SEAL: Final = b"pipecrypt keystore seal v2"
_ENTRY: Final = b"pipecrypt keystore entry v2"


class UnlockedKeystore:
    """A keystore whose document is as a holder of its secret wrote it; a context manager that wipes its keys.

    Only this module makes one. What it does not tell is whether the document is the newest: see `memory`.

    Args:
        document: authenticated.
        name: what errors call the keystore.
        wrapping: the wrapping key; owned.
    """

    __slots__ = ("_wrapping", "document", "name")

    def __init__(self, document: KeystoreDocument, name: str, wrapping: DataKey) -> None:
        """Keep them."""
        self.document = document
        self.name = name
        self._wrapping = wrapping

    def open_key(self, entry: StoredKey) -> DataKey:
        """Return the key in an entry of the document; the caller wipes it.

        Raises:
            DamagedKeystoreError: the entry was changed after it was written.
        """
        label = _ENTRY if self.document.is_sealed else _OLD_ENTRY
        try:
            with self._entry_key() as sealing:
                return DataKey(open_sealed(sealing, entry.sealed, _entry_aad(label, self.document, entry)))
        except IntegrityError as error:
            raise DamagedKeystoreError(
                f"key {entry.name} (version {entry.version}) in keystore {self.name} was changed after it was written"
            ) from error
        except ValueError as error:
            raise KeystoreError(f"key {entry.name} in keystore {self.name} has no valid size") from error

    def seal_key(self, entry: StoredKey, key: DataKey) -> StoredKey:
        """Return `entry` with `key` sealed into it; the keystore is not of the old version."""
        if not self.document.is_sealed:
            raise RuntimeError("a keystore of the old version is sealed before keys are added")
        with self._entry_key() as sealing:
            return replace(
                entry, sealed=seal(sealing, key.expose_key_bytes(), _entry_aad(_ENTRY, self.document, entry))
            )

    def with_keys(self, keys: Iterable[StoredKey], counter: int) -> KeystoreDocument:
        """Return the document with other keys and another counter, sealed."""
        if not self.document.is_sealed:
            raise RuntimeError("a keystore of the old version is sealed before it is changed")
        return _sealed(replace(self.document, keys=tuple(keys), counter=counter), self._wrapping)

    def wipe(self) -> None:
        """Wipe the keys."""
        self._wrapping.wipe()

    def __enter__(self) -> Self:
        """Return the keystore itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe the keys."""
        self.wipe()

    def _entry_key(self) -> DataKey:
        if self.document.is_sealed:
            return derive_subkey(self._wrapping, _ENTRY_KEY)
        return DataKey(self._wrapping.expose_key_bytes())


def new_keystore(keystore_id: str, name: str, credentials: Credentials, kdf: KDFParameters) -> UnlockedKeystore:
    """Return an empty keystore with counter 0, which its first write makes 1; the caller wipes it.

    It is protected by the key file where one is given, else by a passphrase.

    Raises:
        PassphraseError: neither is there.
        UsageError: the passphrase is too short.
    """
    protection: Protection = KeyFileProtection() if credentials.has_key_file() else PassphraseProtection(kdf)
    if isinstance(protection, PassphraseProtection):
        credentials.new_passphrase(_label(name))
    wrapping = _wrapping_key(protection, name, credentials)
    empty = KeystoreDocument(id=keystore_id, protection=protection, verifier=_verifier(wrapping), keys=())
    return UnlockedKeystore(_sealed(empty, wrapping), name, wrapping)


def unlock_keystore(document: KeystoreDocument, name: str, credentials: Credentials) -> UnlockedKeystore:
    """Return a keystore after its whole document was authenticated; the caller wipes it. One derivation.

    Raises:
        PassphraseError: passphrase or key file is missing or wrong.
        DamagedKeystoreError: the document was changed by somebody without it.
    """
    wrapping = _wrapping_key(document.protection, name, credentials)
    try:
        if document.is_sealed:
            _check_sealed(document, name, wrapping)
        else:
            _check_old(document, name, wrapping)
    except BaseException:
        wrapping.wipe()
        raise
    return UnlockedKeystore(document, name, wrapping)


def reprotected(unlocked: UnlockedKeystore, credentials: Credentials, kdf: KDFParameters | None) -> UnlockedKeystore:
    """Return the same keys under a secret, each sealed anew, in the present version; the caller wipes it.

    Args:
        unlocked: the keystore as it is; it stays its owner's.
        credentials: hold the secret: that of a new keystore, where `kdf` is given, else the one there is.
        kdf: makes another protection; None keeps the one there is, for a keystore of the old version.

    Raises:
        PassphraseError: there is no secret.
        UsageError: the passphrase is too short.
        DamagedKeystoreError: an entry was changed after it was written.
    """
    before, name = unlocked.document, unlocked.name
    if kdf is None:
        wrapping = _wrapping_key(before.protection, name, credentials)
        empty = replace(before, verifier=_verifier(wrapping), keys=(), is_sealed=True)
        after = UnlockedKeystore(_sealed(empty, wrapping), name, wrapping)
    else:
        after = new_keystore(before.id, name, credentials, kdf)
    try:
        keys = [_moved(entry, unlocked, after) for entry in before.keys]
        after.document = after.with_keys(keys, before.counter)
    except BaseException:
        after.wipe()
        raise
    return after


def has_secret(document: KeystoreDocument, name: str, credentials: Credentials) -> bool:
    """Say whether a secret is at hand, without asking anybody; it may be the wrong one.

    The kind that counts is not that which the document names alone: nothing of it is authenticated yet, and whoever
    put another keystore there chose the kind too.

    Raises:
        PassphraseError: a secret is at hand, and it is of the other kind; or one is given that cannot be read.
    """
    is_key_file = isinstance(document.protection, KeyFileProtection)
    has_key_file = credentials.has_key_file()
    if (is_key_file and has_key_file) or (not is_key_file and credentials.has_passphrase(_label(name))):
        return True
    if not has_key_file and not credentials.has_passphrase(_label(name)):
        return False
    given = "passphrase" if is_key_file else "key file"
    raise PassphraseError(
        f"keystore {name} says that a {_secret_of(document)} opens it, and a {given} is at hand",
        hint=f"look whether it is the keystore that you mean; if it is, give its {_secret_of(document)}",
    )


def secret_fingerprint(document: KeystoreDocument, name: str, credentials: Credentials, key: bytes) -> bytes:
    """Return what differs between two secrets that are at hand for a keystore; see `Credentials.fingerprint`."""
    is_key_file = isinstance(document.protection, KeyFileProtection)
    return credentials.fingerprint(None if is_key_file else _label(name), key)


def _moved(entry: StoredKey, before: UnlockedKeystore, after: UnlockedKeystore) -> StoredKey:
    with before.open_key(entry) as key:
        return after.seal_key(entry, key)


def _sealed(document: KeystoreDocument, wrapping: DataKey) -> KeystoreDocument:
    with derive_subkey(wrapping, _DOCUMENT_KEY) as key:
        return replace(document, seal=authenticate(key, _SEAL, covered_text(document)))


def _verifier(wrapping: DataKey) -> bytes:
    with derive_subkey(wrapping, _DOCUMENT_KEY) as key:
        return authenticate(key, _VERIFIER, b"")


def _check_sealed(document: KeystoreDocument, name: str, wrapping: DataKey) -> None:
    with derive_subkey(wrapping, _DOCUMENT_KEY) as key:
        knows_secret = is_authentic(key, _VERIFIER, b"", document.verifier)
        # The verifier is made from the secret alone, so that a changed one does not hide that all the rest is right.
        unchanged = replace(document, verifier=authenticate(key, _VERIFIER, b""))
        is_whole = is_authentic(key, _SEAL, covered_text(unchanged), document.seal)
    if knows_secret and is_whole:
        return
    if not knows_secret and not is_whole:
        raise _wrong_secret(document, name)
    raise DamagedKeystoreError(f"keystore {name} was changed by somebody without its {_secret_of(document)}")


def _check_old(document: KeystoreDocument, name: str, wrapping: DataKey) -> None:
    try:
        open_sealed(wrapping, document.verifier, _aad(_OLD_VERIFIER, document))
    except IntegrityError as error:
        if document.verifier == _verifier(wrapping):
            raise DamagedKeystoreError(f"the seal of keystore {name} was removed") from error
        raise _wrong_secret(document, name) from error
    unlocked = UnlockedKeystore(document, name, wrapping)
    for entry in document.keys:
        unlocked.open_key(entry).wipe()


def _wrong_secret(document: KeystoreDocument, name: str) -> PassphraseError:
    what = _secret_of(document)
    return PassphraseError(
        f"the {what} does not open keystore {name}", hint=f"check the {what}; a damaged keystore looks the same"
    )


def _secret_of(document: KeystoreDocument) -> str:
    return "passphrase" if isinstance(document.protection, PassphraseProtection) else "key file"


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


def _entry_aad(label: bytes, document: KeystoreDocument, entry: StoredKey) -> bytes:
    fields = (entry.name, entry.id, entry.type, str(entry.version), entry.created, entry.public_key or "")
    return _aad(label, document, *(field.encode() for field in fields))


def _aad(label: bytes, document: KeystoreDocument, *fields: bytes) -> bytes:
    return join_parts(label, document.id.encode(), protection_text(document.protection), *fields)
