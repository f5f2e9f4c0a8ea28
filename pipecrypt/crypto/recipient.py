"""Seal to the public key of a recipient, and open with its private half, the identity.

The public key alone decides the algorithm, so that nothing in a file can choose a weaker one:

================== ==================================================================== ============
key                how it seals                                                         post-quantum
================== ==================================================================== ============
mlkem768x25519     HPKE with MLKEM768-X25519 (X-Wing), HKDF-SHA256, AES-256-GCM         yes
x25519             HPKE with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM       no
RSA                RSAES-OAEP with SHA-256 and MGF1 with SHA-256; 2048 to 16384 bits    no
================== ==================================================================== ============

HPKE is used in base mode, one message each. Layout of a sealed message (RFC 9180 6.1)::

    enc (1120 for mlkem768x25519, 32 for x25519) || ciphertext (as long as the plaintext) || tag (16)

A private key is a seed of 32 bytes, held as a DataKey and expanded for each message. The seed of x25519 is the private
key itself (RFC 7748 5). The seed of mlkem768x25519 is that of X-Wing (draft-connolly-cfrg-xwing-kem 5.2)::

    SHAKE256(seed, 96 bytes) = d || z of ML-KEM-768 (FIPS 203 6.1) || private key of X25519

Its public key is that of ML-KEM-768 (1184) || that of X25519 (32). Context goes into HPKE's `info`, as RFC 9180 8.1
asks of one-shot use; the AAD is empty.

OAEP (RFC 8017 7.1) with an empty label, the only form that tokens and key services of clouds all have, binds no
context. So the digest of the context is sealed along, as `mac` has it; what is sealed is as long as the modulus::

    RSAES-OAEP(SHA-256, MGF1 with SHA-256, label "")( plaintext || SHA-256(info) (32) )

Keys are read from PEM (RFC 7468) of a DER SubjectPublicKeyInfo or PKCS #8 structure. The library has those of X25519
and RSA; that of mlkem768x25519 is the one of X-Wing (draft-connolly-cfrg-xwing-kem 8), which has no inner structure::

    SubjectPublicKeyInfo   SEQUENCE { SEQUENCE { OID id-XWing }, BIT STRING of the 1216 bytes }
    PKCS #8                SEQUENCE { INTEGER 0, SEQUENCE { OID id-XWing }, OCTET STRING of the seed's 32 bytes }
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey, Suite

from pipecrypt.crypto.mac import append_context_digest, remove_context_digest
from pipecrypt.crypto.signature import check_rsa, is_encrypted_pem, load_private_pem, pem_text, seed_of
from pipecrypt.errors import IntegrityError, UsageError
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "RAW_PUBLIC_BYTES",
    "HPKEIdentity",
    "HPKERecipient",
    "Identity",
    "OAEPIdentity",
    "OAEPRecipient",
    "RecipientAlgorithm",
    "RecipientKey",
    "encode_pem",
    "key_digest",
    "parse_identity",
    "parse_recipient",
    "read_seed_pem",
]


class RecipientAlgorithm(StrEnum):
    """How a key seals; the names stand in the ids of master keys."""

    MLKEM768X25519 = "mlkem768x25519"
    X25519 = "x25519"
    RSA_OAEP_256 = "rsa-oaep-256"

    @property
    def is_post_quantum(self) -> bool:
        """Whether a quantum computer, as far as is known, does not open what it sealed."""
        return self is RecipientAlgorithm.MLKEM768X25519


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
_ASK_HINT: Final = "ask its owner for the key again; pipecrypt keys export KEYREF --public writes one"
_PRIVATE: Final = re.compile(r"-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]*)-----END PRIVATE KEY-----")
_PUBLIC: Final = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]*)-----END PUBLIC KEY-----")
_XWING_PRIVATE_HEAD: Final = bytes.fromhex("3034020100300d060b2b0601040183e62d81c87a0420")
_USE_HINT: Final = "use mlkem768x25519 or x25519, which pipecrypt keys new KEYREF --recipient makes, or RSA"
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


def _suite(algorithm: RecipientAlgorithm) -> Suite:
    # The one suite of each algorithm: nothing in a message or file chooses.
    return Suite(_KEMS[algorithm], KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _check_x25519(raw: bytes) -> None:
    # One key has one encoding, and so one id: RFC 7748 5 would accept the high bit and numbers beyond the prime.
    if int.from_bytes(raw, "little") >= _X25519_PRIME:
        raise UsageError("the public key of X25519 is not encoded in its one form", hint=_ASK_HINT)
    try:
        # Points of low order give zero with every private key, so any will do (RFC 7748 6.1).
        X25519PrivateKey.from_private_bytes(bytes(_X25519_BYTES)).exchange(X25519PublicKey.from_public_bytes(raw))
    except ValueError:
        raise UsageError("the public key of X25519 is of low order: anybody could open", hint=_ASK_HINT) from None


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
        raise UsageError("the public key of ML-KEM-768 is malformed", hint=_ASK_HINT) from None


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


class OAEPRecipient:
    """An RSA public key that seals.

    Args:
        public: of 2048 to 16384 bits.

    Raises:
        UsageError: another size, or an unsafe exponent.
    """

    __slots__ = ("_public",)

    algorithm: Final = RecipientAlgorithm.RSA_OAEP_256

    def __init__(self, public: rsa.RSAPublicKey) -> None:
        """Check it."""
        try:
            check_rsa(public)
        except UsageError as error:
            raise UsageError(error.message, hint="make a key with pipecrypt keys new KEYREF --recipient") from None
        self._public = public

    @property
    def spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        return self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def seal(self, plaintext: bytes | bytearray, info: bytes) -> bytes:
        """Return `plaintext` sealed, bound to `info`; as long as the modulus."""
        return self._public.encrypt(bytes(append_context_digest(plaintext, info)), _padding())

    def __repr__(self) -> str:
        """Show the size."""
        return f"<OAEPRecipient {self._public.key_size} bits>"


class OAEPIdentity:
    """An RSA private key that opens. An object of OpenSSL: Python cannot overwrite it, `wipe` only lets go of it.

    Args:
        private: of 2048 to 16384 bits.

    Raises:
        UsageError: another size, or an unsafe exponent.
    """

    __slots__ = ("_private", "public_key")

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        """Check it."""
        self.public_key: Final = OAEPRecipient(private.public_key())
        self._private: rsa.RSAPrivateKey | None = private

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Return the plaintext that was sealed with `info`.

        Raises:
            IntegrityError: key, `info` and sealed bytes do not belong together.
        """
        if self._private is None:
            raise RuntimeError("this key was wiped")
        # One answer to all that may be wrong: telling a bad padding apart would be an oracle (RFC 8017 7.1.2).
        refusal = IntegrityError("authentication failed")
        if len(sealed) != (self._private.key_size + 7) // 8:  # RFC 8017 7.1.2 step 1b
            raise refusal
        try:
            message = self._private.decrypt(sealed, _padding())
        except ValueError:
            raise refusal from None
        return bytes(remove_context_digest(message, info))

    def wipe(self) -> None:
        """Let go of OpenSSL's object, which clears its numbers then. Safe to call twice."""
        self._private = None

    def __repr__(self) -> str:
        """Show the algorithm only."""
        return f"<OAEPIdentity {self.public_key.algorithm}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: no key crosses a process border, and no second owner keeps one unwiped."""
        raise TypeError("an OAEPIdentity cannot be pickled or copied")


