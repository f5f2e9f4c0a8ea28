"""Seal to a public key with HPKE (RFC 9180), base mode, one message each. PEM texts are left to recipient_pem.

Layout of a sealed message (RFC 9180 6.1)::

    enc (1120 for mlkem768x25519, 32 for x25519) || ciphertext (as long as the plaintext) || tag (16)

A private key is a seed of 32 bytes, held as a DataKey and expanded for each message. The seed of x25519 is the private
key itself (RFC 7748 5). The seed of mlkem768x25519 is that of X-Wing (draft-connolly-cfrg-xwing-kem 5.2)::

    SHAKE256(seed, 96 bytes) = d || z of ML-KEM-768 (FIPS 203 6.1) || private key of X25519

Its public key is that of ML-KEM-768 (1184) || that of X25519 (32). Context goes into HPKE's `info`, as RFC 9180 8.1
asks of one-shot use; the AAD is empty.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.crypto.recipient import RecipientAlgorithm
from pipecrypt.errors import IntegrityError, UsageError
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["RAW_PUBLIC_BYTES", "SEED_BYTES", "HPKEIdentity", "HPKERecipient", "new_seed"]

SEED_BYTES: Final = 32
_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_SEED_BYTES: Final = 64
_X25519_BYTES: Final = 32
_X25519_PRIME: Final = 2**255 - 19
RAW_PUBLIC_BYTES: Final = MappingProxyType(
    {
        RecipientAlgorithm.MLKEM768X25519: _MLKEM_PUBLIC_BYTES + _X25519_BYTES,
        RecipientAlgorithm.X25519: _X25519_BYTES,
    }
)
_KEMS: Final = MappingProxyType(
    {RecipientAlgorithm.MLKEM768X25519: KEM.MLKEM768_X25519, RecipientAlgorithm.X25519: KEM.X25519}
)
# SubjectPublicKeyInfo up to the key's own bytes: SEQUENCE { SEQUENCE { OID }, BIT STRING, no unused bits }.
# X25519 is 1.3.101.110 (RFC 8410 3), X-Wing is 1.3.6.1.4.1.62253.25722 (draft-connolly-cfrg-xwing-kem 8).
_SPKI_HEADS: Final = MappingProxyType(
    {
        RecipientAlgorithm.MLKEM768X25519: bytes.fromhex("308204d4300d060b2b0601040183e62d81c87a038204c100"),
        RecipientAlgorithm.X25519: bytes.fromhex("302a300506032b656e032100"),
    }
)
_HINT: Final = "ask its owner for the key again; pipecrypt keys export KEYREF --public writes one"
_PublicObject: TypeAlias = X25519PublicKey | MLKEM768X25519PublicKey
_PrivateObject: TypeAlias = X25519PrivateKey | MLKEM768X25519PrivateKey


class HPKERecipient:
    """A public key of HPKE, checked.

    Args:
        algorithm: mlkem768x25519 or x25519.
        raw: the public key's own bytes, 1216 or 32.

    Raises:
        UsageError: no such key, or one that seals for everybody.
    """

    __slots__ = ("_public", "algorithm", "raw")

    def __init__(self, algorithm: RecipientAlgorithm, raw: bytes) -> None:
        """Parse and check it."""
        if len(raw) != RAW_PUBLIC_BYTES[algorithm]:
            raise UsageError(f"a public key of {algorithm} has {RAW_PUBLIC_BYTES[algorithm]} bytes, not {len(raw)}")
        _check_x25519(raw[-_X25519_BYTES:])
        self.algorithm: Final = algorithm
        self.raw: Final = raw
        self._public: Final = _public_object(algorithm, raw)

    @classmethod
    def from_spki(cls, spki: bytes) -> HPKERecipient | None:
        """Return the key of a DER SubjectPublicKeyInfo, or None where it is of another algorithm.

        Raises:
            UsageError: it is one of ours and malformed.
        """
        for algorithm, head in _SPKI_HEADS.items():
            if spki.startswith(head):
                return cls(algorithm, spki[len(head) :])
        return None

    @property
    def spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        return _SPKI_HEADS[self.algorithm] + self.raw

    def seal(self, plaintext: bytes | bytearray, info: bytes) -> bytes:
        """Return enc || ciphertext || tag, bound to `info`."""
        return _suite(self.algorithm).encrypt(plaintext, self._public, info)

    def __repr__(self) -> str:
        """Show the algorithm."""
        return f"<HPKERecipient {self.algorithm}>"


class HPKEIdentity:
    """A private key of HPKE.

    Args:
        algorithm: mlkem768x25519 or x25519.
        seed: 256 bits; owned from now on, and wiped by `wipe`.

    Raises:
        UsageError: this OpenSSL lacks the algorithm.
    """

    __slots__ = ("_algorithm", "_seed", "public_key")

    def __init__(self, algorithm: RecipientAlgorithm, seed: DataKey) -> None:
        """Derive the public key."""
        self._algorithm = algorithm
        self._seed = seed
        try:
            self.public_key: Final = HPKERecipient(algorithm, _raw_public(algorithm, seed))
        except BaseException:
            seed.wipe()
            raise

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Return the plaintext of enc || ciphertext || tag.

        Raises:
            IntegrityError: key, `info` and sealed bytes do not belong together.
        """
        try:
            return _suite(self._algorithm).decrypt(sealed, _private_object(self._algorithm, self._seed), info)
        except (InvalidTag, ValueError) as error:  # ValueError: `enc` holds a point of low order
            raise IntegrityError("authentication failed") from error

    def wipe(self) -> None:
        """Overwrite the seed. Safe to call twice."""
        self._seed.wipe()

    def __repr__(self) -> str:
        """Show the algorithm only."""
        return f"<HPKEIdentity {self._algorithm}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: no key crosses a process border, and no second owner keeps one unwiped."""
        raise TypeError("an HPKEIdentity cannot be pickled or copied")


