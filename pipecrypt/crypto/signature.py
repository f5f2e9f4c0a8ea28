"""Signatures: public keys that check them, private keys that make them, from a seed or a PEM file.

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

The private key of Ed25519 and ML-DSA-65 is its seed (32 bytes; RFC 8032 5.1.5, FIPS 204 3.6.3), held as a DataKey, and
expanded for each signature. A private key of ECDSA or RSA is an object of OpenSSL: Python cannot overwrite it, and
`wipe` only lets go of it, whereupon OpenSSL clears its numbers. The same holds for the text of a PEM file.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NoReturn, Self, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from pipecrypt.errors import IntegrityError, PassphraseError, UsageError
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "PrivateKey",
    "PublicKey",
    "Signature",
    "SignatureAlgorithm",
    "check_rsa",
    "is_encrypted_pem",
    "load_private_pem",
    "pem_text",
    "public_pem",
    "seed_of",
]

MAX_PEM_CHARACTERS: Final = 64 * 1024
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 16384  # beyond, OpenSSL refuses them
_MAX_SIGNING_BITS: Final = 8192  # a longer one takes milliseconds to verify, for no strength that anybody needs
_MIN_RSA_EXPONENT: Final = 2**16 + 1  # FIPS 186-5 5.1; with an exponent of 1 anybody could sign
_MAX_RSA_EXPONENT: Final = 2**64  # OpenSSL's own bound for long moduli
_COLUMNS: Final = 64  # RFC 7468 2
_HINT: Final = "use Ed25519, ML-DSA-65, ECDSA on P-256 or P-384, or RSA"

_PublicObject: TypeAlias = Ed25519PublicKey | MLDSA65PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_SeedObject: TypeAlias = Ed25519PrivateKey | MLDSA65PrivateKey
_OpenSSLObject: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class SignatureAlgorithm(StrEnum):
    """What a signing key is for."""

    ED25519 = "ed25519"
    MLDSA65 = "mldsa65"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_PSS = "rsa-pss"

    @property
    def digest_name(self) -> str:
        """The hash of a message, where a service is sent only that; Ed25519 and ML-DSA-65 take whole messages."""
        return "sha384" if self is SignatureAlgorithm.ECDSA_P384 else "sha256"

    def digest(self, message: bytes) -> bytes:
        """Return what a service that signs digests is sent in the place of a message."""
        return hashlib.new(self.digest_name, message).digest()


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
            self._public.verify(signature, message, _ECDSA[self.algorithm])
        elif isinstance(self._public, rsa.RSAPublicKey):
            # RFC 8017 8.1.2 step 1, which OpenSSL leaves out where the first bytes are zero.
            if len(signature) != (self._public.key_size + 7) // 8:
                raise InvalidSignature
            self._public.verify(signature, message, _PSS, hashes.SHA256())
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


# How a curve signs: the hash is as long as the curve's order, never chosen by the signature.
_ECDSA: Final = MappingProxyType(
    {SignatureAlgorithm.ECDSA_P256: ec.ECDSA(hashes.SHA256()), SignatureAlgorithm.ECDSA_P384: ec.ECDSA(hashes.SHA384())}
)
# The one padding of RSA-PSS. The salt's length is fixed: `AUTO` would accept any.
_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)


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


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as it stands in an envelope.

    Args:
        key_id: a hint which key made it, empty where the envelope names none; nobody vouches for it.
        value: the bytes of the signature.
    """

    key_id: str
    value: bytes


def pem_text(label: str, der: bytes) -> str:
    """Return DER as one PEM block.

    Args:
        label: what it is, such as "PUBLIC KEY".
        der: the structure.
    """
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + _COLUMNS] for start in range(0, len(text), _COLUMNS)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


