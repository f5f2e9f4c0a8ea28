"""Check signatures under public keys. Making them is left to private_key; whom a reader trusts, to the rooms above.

A public key is a PEM text (SubjectPublicKeyInfo). It alone decides the algorithm, so nothing that an attacker sends
along can choose a weaker one:

=============== ==================================================================================================
key             signature
=============== ==================================================================================================
Ed25519         RFC 8032 5.1, 64 bytes
ML-DSA-65       FIPS 204 5.2 with an empty context, 3309 bytes
EC P-256, P-384 ECDSA with SHA-256, SHA-384 (FIPS 186-5 6): DER of SEQUENCE { r, s }
RSA             RSASSA-PSS (RFC 8017 8.1): SHA-256, MGF1 with SHA-256, a salt of 32 bytes; 2048 to 8192 bits
=============== ==================================================================================================

A signature is not the name of a message: who has one ECDSA signature (r, s) knows a second, (r, n - s).
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

from pipecrypt.errors import IntegrityError, UsageError

__all__ = [
    "MAX_PEM_CHARACTERS",
    "PublicKey",
    "SignatureAlgorithm",
    "algorithm_of",
    "check_rsa",
    "ecdsa_scheme",
    "key_id",
    "pss_padding",
    "pss_scheme",
    "verify",
]

MAX_PEM_CHARACTERS: Final = 64 * 1024
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 16384  # beyond, OpenSSL refuses them
_MAX_SIGNING_BITS: Final = 8192  # a longer one takes milliseconds to verify, for no strength that anybody needs
_MIN_RSA_EXPONENT: Final = 2**16 + 1  # FIPS 186-5 5.1; with an exponent of 1 anybody could sign
_MAX_RSA_EXPONENT: Final = 2**64  # OpenSSL's own bound for long moduli
_HINT: Final = "use Ed25519, ML-DSA-65, ECDSA on P-256 or P-384, or RSA"

_PublicObject: TypeAlias = Ed25519PublicKey | MLDSA65PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class SignatureAlgorithm(StrEnum):
    """What a signing key is for."""

    ED25519 = "ed25519"
    MLDSA65 = "mldsa65"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_PSS = "rsa-pss"


_HASHES: Final = MappingProxyType(
    {SignatureAlgorithm.ECDSA_P256: hashes.SHA256(), SignatureAlgorithm.ECDSA_P384: hashes.SHA384()}
)
_CURVES: Final = MappingProxyType(
    {"secp256r1": SignatureAlgorithm.ECDSA_P256, "secp384r1": SignatureAlgorithm.ECDSA_P384}
)


class PublicKey:
    """A public key, parsed once. Pickled as its PEM text; equal to another with the same `key_id`.

    Args:
        pem: one public key; text around it is allowed (RFC 7468 2), a second key is not looked at.

    Raises:
        UsageError: no PEM, or a key of another algorithm, curve or size.
    """

    __slots__ = ("_public", "algorithm", "key_id", "pem")

    def __init__(self, pem: str) -> None:
        """Parse and check it."""
        self._public = _parse(pem)
        self.algorithm: Final = _algorithm(self._public)
        # Encoded anew, so that one key has one id however its PEM was written.
        spki = self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.key_id: Final = hashlib.sha256(spki).hexdigest()
        self.pem: Final = self._public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def verify(self, message: bytes, signature: bytes) -> None:
        """Pass if `signature` is one of `message` under this key, which the caller trusts already.

        Raises:
            IntegrityError: it is not.
        """
        try:
            self._verify(message, signature)
        except InvalidSignature as error:
            raise IntegrityError("the signature does not fit the message and the public key") from error

    def _verify(self, message: bytes, signature: bytes) -> None:
        if isinstance(self._public, ec.EllipticCurvePublicKey):
            self._public.verify(signature, message, ecdsa_scheme(self.algorithm))
        elif isinstance(self._public, rsa.RSAPublicKey):
            # RFC 8017 8.1.2 step 1, which OpenSSL leaves out where the first bytes are zero.
            if len(signature) != (self._public.key_size + 7) // 8:
                raise InvalidSignature
            self._public.verify(signature, message, pss_padding(), pss_scheme())
        else:
            self._public.verify(signature, message)

    def __eq__(self, other: object) -> bool:
        """Compare key ids."""
        return isinstance(other, PublicKey) and other.key_id == self.key_id

    def __hash__(self) -> int:
        """Hash the key id."""
        return hash(self.key_id)

    def __repr__(self) -> str:
        """Show the algorithm and the id."""
        return f"<PublicKey {self.algorithm} {self.key_id}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the PEM text: workers verify too."""
        return PublicKey, (self.pem,)


