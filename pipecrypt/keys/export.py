"""Show the public half of a key: of one that signs, or of an identity. Finding services: service, signers."""

from __future__ import annotations

from dataclasses import dataclass

from pipecrypt.crypto.recipient import encode_pem
from pipecrypt.crypto.signature import key_id
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.service import load_key_service
from pipecrypt.keys.services.recipient import Recipients, recipient_id
from pipecrypt.keys.signers import export_public_key

__all__ = ["PublicHalf", "export_public_half"]


@dataclass(frozen=True, slots=True)
class PublicHalf:
    """A public key, and what stands for it elsewhere.

    Args:
        public_key: PEM.
        key_id: what statements store of a signing key, and data files of a recipient.
    """

    public_key: str
    key_id: str


def export_public_half(text: str, credentials: Credentials, *, prove: bool = False) -> PublicHalf:
    """Return the public half of a key's newest version.

    Args:
        text: the key reference.
        credentials: asked only where the private key has to be opened: to prove, and for `pem://`.
        prove: open the private key and derive the public key from it. Without, a keystore is taken at its word:
            who can write the file can put another public key there.

    Raises:
        KeyReferenceError: no reference, or an unknown scheme.
        UsageError: the scheme or the key has no public half.
        AccessError: the key is missing, or the credentials do not open it.
        IntegrityError: the public key was exchanged.
    """
    reference = parse_key_reference(text)
    service = load_key_service(reference)
    if isinstance(service, Recipients):
        try:
            recipient = service.find_recipient(reference, credentials, prove=prove)
        finally:
            credentials.forget()
        if recipient is not None:
            return PublicHalf(encode_pem(recipient), recipient_id(recipient))
    pem = export_public_key(text, credentials, prove=prove)
    return PublicHalf(pem, key_id(pem))
