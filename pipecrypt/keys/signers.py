"""Signing keys: found by their references, opened, signed with, and their public keys read.

A key service signs where its `SERVICE` object has the power `SigningService`, and shows public keys without a secret
where it has the power `PublicKeys`. Both are found as key services are, in the entry points of `service`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

from pipecrypt.crypto.recipient import RecipientKey, encode_pem
from pipecrypt.crypto.signature import PrivateKey, PublicKey, Signature
from pipecrypt.errors import IntegrityError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.public_keys import VersionKey, parse_version_keys, recipient_id
from pipecrypt.keys.reference import KeyReference, parse_key_reference
from pipecrypt.keys.service import Wipeable, load_key_service, mapped_errors
from pipecrypt.vocabulary.once import warn_once

__all__ = [
    "LocalSigner",
    "ProvenPublicKeys",
    "PublicHalf",
    "PublicKeys",
    "PublicVersions",
    "Recipients",
    "ServiceSigner",
    "Signer",
    "SigningService",
    "SigningServices",
    "export_public_half",
    "make_signatures",
    "open_signer",
    "read_version_keys",
]

_logger = logging.getLogger(__name__)
_UNPROVEN: Final = (
    "nothing proves the public keys of %s: %s; trust a PEM file from pipecrypt keys export --public --verify"
)
_HINT: Final = "sign with keystore:///path/keys.json#name or pem:///path/key.pem"


@runtime_checkable
class Signer(Protocol):
    """A private key that signs. One that holds key bytes in this process is `Wipeable` too; its opener wipes it."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key's DER SubjectPublicKeyInfo, in hexadecimal."""

    @property
    def public_key_pem(self) -> str:
        """The public key, as PEM."""

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`, whose type or domain label the caller has put into it.

        Raises:
            KeyServiceError: the service failed or refused.
        """


@runtime_checkable
class SigningService(Protocol):
    """A power of a key service: it signs."""

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> Signer:
        """Return the newest version of the signing key that `reference` names.

        Raises:
            KeyReferenceError: the reference lacks a part or has one too many.
            UsageError: the key signs nothing.
            AccessError: the key is missing, or the credentials do not open it.
        """


@runtime_checkable
class PublicKeys(Protocol):
    """A power of a key service: it tells public keys without a secret."""

    def public_keys(self, reference: KeyReference) -> tuple[str, ...]:
        """Return the public keys of all versions of a signing key as PEM, oldest first, at least one.

        Raises:
            KeyReferenceError: the reference lacks a part or has one too many.
            UsageError: the key signs nothing.
            AccessError: the key is missing.
        """


@dataclass(frozen=True, slots=True)
class PublicVersions:
    """The public keys of a signing key, parsed.

    Args:
        keys: of all versions, oldest first, at least one.
        doubt: why nothing proves them; None where they are proven.
    """

    keys: tuple[VersionKey, ...]
    doubt: str | None


@runtime_checkable
class ProvenPublicKeys(Protocol):
    """A power of a key service whose public keys lie where others may write: it proves them, given the secret."""

    def find_public_keys(self, reference: KeyReference, credentials: Credentials, *, prove: bool) -> PublicVersions:
        """Return the public keys; proven where the secret is at hand.

        Args:
            reference: names the signing key.
            credentials: what may hold the secret.
            prove: ask for the secret where it is not at hand.

        Raises:
            KeyReferenceError: the reference lacks a part or has one too many.
            UsageError: the key signs nothing.
            AccessError: the key is missing, or a secret is at hand that does not open it.
            IntegrityError: they were changed.
        """


@runtime_checkable
class Recipients(Protocol):
    """A power of a key service: it tells the public half of an identity."""

    def find_recipient(
        self, reference: KeyReference, credentials: Credentials, *, prove: bool
    ) -> tuple[RecipientKey, str | None] | None:
        """Return the newest public key, or None where the reference names a key of another kind.

        With it comes why nothing proves it; None where it is proven, or is all that there is.

        Args:
            reference: names the identity or the recipient.
            credentials: asked only where the private key has to be opened.
            prove: open the private key and derive the public key from it.

        Raises:
            KeyReferenceError: the reference lacks a part or has one too many.
            AccessError: the key is missing, or the credentials do not open it.
        """


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


SigningServices: TypeAlias = Mapping[str, SigningService | PublicKeys]


class ServiceSigner:
    """An opened signing key.

    Args:
        public_key: of the private key that signs.
        sign: returns a signature of a message.
        wipe: lets go of what it holds in this process.
        earlier: public keys of the versions before it, proven.
    """

    __slots__ = ("_public_key", "_sign", "_wipe", "earlier")

    def __init__(
        self,
        public_key: PublicKey,
        sign: Callable[[bytes], bytes],
        wipe: Callable[[], None] | None = None,
        earlier: tuple[VersionKey, ...] = (),
    ) -> None:
        """Keep them."""
        self._public_key = public_key
        self._sign = sign
        self._wipe = wipe
        self.earlier: Final = earlier

    @property
    def key_id(self) -> str:
        """The id of the public key."""
        return self._public_key.key_id

    @property
    def public_key_pem(self) -> str:
        """The public key, as PEM."""
        return self._public_key.pem

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`."""
        return self._sign(message)

    def wipe(self) -> None:
        """Let go of what it holds in this process."""
        if self._wipe is not None:
            self._wipe()

    def __repr__(self) -> str:
        """Show the public key's id."""
        return f"<{type(self).__name__} {self.key_id}>"


