"""What a recipient's public key and its private half do: seal and open. How, is left to hpke, oaep and recipient_pem.

The public key alone decides the algorithm, so that nothing in a file can choose a weaker one:

================== ==================================================================== ============
key                how it seals                                                         post-quantum
================== ==================================================================== ============
mlkem768x25519     HPKE with MLKEM768-X25519 (X-Wing), HKDF-SHA256, AES-256-GCM         yes
x25519             HPKE with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM       no
RSA                RSAES-OAEP with SHA-256 and MGF1 with SHA-256; 2048 to 16384 bits    no
================== ==================================================================== ============
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Protocol

from pipecrypt.crypto.signature import pem_text

__all__ = ["Identity", "RecipientAlgorithm", "RecipientKey", "encode_pem", "key_digest"]


class RecipientAlgorithm(StrEnum):
    """How a key seals; the names stand in the ids of master keys."""

    MLKEM768X25519 = "mlkem768x25519"
    X25519 = "x25519"
    RSA_OAEP_256 = "rsa-oaep-256"

    @property
    def is_post_quantum(self) -> bool:
        """Whether a quantum computer, as far as is known, does not open what it sealed."""
        return self is RecipientAlgorithm.MLKEM768X25519


class RecipientKey(Protocol):
    """A public key that seals: who holds only this cannot open what it sealed."""

    @property
    def algorithm(self) -> RecipientAlgorithm:
        """How it seals."""

    @property
    def spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo, encoded anew, so that one key has one encoding."""

    def seal(self, plaintext: bytes | bytearray, info: bytes) -> bytes:
        """Return `plaintext` sealed, bound to `info`."""


class Identity(Protocol):
    """The private half. Never printed, copied or pickled; the owner wipes it."""

    @property
    def public_key(self) -> RecipientKey:
        """The public half."""

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Return the plaintext of what the public half sealed, bound to `info`.

        Raises:
            IntegrityError: key, `info` and sealed bytes do not belong together.
        """

    def wipe(self) -> None:
        """Wipe the private key, as far as Python can. Safe to call twice."""


def key_digest(key: RecipientKey) -> str:
    """Return the SHA-256 of the public key's DER SubjectPublicKeyInfo, as 64 hexadecimal digits."""
    return hashlib.sha256(key.spki).hexdigest()


def encode_pem(key: RecipientKey) -> str:
    """Return the public key as PEM (RFC 7468 13)."""
    return pem_text("PUBLIC KEY", key.spki)
