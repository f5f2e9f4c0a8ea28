"""The key service `gcp-kms://`: keys of Google Cloud KMS. Calling it is left to client, signing to signer.

URI form: `gcp-kms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY`, to which
`/cryptoKeyVersions/N` may be added: new KEKs are wrapped under that version then, in the place of the primary one.
PROJECT is the project's id, not its number. Option: `endpoint=HOST`, as for Private Service Connect.
Extra: `pip install "pipecrypt[gcp-kms]"`.
Credentials: application default credentials, as Google's library finds them: GOOGLE_APPLICATION_CREDENTIALS, what
`gcloud auth application-default login` left, the service account of the machine.
Permissions, on the key itself:

=========================== ======================================================================================
to encrypt                  cloudkms.cryptoKeyVersions.useToEncrypt (roles/cloudkms.cryptoKeyEncrypter)
to decrypt                  cloudkms.cryptoKeyVersions.useToDecrypt (roles/cloudkms.cryptoKeyDecrypter)
to sign                     cloudkms.cryptoKeyVersions.viewPublicKey and .useToSign (roles/cloudkms.signerVerifier)
to read a public key        cloudkms.cryptoKeyVersions.viewPublicKey (roles/cloudkms.publicKeyViewer)
=========================== ======================================================================================

Cloud KMS makes no data keys, so the KEK is made here, and encrypted there with its context as associated data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from pipecrypt.errors import IntegrityError, KeyReferenceError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.services.gcp_kms.client import GCPKMSClient, open_gcp_client
from pipecrypt.keys.services.gcp_kms.crc32c import crc32c
from pipecrypt.keys.services.gcp_kms.signer import GCPSigner, open_gcp_signer
from pipecrypt.keys.services.retry import PassingError, Patience
from pipecrypt.keys.services.wrapping import generate_and_wrap
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["SERVICE", "GCPKMSService", "GCPMasterKey"]

_MAX_WRAPPED_BYTES: Final = 4096
_NAME: Final = re.compile(
    r"(?P<key>projects/[a-z][a-z0-9.:-]{0,127}/locations/[a-z0-9-]{1,63}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63})"
    r"(?P<version>/cryptoKeyVersions/[1-9][0-9]{0,9})?"
)
_HOST: Final = re.compile(r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+(?::[0-9]{1,5})?")
_VERSION: Final = re.compile(r"/cryptoKeyVersions/[1-9][0-9]{0,9}")


class GCPMasterKey:
    """A symmetric key of Cloud KMS.

    The wrapped form of a KEK is the ciphertext as Google made it. It tells its version to Google only; every version
    that is enabled opens what it wrapped.

    Args:
        client: of the service.
        key: the resource name of the key, without a version.
        version: "/cryptoKeyVersions/N" to wrap under, or "" for the primary version.
        text: the key reference.
    """

    __slots__ = ("_client", "_key", "_text", "_version")

    def __init__(self, client: GCPKMSClient, key: str, version: str, text: str) -> None:
        """Keep them; nothing is called."""
        self._client = client
        self._key = key
        self._version = version
        self._text = text

    @property
    def id(self) -> str:
        """What data files store: `gcp-kms/` and the resource name of the key, without a version."""
        return f"gcp-kms/{self._key}"

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form; one `Encrypt`.

        Raises:
            KeyNotFoundError: there is no such key.
            KeyServiceError: Google refused or failed.
        """
        return generate_and_wrap(self.wrap_key, context)

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already; one `Encrypt`.

        Raises:
            KeyNotFoundError: there is no such key.
            KeyServiceError: Google refused or failed.
        """
        plaintext, associated_data = bytes(key.expose_key_bytes()), context.key_binding()
        request = {
            "name": self._key + self._version,
            "plaintext": plaintext,
            "plaintext_crc32c": crc32c(plaintext),
            "additional_authenticated_data": associated_data,
            "additional_authenticated_data_crc32c": crc32c(associated_data),
        }
        return self._client.ask("encrypt", request, self._wrapped)

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one `Decrypt`.

        Raises:
            IntegrityError: `wrapped` was not made by this master key for `context`.
            KeyServiceError: Google refused or failed.
        """
        if not 1 <= len(wrapped) <= _MAX_WRAPPED_BYTES:
            raise IntegrityError(f"{self._text}: a wrapped key of {len(wrapped)} bytes was not made by Cloud KMS")
        associated_data = context.key_binding()
        request = {
            "name": self._key,
            "ciphertext": wrapped,
            "ciphertext_crc32c": crc32c(wrapped),
            "additional_authenticated_data": associated_data,
            "additional_authenticated_data_crc32c": crc32c(associated_data),
        }
        return self._client.ask("decrypt", request, self._plaintext)

    def _wrapped(self, answer: Any) -> bytes:
        """Return the ciphertext of an answer.

        What holds: (1) a version of the key that was asked has answered; (2) Google received what was sent; (3) the
        ciphertext has a length that Google makes; (4) it arrived as Google sent it.
        """
        name, ciphertext = str(answer.name), bytes(answer.ciphertext)
        if not name.startswith(self._key) or not _VERSION.fullmatch(name[len(self._key) :]):  # (1)
            raise KeyServiceError(f"{self._text}: another key than this answered", hint="check the endpoint")
        if self._version and not name.endswith(self._version):
            raise KeyServiceError(f"{self._text}: another version than this answered", hint="check the endpoint")
        if not (answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c):  # (2)
            raise self._damaged("request")
        if not 1 <= len(ciphertext) <= _MAX_WRAPPED_BYTES:  # (3)
            raise KeyServiceError(f"{self._text}: the answer of Cloud KMS holds no wrapped key")
        if answer.ciphertext_crc32c != crc32c(ciphertext):  # (4)
            raise self._damaged("answer")
        return ciphertext

    def _plaintext(self, answer: Any) -> DataKey:
        key_bytes = bytearray(answer.plaintext)
        try:
            if len(key_bytes) != DATA_KEY_BYTES:
                raise KeyServiceError(f"{self._text}: the answer of Cloud KMS holds no 256-bit key")
            if answer.plaintext_crc32c != crc32c(key_bytes):
                raise self._damaged("answer")
            return DataKey(key_bytes)
        finally:
            key_bytes[:] = bytes(len(key_bytes))

    def _damaged(self, what: str) -> PassingError:
        return PassingError(
            KeyServiceError(f"{self._text}: the {what} was damaged on its way to or from Cloud KMS", hint="run again")
        )

    def __repr__(self) -> str:
        """Show the id."""
        return f"<GCPMasterKey {self.id}>"


