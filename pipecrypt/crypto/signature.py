"""Sign and verify with Ed25519 and ML-DSA-65. What is signed and whom a reader trusts is left to the rooms above.

A private key is its seed (32 bytes; RFC 8032 5.1.5, FIPS 204 3.6.3), held as a DataKey. A public key is a PEM text
(SubjectPublicKeyInfo). The public key alone decides the algorithm: a signature carries no name of one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from pipecrypt.errors import IntegrityError, UsageError
from pipecrypt.secret import DataKey

__all__ = [
    "SignatureAlgorithm",
    "algorithm_of",
    "new_signing_seed",
    "public_pem",
    "read_private_pem",
    "sign",
    "verify",
]

_PrivateKey: TypeAlias = Ed25519PrivateKey | MLDSA65PrivateKey
_PublicKey: TypeAlias = Ed25519PublicKey | MLDSA65PublicKey


class SignatureAlgorithm(StrEnum):
    """What a signing key is for."""

    ED25519 = "ed25519"
    MLDSA65 = "mldsa65"


def new_signing_seed(algorithm: SignatureAlgorithm) -> DataKey:
    """Return the seed of a fresh private key.

    Raises:
        UsageError: this OpenSSL lacks the algorithm.
    """
    try:
        private = Ed25519PrivateKey if algorithm is SignatureAlgorithm.ED25519 else MLDSA65PrivateKey
        return DataKey(private.generate().private_bytes_raw())
    except UnsupportedAlgorithm as error:
        raise _unsupported(algorithm) from error


def public_pem(algorithm: SignatureAlgorithm, seed: DataKey) -> str:
    """Return the public key that belongs to `seed`, as PEM."""
    public = _private_key(algorithm, seed).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def sign(algorithm: SignatureAlgorithm, seed: DataKey, message: bytes) -> bytes:
    """Return the signature of `message`; the caller has put a type or domain label into it."""
    return _private_key(algorithm, seed).sign(message)


def verify(public_key_pem: str, message: bytes, signature: bytes) -> None:
    """Pass if `signature` is one of `message` under the public key, which the caller trusts already.

    Raises:
        IntegrityError: it is not.
        UsageError: the public key is none of ours.
    """
    public = _public_key(public_key_pem)
    try:
        public.verify(signature, message)
    except InvalidSignature as error:
        raise IntegrityError("the signature does not fit the message and the public key") from error


def algorithm_of(public_key_pem: str) -> SignatureAlgorithm:
    """Return what a public key is for.

    Raises:
        UsageError: no PEM, or another algorithm.
    """
    return _algorithm(_public_key(public_key_pem))


def read_private_pem(pem: bytes) -> tuple[SignatureAlgorithm, DataKey]:
    """Return algorithm and seed of an unencrypted PKCS #8 private key, as `openssl genpkey` writes it.

    Raises:
        UsageError: no such PEM, encrypted, or another algorithm.
    """
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The text of the library's error may quote the input, so it is not repeated.
        raise UsageError(
            "this is no unencrypted private key in PEM", hint="decrypt it with openssl pkey, or make a new one"
        ) from error
    if not isinstance(private, _PrivateKey):
        raise UsageError("the private key is neither Ed25519 nor ML-DSA-65", hint="make one with pipecrypt keys new")
    return _algorithm(private.public_key()), DataKey(private.private_bytes_raw())


def _private_key(algorithm: SignatureAlgorithm, seed: DataKey) -> _PrivateKey:
    seed_bytes = bytes(seed.expose_key_bytes())
    try:
        if algorithm is SignatureAlgorithm.ED25519:
            return Ed25519PrivateKey.from_private_bytes(seed_bytes)
        return MLDSA65PrivateKey.from_seed_bytes(seed_bytes)
    except UnsupportedAlgorithm as error:
        raise _unsupported(algorithm) from error


def _public_key(pem: str) -> _PublicKey:
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError("this is no public key in PEM", hint="pipecrypt keys export writes one") from error
    if not isinstance(public, _PublicKey):
        raise UsageError("the public key is neither Ed25519 nor ML-DSA-65", hint="pipecrypt keys export writes one")
    return public


def _algorithm(public: _PublicKey) -> SignatureAlgorithm:
    return SignatureAlgorithm.ED25519 if isinstance(public, Ed25519PublicKey) else SignatureAlgorithm.MLDSA65


def _unsupported(algorithm: SignatureAlgorithm) -> UsageError:
    return UsageError(f"this build of OpenSSL has no {algorithm}", hint="use the wheels of cryptography from PyPI")
