"""Make, import and list the keys of a keystore. Using them is left to service, the keystore as a whole to changing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.crypto.kdf import KDFParameters
from pipecrypt.crypto.recipient import HPKEIdentity, RecipientAlgorithm, encode_pem, new_seed, read_seed_pem
from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, new_signing_seed, public_pem
from pipecrypt.errors import ConflictError, KeyNotFoundError, KeystoreError, PassphraseError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.services.keystore.changing import NewKeystore, make_or_change_keystore
from pipecrypt.keys.services.keystore.document import KeyType, StoredKey
from pipecrypt.keys.services.keystore.lookup import (
    KeyPlace,
    find_versions,
    keystore_path,
    locate_key,
    master_key_id,
    read_keystore,
)
from pipecrypt.keys.services.keystore.opening import ReadKeystore, read_as_can_be
from pipecrypt.keys.services.keystore.seal import UnlockedKeystore
from pipecrypt.vocabulary.clock import utc_now, utc_text
from pipecrypt.vocabulary.documents import decode_base64
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["KeyList", "KeystoreEntry", "create_key", "entries_of", "import_key", "list_keys", "read_keys"]


_AS_USUAL: Final = NewKeystore()


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewKey:
    """What makes an entry besides the key itself."""

    place: KeyPlace
    type: KeyType
    new_version: bool
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoreEntry:
    """What a keystore tells about one version of one key; `KeyList` says whether that is authenticated.

    Args:
        name: what key references call it.
        master_key_id: what data files store of a master key or an identity.
        key_id: what statements store of a signing key, made from its public key; None for others.
        type: aes256, ed25519, mldsa65, x25519 or mlkem768x25519.
        version: 1 for the first of its name.
        created: UTC, ISO 8601.
        public_key: PEM of a signing key or an identity; None for a master key.
        retired: UTC, ISO 8601: it signs and wraps nothing from then on. None while it is in use.
    """

    name: str
    master_key_id: str
    key_id: str | None
    type: str
    version: int
    created: str
    public_key: str | None
    retired: str | None = None


@dataclass(frozen=True, slots=True)
class KeyList:
    """What a keystore holds.

    Args:
        authenticated: the keystore was opened with its passphrase or key file, so that all of this is true.
        keys: in the order of the file; those of one key only, oldest first.
        doubt: why nothing is authenticated; None where all is.
    """

    authenticated: bool
    keys: tuple[KeystoreEntry, ...]
    doubt: str | None


def create_key(
    reference: str,
    key_type: str,
    credentials: Credentials,
    *,
    new_version: bool = False,
    kdf: KDFParameters | None = None,
    keystore: NewKeystore = _AS_USUAL,
    clock: Callable[[], datetime] = utc_now,
) -> KeystoreEntry:
    """Make a key in a keystore, and the keystore if there is none.

    Args:
        reference: `keystore://PATH#NAME`.
        key_type: aes256, ed25519, mldsa65, x25519 or mlkem768x25519.
        credentials: they open the keystore, or become the ones of a new keystore.
        new_version: make a further version of a key that exists.
        kdf: how a new keystore turns its passphrase into a key; None for the default.
        keystore: what else holds of a keystore that is made.
        clock: gives the time of creation.

    Raises:
        UsageError: an unknown type, or another type than the earlier versions have.
        ConflictError: there is such a key, and `new_version` is not set.
        KeyNotFoundError: `new_version` is set, and there is no such key.
        PassphraseError: passphrase or key file is missing or wrong; nothing was written.
        KeystoreError: the keystore is malformed, cannot be written, or is gone from where it was seen before.
    """
    place, wanted = locate_key(parse_key_reference(reference)), _key_type(key_type)
    new = _NewKey(place=place, type=wanted, new_version=new_version, created=clock())
    with _make_key(wanted) as key:
        return _add_key(new, key, credentials, replace(keystore, kdf=kdf))


def import_key(
    reference: str,
    data: bytes,
    credentials: Credentials,
    *,
    new_version: bool = False,
    kdf: KDFParameters | None = None,
    keystore: NewKeystore = _AS_USUAL,
    clock: Callable[[], datetime] = utc_now,
) -> KeystoreEntry:
    """Put an existing key into a keystore; arguments and errors as in `create_key`.

    Args:
        reference: `keystore://PATH#NAME`.
        data: a 256-bit master key, raw or in base64, or a private key in PEM (PKCS #8) of Ed25519, ML-DSA-65, X25519 or
            mlkem768x25519.
        credentials: they open the keystore, or become the ones of a new keystore.
        new_version: add it as a further version of a key that exists.
        kdf: how a new keystore turns its passphrase into a key; None for the default.
        keystore: what else holds of a keystore that is made.
        clock: gives the time of creation.

    Raises:
        UsageError: `data` is no such key.
    """
    place = locate_key(parse_key_reference(reference))
    key_type, key = _read_key(data)
    with key:
        new = _NewKey(place=place, type=key_type, new_version=new_version, created=clock())
        return _add_key(new, key, credentials, replace(keystore, kdf=kdf))


def list_keys(reference: str) -> tuple[KeystoreEntry, ...]:
    """Return what a keystore says that it holds, read without its secret: nothing is authenticated; see `read_keys`."""
    return read_keys(reference, Credentials({})).keys


def read_keys(reference: str, credentials: Credentials) -> KeyList:
    """Return what a keystore holds; authenticated where its passphrase or key file is at hand.

    Args:
        reference: a path, `keystore://PATH`, or `keystore://PATH#NAME` for one key's versions only.
        credentials: what may open it; nobody is asked.

    Raises:
        KeystoreError: the keystore is missing.
        DamagedKeystoreError: it is malformed, was changed by somebody without its secret, or is older than it was seen
            before.
        KeyNotFoundError: it has no key of that name.
    """
    place: KeyPlace | None = None
    if "://" not in reference:
        path = Path(reference)
    else:
        parsed = parse_key_reference(reference)
        place = None if parsed.fragment is None else locate_key(parsed)
        path = keystore_path(parsed)
    try:
        read = read_as_can_be(path, credentials)
    except PassphraseError as error:
        read = ReadKeystore(read_keystore(path), error.message)  # a list widens nothing, and says so
    keys = read.document.keys if place is None else find_versions(read.document, place)
    return KeyList(read.doubt is None, entries_of(keys), read.doubt)


def _add_key(new: _NewKey, key: DataKey, credentials: Credentials, keystore: NewKeystore) -> KeystoreEntry:
    def change(unlocked: UnlockedKeystore) -> tuple[StoredKey, ...]:
        return *unlocked.document.keys, unlocked.seal_key(_new_entry(unlocked, new, key), key)

    document = make_or_change_keystore(new.place.path, credentials, change, keystore)
    return entries_of(document.keys[-1:])[0]


def _new_entry(unlocked: UnlockedKeystore, new: _NewKey, key: DataKey) -> StoredKey:
    return StoredKey(
        name=new.place.name,
        id=str(uuid.uuid4()),
        type=new.type,
        version=_next_version(unlocked.document.versions(new.place.name), new),
        created=utc_text(new.created),
        public_key=_public_key(new.type, key),
        sealed=b"",
    )


def _next_version(versions: tuple[StoredKey, ...], new: _NewKey) -> int:
    place = new.place
    if not versions:
        if new.new_version:
            raise KeyNotFoundError(
                f"{place.text}: there is no key {place.name} to make a new version of", hint="make it without a version"
            )
        return 1
    if not new.new_version:
        raise ConflictError(
            f"{place.text}: keystore {place.path} has a key {place.name} already",
            hint="choose another name, or ask for a new version of it",
        )
    if versions[0].type is not new.type:
        raise UsageError(
            f"{place.text} is of type {versions[0].type}, not {new.type}", hint="a key's versions are of one type"
        )
    return versions[-1].version + 1


def _key_type(text: str) -> KeyType:
    try:
        return KeyType(text)
    except ValueError as error:
        raise UsageError(
            f"a keystore makes no keys of type {text!a}", hint=f"it makes {', '.join(kind.value for kind in KeyType)}"
        ) from error


def _make_key(key_type: KeyType) -> DataKey:
    if key_type is KeyType.AES256:
        return DataKey(random_bytes(DATA_KEY_BYTES))
    return new_seed() if key_type.is_identity else new_signing_seed(SignatureAlgorithm(key_type.value))


def _public_key(key_type: KeyType, key: DataKey) -> str | None:
    if key_type is KeyType.AES256:
        return None
    if not key_type.is_identity:
        return public_pem(SignatureAlgorithm(key_type.value), key)
    identity = HPKEIdentity(RecipientAlgorithm(key_type.value), DataKey(key.expose_key_bytes()))
    identity.wipe()
    return encode_pem(identity.public_key)


def _read_key(data: bytes) -> tuple[KeyType, DataKey]:
    if data.lstrip().startswith(b"-----BEGIN"):
        algorithm, seed = read_seed_pem(data)
        return KeyType(algorithm), seed
    try:
        key_bytes = data if len(data) == DATA_KEY_BYTES else decode_base64(data.decode("ascii").strip())
        if len(key_bytes) == DATA_KEY_BYTES:
            return KeyType.AES256, DataKey(key_bytes)
    except ValueError:
        pass  # falls through to the same refusal; the cause could quote key material
    raise UsageError(
        "this is not a key that a keystore can hold",
        hint="give 32 bytes, raw or in base64, or a private key in PEM: Ed25519, ML-DSA-65, X25519, mlkem768x25519",
    )


def entries_of(keys: tuple[StoredKey, ...]) -> tuple[KeystoreEntry, ...]:
    """Return what is told about keys.

    Raises:
        KeystoreError: a public key is not valid.
    """
    return tuple(_entry(key) for key in keys)


def _entry(key: StoredKey) -> KeystoreEntry:
    try:
        return KeystoreEntry(
            name=key.name,
            master_key_id=master_key_id(key),
            key_id=PublicKey(key.public_key).key_id if key.type.signs and key.public_key is not None else None,
            type=key.type.value,
            version=key.version,
            created=key.created,
            public_key=key.public_key,
            retired=key.retired,
        )
    except UsageError as error:
        raise KeystoreError(
            f"key {key.name} (version {key.version}) has no valid public key: {error.message}",
            hint="restore the keystore from its backup",
        ) from error