def new_seed() -> DataKey:
    """Return the seed of a fresh private key, of either algorithm."""
    return DataKey(random_bytes(SEED_BYTES))


def _suite(algorithm: RecipientAlgorithm) -> Suite:
    # The one suite of each algorithm: nothing in a message or file chooses.
    return Suite(_KEMS[algorithm], KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _check_x25519(raw: bytes) -> None:
    # One key has one encoding, and so one id: RFC 7748 5 would accept the high bit and numbers beyond the prime.
    if int.from_bytes(raw, "little") >= _X25519_PRIME:
        raise UsageError("the public key of X25519 is not encoded in its one form", hint=_HINT)
    try:
        # Points of low order give zero with every private key, so any will do (RFC 7748 6.1).
        X25519PrivateKey.from_private_bytes(bytes(_X25519_BYTES)).exchange(X25519PublicKey.from_public_bytes(raw))
    except ValueError:
        raise UsageError("the public key of X25519 is of low order: anybody could open", hint=_HINT) from None


def _public_object(algorithm: RecipientAlgorithm, raw: bytes) -> _PublicObject:
    x25519 = X25519PublicKey.from_public_bytes(raw[-_X25519_BYTES:])
    if algorithm is RecipientAlgorithm.X25519:
        return x25519
    try:
        # OpenSSL makes the modulus check of FIPS 203 7.2.
        return MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_BYTES]), x25519)
    except UnsupportedAlgorithm as error:
        raise _unsupported(algorithm) from error
    except ValueError:
        raise UsageError("the public key of ML-KEM-768 is malformed", hint=_HINT) from None


def _private_halves(algorithm: RecipientAlgorithm, seed: DataKey) -> tuple[MLKEM768PrivateKey | None, X25519PrivateKey]:
    seed_bytes = bytes(seed.expose_key_bytes())
    if algorithm is RecipientAlgorithm.X25519:
        return None, X25519PrivateKey.from_private_bytes(seed_bytes)
    expanded = hashlib.shake_256(seed_bytes).digest(_MLKEM_SEED_BYTES + _X25519_BYTES)
    x25519 = X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_BYTES:])
    try:
        return MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES]), x25519
    except UnsupportedAlgorithm as error:
        raise _unsupported(algorithm) from error


def _private_object(algorithm: RecipientAlgorithm, seed: DataKey) -> _PrivateObject:
    mlkem, x25519 = _private_halves(algorithm, seed)
    return x25519 if mlkem is None else MLKEM768X25519PrivateKey(mlkem, x25519)


def _raw_public(algorithm: RecipientAlgorithm, seed: DataKey) -> bytes:
    mlkem, x25519 = _private_halves(algorithm, seed)
    raw = x25519.public_key().public_bytes_raw()
    return raw if mlkem is None else mlkem.public_key().public_bytes_raw() + raw


def _unsupported(algorithm: RecipientAlgorithm) -> UsageError:
    return UsageError(f"this build of OpenSSL has no {algorithm}", hint="use the wheels of cryptography from PyPI")
