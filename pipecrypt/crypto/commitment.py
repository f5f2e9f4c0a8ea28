"""Commit to a data key and check the commitment. Where a commitment is stored is left to keys/.

AES-GCM is not key-committing: one ciphertext may open under two keys (CVE-2020-8897). A commitment stored beside
the wrapped key pins the one key that was meant. It is HKDF-Expand (RFC 5869 2.3) with SHA-256::

    commitment (32) = HMAC-SHA256(data key, "pipecrypt data key commitment v1" || binding || 0x01)

A data key is uniformly random, so HKDF's extract step is left out on purpose (RFC 5869 3.3). One block of output
needs no other counter byte than 0x01.
"""

from __future__ import annotations

import hmac
from typing import Final

from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["COMMITMENT_BYTES", "check_commitment", "commit"]

COMMITMENT_BYTES: Final = 32
_LABEL: Final = b"pipecrypt data key commitment v1"
_FIRST_BLOCK: Final = b"\x01"


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
    return hmac.digest(key_bytes, _LABEL + binding + _FIRST_BLOCK, "sha256")


def check_commitment(key: DataKey, binding: bytes, commitment: bytes) -> None:
    """Pass if `commitment` was made for this key at this place; compares in constant time.

    Raises:
        IntegrityError: another key, another place, or not a commitment.
    """
    if not hmac.compare_digest(commit(key, binding), commitment):
        raise IntegrityError("the data key does not match its commitment")
