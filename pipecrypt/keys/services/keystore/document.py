"""The JSON text of a keystore: what it holds, and reading it with suspicion. Sealing keys and files: left to siblings.

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
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from pipecrypt.crypto.kdf import Argon2Parameters, KDFParameters, ScryptParameters
from pipecrypt.errors import DamagedKeystoreError
from pipecrypt.keys.services.private_file import MAX_PRIVATE_FILE_BYTES
from pipecrypt.vocabulary.clock import parse_utc
from pipecrypt.vocabulary.documents import Document, DocumentError, encode_base64, parse_document

__all__ = [
    "MAX_COUNTER",
    "KeyFileProtection",
    "KeyType",
    "KeystoreDocument",
    "PassphraseProtection",
    "Protection",
    "StoredKey",
    "covered_text",
    "encode_keystore",
    "is_key_name",
    "parse_keystore",
    "protection_text",
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


@dataclass(frozen=True, slots=True)
class PassphraseProtection:
    """All keys are sealed under a key derived from a passphrase."""

    kdf: KDFParameters


@dataclass(frozen=True, slots=True)
class KeyFileProtection:
    """All keys are sealed under a key that is in a key file."""


Protection: TypeAlias = PassphraseProtection | KeyFileProtection


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
        protection: what seals it.
        verifier: tells a wrong secret from a changed keystore.
        keys: in the order of the file.
        counter: of writes; 0 in the old version.
        seal: tag of all the rest; b"" in the old version, and while the document is being made.
        is_sealed: the whole is sealed, not only each key: it is not of the old version.
    """

    id: str
    protection: Protection
    verifier: bytes
    keys: tuple[StoredKey, ...]
    counter: int = 0
    seal: bytes = b""
    is_sealed: bool = True

    def versions(self, name: str) -> tuple[StoredKey, ...]:
        """Return the versions of a key, oldest first; empty where there is no such name."""
        return tuple(sorted((key for key in self.keys if key.name == name), key=lambda key: key.version))


def is_key_name(name: str) -> bool:
    """Say whether a key may have this name: up to 64 letters, digits, `_`, `-` and `.`, not first `-` or `.`."""
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


def protection_text(protection: Protection) -> bytes:
    """Return the one encoding of a protection that the seals authenticate."""
    return json.dumps(_encode_protection(protection), separators=(",", ":"), sort_keys=True).encode("ascii")


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
        "protection": _encode_protection(document.protection),
        "verifier": encode_base64(document.verifier),
        "keys": [_encode_key(key) for key in document.keys],
    }


def _encode_protection(protection: Protection) -> dict[str, str | int]:
    if isinstance(protection, KeyFileProtection):
        return {"kind": "key-file"}
    kdf = protection.kdf
    salt = {"salt": encode_base64(kdf.salt)}
    if isinstance(kdf, Argon2Parameters):
        cost = {"memory_kib": kdf.memory_kib, "iterations": kdf.iterations, "lanes": kdf.lanes}
        return {"kind": "passphrase", "kdf": "argon2id", **salt, **cost}
    cost = {"cost": kdf.cost, "block_size": kdf.block_size, "parallelism": kdf.parallelism}
    return {"kind": "passphrase", "kdf": "scrypt", **salt, **cost}


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
        id=_read_pattern(document, "id", _UUID),
        protection=_read_protection(document.document("protection")),
        verifier=_read_base64(document, "verifier", _MAX_SEALED_BYTES),
        keys=keys,
        counter=_read_number(document, "counter", MAX_COUNTER) if is_sealed else 0,
        seal=_read_base64(document, "seal", _MAX_SEALED_BYTES) if is_sealed else b"",
        is_sealed=is_sealed,
    )


def _read_protection(document: Document) -> Protection:
    kind = document.text("kind", max_characters=64)
    if kind == "key-file":
        document.only("kind")
        return KeyFileProtection()
    if kind != "passphrase":
        raise DocumentError("its protection is neither passphrase nor key-file")
    kdf, salt = document.text("kdf", max_characters=64), _read_base64(document, "salt", _MAX_SALT_BYTES)
    if kdf == "argon2id":
        document.only("kind", "kdf", "salt", *(names := ("memory_kib", "iterations", "lanes")))
        return PassphraseProtection(Argon2Parameters(salt=salt, **{name: document.integer(name) for name in names}))
    if kdf == "scrypt":
        document.only("kind", "kdf", "salt", *(names := ("cost", "block_size", "parallelism")))
        return PassphraseProtection(ScryptParameters(salt=salt, **{name: document.integer(name) for name in names}))
    raise DocumentError("its kdf is neither argon2id nor scrypt")


def _read_key(document: Document, *, is_sealed: bool) -> StoredKey:
    document.only("name", "id", "type", "version", "created", "public_key", "sealed", *(("retired",) * is_sealed))
    key_type = KeyType(document.text("type", max_characters=64))
    has_public_key = "public_key" in document
    if has_public_key is (key_type is KeyType.AES256):
        raise DocumentError("signing keys and identities have a public key, others have none")
    return StoredKey(
        name=_read_pattern(document, "name", _NAME),
        id=_read_pattern(document, "id", _UUID),
        type=key_type,
        version=_read_number(document, "version", _MAX_KEYS),
        created=_read_time(document, "created"),
        retired=_read_time(document, "retired") if "retired" in document else None,
        public_key=document.text("public_key", max_characters=_MAX_PEM_CHARACTERS) if has_public_key else None,
        sealed=_read_base64(document, "sealed", _MAX_SEALED_BYTES),
    )


def _read_base64(document: Document, name: str, max_bytes: int) -> bytes:
    data = document.base64(name, max_bytes=max_bytes)
    # The last digit may hold bits that mean nothing, which the seal would not cover.
    if encode_base64(data) != document.text(name, max_characters=(max_bytes + 2) // 3 * 4):
        raise DocumentError(f"{name!r} is not base64")
    return data


def _read_number(document: Document, name: str, largest: int) -> int:
    number = document.integer(name)
    if not 1 <= number <= largest:
        raise DocumentError(f"{name!r} is out of range")
    return number


def _read_pattern(document: Document, name: str, pattern: re.Pattern[str]) -> str:
    text = document.text(name, max_characters=64)
    if pattern.fullmatch(text) is None:
        raise DocumentError(f"{name!r} has no valid form")
    return text


def _read_time(document: Document, name: str) -> str:
    text = document.text(name, max_characters=64)
    try:
        parse_utc(text)
    except ValueError as error:
        raise DocumentError(f"{name!r} is not a time") from error
    return text


def _check_unique(keys: tuple[StoredKey, ...]) -> None:
    types: dict[str, KeyType] = {}
    for key in keys:
        if types.setdefault(key.name, key.type) is not key.type:
            raise DocumentError("versions of one key differ in type")
    if len({key.id for key in keys}) != len(keys) or len({(key.name, key.version) for key in keys}) != len(keys):
        raise DocumentError("a key occurs twice")
