"""Bind a context to a message that is wrapped by something which binds none. The wrapping is left to others.

RSAES-OAEP without a label and AES key wrap take no associated data. So the digest of the context is wrapped along, and
compared in constant time when the message was unwrapped::

    message = plaintext || SHA-256(info) (32)

Both wrappings are non-malleable: nobody can exchange the digest and keep the plaintext without unwrapping it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from pipecrypt.errors import IntegrityError

__all__ = ["CONTEXT_DIGEST_BYTES", "append_context_digest", "remove_context_digest"]

CONTEXT_DIGEST_BYTES: Final = 32


def append_context_digest(plaintext: bytes | bytearray, info: bytes) -> bytearray:
    """Return the message to wrap, in a buffer of its own; the caller wipes it."""
    return bytearray(plaintext) + hashlib.sha256(info).digest()


def remove_context_digest(message: bytes | bytearray, info: bytes) -> bytearray:
    """Return the plaintext of an unwrapped message, in a buffer of its own; the caller wipes it.

    Raises:
        IntegrityError: the message was made for another context, or is too short.
    """
    digest = message[-CONTEXT_DIGEST_BYTES:]
    if not hmac.compare_digest(hashlib.sha256(info).digest(), digest):
        raise IntegrityError("authentication failed")
    return bytearray(message[:-CONTEXT_DIGEST_BYTES])