class PrivateKey:
    """A private key that signs. Never printed, copied or pickled; the owner wipes it.

    Args:
        secret: a seed, which is owned from now on, or an object of OpenSSL.
        public_key: its public half.
    """

    __slots__ = ("_secret", "public_key")

    def __init__(self, secret: DataKey | _OpenSSLObject, public_key: PublicKey) -> None:
        """Keep both."""
        self._secret: DataKey | _OpenSSLObject | None = secret
        self.public_key = public_key

    @classmethod
    def from_seed(cls, algorithm: SignatureAlgorithm, seed: DataKey) -> Self:
        """Return the private key of a seed, which it owns and wipes from now on.

        Raises:
            UsageError: this OpenSSL lacks the algorithm.
        """
        try:
            return cls(seed, PublicKey(public_pem(algorithm, seed)))
        except BaseException:
            seed.wipe()
            raise

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: str | None = None) -> Self:
        """Return the private key of a PEM text: PKCS #8, or the older forms that OpenSSL writes.

        Args:
            pem: the text.
            passphrase: opens it; None where it is not encrypted.

        Raises:
            UsageError: no such PEM, or a key of another algorithm, curve or size.
            PassphraseError: the text is encrypted, and the passphrase does not open it.
        """
        private = load_private_pem(pem, passphrase)
        seeded = seed_of(private)
        if seeded is not None:
            return cls.from_seed(*seeded)
        if not isinstance(private, _OpenSSLObject):
            raise UsageError("the private key is of an algorithm that signs nothing here", hint=_HINT)
        return cls(private, PublicKey(_public_text(private)))

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """What the key is for."""
        return self.public_key.algorithm

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`; the caller has put a type or domain label into it."""
        if self._secret is None:
            raise RuntimeError("this key was wiped")
        if isinstance(self._secret, DataKey):
            return _from_seed(self.algorithm, self._secret).sign(message)
        if isinstance(self._secret, ec.EllipticCurvePrivateKey):
            return self._secret.sign(message, _ECDSA[self.algorithm])
        return self._secret.sign(message, _PSS, hashes.SHA256())

    def wipe(self) -> None:
        """Overwrite a seed, or let go of OpenSSL's object. Safe to call twice."""
        if isinstance(self._secret, DataKey):
            self._secret.wipe()
        self._secret = None

    def __repr__(self) -> str:
        """Show the algorithm only."""
        return f"<PrivateKey {self.algorithm}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: no key crosses a process border, and no second owner keeps one unwiped."""
        raise TypeError("a PrivateKey cannot be pickled or copied")


def public_pem(algorithm: SignatureAlgorithm, seed: DataKey) -> str:
    """Return the public key that belongs to `seed`, as PEM."""
    return _public_text(_from_seed(algorithm, seed))


def seed_of(private: object) -> tuple[SignatureAlgorithm, DataKey] | None:
    """Return the algorithm and the seed of a private key of the library, or None of one that signs without a seed."""
    if isinstance(private, Ed25519PrivateKey):
        return SignatureAlgorithm.ED25519, DataKey(private.private_bytes_raw())
    if isinstance(private, MLDSA65PrivateKey):
        return SignatureAlgorithm.MLDSA65, DataKey(private.private_bytes_raw())
    return None


def load_private_pem(pem: bytes, passphrase: str | None) -> object:
    """Return the library's object of a private key in PEM, of any algorithm.

    Raises:
        UsageError: no such PEM.
        PassphraseError: the text is encrypted, and the passphrase is missing or does not open it.
    """
    # The text of the library's errors may quote the input, so it is repeated nowhere.
    encrypted = is_encrypted_pem(pem)
    if encrypted and passphrase is None:
        raise PassphraseError("the private key is encrypted, and no passphrase is given")
    password = passphrase.encode(errors="surrogateescape") if encrypted and passphrase is not None else None
    try:
        return serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise PassphraseError(
                "the passphrase does not open the private key", hint="check it; a damaged file looks the same"
            ) from None
        raise UsageError(
            "this is not a private key in PEM", hint="make one with openssl genpkey, or convert it with openssl pkey"
        ) from None


def is_encrypted_pem(pem: bytes) -> bool:
    """Return whether a passphrase is needed: PKCS #8, or the header of the older form (RFC 1421 4.6.1.1)."""
    return b"BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def _from_seed(algorithm: SignatureAlgorithm, seed: DataKey) -> _SeedObject:
    seed_bytes = bytes(seed.expose_key_bytes())
    try:
        if algorithm is SignatureAlgorithm.ED25519:
            return Ed25519PrivateKey.from_private_bytes(seed_bytes)
        if algorithm is SignatureAlgorithm.MLDSA65:
            return MLDSA65PrivateKey.from_seed_bytes(seed_bytes)
    except UnsupportedAlgorithm as error:
        raise _unsupported(algorithm) from error
    raise AssertionError(f"private keys of {algorithm} are not seeds")


def _public_text(private: _SeedObject | _OpenSSLObject) -> str:
    public = private.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def _unsupported(algorithm: SignatureAlgorithm) -> UsageError:
    return UsageError(f"this build of OpenSSL has no {algorithm}", hint="use the wheels of cryptography from PyPI")