def _padding() -> padding.OAEP:
    return padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


# A public key that seals: who holds only this cannot open what it sealed. And its private half, whose owner wipes it.
RecipientKey: TypeAlias = HPKERecipient | OAEPRecipient
Identity: TypeAlias = HPKEIdentity | OAEPIdentity


def key_digest(key: RecipientKey) -> str:
    """Return the SHA-256 of the public key's DER SubjectPublicKeyInfo, as 64 hexadecimal digits."""
    return hashlib.sha256(key.spki).hexdigest()


def encode_pem(key: RecipientKey) -> str:
    """Return the public key as PEM (RFC 7468 13)."""
    return pem_text("PUBLIC KEY", key.spki)


def parse_recipient(pem: str) -> RecipientKey:
    """Return the public key in a PEM text that holds nothing else.

    Raises:
        UsageError: no PEM, or a key of another algorithm or size, or an unsafe one.
    """
    block = _PUBLIC.search(pem)
    spki = None if block is None else _decode(block[1])
    for algorithm, head in _SPKI_HEADS.items():
        if spki is not None and spki.startswith(head):
            return HPKERecipient(algorithm, spki[len(head) :])
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's text may quote the input, which may be a private key, so it is not repeated.
        raise UsageError("this is not a public key in PEM that seals", hint=_USE_HINT) from None
    if not isinstance(public, RSAPublicKey):
        raise UsageError("the public key is of an algorithm that seals nothing here", hint=_USE_HINT)
    return OAEPRecipient(public)


