"""What a keystore holds: its JSON text, read with suspicion, and its seals under a passphrase or key file.

Layout (UTF-8, indented for people; "protection" has the second form for a key file)::

    {"pipecrypt_keystore": 2,
     "id": uuid,
     "counter": 1.., one more with each write,
     "protection": {"kind": "passphrase", "kdf": "argon2id", "salt": base64,
                    "memory_kib": 65536, "iterations": 3, "lanes": 4},
     "protection": {"kind": "key-file"},
     "verifier": base64(what the secret's holder knows),
     "keys": [{"name": text, "id": uuid, "type": one of KeyType, "version": 1.., "created": time,
               "retired": time (where it is), "public_key": PEM (all but aes256),
               "sealed": base64(sealed key or seed)}],
     "seal": base64(tag of all the rest)}

Version 1 has neither counter, seal nor retired keys: each key is sealed, the whole is not. It is read, never written.

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

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import Final, Self

from pipecrypt.crypto.aead import open_sealed, seal
from pipecrypt.crypto.kdf import Argon2Parameters, KDFParameters, ScryptParameters, derive_key, derive_subkey
from pipecrypt.crypto.mac import authenticate, is_authentic
from pipecrypt.errors import DamagedKeystoreError, IntegrityError, KeystoreError, PassphraseError
from pipecrypt.keys.credentials import MAX_PRIVATE_FILE_BYTES, Credentials
from pipecrypt.keys.service import join_parts
from pipecrypt.vocabulary.clock import utc_text
from pipecrypt.vocabulary.documents import Document, DocumentError, encode_base64, parse_document
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "MAX_COUNTER",
    "KeyType",
    "KeystoreDocument",
    "StoredKey",
    "UnlockedKeystore",
    "encode_keystore",
    "has_secret",
    "is_key_name",
    "new_keystore",
    "parse_keystore",
    "reprotected",
    "secret_fingerprint",
    "unlock_keystore",
]

MAX_COUNTER: Final = 2**53 - 1  # what other readers of JSON hold without loss
_OLD_VERSION: Final = 1
_VERSION: Final = 2
_MAX_KEYS: Final = 10_000
_MAX_SEALED_BYTES: Final = 256
_MAX_SALT_BYTES: Final = 64
_MAX_PEM_CHARACTERS: Final = 8192
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class KeyType(StrEnum):
    """What a key of a keystore is for."""

    AES256 = "aes256"
    ED25519 = "ed25519"
    MLDSA65 = "mldsa65"
    X25519 = "x25519"
    MLKEM768X25519 = "mlkem768x25519"

    @property
    def is_identity(self) -> bool:
        """Whether it opens what was sealed to its public half."""
        return self in (KeyType.X25519, KeyType.MLKEM768X25519)

    @property
    def signs(self) -> bool:
        """Whether it signs."""
        return self in (KeyType.ED25519, KeyType.MLDSA65)


_KDFS: Final[Mapping[str, type[KDFParameters]]] = MappingProxyType(
    {"argon2id": Argon2Parameters, "scrypt": ScryptParameters}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One version of one key.

    Args:
        name: what key references call it.
        id: a UUID of this version.
        type: what it is for.
        version: 1 for the first of its name.
        created: UTC, ISO 8601.
        public_key: PEM of a signing key or an identity; None for a master key.
        sealed: the key or its seed, sealed under the protection's key; b"" while it is being made.
        retired: UTC, ISO 8601: it signs and wraps nothing from then on. None while it is in use.
    """

    name: str
    id: str
    type: KeyType
    version: int
    created: str
    public_key: str | None
    sealed: bytes
    retired: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoreDocument:
    """A whole keystore, well-formed but not authenticated: an `UnlockedKeystore` holds one that is.

    Args:
        id: a UUID, for as long as the keystore lives.
        kdf: turns the passphrase that seals it into a key; None where a key file does.
        verifier: tells a wrong secret from a changed keystore.
        keys: in the order of the file.
        counter: of writes; 0 in the old version.
        seal: tag of all the rest; b"" in the old version, and while the document is being made.
        is_sealed: the whole is sealed, not only each key: it is not of the old version.
    """

    id: str
    kdf: KDFParameters | None
    verifier: bytes
    keys: tuple[StoredKey, ...]
    counter: int = 0
    seal: bytes = b""
    is_sealed: bool = True

    def versions(self, name: str) -> tuple[StoredKey, ...]:
        """Return the versions of a key, oldest first; empty where there is no such name."""
        return tuple(sorted((key for key in self.keys if key.name == name), key=lambda key: key.version))


