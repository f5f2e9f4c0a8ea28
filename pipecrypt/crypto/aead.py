"""AES-GCM and AES-CTR under one data key.

Layout of a sealed message::

    nonce (12) || ciphertext (as long as the plaintext) || tag (16)

Nonces are random (SP 800-38D 8.2.2), so a key serves at most `MAX_INVOCATIONS` messages (8.3).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "MAX_INVOCATIONS",
    "NONCE_BYTES",
    "TAG_BYTES",
    "MessageCipher",
    "MessageEncryptor",
    "open_sealed",
    "random_bytes",
    "seal",
]

NONCE_BYTES = 12
TAG_BYTES = 16
MAX_INVOCATIONS = 2**32
ByteBuffer: TypeAlias = bytes | bytearray | memoryview
_CTR_COUNTER_START = b"\x00\x00\x00\x01"

random_bytes: Callable[[int], bytes] = os.urandom


class MessageCipher:
    """AES under one data key, writing into buffers that the caller owns.

    Lives as long as one column chunk, file or key session; OpenSSL's key schedule goes with it.
    """

    __slots__ = ("_gcm", "_key_bytes", "encrypt_into")

    def __init__(self, key: DataKey) -> None:
        """Expand the key; the caller still owns and wipes it."""
        key_bytes = bytes(key.expose_key_bytes())
        self._gcm = AESGCM(key_bytes)
        self._key_bytes = key_bytes
        # Bound once: an attribute look-up less for each of the millions of pages.
        self.encrypt_into: Callable[[ByteBuffer, ByteBuffer, ByteBuffer | None, ByteBuffer], int] = (
            self._gcm.encrypt_into
        )

    def seal(self, plaintext: ByteBuffer, associated_data: bytes) -> bytes:
        """Return nonce || ciphertext || tag under a fresh random nonce."""
        nonce = random_bytes(NONCE_BYTES)
        return nonce + self._gcm.encrypt(nonce, plaintext, associated_data)

    def open(self, nonce: ByteBuffer, sealed: ByteBuffer, associated_data: ByteBuffer) -> bytes:
        """Return the plaintext of ciphertext || tag.

        Raises:
            IntegrityError: key, nonce, associated data or ciphertext do not belong together.
        """
        try:
            return self._gcm.decrypt(nonce, sealed, associated_data)
        except InvalidTag as error:
            raise IntegrityError("authentication failed") from error

    def decrypt_into(self, nonce: ByteBuffer, sealed: ByteBuffer, associated_data: ByteBuffer, out: ByteBuffer) -> int:
        """Open ciphertext || tag into `out`; return the plaintext's length.

        Raises:
            IntegrityError: key, nonce, associated data or ciphertext do not belong together.
        """
        try:
            return self._gcm.decrypt_into(nonce, sealed, associated_data, out)
        except InvalidTag as error:
            raise IntegrityError("authentication failed") from error

    def decrypt_ctr(self, nonce: bytes, ciphertext: ByteBuffer) -> bytes:
        """Return the plaintext of an AES-CTR page: the IV is nonce || 00000001 (Encryption.md 5.2.2).

        Nothing authenticates it.
        """
        decryptor = Cipher(algorithms.AES(self._key_bytes), modes.CTR(nonce + _CTR_COUNTER_START)).decryptor()
        return decryptor.update(ciphertext) + decryptor.finalize()

    def encrypt_pieces(self, nonce: bytes, associated_data: bytes) -> MessageEncryptor:
        """Return the encryptor of one message that comes in pieces."""
        return MessageEncryptor(self._key_bytes, nonce, associated_data)


class MessageEncryptor:
    """One AES-GCM message, encrypted piece by piece: `update` for each, then `tag`."""

    __slots__ = ("_context", "update")

    def __init__(self, key_bytes: bytes, nonce: bytes, associated_data: bytes) -> None:
        """Begin the message."""
        self._context = Cipher(algorithms.AES(key_bytes), modes.GCM(nonce)).encryptor()
        self._context.authenticate_additional_data(associated_data)
        self.update: Callable[[ByteBuffer], bytes] = self._context.update

    def tag(self) -> bytes:
        """End the message; return its tag."""
        self._context.finalize()
        return self._context.tag


def seal(key: DataKey, plaintext: bytes | bytearray | memoryview, associated_data: bytes) -> bytes:
    """Return nonce || ciphertext || tag under a fresh random nonce."""
    return MessageCipher(key).seal(plaintext, associated_data)


def open_sealed(key: DataKey, sealed: bytes | memoryview, associated_data: bytes) -> bytes:
    """Return the plaintext of nonce || ciphertext || tag.

    Raises:
        IntegrityError: too short, or key, associated data or ciphertext do not belong together.
    """
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise IntegrityError(f"sealed message of {len(sealed)} bytes is too short")
    return MessageCipher(key).open(bytes(sealed[:NONCE_BYTES]), sealed[NONCE_BYTES:], associated_data)
