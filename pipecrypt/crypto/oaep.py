"""Seal to an RSA public key with RSAES-OAEP (RFC 8017 7.1). PEM texts are left to recipient_pem.

OAEP with an empty label, the only form that tokens and key services of clouds all have, binds no context. So the digest
of the context is sealed along, as context_digest has it::

    RSAES-OAEP(SHA-256, MGF1 with SHA-256, label "")( plaintext || SHA-256(info) (32) )

What is sealed is as long as the modulus.
"""

from __future__ import annotations

from typing import Final, NoReturn

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pipecrypt.crypto.mac import append_context_digest, remove_context_digest
from pipecrypt.crypto.recipient import RecipientAlgorithm
from pipecrypt.crypto.signature import check_rsa
from pipecrypt.errors import IntegrityError, UsageError

__all__ = ["OAEPIdentity", "OAEPRecipient"]


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
