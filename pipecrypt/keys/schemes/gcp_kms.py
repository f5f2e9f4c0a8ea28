"""The key service `gcp-kms://`: keys of Google Cloud KMS that wrap or sign, called through Google's library.

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

Cloud KMS makes no data keys, so the KEK is made here, and encrypted there with its context as associated data. Keys
for EC_SIGN_P256_SHA256, EC_SIGN_P384_SHA384, EC_SIGN_ED25519, and RSA_SIGN_PSS_2048_SHA256, _3072_ and _4096_ sign; all
but Ed25519 keys are sent a digest, so the size of a message does not matter to the service.

Calls go over HTTPS with JSON, because gRPC does not survive a fork. What Google sends along as a checksum is CRC-32C:
it finds accidents; against attackers it is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm
from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyReferenceError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.schemes.caller import (
    BUSY_STATUSES,
    Caller,
    Failure,
    FailureKind,
    PassingError,
    Patience,
    Rule,
    import_extra,
    quiet_loggers,
    take_data_key,
)
from pipecrypt.keys.service import WrappingMasterKey
from pipecrypt.keys.signers import ServiceSigner
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import DocumentError, parse_document
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["SERVICE", "GCPKMSService", "GCPMasterKey", "crc32c"]

_Result = TypeVar("_Result")
_NAME: Final = re.compile(
    r"(?P<key>projects/[a-z][a-z0-9.:-]{0,127}/locations/[a-z0-9-]{1,63}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63})"
    r"(?P<version>/cryptoKeyVersions/[1-9][0-9]{0,9})?"
)
_HOST: Final = re.compile(r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+(?::[0-9]{1,5})?")
_VERSION: Final = re.compile(r"/cryptoKeyVersions/[1-9][0-9]{0,9}")
_MAX_WRAPPED_BYTES: Final = 4096
_MAX_PEM_CHARACTERS: Final = 8192
_MAX_SIGNATURE_BYTES: Final = 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
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
_CRC32C_POLYNOMIAL: Final = 0x82F63B78  # 0x1EDC6F41 with its bits turned round (RFC 3720 12.1)
_ALL_ONES: Final = 0xFFFFFFFF

_SDK: Final = "google.cloud.kms_v1"
# Each writes requests and answers, plaintext among them, into its debug log.
_LOGGERS: Final = (
    f"{_SDK}.services.key_management_service.client",
    f"{_SDK}.services.key_management_service.transports.rest",
    "google.auth.transport.requests",
    "google.auth.transport._mtls_helper",
)
_LOGIN_HINT: Final = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
_BUSY_HINT: Final = "the service is busy, or the project's quota is used up"
_RETRYABLE: Final = "retryable"
_RULES: Final = (
    Rule(
        kind=FailureKind.NO_LOGIN,
        codes={_RETRYABLE},
        message="Google refuses the credentials ({shown})",
        hint=_LOGIN_HINT,
        passes=True,
    ),
    Rule(kind=FailureKind.NO_LOGIN, message="Google refuses the credentials ({shown})", hint=_LOGIN_HINT),
    Rule(
        kind=FailureKind.LOST,
        message="no answer to {action} came ({shown})",
        hint="check the network, then run again",
        passes=True,
    ),
    Rule(statuses=BUSY_STATUSES, hint=_BUSY_HINT, passes=True),
    Rule(words=("checksum",), hint=_BUSY_HINT, passes=True),
    Rule(
        statuses={401, 403},
        hint="grant the permission to {action} on the key to this identity; a key that is missing is told so too",
    ),
    Rule(
        statuses={404},
        message="Cloud KMS has no such key",
        hint="check project, location, key ring and key",
        error=KeyNotFoundError,
    ),
    Rule(
        codes={"FAILED_PRECONDITION"},
        message="this version of the key is disabled or destroyed",
        hint="gcloud kms keys versions list shows the state of each version; only enabled ones are used",
    ),
    Rule(
        codes={"INVALID_ARGUMENT"},
        actions={"decrypt"},
        message="the key encryption key was not wrapped by this master key for this dataset",
        error=IntegrityError,
    ),
    Rule(),
)


class GCPMasterKey(WrappingMasterKey):
    """A symmetric key of Cloud KMS.

    The wrapped form of a KEK is the ciphertext as Google made it. It tells its version to Google only; every version
    that is enabled opens what it wrapped. Data files store `gcp-kms/` and the resource name, without a version.

    Args:
        client: of the service.
        key: the resource name of the key, without a version.
        version: "/cryptoKeyVersions/N" to wrap under, or "" for the primary version.
    """

    __slots__ = ("_client", "_key", "_version")

    def __init__(self, client: _GCPClient, key: str, version: str) -> None:
        """Keep them; nothing is called."""
        super().__init__(f"gcp-kms/{key}")
        self._client = client
        self._key = key
        self._version = version

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already; one `Encrypt`."""
        plaintext = bytes(key.expose_key_bytes())
        request = {"name": self._key + self._version, "plaintext": plaintext, "plaintext_crc32c": crc32c(plaintext)}
        return self._client.ask("encrypt", request | _bound(context), self._wrapped)

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one `Decrypt`.

        Raises:
            IntegrityError: `wrapped` was not made by this master key for `context`.
            KeyServiceError: Google refused or failed.
        """
        if not 1 <= len(wrapped) <= _MAX_WRAPPED_BYTES:
            raise IntegrityError(f"{self._client.text}: a wrapped key of {len(wrapped)} bytes is not of Cloud KMS")
        request = {"name": self._key, "ciphertext": wrapped, "ciphertext_crc32c": crc32c(wrapped)}
        return self._client.ask("decrypt", request | _bound(context), self._plaintext)

    def _wrapped(self, answer: Any) -> bytes:
        """Return the ciphertext of an answer.

        What holds: (1) a version of the key that was asked has answered; (2) Google received what was sent; (3) the
        ciphertext has a length that Google makes; (4) it arrived as Google sent it.
        """
        name, ciphertext = str(answer.name), bytes(answer.ciphertext)
        if not name.startswith(self._key) or not _VERSION.fullmatch(name[len(self._key) :]):  # (1)
            raise self._client.refusal("another key than this answered", hint="check the endpoint")
        if self._version and not name.endswith(self._version):
            raise self._client.refusal("another version than this answered", hint="check the endpoint")
        if not (answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c):  # (2)
            raise self._client.damaged()
        if not 1 <= len(ciphertext) <= _MAX_WRAPPED_BYTES:  # (3)
            raise self._client.refusal("the answer of Cloud KMS holds no wrapped key")
        if answer.ciphertext_crc32c != crc32c(ciphertext):  # (4)
            raise self._client.damaged()
        return ciphertext

    def _plaintext(self, answer: Any) -> DataKey:
        key_bytes = bytearray(answer.plaintext)
        if len(key_bytes) == DATA_KEY_BYTES and answer.plaintext_crc32c != crc32c(key_bytes):
            key_bytes[:] = bytes(len(key_bytes))
            raise self._client.damaged()
        return take_data_key(key_bytes, self._client.refusal("the answer of Cloud KMS holds no 256-bit key"))


def _sign(client: _GCPClient, name: str, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
    """Return a signature of `message` by the version of a key; one `AsymmetricSign`."""

    def read(answer: Any) -> bytes:
        signature = bytes(answer.signature)
        client.check_name(answer, name)
        if not 1 <= len(signature) <= _MAX_SIGNATURE_BYTES:
            raise client.refusal("the answer of Cloud KMS holds no signature")
        was_received = answer.verified_digest_crc32c or answer.verified_data_crc32c
        if not was_received or answer.signature_crc32c != crc32c(signature):
            raise client.damaged()
        return signature

    if algorithm is SignatureAlgorithm.ED25519:
        sent: dict[str, object] = {"data": message, "data_crc32c": crc32c(message)}
    else:
        digest = algorithm.digest(message)
        sent = {"digest": {algorithm.digest_name: digest}, "digest_crc32c": crc32c(digest)}
    return client.ask("asymmetric_sign", {"name": name, **sent}, read)


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
        return GCPMasterKey(self._client(reference), match["key"], match["version"] or "")

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> ServiceSigner:
        """Return a signing key, with one `GetPublicKey`.

        Raises:
            KeyReferenceError: the reference names no key.
            MissingExtraError: google-cloud-kms is not installed.
            KeyNotFoundError: there is no such key.
            UsageError: no version is named, or the key signs nothing that is checked here.
            KeyServiceError: there are no credentials, or Google refused, failed, or answered nonsense.
        """
        match = _parse(reference)
        if match["version"] is None:
            raise UsageError(
                f"{reference.text} names no version, and signing keys of Cloud KMS have no primary one",
                hint="append /cryptoKeyVersions/1",
            )
        name, client = match[0], self._client(reference)

        def read(answer: Any) -> PublicKey:
            client.check_name(answer, name)
            pem = str(answer.pem)
            if len(pem) > _MAX_PEM_CHARACTERS or answer.pem_crc32c != crc32c(pem.encode()):
                raise client.damaged()
            return _public_key(pem, getattr(answer.algorithm, "name", ""), reference.text)

        public_key = client.ask("get_public_key", {"name": name}, read)
        return ServiceSigner(public_key, partial(_sign, client, name, public_key.algorithm))

    def public_keys(self, reference: KeyReference) -> tuple[str, ...]:
        """Return the public key of the version that is named. Raises what `open_signer` raises."""
        return (self.open_signer(reference, Credentials({})).public_key_pem,)

    def _client(self, reference: KeyReference) -> _GCPClient:
        (sdk,) = import_extra("of Google Cloud KMS", "the package google-cloud-kms", "gcp-kms", _SDK)
        endpoint = reference.option("endpoint")
        with quiet_loggers(_LOGGERS):
            try:
                client = sdk.KeyManagementServiceClient(
                    transport="rest" if self._transport is None else self._transport(),
                    client_options=None if endpoint is None else {"api_endpoint": endpoint},
                )
            except Exception as error:
                raise KeyServiceError(
                    f"{reference.text}: Google's library finds no credentials, or cannot be set up "
                    f"({type(error).__name__})",
                    hint=_LOGIN_HINT,
                ) from None
        return _GCPClient(client, reference.text, self._patience)


SERVICE: Final = GCPKMSService()


class _GCPClient(Caller):
    """Google's client, asked for one key."""

    __slots__ = ("_client",)

    def __init__(self, client: Any, text: str, patience: Patience) -> None:
        super().__init__(text, "Cloud KMS", _RULES, patience=patience, describe=_describe, loggers=_LOGGERS)
        self._client = client

    def ask(self, method: str, request: Mapping[str, object], read: Callable[[Any], _Result]) -> _Result:
        """Return what `read` makes of the answer to one call of the library's client, such as `encrypt`."""
        seconds = self.patience.answer_seconds
        return self.call(
            method, lambda: getattr(self._client, method)(request=request, retry=None, timeout=seconds), read
        )

    def check_name(self, answer: Any, name: str) -> None:
        """Pass if the version that was asked has answered."""
        if str(answer.name) != name:
            raise self.refusal("another key than this answered", hint="check the endpoint")

    def damaged(self) -> PassingError:
        """Return what to raise where checksums differ: the call may be made again."""
        what = "request or answer was damaged on its way to or from Cloud KMS"
        return PassingError(self.refusal(what, hint="run again"))


