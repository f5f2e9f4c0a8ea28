"""Read the keys of recipients and identities from PEM texts. Reading files is left to keys/.

PEM (RFC 7468) of a DER SubjectPublicKeyInfo or PKCS #8 structure. The library has those of X25519 and RSA; that of
mlkem768x25519 is the one of X-Wing (draft-connolly-cfrg-xwing-kem 8), which has no inner structure::

    SubjectPublicKeyInfo   SEQUENCE { SEQUENCE { OID id-XWing }, BIT STRING of the 1216 bytes }
    PKCS #8                SEQUENCE { INTEGER 0, SEQUENCE { OID id-XWing }, OCTET STRING of the seed's 32 bytes }
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pipecrypt.crypto.recipient import (
    SEED_BYTES,
    HPKEIdentity,
    HPKERecipient,
    Identity,
    OAEPIdentity,
    OAEPRecipient,
    RecipientAlgorithm,
    RecipientKey,
)
from pipecrypt.crypto.signature import is_encrypted_pem, load_private_pem, read_private_pem
from pipecrypt.errors import UsageError
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["parse_identity", "parse_recipient", "read_seed_pem"]

_PRIVATE: Final = re.compile(r"-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]*)-----END PRIVATE KEY-----")
_PUBLIC: Final = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]*)-----END PUBLIC KEY-----")
_XWING_PRIVATE_HEAD: Final = bytes.fromhex("3034020100300d060b2b0601040183e62d81c87a0420")
_HINT: Final = "use mlkem768x25519 or x25519, which pipecrypt keys new KEYREF --recipient makes, or RSA"


def parse_recipient(pem: str) -> RecipientKey:
    """Return the public key in a PEM text that holds nothing else.

    Raises:
        UsageError: no PEM, or a key of another algorithm or size, or an unsafe one.
    """
    block = _PUBLIC.search(pem)
    spki = None if block is None else _decode(block[1])
    recipient = None if spki is None else HPKERecipient.from_spki(spki)
    if recipient is not None:
        return recipient
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's text may quote the input, which may be a private key, so it is not repeated.
        raise UsageError("this is not a public key in PEM that seals", hint=_HINT) from None
    if not isinstance(public, RSAPublicKey):
        raise UsageError("the public key is of an algorithm that seals nothing here", hint=_HINT)
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
    raise UsageError("the private key is of an algorithm that opens nothing here", hint=_HINT)


def read_seed_pem(pem: bytes) -> tuple[str, DataKey]:
    """Return the algorithm's name and the seed of an unencrypted private key that a keystore holds.

    Raises:
        UsageError: no such PEM, encrypted, or another algorithm.
    """
    seed = _xwing_seed(pem)
    if seed is not None:
        return RecipientAlgorithm.MLKEM768X25519.value, seed
    if b"PRIVATE KEY-----" in pem and not is_encrypted_pem(pem):
        private = load_private_pem(pem, None)
        if isinstance(private, X25519PrivateKey):
            return RecipientAlgorithm.X25519.value, DataKey(private.private_bytes_raw())
    algorithm, seed = read_private_pem(pem)
    return algorithm.value, seed


def _xwing_seed(pem: bytes) -> DataKey | None:
    block = _PRIVATE.search(pem.decode("ascii", errors="replace"))
    der = None if block is None else _decode(block[1])
    if der is None or not der.startswith(_XWING_PRIVATE_HEAD):
        return None
    seed = der[len(_XWING_PRIVATE_HEAD) :]
    if len(seed) != SEED_BYTES:
        raise UsageError("the private key of mlkem768x25519 is malformed", hint=_HINT)
    return DataKey(seed)


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return None
