"""Call Azure Key Vault with its libraries: patience, errors of ours, no key in a log. What is asked: service.

The one door to azure.identity and azure.keyvault.keys, which are imported when a client is made. Requests go through
the pipeline of `KeyClient`, which finds credentials and answers the vault's challenges; its own retries are off, so
that one budget of time holds for all tries. `CryptographyClient` is left out: it wraps in this process, also under keys
that are disabled, and does not tell which key answered.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from pipecrypt.errors import (
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
    MissingExtraError,
    PipecryptError,
)
from pipecrypt.keys.services.retry import PassingError, Patience, ask_patiently
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = ["AzureKVClient", "open_azure_client"]

_API_VERSION: Final = "7.4"
_MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_WAIT_SECONDS: Final = 3600
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_LOGIN_HINT: Final = "run az login, or set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET"


class AzureKVClient:
    """A client of one vault. Safe to use from several threads.

    Args:
        client: the KeyClient.
        text: the key reference; what errors name.
        patience: how long a call may take.
    """

    __slots__ = ("_client", "_patience", "_text")

    def __init__(self, client: Any, text: str, *, patience: Patience) -> None:
        """Keep them."""
        self._client = client
        self._text = text
        self._patience = patience

    def ask(self, path: str, members: Mapping[str, str] | None = None) -> Document:
        """Return the answer to one request, asking again while failures pass.

        Args:
            path: in the vault; its last part is the operation.
            members: of the JSON object that is sent; None to read.

        Raises:
            KeyNotFoundError: there is no such key or version.
            KeyServiceError: Azure refused or failed, or no answer came in time.
            IntegrityError: what was to be unwrapped was not wrapped by this version of the key.
        """
        return ask_patiently(self._patience, lambda: self._try(path, members), f"{path} of {self._text}")

    def _try(self, path: str, members: Mapping[str, str] | None) -> Document:
        operation = path.rpartition("/")[2] if members is not None else "get"
        try:
            status, headers, body = self._send(path, members)
        except Exception as error:
            # Its text may hold anything, so neither it nor the exception itself goes on.
            raise _unanswered(operation, error, self._text) from None
        try:
            document = parse_document(body, max_bytes=_MAX_ANSWER_BYTES)
        except DocumentError as error:
            if status == 200:
                raise KeyServiceError(f"{self._text}: the answer to {operation} makes no sense: {error}") from None
            document = Document([])
        if status != 200:
            raise _refusal(operation, status, headers, _codes(document), self._text)
        return document

    def _send(self, path: str, members: Mapping[str, str] | None) -> tuple[int, Mapping[str, str], bytes]:
        request = importlib.import_module("azure.core.rest").HttpRequest
        method = "GET" if members is None else "POST"
        response = self._client.send_request(
            request(method, f"/{path}", json=members),
            stream=True,
            connection_timeout=self._patience.connect_seconds,
            read_timeout=self._patience.answer_seconds,
        )
        try:
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _MAX_ANSWER_BYTES:
                    break
            return response.status_code, response.headers, body
        finally:
            response.close()

    def __repr__(self) -> str:
        """Show the reference only."""
        return f"<AzureKVClient {self._text}>"


def open_azure_client(host: str, text: str, *, patience: Patience, credential: Any, transport: Any) -> AzureKVClient:
    """Return a client of one vault. The vault is not called.

    Args:
        host: of the vault.
        text: the key reference; what errors name.
        patience: how long a call may take.
        credential: of azure.identity, or None for the default one.
        transport: of azure.core, in the place of its own; or None.

    Raises:
        MissingExtraError: the libraries are not installed.
        KeyServiceError: the libraries cannot be set up.
    """
    try:
        identity, keys = (importlib.import_module(name) for name in ("azure.identity", "azure.keyvault.keys"))
    except ImportError as error:
        raise MissingExtraError(
            "keys of Azure Key Vault need the packages azure-keyvault-keys and azure-identity",
            hint='pip install "pipecrypt[azure-kv]"',
        ) from error
    options = {} if transport is None else {"transport": transport}
    try:
        client = keys.KeyClient(
            f"https://{host}",
            credential or identity.DefaultAzureCredential(),
            api_version=_API_VERSION,
            retry_total=0,
            permit_redirects=False,
            logging_enable=False,  # else the libraries would log whole requests
            **options,
        )
    except Exception as error:
        raise KeyServiceError(
            f"{text}: the libraries of Azure cannot be set up ({type(error).__name__})", hint=_LOGIN_HINT
        ) from None
    return AzureKVClient(client, text, patience=patience)


def _unanswered(operation: str, error: Exception, text: str) -> PipecryptError | PassingError:
    kinds = importlib.import_module("azure.core.exceptions")
    if isinstance(error, kinds.ClientAuthenticationError):
        return KeyServiceError(f"{text}: no credentials for Azure work ({type(error).__name__})", hint=_LOGIN_HINT)
    if isinstance(error, (kinds.ServiceRequestError, kinds.ServiceResponseError, kinds.IncompleteReadError, OSError)):
        return PassingError(
            KeyServiceError(
                f"{text}: no answer to {operation} came ({type(error).__name__})",
                hint="check the name of the vault and the network, then run again",
            )
        )
    return KeyServiceError(f"{text}: the answer to {operation} makes no sense ({type(error).__name__})")


def _refusal(
    operation: str, status: int, headers: Mapping[str, str], codes: tuple[str, str], text: str
) -> PipecryptError | PassingError:
    code, inner = codes
    shown = " ".join(filter(None, (str(status), *(ascii(each)[1:-1] for each in codes))))
    what = f"{text}: Key Vault refused {operation} ({shown})"
    if status in _BUSY:
        error = KeyServiceError(what, hint="the vault is busy, or its limit of transactions is reached")
        return PassingError(error, wait_seconds=_retry_after(headers))
    if status == 404:
        return KeyNotFoundError(f"{text}: the vault has no such key or version", hint="deleted keys can be recovered")
    if inner == "KeyDisabled":
        return KeyServiceError(f"{text}: the key is disabled", hint="az keyvault key set-attributes --enabled true")
    if status in {401, 403}:
        hint = f"grant keys/{operation} on the key to this identity, and let this machine through the vault's firewall"
        return KeyServiceError(what, hint=hint)
    if operation == "unwrapkey" and code == "BadParameter":
        return IntegrityError(f"{text}: the key encryption key was not wrapped by this version of the key")
    return KeyServiceError(what)


def _codes(document: Document) -> tuple[str, str]:
    # Key Vault's names for a refusal, such as Forbidden and KeyDisabled.
    try:
        error = document.document("error")
        code = error.text("code", max_characters=64)
    except DocumentError:
        return "", ""
    for name in ("innererror", "innerError"):
        try:
            return code, error.document(name).text("code", max_characters=64)
        except DocumentError:
            continue
    return code, ""


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After") or ""
    return float(text) if text.isdecimal() and int(text) <= _MAX_WAIT_SECONDS else 0.0