class GCPKMSService:
    """The key service of the scheme `gcp-kms`.

    Args:
        patience: how long calls may take.
        transport: makes a transport of Google's library in the place of its own; for tests and embedders.
    """

    __slots__ = ("_patience", "_transport")

    def __init__(self, patience: Patience | None = None, *, transport: Callable[[], object] | None = None) -> None:
        """Call nothing."""
        self._patience = patience or Patience()
        self._transport = transport

    def open_key(self, reference: KeyReference, credentials: Credentials) -> GCPMasterKey:
        """Return a master key. Cloud KMS is not called.

        Raises:
            KeyReferenceError: the reference names no key.
            MissingExtraError: google-cloud-kms is not installed.
            KeyServiceError: there are no credentials.
        """
        match = _parse(reference)
        return GCPMasterKey(self._client(reference), match["key"], match["version"] or "", reference.text)

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> GCPSigner:
        """Return a signing key, with one `GetPublicKey`.

        Raises:
            KeyReferenceError: the reference names no key.
            MissingExtraError: google-cloud-kms is not installed.
            KeyNotFoundError: there is no such key.
            UsageError: no version is named, or the key signs nothing that is checked here.
            KeyServiceError: there are no credentials, or Google refused or failed.
        """
        match = _parse(reference)
        if match["version"] is None:
            raise UsageError(
                f"{reference.text} names no version, and signing keys of Cloud KMS have no primary one",
                hint="append /cryptoKeyVersions/1",
            )
        return open_gcp_signer(self._client(reference), match[0], reference.text)

    def public_keys(self, reference: KeyReference) -> tuple[str, ...]:
        """Return the public key of the version that is named. Raises what `open_signer` raises."""
        return (self.open_signer(reference, Credentials({})).public_key_pem,)

    def _client(self, reference: KeyReference) -> GCPKMSClient:
        return open_gcp_client(
            reference.text,
            endpoint=reference.option("endpoint"),
            patience=self._patience,
            transport=self._transport,
        )


SERVICE: Final = GCPKMSService()


def _parse(reference: KeyReference) -> re.Match[str]:
    reference.check_options("endpoint")
    match = _NAME.fullmatch(reference.location)
    if match is None or reference.fragment is not None:
        raise KeyReferenceError(
            f"key reference {reference.text} names no key of Cloud KMS",
            hint="write gcp-kms://projects/PROJECT-ID/locations/LOCATION/keyRings/RING/cryptoKeys/KEY",
        )
    endpoint = reference.option("endpoint")
    if endpoint is not None and _HOST.fullmatch(endpoint) is None:
        raise KeyReferenceError(
            f"the endpoint in {reference.text} is not a host", hint="write its name, without https://"
        )
    return match