def is_key_name(name: str) -> bool:
    """Return whether a key may have this name: up to 64 letters, digits, `_`, `-` and `.`, not first `-` or `.`."""
    return _NAME.fullmatch(name) is not None


def encode_keystore(document: KeystoreDocument) -> bytes:
    """Return the text of a keystore, in the version that the document has."""
    members = _covered_members(document)
    if document.is_sealed:
        members["seal"] = encode_base64(document.seal)
    return (json.dumps(members, indent=2) + "\n").encode("ascii")


def covered_text(document: KeystoreDocument) -> bytes:
    """Return the one encoding of all that the seal covers, which is everything but the seal."""
    return json.dumps(_covered_members(document), separators=(",", ":")).encode("ascii")


def parse_keystore(data: bytes, name: str) -> KeystoreDocument:
    """Parse and check the whole text of a keystore, so that nothing malformed is ever half used.

    Args:
        data: the text.
        name: what errors call the keystore.

    Raises:
        DamagedKeystoreError: it is malformed, or a later release wrote it.
    """
    try:
        document = parse_document(data, max_bytes=MAX_PRIVATE_FILE_BYTES)
        version = document.integer("pipecrypt_keystore")
        if version not in (_OLD_VERSION, _VERSION):
            raise DamagedKeystoreError(
                f"keystore {name} is of a version that this release does not know",
                hint="upgrade pipecrypt; or restore the keystore from its backup",
            )
        return _read_keystore(document, is_sealed=version == _VERSION)
    except (DocumentError, ValueError) as error:
        raise DamagedKeystoreError(f"keystore {name} is malformed: {error}") from error


def _covered_members(document: KeystoreDocument) -> dict[str, object]:
    counter = {"counter": document.counter} if document.is_sealed else {}
    return {
        "pipecrypt_keystore": _VERSION if document.is_sealed else _OLD_VERSION,
        "id": document.id,
        **counter,
        "protection": _encode_protection(document.kdf),
        "verifier": encode_base64(document.verifier),
        "keys": [_encode_key(key) for key in document.keys],
    }


def _encode_protection(kdf: KDFParameters | None) -> dict[str, object]:
    if kdf is None:
        return {"kind": "key-file"}
    name = next(name for name, kind in _KDFS.items() if isinstance(kdf, kind))
    costs = {each: getattr(kdf, each) for each in _costs(type(kdf))}
    return {"kind": "passphrase", "kdf": name, "salt": encode_base64(kdf.salt), **costs}


def _costs(kind: type[KDFParameters]) -> list[str]:
    return [each.name for each in fields(kind) if each.name != "salt"]


def _encode_key(key: StoredKey) -> dict[str, str | int]:
    retired = {} if key.retired is None else {"retired": key.retired}
    public = {} if key.public_key is None else {"public_key": key.public_key}
    return {
        "name": key.name,
        "id": key.id,
        "type": key.type.value,
        "version": key.version,
        "created": key.created,
        **retired,
        **public,
        "sealed": encode_base64(key.sealed),
    }


def _read_keystore(document: Document, *, is_sealed: bool) -> KeystoreDocument:
    added = ("counter", "seal") if is_sealed else ()
    document.only("pipecrypt_keystore", "id", "protection", "verifier", "keys", *added)
    keys = tuple(_read_key(entry, is_sealed=is_sealed) for entry in document.documents("keys", max_count=_MAX_KEYS))
    _check_unique(keys)
    return KeystoreDocument(
        id=document.text("id", max_characters=64, pattern=_UUID),
        kdf=_read_protection(document.document("protection")),
        verifier=_read_base64(document, "verifier", _MAX_SEALED_BYTES),
        keys=keys,
        counter=document.integer("counter", least=1, most=MAX_COUNTER) if is_sealed else 0,
        seal=_read_base64(document, "seal", _MAX_SEALED_BYTES) if is_sealed else b"",
        is_sealed=is_sealed,
    )


def _read_protection(document: Document) -> KDFParameters | None:
    kind = document.text("kind", max_characters=64)
    if kind == "key-file":
        document.only("kind")
        return None
    if kind != "passphrase":
        raise DocumentError("its protection is neither passphrase nor key-file")
    kdf = _KDFS.get(document.text("kdf", max_characters=64))
    if kdf is None:
        raise DocumentError("its kdf is neither argon2id nor scrypt")
    document.only("kind", "kdf", "salt", *(costs := _costs(kdf)))
    salt = _read_base64(document, "salt", _MAX_SALT_BYTES)
    return kdf(salt=salt, **{name: document.integer(name) for name in costs})