class LocalSigner(ServiceSigner):
    """A private key in this process.

    Args:
        private_key: owned from now on, and wiped by `wipe` as far as Python can: see `crypto.signature`.
        earlier: public keys of the versions before it, proven.
    """

    def __init__(self, private_key: PrivateKey, earlier: tuple[VersionKey, ...] = ()) -> None:
        """Keep them."""
        super().__init__(private_key.public_key, private_key.sign, private_key.wipe, earlier)


def open_signer(
    text: str | KeyReference, credentials: Credentials, *, services: SigningServices | None = None
) -> Signer:
    """Open the signing key that a reference names.

    Args:
        text: the key reference: `keystore://PATH#NAME`, `pem:///path/key.pem`, or one of a plug-in.
        credentials: what opens it.
        services: signing services by scheme that are asked before the built-in ones; for tests and embedders.

    Raises:
        KeyReferenceError: it is malformed, or has an unknown scheme.
        UsageError: the scheme or the key signs nothing.
        AccessError: the key is missing, or the credentials do not open it.
        IntegrityError: the key was changed after it was stored.
    """
    reference = parse_key_reference(text)
    service = load_key_service(reference, services)
    if not isinstance(service, SigningService):
        raise UsageError(f"keys of {reference.scheme}:// sign nothing: {reference.text}", hint=_HINT)
    try:
        with mapped_errors(reference.text):
            return service.open_signer(reference, credentials)
    finally:
        credentials.forget()


def make_signatures(signers: Sequence[Signer], message: bytes) -> tuple[Signature, ...]:
    """Sign one message with each key, in order; each signature is checked before it leaves.

    The check costs little, and shows a service that signs with another key or answers nonsense while there is still
    somebody to tell.

    Args:
        signers: at least one; two with the same key are refused.
        message: what is signed.

    Raises:
        UsageError: there is no signer, or one key occurs twice.
        KeyServiceError: a service failed, refused, or returned no signature of its key.
    """
    if not signers:
        raise UsageError("there is no key to sign with", hint=_HINT)
    ids = [signer.key_id for signer in signers]
    for twice in sorted({key_id for key_id in ids if ids.count(key_id) > 1}):
        raise UsageError(f"the key {twice} is to sign twice", hint="name each signing key once")
    return tuple(_make_signature(signer, message) for signer in signers)


def read_version_keys(
    text: str | KeyReference,
    *,
    credentials: Credentials,
    services: SigningServices | None = None,
    prove: bool = False,
) -> PublicVersions:
    """Return the public keys of all versions of the signing key that a reference names.

    Those of a keystore are proven where its secret is at hand. Else nothing proves them: who can write the file decides
    what they are, and a warning says so, once in a process.

    Args:
        text: the key reference.
        credentials: what may hold the secret.
        services: as in `open_signer`.
        prove: ask for the secret of a keystore where it is not at hand.

    Raises:
        KeyReferenceError: it is malformed, or has an unknown scheme.
        UsageError: the scheme or the key has no public half to read.
        AccessError: the key is missing, or a secret is at hand that does not open it.
        IntegrityError: the public keys were changed.
    """
    reference = parse_key_reference(text)
    service = load_key_service(reference, services)
    with mapped_errors(reference.text):
        if isinstance(service, ProvenPublicKeys):
            found = service.find_public_keys(reference, credentials, prove=prove)
            if found.doubt is not None:
                warn_once(_logger, _UNPROVEN, reference.text, found.doubt)
            return found
        if isinstance(service, PublicKeys):
            parsed = [parse_version_keys(text, reference.text) for text in service.public_keys(reference)]
            return PublicVersions(tuple(key for keys in parsed for key in keys), None)
    raise UsageError(f"keys of {reference.scheme}:// show no public key: {reference.text}", hint=_HINT)


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
        services: as in `open_signer`.

    Raises:
        KeyReferenceError: it is malformed, or has an unknown scheme.
        UsageError: the scheme or the key has no public half.
        AccessError: the key is missing, or the credentials do not open it.
        IntegrityError: the public key was exchanged.
    """
    reference = parse_key_reference(text)
    service = load_key_service(reference, services)
    try:
        recipient = (
            service.find_recipient(reference, credentials, prove=prove) if isinstance(service, Recipients) else None
        )
        if recipient is not None:
            key, doubt = recipient
            if doubt is not None:
                _logger.warning("nothing proves the public key of %s: %s; add --verify", reference, doubt)
            return PublicHalf(encode_pem(key), recipient_id(key), doubt is None)
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


def _make_signature(signer: Signer, message: bytes) -> Signature:
    public_key = PublicKey(signer.public_key_pem)
    try:
        with mapped_errors(public_key.key_id):
            value = signer.sign(message)
        public_key.verify(message, value)
    except IntegrityError as error:
        raise KeyServiceError(
            f"what was returned for the key {public_key.key_id} is not a signature of it",
            hint="check that private and public key belong together",
        ) from error
    return Signature(public_key.key_id, value)
