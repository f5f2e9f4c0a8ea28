"""The key service `pem://`: a private key in a PEM file that signs. It encrypts nothing, and makes no keys.

URI form: `pem:///abs/key.pem`, `pem://./key.pem`, `pem://~/key.pem`.
Credentials: the passphrase, where the file is encrypted. Permissions: to read the file, which nobody else should.

Keys of Ed25519, ML-DSA-65, ECDSA on P-256 or P-384, and RSA, as `openssl genpkey` writes them.
"""

from __future__ import annotations

from typing import Final

from pipecrypt.crypto.private_key import PrivateKey, is_encrypted_pem
from pipecrypt.errors import KeyNotFoundError, KeyReferenceError, KeystoreError, PassphraseError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystore_file import read_private_file
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.signers import LocalSigner

__all__ = ["SERVICE", "PEMService"]

_MAX_BYTES: Final = 64 * 1024


class PEMService:
    """The key service of the scheme `pem`."""

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> LocalSigner:
        """Read the file and open the private key in it.

        Raises:
            KeyReferenceError: the reference has a fragment or options.
            KeyNotFoundError: the file does not exist.
            KeystoreError: the file cannot be read.
            UsageError: it holds no private key that signs.
            PassphraseError: the passphrase is missing or wrong.
        """
        pem = _read(reference)
        passphrase = credentials.passphrase(f"passphrase for {reference.text}") if is_encrypted_pem(pem) else None
        try:
            return LocalSigner(PrivateKey.from_pem(pem, passphrase))
        except (PassphraseError, UsageError) as error:
            raise type(error)(f"{reference.text}: {error.message}", hint=error.hint) from None


SERVICE: Final = PEMService()


def _read(reference: KeyReference) -> bytes:
    reference.check_options()
    if reference.fragment is not None:
        raise KeyReferenceError(
            f"key reference {reference.text} has a fragment, and pem:// takes the whole file",
            hint="leave out what follows #",
        )
    try:
        pem = read_private_file(reference.local_path, "private key")
    except KeystoreError as error:
        raise KeystoreError(error.message, hint="check the path and the permissions of the file") from error
    if pem is None:
        raise KeyNotFoundError(
            f"{reference.text}: there is no such file", hint="check the path; pem:///path has three slashes"
        )
    if len(pem) > _MAX_BYTES:
        raise UsageError(f"{reference.text} is longer than {_MAX_BYTES} bytes", hint="name a file with one private key")
    return pem
