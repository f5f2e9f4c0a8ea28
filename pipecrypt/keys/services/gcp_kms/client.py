"""Call Google Cloud KMS with Google's library: patience, errors of ours, no key in a log. What is asked: service.

The one door to `google.cloud.kms_v1`, which is imported when a client is made. Calls go over HTTPS with JSON, because
gRPC does not survive a fork. The library's own retries are off, so that one budget of time holds for all tries.
"""

from __future__ import annotations

import http.client
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final, TypeVar

from pipecrypt.errors import (
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
    MissingExtraError,
    PipecryptError,
)
from pipecrypt.keys.services.quiet import quiet_loggers
from pipecrypt.keys.services.retry import PassingError, Patience, ask_patiently
from pipecrypt.vocabulary.documents import DocumentError, parse_document

__all__ = ["GCPKMSClient", "open_gcp_client"]

_Result = TypeVar("_Result")
_MAX_ERROR_BYTES: Final = 64 * 1024
_SDK: Final = "google.cloud.kms_v1"
# Each writes requests and answers, plaintext among them, into its debug log.
_TALKATIVE: Final = (
    f"{_SDK}.services.key_management_service.client",
    f"{_SDK}.services.key_management_service.transports.rest",
    "google.auth.transport.requests",
    "google.auth.transport._mtls_helper",
)
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_LOGIN_HINT: Final = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"


class GCPKMSClient:
    """A client of Cloud KMS. Safe to use from several threads.

    Args:
        client: of Google's library.
        text: the key reference; what errors name.
        patience: how long a call may take.
    """

    __slots__ = ("_client", "_patience", "_text")

    def __init__(self, client: Any, text: str, *, patience: Patience) -> None:
        """Keep them."""
        self._client = client
        self._text = text
        self._patience = patience

    def ask(self, method: str, request: Mapping[str, object], read: Callable[[Any], _Result]) -> _Result:
        """Return what `read` makes of the answer to one call, asking again while failures pass.

        Args:
            method: of the library's client, such as `encrypt`.
            request: the fields of its request.
            read: checks the answer; raises PassingError where it was damaged on its way.

        Raises:
            KeyNotFoundError: there is no such key.
            KeyServiceError: Google refused or failed, or no answer came in time.
            IntegrityError: the ciphertext was not made by this key in this context.
        """
        with quiet_loggers(_TALKATIVE):
            return ask_patiently(self._patience, lambda: read(self._try(method, request)), f"{method} of {self._text}")

    def _try(self, method: str, request: Mapping[str, object]) -> object:
        try:
            return getattr(self._client, method)(request=request, retry=None, timeout=self._patience.answer_seconds)
        except Exception as error:
            # Its text may hold anything, so neither it nor the exception itself goes on.
            raise _mapped(method, error, self._text) from None

    def __repr__(self) -> str:
        """Show the reference only."""
        return f"<GCPKMSClient {self._text}>"


def open_gcp_client(
    text: str, *, endpoint: str | None, patience: Patience, transport: Callable[[], object] | None
) -> GCPKMSClient:
    """Return a client with the credentials that Google's library finds. Cloud KMS is not called.

    Args:
        text: the key reference; what errors name.
        endpoint: a host in the place of cloudkms.googleapis.com, or None.
        patience: how long a call may take.
        transport: makes a transport in the place of the library's own.

    Raises:
        MissingExtraError: the library is not installed.
        KeyServiceError: there are no credentials.
    """
    sdk = _import_sdk()
    options = None if endpoint is None else {"api_endpoint": endpoint}
    with quiet_loggers(_TALKATIVE):
        try:
            client = sdk.KeyManagementServiceClient(
                transport="rest" if transport is None else transport(), client_options=options
            )
        except Exception as error:
            raise KeyServiceError(
                f"{text}: Google's library finds no credentials, or cannot be set up ({type(error).__name__})",
                hint=_LOGIN_HINT,
            ) from None
    return GCPKMSClient(client, text, patience=patience)


def _import_sdk() -> ModuleType:
    try:
        return importlib.import_module(_SDK)
    except ImportError as error:
        raise MissingExtraError(
            "keys of Google Cloud KMS need the package google-cloud-kms", hint='pip install "pipecrypt[gcp-kms]"'
        ) from error


def _mapped(method: str, error: Exception, text: str) -> PipecryptError | PassingError:
    status = getattr(error, "code", None)
    if isinstance(status, int):
        return _refusal(method, status, _answer(error), text)
    if _is_of(error, "google.auth"):
        refused = KeyServiceError(f"{text}: Google refuses the credentials ({type(error).__name__})", hint=_LOGIN_HINT)
        return PassingError(refused) if getattr(error, "retryable", False) else refused
    if isinstance(error, OSError):  # as all exceptions of requests are
        return PassingError(
            KeyServiceError(
                f"{text}: no answer to {method} came ({type(error).__name__})", hint="check the network, then run again"
            )
        )
    return KeyServiceError(f"{text}: the answer to {method} makes no sense ({type(error).__name__})")


def _refusal(method: str, status: int, answer: tuple[str, str], text: str) -> PipecryptError | PassingError:
    name, message = answer
    what = f"{text}: Cloud KMS refused {method} (status {status:d} {ascii(name)[1:-1]}".rstrip() + ")"
    if status in _BUSY or "checksum" in message:
        return PassingError(KeyServiceError(what, hint="the service is busy, or the project's quota is used up"))
    if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        hint = f"grant the permission to {method} on the key to this identity; a key that is missing is told so too"
        return KeyServiceError(what, hint=hint)
    if status == http.client.NOT_FOUND:
        return KeyNotFoundError(f"{text}: Cloud KMS has no such key", hint="check project, location, key ring and key")
    if name == "FAILED_PRECONDITION":
        hint = "gcloud kms keys versions list shows the state of each version; only enabled ones are used"
        return KeyServiceError(f"{text}: this version of the key is disabled or destroyed", hint=hint)
    if method == "decrypt" and name == "INVALID_ARGUMENT":
        return IntegrityError(f"{text}: the key encryption key was not wrapped by this master key for this dataset")
    return KeyServiceError(what)


def _answer(error: Exception) -> tuple[str, str]:
    # Google's name for the refusal, such as FAILED_PRECONDITION, and its English text, which is only searched.
    content = getattr(getattr(error, "response", None), "content", b"")
    try:
        member = parse_document(content, max_bytes=_MAX_ERROR_BYTES).document("error")
        return member.text("status", max_characters=64), member.text("message", max_characters=_MAX_ERROR_BYTES).lower()
    except DocumentError:
        return "", ""


def _is_of(error: Exception, package: str) -> bool:
    return type(error).__module__.startswith(f"{package}.")
