"""Keys of any algorithm, as PEM."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization


def private_pem(key: object, password: bytes | None = None) -> bytes:
    """Return a private key in PKCS #8, under a password or none."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem: bytes = key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return pem


def public_text(key: object) -> str:
    """Return the public half of a private key."""
    pem: bytes = key.public_key().public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem.decode()