def key_id(public_key_pem: str) -> str:
    """Return the id of a public key: SHA-256 of its DER SubjectPublicKeyInfo, in hexadecimal.

    `openssl pkey -pubin -outform DER | sha256sum` prints the same.

    Raises:
        UsageError: the public key is none of ours.
    """
    return PublicKey(public_key_pem).key_id


def algorithm_of(public_key_pem: str) -> SignatureAlgorithm:
    """Return what a public key is for.

    Raises:
        UsageError: the public key is none of ours.
    """
    return PublicKey(public_key_pem).algorithm


def verify(public_key_pem: str, message: bytes, signature: bytes) -> None:
    """Pass if `signature` is one of `message` under the public key, which the caller trusts already.

    Raises:
        IntegrityError: it is not.
        UsageError: the public key is none of ours.
    """
    PublicKey(public_key_pem).verify(message, signature)


def check_rsa(public: rsa.RSAPublicKey, *, max_bits: int = _MAX_RSA_BITS) -> None:
    """Pass if the size and the exponent of an RSA key are safe.

    Raises:
        UsageError: they are not.
    """
    if not _MIN_RSA_BITS <= public.key_size <= max_bits:
        raise UsageError(
            f"the RSA key has {public.key_size} bits, not {_MIN_RSA_BITS} to {max_bits}",
            hint="make one of 3072 bits, or an Ed25519 key",
        )
    exponent = public.public_numbers().e
    if not _MIN_RSA_EXPONENT <= exponent < _MAX_RSA_EXPONENT:  # cryptography refuses even ones
        raise UsageError("the RSA key has an unsafe public exponent", hint="make one with the exponent 65537")


def ecdsa_scheme(algorithm: SignatureAlgorithm) -> ec.ECDSA:
    """Return how a curve signs: the hash is as long as the curve's order, never chosen by the signature."""
    return ec.ECDSA(_HASHES[algorithm])


def pss_scheme() -> hashes.HashAlgorithm:
    """Return the one hash of RSA-PSS."""
    return hashes.SHA256()


def pss_padding() -> padding.PSS:
    """Return the one padding of RSA-PSS. The salt's length is fixed: `AUTO` would accept any."""
    return padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)


def _parse(pem: str) -> _PublicObject:
    refusal = UsageError("this is not a public key in PEM", hint="pipecrypt keys export writes one")
    if len(pem) > MAX_PEM_CHARACTERS:
        raise refusal
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's text may quote the input, which may be a private key, so it is not repeated.
        raise refusal from None
    if not isinstance(public, _PublicObject):
        raise UsageError("the public key is of an algorithm that signs nothing here", hint=_HINT)
    return public


def _algorithm(public: _PublicObject) -> SignatureAlgorithm:
    if isinstance(public, Ed25519PublicKey):
        return SignatureAlgorithm.ED25519
    if isinstance(public, MLDSA65PublicKey):
        return SignatureAlgorithm.MLDSA65
    if isinstance(public, rsa.RSAPublicKey):
        check_rsa(public, max_bits=_MAX_SIGNING_BITS)
        return SignatureAlgorithm.RSA_PSS
    algorithm = _CURVES.get(public.curve.name)
    if algorithm is None:
        raise UsageError(f"the key is on the curve {public.curve.name}, not P-256 or P-384", hint=_HINT)
    return algorithm
