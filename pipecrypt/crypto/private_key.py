"""Make signatures with private keys, from a seed or a PEM file. Checking them is left to signature.

The private key of Ed25519 and ML-DSA-65 is its seed (32 bytes; RFC 8032 5.1.5, FIPS 204 3.6.3), held as a DataKey, and
expanded for each signature. A private key of ECDSA or RSA is an object of OpenSSL: Python cannot overwrite it, and
`wipe` only lets go of it, whereupon OpenSSL clears its numbers. The same holds for the text of a PEM file.
"""

from __future__ import annotations

from typing import NoReturn, Self, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from pipecrypt.crypto.signature import (
    PublicKey,
    SignatureAlgorithm,
    ecdsa_scheme,
    pss_padding,
    pss_scheme,
)
from pipecrypt.errors import PassphraseError, UsageError
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["PrivateKey", "is_encrypted_pem", "load_private_pem", "new_signing_seed", "public_pem", "read_private_pem"]

_SeedObject: TypeAlias = Ed25519PrivateKey | MLDSA65PrivateKey
_OpenSSLObject: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


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
        if isinstance(private, _SeedObject):
            return cls.from_seed(_seed_algorithm(private), DataKey(private.private_bytes_raw()))
        if not isinstance(private, _OpenSSLObject):
            raise UsageError(
                "the private key is of an algorithm that signs nothing here",
                hint="use Ed25519, ML-DSA-65, ECDSA on P-256 or P-384, or RSA",
            )
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
            return self._secret.sign(message, ecdsa_scheme(self.algorithm))
        return self._secret.sign(message, pss_padding(), pss_scheme())

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

    def __copy__(self) -> NoReturn:
        """Refuse: two owners would mean one that is unwiped."""
        raise TypeError("a PrivateKey cannot be pickled or copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        """Refuse: two owners would mean one that is unwiped."""
        raise TypeError("a PrivateKey cannot be pickled or copied")


def new_signing_seed(algorithm: SignatureAlgorithm) -> DataKey:
    """Return the seed of a fresh Ed25519 or ML-DSA-65 private key.

    Raises:
        UsageError: this OpenSSL lacks the algorithm.
    """
    try:
        if algorithm is SignatureAlgorithm.ED25519:
            return DataKey(Ed25519PrivateKey.generate().private_bytes_raw())
        if algorithm is SignatureAlgorithm.MLDSA65:
            return DataKey(MLDSA65PrivateKey.generate().private_bytes_raw())
    except UnsupportedAlgorithm as error:
        raise _unsupported(algorithm) from error
    raise AssertionError(f"private keys of {algorithm} are not seeds")


def public_pem(algorithm: SignatureAlgorithm, seed: DataKey) -> str:
    """Return the public key that belongs to `seed`, as PEM."""
    return _public_text(_from_seed(algorithm, seed))


def read_private_pem(pem: bytes) -> tuple[SignatureAlgorithm, DataKey]:
    """Return algorithm and seed of an unencrypted Ed25519 or ML-DSA-65 private key in PKCS #8.

    Raises:
        UsageError: no such PEM, encrypted, or another algorithm.
    """
    if b"PUBLIC KEY-----" in pem and b"PRIVATE KEY-----" not in pem:
        raise UsageError("this is a public key, which needs no keystore", hint="name its file where a key is trusted")
    if is_encrypted_pem(pem):
        raise UsageError("the private key is encrypted", hint="decrypt it with openssl pkey, or make a new one")
    private = load_private_pem(pem, None)
    if not isinstance(private, _SeedObject):
        raise UsageError(
            "the private key is of an algorithm that a keystore does not hold",
            hint="use it where it is, as pem:///path/key.pem, or make one with pipecrypt keys new",
        )
    return _seed_algorithm(private), DataKey(private.private_bytes_raw())


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
    """Say whether a passphrase is needed: PKCS #8, or the header of the older form (RFC 1421 4.6.1.1)."""
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


def _seed_algorithm(private: _SeedObject) -> SignatureAlgorithm:
    is_ed25519 = isinstance(private, Ed25519PrivateKey)
    return SignatureAlgorithm.ED25519 if is_ed25519 else SignatureAlgorithm.MLDSA65


def _public_text(private: _SeedObject | _OpenSSLObject) -> str:
    public = private.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def _unsupported(algorithm: SignatureAlgorithm) -> UsageError:
    return UsageError(f"this build of OpenSSL has no {algorithm}", hint="use the wheels of cryptography from PyPI")
