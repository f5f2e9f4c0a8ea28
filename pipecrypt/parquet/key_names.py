"""Read which keys a file's key metadata names, as far as it is PKMT1 JSON. Unwrapping and checking are left to keys.

Nothing of it is authenticated: whether the names are true, only unwrapping, or a signature over the footer, shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = ["KeyNames", "read_key_names"]

_MAX_BYTES: Final = 64 * 1024  # what any reader of ours takes
_MAX_CHARACTERS: Final = 4096
_MAX_TYPE_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class KeyNames:
    """What the key metadata of one data key says.

    Args:
        master_key_id: None where it is no PKMT1 key material, or names material outside of the file.
        kek_id: the text of "keyEncryptionKeyID"; None without one.
        has_commitment: it commits to the data key.
    """

    master_key_id: str | None = None
    kek_id: str | None = None
    has_commitment: bool = False


_NO_NAMES: Final = KeyNames()


def read_key_names(key_metadata: bytes) -> KeyNames:
    """Return what key metadata says; names nothing where it is something else or malformed."""
    try:
        document = parse_document(key_metadata, max_bytes=_MAX_BYTES)
        if document.text("keyMaterialType", max_characters=_MAX_TYPE_CHARACTERS) != "PKMT1":
            return _NO_NAMES
        return KeyNames(
            document.text("masterKeyID", max_characters=_MAX_CHARACTERS),
            _kek_id(document),
            has_commitment=_has_commitment(document),
        )
    except DocumentError:
        return _NO_NAMES


def _kek_id(document: Document) -> str | None:
    try:
        return document.text("keyEncryptionKeyID", max_characters=_MAX_CHARACTERS)
    except DocumentError:
        return None


def _has_commitment(document: Document) -> bool:
    try:
        return "commitment" in document.document("pipecrypt")
    except DocumentError:
        return False