def _read_key(document: Document, *, is_sealed: bool) -> StoredKey:
    document.only("name", "id", "type", "version", "created", "public_key", "sealed", *(("retired",) * is_sealed))
    key_type = KeyType(document.text("type", max_characters=64))
    has_public_key = "public_key" in document
    if has_public_key is (key_type is KeyType.AES256):
        raise DocumentError("signing keys and identities have a public key, others have none")
    return StoredKey(
        name=document.text("name", max_characters=64, pattern=_NAME),
        id=document.text("id", max_characters=64, pattern=_UUID),
        type=key_type,
        version=document.integer("version", least=1, most=_MAX_KEYS),
        created=utc_text(document.time("created")),
        retired=utc_text(document.time("retired")) if "retired" in document else None,
        public_key=document.text("public_key", max_characters=_MAX_PEM_CHARACTERS) if has_public_key else None,
        sealed=_read_base64(document, "sealed", _MAX_SEALED_BYTES),
    )


def _read_base64(document: Document, name: str, max_bytes: int) -> bytes:
    data = document.base64(name, max_bytes=max_bytes)
    # The last digit may hold bits that mean nothing, which the seal would not cover.
    if encode_base64(data) != document.text(name, max_characters=(max_bytes + 2) // 3 * 4):
        raise DocumentError(f"{name!r} is not base64")
    return data


def _check_unique(keys: tuple[StoredKey, ...]) -> None:
    types: dict[str, KeyType] = {}
    for key in keys:
        if types.setdefault(key.name, key.type) is not key.type:
            raise DocumentError("versions of one key differ in type")
    if len({key.id for key in keys}) != len(keys) or len({(key.name, key.version) for key in keys}) != len(keys):
        raise DocumentError("a key occurs twice")


_OLD_VERIFIER: Final = b"pipecrypt keystore verifier v1"
_OLD_ENTRY: Final = b"pipecrypt keystore entry v1"
_DOCUMENT_KEY: Final = b"pipecrypt keystore document v2"
_ENTRY_KEY: Final = b"pipecrypt keystore entries v2"
_VERIFIER: Final = b"pipecrypt keystore verifier v2"
_SEAL: Final = b"pipecrypt keystore seal v2"
_ENTRY: Final = b"pipecrypt keystore entry v2"


class UnlockedKeystore:
    """A keystore whose document is as a holder of its secret wrote it; a context manager that wipes its keys.

    Only this module makes one. Whether the document is the newest it does not tell: see `keystore_file.check_age`.

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
    if not credentials.has_key_file():
        credentials.new_passphrase(_label(name))
    used = None if credentials.has_key_file() else kdf
    wrapping = _wrapping_key(used, name, credentials)
    empty = KeystoreDocument(id=keystore_id, kdf=used, verifier=_verifier(wrapping), keys=())
    return UnlockedKeystore(_sealed(empty, wrapping), name, wrapping)


def unlock_keystore(document: KeystoreDocument, name: str, credentials: Credentials) -> UnlockedKeystore:
    """Return a keystore after its whole document was authenticated; the caller wipes it. One derivation.

    Raises:
        PassphraseError: passphrase or key file is missing or wrong.
        DamagedKeystoreError: the document was changed by somebody without it.
    """
    wrapping = _wrapping_key(document.kdf, name, credentials)
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
        wrapping = _wrapping_key(before.kdf, name, credentials)
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
    """Return whether a secret is at hand, without asking anybody; it may be the wrong one.

    The kind that counts is not that which the document names alone: nothing of it is authenticated yet, and whoever
    put another keystore there chose the kind too.

    Raises:
        PassphraseError: a secret is at hand, and it is of the other kind; or one is given that cannot be read.
    """
    is_key_file = document.kdf is None
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
    is_key_file = document.kdf is None
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
    return "key file" if document.kdf is None else "passphrase"


def _wrapping_key(kdf: KDFParameters | None, name: str, credentials: Credentials) -> DataKey:
    if kdf is None:
        return credentials.key_file()
    passphrase = credentials.passphrase(_label(name))
    return credentials.derive_once(
        kdf, passphrase, lambda: derive_key(passphrase.encode(errors="surrogateescape"), kdf)
    )


def _label(name: str) -> str:
    return f"passphrase for keystore {name}"


def _entry_aad(label: bytes, document: KeystoreDocument, entry: StoredKey) -> bytes:
    fields = (entry.name, entry.id, entry.type, str(entry.version), entry.created, entry.public_key or "")
    return _aad(label, document, *(field.encode() for field in fields))


def _aad(label: bytes, document: KeystoreDocument, *fields: bytes) -> bytes:
    protection = json.dumps(_encode_protection(document.kdf), separators=(",", ":"), sort_keys=True).encode("ascii")
    return join_parts(label, document.id.encode(), protection, *fields)