def crc32c(data: bytes | bytearray) -> int:
    """Return the CRC-32C of `data`, a few hundred bytes at most: it takes a microsecond for each."""
    register = _ALL_ONES
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (_CRC32C_POLYNOMIAL if register & 1 else 0)
    return register ^ _ALL_ONES


def _bound(context: Context) -> dict[str, bytes | int]:
    bound = context.key_binding()
    return {"additional_authenticated_data": bound, "additional_authenticated_data_crc32c": crc32c(bound)}


def _parse(reference: KeyReference) -> re.Match[str]:
    reference.check_options("endpoint")
    match = _NAME.fullmatch(reference.location)
    if match is None or reference.fragment is not None:
        raise reference.malformed(
            "names no key of Cloud KMS",
            hint="write gcp-kms://projects/PROJECT-ID/locations/LOCATION/keyRings/RING/cryptoKeys/KEY",
        )
    endpoint = reference.option("endpoint")
    if endpoint is not None and _HOST.fullmatch(endpoint) is None:
        raise KeyReferenceError(
            f"the endpoint in {reference.text} is not a host", hint="write its name, without https://"
        )
    return match


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


def _describe(error: Exception) -> Failure:
    name, status = type(error).__name__, getattr(error, "code", None)
    if isinstance(status, int):
        code, words = _answer(error)
        return Failure(
            status=status, codes=(code,), words=words, shown=f"status {status:d} {ascii(code)[1:-1]}".rstrip()
        )
    if type(error).__module__.startswith("google.auth."):
        codes = (_RETRYABLE,) if getattr(error, "retryable", False) else ()
        return Failure(kind=FailureKind.NO_LOGIN, codes=codes, shown=name)
    # All exceptions of requests are OSErrors.
    return Failure(kind=FailureKind.LOST if isinstance(error, OSError) else FailureKind.NONSENSE, shown=name)


def _answer(error: Exception) -> tuple[str, str]:
    """Return Google's name for a refusal, such as FAILED_PRECONDITION, and its text, which is only searched."""
    content = getattr(getattr(error, "response", None), "content", b"")
    try:
        member = parse_document(content, max_bytes=_MAX_ERROR_BYTES).document("error")
        return member.text("status", max_characters=64), member.text("message", max_characters=_MAX_ERROR_BYTES).lower()
    except DocumentError:
        return "", ""
