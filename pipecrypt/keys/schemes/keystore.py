"""The key service `keystore://`: keys in a file, opened in this process.

URI form: `keystore:///abs/keys.json#name`, `keystore://./keys.json#name`, `keystore://~/keys.json#name`.
Credentials: the passphrase, or the key file where the keystore was made with one; see `credentials`.
Permissions: to read the file; to add keys, also to write in its directory.

Data files store the master key id `keystore/<name>/<uuid>`, never the path, or for an identity the id of its recipient.
Each version of a key has an id of its own: new KEKs are wrapped under the newest, and the earlier ones still unwrap.
The newest version of a signing key signs; the public keys of all versions can be read without the passphrase, and
nothing authenticates them then. With it, the whole keystore is authenticated before any of it is used. Where the newest
version is retired, the key signs and wraps nothing.
"""

from __future__ import annotations

import shlex
from typing import Final

from pipecrypt.crypto.aead import open_sealed, seal
from pipecrypt.crypto.recipient import HPKEIdentity, RecipientAlgorithm, RecipientKey, parse_recipient
from pipecrypt.crypto.signature import PrivateKey, PublicKey, SignatureAlgorithm
from pipecrypt.errors import (
    DamagedKeystoreError,
    KeyNotFoundError,
    KeystoreError,
    PassphraseError,
    RetiredKeyError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.public_keys import VersionKey
from pipecrypt.keys.reference import KeyReference, parse_key_reference
from pipecrypt.keys.schemes.keystore_document import StoredKey
from pipecrypt.keys.schemes.keystore_file import (
    KeyPlace,
    ReadKeystore,
    find_versions,
    locate_key,
    master_key_id,
    open_versions,
    read_as_can_be,
    read_keystore_if_any,
    read_versions,
)
from pipecrypt.keys.schemes.recipient import IdentityMasterKey
from pipecrypt.keys.service import MasterKey, SealingMasterKey
from pipecrypt.keys.signers import LocalSigner, PublicVersions
from pipecrypt.vocabulary.clock import parse_utc
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["SERVICE", "KeystoreMasterKey", "KeystoreService"]


class KeystoreMasterKey(SealingMasterKey):
    """A 256-bit master key of a keystore, opened in this process.

    The wrapped form of a KEK is one sealed message under the master key, with the AAD::

        part(label) || part(master key id) || context.key_binding()      part(x) = length (8 hex digits) || x

    Args:
        key_id: what data files store.
        key: the master key; owned, and wiped by `wipe`.
        earlier: the versions before it.
        is_retired: it opens what it wrapped, and wraps nothing more.
    """

    __slots__ = ("_key",)

    label = b"pipecrypt keystore kek v1"

    def __init__(self, key_id: str, key: DataKey, earlier: tuple[MasterKey, ...] = (), *, is_retired: bool) -> None:
        """Keep them."""
        super().__init__(key_id, earlier, is_retired=is_retired)
        self._key = key

    def wipe(self) -> None:
        """Wipe this version's key."""
        self._key.wipe()

    def _seal(self, key_bytes: bytearray, info: bytes) -> bytes:
        return seal(self._key, key_bytes, info)

    def _open(self, sealed: bytes, info: bytes) -> bytes:
        return open_sealed(self._key, sealed, info)


class KeystoreService:
    """The key service of the scheme `keystore`."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> KeystoreMasterKey | IdentityMasterKey:
        """Unlock all versions of a master key or of an identity.

        Raises:
            KeyReferenceError: the reference names no key.
            KeystoreError: the keystore is missing or malformed.
            KeyNotFoundError: it has no such key.
            UsageError: the key is a signing key.
            PassphraseError: passphrase or key file is missing or wrong.
            DamagedKeystoreError: the keystore was changed by somebody without them, or is older than it was seen.
        """
        place = locate_key(reference)
        unlocked, versions = open_versions(place, credentials)
        with unlocked:
            _check_use(place, versions[0], signs=False)
            keys = [unlocked.open_key(entry) for entry in versions]
        is_retired = versions[-1].retired is not None
        opened: tuple[KeystoreMasterKey | IdentityMasterKey, ...] = ()
        for entry, key in zip(versions, keys, strict=True):
            if entry.type.is_identity:
                identity = HPKEIdentity(RecipientAlgorithm(entry.type.value), key)
                opened = (*opened, IdentityMasterKey(identity, opened, is_retired=is_retired))
            else:
                opened = (*opened, KeystoreMasterKey(master_key_id(entry), key, opened, is_retired=is_retired))
        return opened[-1]

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> LocalSigner:
        """Unlock the newest version of a signing key.

        Raises:
            KeyReferenceError: the reference names no key.
            KeystoreError: the keystore is missing or malformed.
            KeyNotFoundError: it has no such key.
            UsageError: the key is not a signing key.
            PassphraseError: passphrase or key file is missing or wrong.
            DamagedKeystoreError: the keystore was changed by somebody without them, or is older than it was seen.
        """
        place = locate_key(reference)
        unlocked, versions = open_versions(place, credentials)
        with unlocked:
            _check_use(place, versions[0], signs=True)
            newest = versions[-1]
            _check_in_use(place, newest)
            earlier = tuple(_version_key(place, entry) for entry in versions[:-1])
            seed = unlocked.open_key(newest)
        return LocalSigner(PrivateKey.from_seed(SignatureAlgorithm(newest.type.value), seed), earlier)

    def find_public_keys(self, reference: KeyReference, credentials: Credentials, *, prove: bool) -> PublicVersions:
        """Return the public keys of all versions of a signing key, oldest first; proven where the secret is at hand.

        Raises:
            PassphraseError: a secret is at hand, and does not open the keystore; or there is none to prove with.
            DamagedKeystoreError: the keystore was changed by somebody without the secret, or a public key in it is not
                of its key's type.
            KeyReferenceError: the reference names no key.
            KeystoreError: the keystore is missing or malformed.
            KeyNotFoundError: it has no such key.
            UsageError: the key is not a signing key.
        """
        place = locate_key(reference)
        versions, doubt = _read_versions(place, credentials, prove=prove)
        _check_use(place, versions[0], signs=True)
        return PublicVersions(tuple(_version_key(place, entry) for entry in versions), doubt)

    def check_exists(self, reference: KeyReference, credentials: Credentials, *, signs: bool) -> str | None:
        """Pass if the keystore has the key, and return why nothing proves that; None where the secret is at hand.

        Raises:
            KeyReferenceError: the reference names no key.
            KeystoreError: the keystore is missing or malformed; the hint names the command that makes it.
            KeyNotFoundError: it has no such key; likewise.
            PassphraseError: a secret is at hand, and does not open it.
            DamagedKeystoreError: it was changed by somebody without the secret, or is older than it was seen before.
            UsageError: the key is for something else.
        """
        place = locate_key(reference)
        makes = f"pipecrypt keys new {_quoted(reference.text)}{' --type ed25519' if signs else ''}"
        read = _read_if_any(place, credentials)
        if read is None:
            raise KeystoreError(f"{reference.text}: keystore {place.path} does not exist", hint=f"{makes} makes it")
        try:
            versions = find_versions(read.document, place)
        except KeyNotFoundError as error:
            raise KeyNotFoundError(error.message, hint=f"{error.hint}; {makes} makes it") from None
        _check_use(place, versions[0], signs=signs)
        _check_in_use(place, versions[-1])
        return None if read.doubt is None else f"keystore {place.path}: {read.doubt}"

    def siblings(self, reference: KeyReference, credentials: Credentials) -> tuple[KeyReference, ...]:
        """Return references to the other keys of the keystore that do not sign; errors as of `check_exists`."""
        place = locate_key(reference)
        read = _read_if_any(place, credentials)
        keys = () if read is None else read.document.keys
        names = sorted({key.name for key in keys if not key.type.signs and key.name != place.name})
        start = reference.text.partition("#")[0]
        return tuple(parse_key_reference(f"{start}#{name}") for name in names)

    def known_ids(self, reference: KeyReference, credentials: Credentials) -> frozenset[str] | None:
        """Return the master key ids of all versions of a key; none where there is no such key.

        Errors as of `check_exists`.
        """
        place = locate_key(reference)
        read = _read_if_any(place, credentials)
        return frozenset(map(master_key_id, () if read is None else read.document.versions(place.name)))

    def find_recipient(
        self, reference: KeyReference, credentials: Credentials, *, prove: bool
    ) -> tuple[RecipientKey, str | None] | None:
        """Return the public key of an identity's newest version, or None for a key of another type.

        Args:
            reference: names the key.
            credentials: what may hold the secret.
            prove: ask for it where it is not at hand; else the file is taken at its word then.

        Raises:
            KeyReferenceError: the reference names no key.
            KeystoreError: the keystore is missing or malformed.
            KeyNotFoundError: it has no such key.
            PassphraseError: passphrase or key file is missing or wrong.
            IntegrityError: the key or its public half was changed after it was written.
        """
        place = locate_key(reference)
        versions, doubt = _read_versions(place, credentials, prove=prove)
        newest = versions[-1]
        if not newest.type.is_identity or newest.public_key is None:
            return None
        _check_in_use(place, newest)
        key = parse_recipient(newest.public_key)
        _check_algorithm(place, newest, key.algorithm)
        return key, doubt


SERVICE: Final = KeystoreService()


def _read_if_any(place: KeyPlace, credentials: Credentials) -> ReadKeystore | None:
    return None if read_keystore_if_any(place.path) is None else read_as_can_be(place.path, credentials)


def _read_versions(
    place: KeyPlace, credentials: Credentials, *, prove: bool
) -> tuple[tuple[StoredKey, ...], str | None]:
    try:
        return read_versions(place, credentials, prove=prove)
    except PassphraseError as error:
        if prove:
            raise
        raise PassphraseError(
            error.message, hint="name the public key's PEM file instead, from pipecrypt keys export --public --verify"
        ) from error


def _quoted(text: str) -> str:
    """Return a key reference as a shell takes it; `#` inside of a word begins no comment."""
    return text if shlex.quote(text.replace("#", "")) == text.replace("#", "") else shlex.quote(text)


def _check_use(place: KeyPlace, entry: StoredKey, *, signs: bool) -> None:
    if signs and not entry.type.signs:
        what = "an identity" if entry.type.is_identity else "a master key"
        raise UsageError(
            f"{place.text} is {what}, which signs nothing",
            hint="make a signing key: pipecrypt keys new KEYREF --type ed25519",
        )
    if entry.type.signs and not signs:
        raise UsageError(
            f"{place.text} is a signing key ({entry.type}), which encrypts nothing",
            hint="make a master key: pipecrypt keys new KEYREF --type aes256",
        )


def _check_in_use(place: KeyPlace, newest: StoredKey) -> None:
    if newest.retired is not None:
        raise RetiredKeyError(f"{place.text}: its newest version, {newest.version}, is retired since {newest.retired}")


def _check_algorithm(place: KeyPlace, entry: StoredKey, algorithm: SignatureAlgorithm | RecipientAlgorithm) -> None:
    # The file may not be authenticated: it chooses no algorithm beside the one that it states, and no costly one.
    if algorithm.value != entry.type.value:
        raise DamagedKeystoreError(
            f"{place.text}: version {entry.version} is of type {entry.type}, and its public key is of type {algorithm}"
        )


def _version_key(place: KeyPlace, entry: StoredKey) -> VersionKey:
    public_key = PublicKey(entry.public_key or "")
    _check_algorithm(place, entry, public_key.algorithm)
    return VersionKey(public_key, None if entry.retired is None else parse_utc(entry.retired))
