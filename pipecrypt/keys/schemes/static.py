"""The key service `static://`: keys that the user lists in a file, for files of other writers. It makes no keys.

URI form: `static:///abs/map.json`, `static://map.json`, `static://~/map.json`.
Credentials: none. Permissions: to read the file.

The file is a JSON object from key id to the key's 16, 24 or 32 bytes in base64. A key id is, first match counts:

1. the text of `key_metadata`, or `hex:` and its bytes in hexadecimal where they are not text;
2. for columns and footers without `key_metadata`: `footer`, or the column's dotted path;
3. for PKMT1 material: the "masterKeyID". What it wrapped is opened as parquet-java's KeyToolkit.decryptKeyLocally and
   parquet-cpp's LocalWrapKmsClient do: AES-GCM, nonce || ciphertext || tag, AAD = the master key id in UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipecrypt.crypto.aead import open_sealed
from pipecrypt.errors import FormatError, IntegrityError, KeystoreError, UnsupportedError
from pipecrypt.keys.credentials import Credentials, read_private_file
from pipecrypt.keys.reference import KeyReference
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import Document, DocumentError, decode_base64, parse_document
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["SERVICE", "StaticKeyService", "StaticKeys"]

_MAX_BYTES: Final = 16 * 1024 * 1024
_MAX_WRAPPED_BYTES: Final = 64 * 1024
_MAX_KEY_BYTES: Final = 32
_FOOTER: Final = "footer"
_HEX: Final = "hex:"
# parquet-java's and parquet-cpp's LocalWrapKmsClient put the wrapped key into a JSON object of its own.
_LOCAL_KEY: Final = "encryptedKey"
_LOCAL_VERSION: Final = "masterKeyVersion"
_NO_VERSION: Final = "NO_VERSION"


class StaticKeys:
    """Explicit keys by key id.

    Args:
        keys: by key id; owned, and wiped by `wipe`.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[bytes, DataKey]) -> None:
        """Keep the keys."""
        self._keys = dict(keys)

    def find_key(self, key_metadata: bytes, context: Context) -> DataKey | None:
        """Return a copy of the key listed for `key_metadata`, or without any for the column or footer; else None."""
        name = key_metadata or (_FOOTER if context.column is None else ".".join(context.column)).encode()
        key = self._keys.get(name)
        return None if key is None else DataKey(key.expose_key_bytes())

    def unwrap_named(self, wrapped: str, master_key_id: str) -> DataKey | None:
        """Return the key that the listed master key wrapped, or None if it is not listed.

        Raises:
            IntegrityError: `wrapped` was not made by that master key.
            FormatError: `wrapped` is not a wrapped key.
            UnsupportedError: it was made by a versioned master key.
        """
        key_id = master_key_id.encode(errors="surrogatepass")  # any text may come from a file
        master_key = self._keys.get(key_id)
        if master_key is None:
            return None
        sealed = _read_wrapped(wrapped)
        try:
            return DataKey(open_sealed(master_key, sealed, key_id))
        except IntegrityError as error:
            raise IntegrityError(
                f"a key of the file was not wrapped by the listed master key {master_key_id[:200]!a}",
                hint="check the key bytes listed for it",
            ) from error
        except ValueError as error:
            raise FormatError("key metadata is malformed: what the master key wrapped is not an AES key") from error

    def wipe(self) -> None:
        """Wipe all keys."""
        for key in self._keys.values():
            key.wipe()
        self._keys.clear()


class StaticKeyService:
    """The key service of the scheme `static`."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> StaticKeys:
        """Read the file.

        Raises:
            KeyReferenceError: the reference has a fragment or options.
            KeystoreError: the file is missing or malformed.
        """
        path = reference.whole_file()
        data = read_private_file(path, "key list")
        if data is None:
            raise KeystoreError(
                f"key list {path} does not exist",
                hint="write a JSON object from key id to the key's bytes in base64",
            )
        try:
            return StaticKeys(_read_keys(parse_document(data, max_bytes=_MAX_BYTES)))
        except DocumentError as error:
            raise KeystoreError(
                f"key list {path} is malformed: {error}",
                hint="write a JSON object from key id to the key's 16, 24 or 32 bytes in base64",
            ) from error


SERVICE: Final = StaticKeyService()


def _read_keys(document: Document) -> dict[bytes, DataKey]:
    keys: dict[bytes, DataKey] = {}
    for name in document:
        key_bytes = document.base64(name, max_bytes=_MAX_KEY_BYTES)
        try:
            key_id = bytes.fromhex(name.removeprefix(_HEX)) if name.startswith(_HEX) else name.encode()
            key = DataKey(key_bytes)
        except ValueError as error:
            raise DocumentError(f"{name[:60]!a} is not a key id, or its key has not 16, 24 or 32 bytes") from error
        if keys.setdefault(key_id, key) is not key:
            raise DocumentError(f"{name[:60]!a} stands for a key id that is listed already")
    return keys


def _read_wrapped(wrapped: str) -> bytes:
    try:
        if not wrapped.startswith("{"):
            return decode_base64(wrapped)
        local = parse_document(wrapped.encode(errors="replace"), max_bytes=_MAX_WRAPPED_BYTES)
        if local.text(_LOCAL_VERSION, max_characters=64) != _NO_VERSION:
            raise UnsupportedError(
                "a versioned master key wrapped this key", hint="rewrite the file with unversioned master keys"
            )
        return local.base64(_LOCAL_KEY, max_bytes=_MAX_WRAPPED_BYTES)
    except (DocumentError, ValueError) as error:
        raise FormatError("key metadata is malformed: the wrapped key is not base64") from error
