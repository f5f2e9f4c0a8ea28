"""Sign with asymmetric keys of Google Cloud KMS. Keys that wrap are left to service.

Algorithms: EC_SIGN_P256_SHA256, EC_SIGN_P384_SHA384, EC_SIGN_ED25519, and RSA_SIGN_PSS_2048_SHA256, _3072_ and _4096_.
All but Ed25519 keys are sent a digest, so the size of a message does not matter to the service.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Any, Final

from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm
from pipecrypt.errors import KeyServiceError, UsageError
from pipecrypt.keys.services.gcp_kms.client import GCPKMSClient
from pipecrypt.keys.services.gcp_kms.crc32c import crc32c
from pipecrypt.keys.services.retry import PassingError
from pipecrypt.keys.signers import WithPublicKey

__all__ = ["GCPSigner", "open_gcp_signer"]

_MAX_PEM_CHARACTERS: Final = 8192
_MAX_SIGNATURE_BYTES: Final = 1024
_ALGORITHMS: Final = MappingProxyType(
    {
        "EC_SIGN_P256_SHA256": SignatureAlgorithm.ECDSA_P256,
        "EC_SIGN_P384_SHA384": SignatureAlgorithm.ECDSA_P384,
        "EC_SIGN_ED25519": SignatureAlgorithm.ED25519,
        "RSA_SIGN_PSS_2048_SHA256": SignatureAlgorithm.RSA_PSS,
        "RSA_SIGN_PSS_3072_SHA256": SignatureAlgorithm.RSA_PSS,
        "RSA_SIGN_PSS_4096_SHA256": SignatureAlgorithm.RSA_PSS,
    }
)


class GCPSigner(WithPublicKey):
    """One version of a signing key.

    Args:
        client: of the service.
        name: the resource name of the version.
        public_key: of that version, as Google told it.
        text: the key reference.
    """

    __slots__ = ("_client", "_name", "_text")

    def __init__(self, client: GCPKMSClient, name: str, public_key: PublicKey, text: str) -> None:
        """Keep them."""
        super().__init__(public_key)
        self._client = client
        self._name = name
        self._text = text

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`; one `AsymmetricSign`.

        Raises:
            KeyNotFoundError: there is no such key any more.
            KeyServiceError: Google refused or failed.
        """
        algorithm = self._public_key.algorithm
        if algorithm is SignatureAlgorithm.ED25519:
            sent: dict[str, object] = {"data": message, "data_crc32c": crc32c(message)}
        else:
            name = "sha384" if algorithm is SignatureAlgorithm.ECDSA_P384 else "sha256"
            digest = hashlib.new(name, message).digest()
            sent = {"digest": {name: digest}, "digest_crc32c": crc32c(digest)}
        return self._client.ask("asymmetric_sign", {"name": self._name, **sent}, self._signature)

    def _signature(self, answer: Any) -> bytes:
        signature = bytes(answer.signature)
        _check_name(answer, self._name, self._text)
        if not 1 <= len(signature) <= _MAX_SIGNATURE_BYTES:
            raise KeyServiceError(f"{self._text}: the answer of Cloud KMS holds no signature")
        was_received = answer.verified_digest_crc32c or answer.verified_data_crc32c
        if not was_received or answer.signature_crc32c != crc32c(signature):
            raise _damaged(self._text)
        return signature


def open_gcp_signer(client: GCPKMSClient, name: str, text: str) -> GCPSigner:
    """Ask for the public key of a version; one `GetPublicKey`.

    Raises:
        KeyNotFoundError: there is no such key.
        UsageError: the key signs nothing that is checked here.
        KeyServiceError: Google refused, failed, or answered nonsense.
    """

    def read(answer: Any) -> PublicKey:
        _check_name(answer, name, text)
        pem = str(answer.pem)
        if len(pem) > _MAX_PEM_CHARACTERS or answer.pem_crc32c != crc32c(pem.encode()):
            raise _damaged(text)
        return _public_key(pem, getattr(answer.algorithm, "name", ""), text)

    return GCPSigner(client, name, client.ask("get_public_key", {"name": name}, read), text)


def _public_key(pem: str, algorithm: str, text: str) -> PublicKey:
    if algorithm not in _ALGORITHMS:
        raise UsageError(
            f"{text} is a key for {ascii(algorithm)[1:-1] or 'something else'}, which signs nothing here",
            hint="make one for EC_SIGN_P256_SHA256",
        )
    try:
        public_key = PublicKey(pem)
    except UsageError as error:
        raise KeyServiceError(f"{text}: the answer of Cloud KMS holds no public key: {error.message}") from None
    if public_key.algorithm is not _ALGORITHMS[algorithm]:
        raise KeyServiceError(f"{text}: the answer of Cloud KMS holds a public key of another algorithm")
    return public_key


def _check_name(answer: Any, name: str, text: str) -> None:
    if str(answer.name) != name:
        raise KeyServiceError(f"{text}: another key than this answered", hint="check the endpoint")


def _damaged(text: str) -> PassingError:
    return PassingError(
        KeyServiceError(f"{text}: request or answer was damaged on its way to or from Cloud KMS", hint="run again")
    )