def parse_identity(pem: bytes, passphrase: str | None = None) -> Identity:
    """Return the private key in a PEM text.

    Args:
        pem: the text.
        passphrase: opens it; None where it is not encrypted.

    Raises:
        UsageError: no such PEM, or a key of another algorithm or size.
        PassphraseError: the text is encrypted, and the passphrase does not open it.
    """
    seed = _xwing_seed(pem)
    if seed is not None:
        return HPKEIdentity(RecipientAlgorithm.MLKEM768X25519, seed)
    private = load_private_pem(pem, passphrase)
    if isinstance(private, X25519PrivateKey):
        return HPKEIdentity(RecipientAlgorithm.X25519, DataKey(private.private_bytes_raw()))
    if isinstance(private, RSAPrivateKey):
        return OAEPIdentity(private)
    raise UsageError("the private key is of an algorithm that opens nothing here", hint=_USE_HINT)


def read_seed_pem(pem: bytes) -> tuple[str, DataKey]:
    """Return the algorithm's name and the seed of an unencrypted private key that a keystore holds.

    Raises:
        UsageError: no such PEM, encrypted, or another algorithm.
    """
    seed = _xwing_seed(pem)
    if seed is not None:
        return RecipientAlgorithm.MLKEM768X25519.value, seed
    if b"PUBLIC KEY-----" in pem and b"PRIVATE KEY-----" not in pem:
        raise UsageError("this is a public key, which needs no keystore", hint="name its file where a key is trusted")
    if is_encrypted_pem(pem):
        raise UsageError("the private key is encrypted", hint="decrypt it with openssl pkey, or make a new one")
    private = load_private_pem(pem, None)
    if isinstance(private, X25519PrivateKey):
        return RecipientAlgorithm.X25519.value, DataKey(private.private_bytes_raw())
    seeded = seed_of(private)
    if seeded is None:
        raise UsageError(
            "the private key is of an algorithm that a keystore does not hold",
            hint="use it where it is, as pem:///path/key.pem, or make one with pipecrypt keys new",
        )
    return seeded[0].value, seeded[1]


def _xwing_seed(pem: bytes) -> DataKey | None:
    block = _PRIVATE.search(pem.decode("ascii", errors="replace"))
    der = None if block is None else _decode(block[1])
    if der is None or not der.startswith(_XWING_PRIVATE_HEAD):
        return None
    seed = der[len(_XWING_PRIVATE_HEAD) :]
    if len(seed) != SEED_BYTES:
        raise UsageError("the private key of mlkem768x25519 is malformed", hint=_USE_HINT)
    return DataKey(seed)


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return None
