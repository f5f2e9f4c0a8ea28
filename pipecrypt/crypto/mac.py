"""Authenticate a text under a key: HMAC-SHA256. What the text says, and where its tag is kept, is left to keys/.

AES-GCM with an empty message would authenticate as well, but one of its tags can hold under two keys. HMAC commits to
the key, so a tag also tells a right passphrase from a wrong one::

    tag (32) = HMAC-SHA256(key, label || 0x00 || text)      a label holds no zero byte
"""

from __future__ import annotations

import hmac
from typing import Final

from pipecrypt.vocabulary.secret import DataKey

__all__ = ["MAC_BYTES", "authenticate", "is_authentic"]

MAC_BYTES: Final = 32
_END_OF_LABEL: Final = b"\x00"


def authenticate(key: DataKey, label: bytes, text: bytes) -> bytes:
    """Return the 32-byte tag of `text` under `key`.

    Args:
        key: used for nothing else.
        label: what kind of text it is; no tag of one kind holds for another.
        text: any bytes.
    """
    if _END_OF_LABEL in label:
        raise RuntimeError("a label holds no zero byte")
    return hmac.digest(bytes(key.expose_key_bytes()), label + _END_OF_LABEL + text, "sha256")


def is_authentic(key: DataKey, label: bytes, text: bytes, tag: bytes) -> bool:
    """Say whether `tag` was made from these; compares in constant time."""
    return hmac.compare_digest(authenticate(key, label, text), tag)
