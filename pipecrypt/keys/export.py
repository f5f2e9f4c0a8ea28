"""The public half of a key: of one that signs, or of an identity."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pipecrypt.crypto.recipient import encode_pem
from pipecrypt.crypto.signature import PublicKey
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference, parse_key_reference
from pipecrypt.keys.schemes.recipient import Recipients, recipient_id
from pipecrypt.keys.service import Wipeable
from pipecrypt.keys.signers import (
    ProvenPublicKeys,
    PublicKeys,
    SigningServices,
    find_signing_service,
    open_signer,
    read_version_keys,
)

__all__ = ["PublicHalf", "export_public_half"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublicHalf:
    """A public key, and what stands for it elsewhere.

    Args:
        public_key: PEM, after the line that says of a retired key since when.
        key_id: what statements store of a signing key, and data files of a recipient.
        authenticated: something proves it: the key service, or the secret of a keystore.
    """

    public_key: str
    key_id: str
    authenticated: bool


def export_public_half(
    text: str | KeyReference,
    credentials: Credentials,
    *,
    prove: bool = False,
    services: SigningServices | None = None,
) -> PublicHalf:
    """Return the public half of a key's newest version.

    Args:
        text: the key reference.
        credentials: asked only where the private key has to be opened: to prove, and for `pem://`. Else they prove what
            a keystore says, if they hold its secret.
        prove: open the private key. Without it and the secret, a keystore is taken at its word: who can write the file
            can put another public key there.
        services: as in `signers.open_signer`.

    Raises:
        KeyReferenceError: it is malformed, or has an unknown scheme.
        UsageError: the scheme or the key has no public half.
        AccessError: the key is missing, or the credentials do not open it.
        IntegrityError: the public key was exchanged.
    """
    reference = parse_key_reference(text)
    service = find_signing_service(reference, services)
    try:
        recipient = None
        if isinstance(service, Recipients):
            recipient = service.find_recipient(reference, credentials, prove=prove)
        if recipient is not None:
            if recipient.doubt is not None:
                _logger.warning("nothing proves the public key of %s: %s; add --verify", reference, recipient.doubt)
            return PublicHalf(encode_pem(recipient.key), recipient_id(recipient.key), recipient.doubt is None)
        if isinstance(service, ProvenPublicKeys) or (not prove and isinstance(service, PublicKeys)):
            found = read_version_keys(reference, credentials=credentials, services=services, prove=prove)
            return PublicHalf(found.keys[-1].text, found.keys[-1].key.key_id, found.doubt is None)
        signer = open_signer(reference, credentials, services=services)
        try:
            public_key = PublicKey(signer.public_key_pem)
        finally:
            if isinstance(signer, Wipeable):
                signer.wipe()
        return PublicHalf(public_key.pem, public_key.key_id, authenticated=True)
    finally:
        credentials.forget()
