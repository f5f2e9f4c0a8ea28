"""The key service `pem://`: a private key in a PEM file, which signs, or opens what was sealed to its public half.

URI form: `pem:///abs/key.pem`, `pem://./key.pem`, `pem://~/key.pem`.
Credentials: the passphrase, where the file is encrypted. Permissions: to read the file, which nobody else should.

Keys of Ed25519, ML-DSA-65, ECDSA on P-256 or P-384, and RSA sign. Keys of X25519, RSA and mlkem768x25519 are identities
of `recipient://`. `openssl genpkey` makes all but the last. An RSA key should serve one of both uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from pipecrypt.crypto.recipient import Identity, RecipientAlgorithm, RecipientKey, parse_identity
from pipecrypt.crypto.signature import PrivateKey, is_encrypted_pem
from pipecrypt.errors import KeyNotFoundError, KeystoreError, PassphraseError, UsageError
from pipecrypt.keys.credentials import Credentials, read_private_file
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.schemes.recipient import IdentityMasterKey
from pipecrypt.keys.signers import LocalSigner

__all__ = ["SERVICE", "PEMService"]

_MAX_BYTES: Final = 64 * 1024
_Parsed = TypeVar("_Parsed")


class PEMService:
    """The key service of the scheme `pem`."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> IdentityMasterKey:
        """Read the file and open the identity in it.

        Raises:
            KeyReferenceError: the reference has a fragment or options.
            KeyNotFoundError: the file does not exist.
            KeystoreError: the file cannot be read.
            UsageError: it holds no private key that opens.
            PassphraseError: the passphrase is missing or wrong.
        """
        return IdentityMasterKey(_open(reference, credentials, parse_identity))

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> LocalSigner:
        """Read the file and open the private key in it.

        Raises:
            KeyReferenceError: the reference has a fragment or options.
            KeyNotFoundError: the file does not exist.
            KeystoreError: the file cannot be read.
            UsageError: it holds no private key that signs.
            PassphraseError: the passphrase is missing or wrong.
        """
        return LocalSigner(_open(reference, credentials, PrivateKey.from_pem))

    def check_exists(self, reference: KeyReference, credentials: Credentials, *, signs: bool) -> str | None:
        """Pass if the file can be read; errors as in `open_key`. What it holds may take a passphrase to tell."""
        _read(reference)
        return None

    def siblings(self, reference: KeyReference, credentials: Credentials) -> tuple[KeyReference, ...]:
        """Return none: the key is a file of its own."""
        return ()

    def known_ids(self, reference: KeyReference, credentials: Credentials) -> frozenset[str] | None:
        """Return None: what the file holds may take a passphrase to tell."""
        return None

    def find_recipient(
        self, reference: KeyReference, credentials: Credentials, *, prove: bool
    ) -> tuple[RecipientKey, str | None] | None:
        """Return the public half of an identity, or None for a key that signs; errors as in `open_key`.

        An RSA key may do either, and its public half is the same: it counts as one that signs.
        """
        identity = _open(reference, credentials, _identity_if_any)
        if identity is None:
            return None
        identity.wipe()
        return identity.public_key, None


SERVICE: Final = PEMService()


def _open(reference: KeyReference, credentials: Credentials, parse: Callable[[bytes, str | None], _Parsed]) -> _Parsed:
    pem = _read(reference)
    passphrase = credentials.passphrase(f"passphrase for {reference.text}") if is_encrypted_pem(pem) else None
    try:
        return parse(pem, passphrase)
    except (PassphraseError, UsageError) as error:
        raise error.prefixed(reference.text) from None


def _identity_if_any(pem: bytes, passphrase: str | None) -> Identity | None:
    try:
        identity = parse_identity(pem, passphrase)
    except UsageError:
        return None  # another algorithm, or no key at all, of which who asks for a signing key is told
    return None if identity.public_key.algorithm is RecipientAlgorithm.RSA_OAEP_256 else identity


def _read(reference: KeyReference) -> bytes:
    path = reference.whole_file()
    try:
        pem = read_private_file(path, "private key")
    except KeystoreError as error:
        raise KeystoreError(error.message, hint="check the path and the permissions of the file") from error
    if pem is None:
        raise KeyNotFoundError(
            f"{reference.text}: there is no such file", hint="check the path; pem:///path has three slashes"
        )
    if len(pem) > _MAX_BYTES:
        raise UsageError(f"{reference.text} is longer than {_MAX_BYTES} bytes", hint="name a file with one private key")
    return pem
