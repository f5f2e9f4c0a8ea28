"""HMAC-SHA256 under a key, and digests that bind: of a data key to its place, of a text, of a context.

A **tag** authenticates a text under a key. AES-GCM with an empty message would authenticate as well, but one of its
tags can hold under two keys. HMAC commits to the key, so a tag also tells a right passphrase from a wrong one::

    tag (32) = HMAC-SHA256(key, label || 0x00 || text)      a label holds no zero byte

A **commitment** to a data key is stored beside the wrapped key and pins the one key that was meant: AES-GCM is not
key-committing, and one ciphertext may open under two keys (CVE-2020-8897). It is HKDF-Expand (RFC 5869 2.3)::

    commitment (32) = HMAC-SHA256(data key, "pipecrypt data key commitment v1" || binding || 0x01)

A data key is uniformly random, so HKDF's extract step is left out on purpose (RFC 5869 3.3). One block of output needs
no other counter byte than 0x01.

A **context digest** binds a context where the wrapping takes no associated data, as RSAES-OAEP without a label and AES
key wrap do not. It is wrapped along, and compared in constant time when the message was unwrapped::

    message = plaintext || SHA-256(info) (32)

Both wrappings are non-malleable: nobody can exchange the digest and keep the plaintext without unwrapping it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = [
    "COMMITMENT_BYTES",
    "CONTEXT_DIGEST_BYTES",
    "append_context_digest",
    "authenticate",
    "check_commitment",
    "commit",
    "is_authentic",
    "remove_context_digest",
]

COMMITMENT_BYTES: Final = 32
CONTEXT_DIGEST_BYTES: Final = 32
_END_OF_LABEL: Final = b"\x00"
_COMMITMENT_LABEL: Final = b"pipecrypt data key commitment v1"
_FIRST_BLOCK: Final = b"\x01"


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
    """Return whether `tag` was made from these; compares in constant time."""
    return hmac.compare_digest(authenticate(key, label, text), tag)


def commit(key: DataKey, binding: bytes) -> bytes:
    """Return the 32-byte commitment to `key` at the place that `binding` encodes.

    Args:
        key: a 256-bit data key.
        binding: an injective encoding of where the key belongs (`Context.key_binding`).
    """
    key_bytes = key.expose_key_bytes()
    if len(key_bytes) != DATA_KEY_BYTES:
        # A 128-bit key cannot be committed to with 128-bit collision resistance, and we write none.
        raise IntegrityError(f"a {key.bits}-bit data key carries a commitment, which only 256-bit ones have")
    return hmac.digest(key_bytes, _COMMITMENT_LABEL + binding + _FIRST_BLOCK, "sha256")


def check_commitment(key: DataKey, binding: bytes, commitment: bytes) -> None:
    """Pass if `commitment` was made for this key at this place; compares in constant time.

    Raises:
        IntegrityError: another key, another place, or not a commitment.
    """
    if not hmac.compare_digest(commit(key, binding), commitment):
        raise IntegrityError("the data key does not match its commitment")


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
