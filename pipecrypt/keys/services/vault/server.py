"""Talk to one Vault or OpenBao server: find it, prove who it is, send the token, bound its answers.

What is asked of it is left to service and signer. Certificates are always checked; plain HTTP is for this machine
only. Redirects are not followed, because they would take the token elsewhere. Answers are JSON of at most 256 KiB.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from pipecrypt.errors import (
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.services.private_file import read_private_file
from pipecrypt.keys.services.retry import PassingError, Patience, ask_patiently
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = ["VaultAddress", "VaultServer", "address_from_url", "is_this_machine", "variable"]

_MAX_ANSWER_BYTES: Final = 256 * 1024
_MAX_TOKEN_CHARACTERS: Final = 8192
_MAX_WAIT_SECONDS: Final = 3600
_TOKEN_FILE: Final = ".vault-token"  # noqa: S105 - a name, no secret
_DENIED_HINT: Final = "the token may have expired, or its policy lacks a path that the documentation lists"
# Vault has one status for most refusals, and tells them apart in English only.
_UNAUTHENTIC: Final = ("message authentication failed", "invalid ciphertext")
_SWITCHED_OFF: Final = ("disallowed by policy", "too old", "soft-deleted")
_BUSY: Final = frozenset({412, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultAddress:
    """Where a server listens.

    Args:
        host: a name or an address, without brackets.
        port: TCP port.
        tls: HTTPS; only the server of this machine is reached without.
    """

    host: str
    port: int
    tls: bool


class VaultServer:
    """A server, and the token that is shown to it.

    Args:
        address: where it listens.
        namespace: sent with each request, or "".
        environ: has the token and the certificates.
        patience: how long a call may take.

    Raises:
        KeyServiceError: there is no token, or a certificate file cannot be read.
    """

    __slots__ = ("_address", "_headers", "_patience", "_server_name", "_tls")

    def __init__(
        self, address: VaultAddress, namespace: str, environ: Mapping[str, str], *, patience: Patience
    ) -> None:
        """Read token and certificates; nothing is sent yet."""
        self._address = address
        self._patience = patience
        self._headers = {"X-Vault-Request": "true", "X-Vault-Token": _token(environ)}
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace
        self._tls = _tls_context(environ) if address.tls else None
        self._server_name = variable(environ, "TLS_SERVER_NAME") or address.host

    def ask(self, method: str, path: str, what: str, members: Mapping[str, str | int | bool] | None = None) -> Document:
        """Return the "data" of the answer to one request, asking again while failures pass.

        Args:
            method: GET or POST.
            path: behind `/v1/`.
            what: the key reference; what errors name.
            members: of the JSON object that is sent.

        Raises:
            KeyNotFoundError: there is no such key.
            KeyServiceError: the server refused, failed, or answered nonsense.
            IntegrityError: the server opened something that is not what it was asked to open.
        """
        body = None if members is None else json.dumps(members).encode()

        def attempt() -> Document:
            try:
                status, headers, answer = self._send(method, path, body)
            except ssl.SSLCertVerificationError as error:
                raise KeyServiceError(
                    f"{what}: the server's certificate is not trusted: {error.verify_message}",
                    hint="name the certificate of its authority in VAULT_CACERT",
                ) from None
            except (OSError, http.client.HTTPException) as error:
                hint = "check host, port and network, then run again"
                raise PassingError(KeyServiceError(f"{what}: {_unreached(error)}", hint=hint)) from None
            return _data(status, headers, answer, what)

        return ask_patiently(self._patience, attempt, f"{method} {path}")

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = _connection(self._address, self._tls, self._server_name, self._patience.connect_seconds)
        try:
            connection.connect()
            connection.sock.settimeout(self._patience.answer_seconds)
            headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
            connection.request(method, f"/v1/{path}", body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read(_MAX_ANSWER_BYTES + 1)
        finally:
            connection.close()

    def __repr__(self) -> str:
        """Show the address only."""
        return f"<VaultServer {self._address.host}:{self._address.port}>"


class _NamedHTTPSConnection(http.client.HTTPSConnection):
    """Checks the certificate for a name of the caller's choice."""

    def __init__(self, address: VaultAddress, context: ssl.SSLContext, server_name: str, seconds: float) -> None:
        super().__init__(address.host, address.port, timeout=seconds, context=context)
        self._named = (context, server_name)

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context, server_name = self._named
        self.sock = context.wrap_socket(self.sock, server_hostname=server_name)


def address_from_url(url: str, what: str) -> VaultAddress:
    """Return the address in a URL, as VAULT_ADDR has it.

    Args:
        url: `https://host[:port]`; `http://` for this machine only.
        what: what errors call it.

    Raises:
        UsageError: it is something else.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or parts.path.strip("/") or parts.query or parts.username:
        raise UsageError(
            f"{what} is not the address of a server", hint="write https://host:port, with nothing behind it"
        )
    tls = parts.scheme == "https"
    if not tls and not is_this_machine(host):
        raise UsageError(
            f"{what} names another machine without TLS", hint="write https://; http:// is for 127.0.0.1 and localhost"
        )
    return VaultAddress(host=host, port=port or (443 if tls else 80), tls=tls)


def is_this_machine(host: str) -> bool:
    """Say whether a host is the loopback interface, by its address or as localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def variable(environ: Mapping[str, str], name: str) -> str | None:
    """Return the value of BAO_<name>, or else of VAULT_<name>; an empty one counts as none."""
    return environ.get(f"BAO_{name}") or environ.get(f"VAULT_{name}") or None


def _connection(
    address: VaultAddress, context: ssl.SSLContext | None, server_name: str, seconds: float
) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(address.host, address.port, timeout=seconds)
    return _NamedHTTPSConnection(address, context, server_name, seconds)


def _token(environ: Mapping[str, str]) -> str:
    token = variable(environ, "TOKEN")
    if token is None and (home := environ.get("HOME")):
        # What `vault login` and `bao login` leave behind.
        stored = read_private_file(Path(home) / _TOKEN_FILE, "token file")
        token = None if stored is None else stored.decode("ascii", errors="replace").strip()
    if not token:
        raise KeyServiceError("there is no token for Vault", hint="set VAULT_TOKEN, or run vault login")
    if len(token) > _MAX_TOKEN_CHARACTERS or not (token.isascii() and token.isprintable()):
        raise KeyServiceError("the token for Vault is not a token", hint="set VAULT_TOKEN, or run vault login")
    return token


def _tls_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=variable(environ, "CACERT"),
            capath=None if variable(environ, "CACERT") else variable(environ, "CAPATH"),
        )
        certificate = variable(environ, "CLIENT_CERT")
        if certificate is not None:
            context.load_cert_chain(certificate, variable(environ, "CLIENT_KEY"), password=_no_passphrase)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise KeyServiceError(
            f"the certificates for Vault cannot be read: {(reason or type(error).__name__).lower()}",
            hint="check VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT and VAULT_CLIENT_KEY",
        ) from None
    return context


def _no_passphrase() -> NoReturn:
    # Without it OpenSSL would ask at the terminal.
    raise ValueError("the client key is under a passphrase")


def _unreached(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, ssl.SSLError):
        return "the server does not speak TLS as it should"
    if isinstance(error, OSError):
        return f"the server cannot be reached: {(error.strerror or type(error).__name__).lower()}"
    return "the server's answer is no HTTP"


def _data(status: int, headers: http.client.HTTPMessage, answer: bytes, what: str) -> Document:
    if status in _BUSY:
        name = "has too many requests" if status == http.client.TOO_MANY_REQUESTS else "is sealed, or busy, or failed"
        error = KeyServiceError(
            f"{what}: the server {name} (status {status})", hint="look at vault status, then run again"
        )
        raise PassingError(error, wait_seconds=_retry_after(headers))
    if status != http.client.OK:
        raise _refusal(status, _texts(answer, "errors"), what)
    if "associated_data" in _texts(answer, "warnings"):
        raise KeyServiceError(
            f"{what}: the server is too old to bind associated data",
            hint="use Vault 1.13 or newer, or a key that was made with derived=true",
        )
    try:
        return parse_document(answer, max_bytes=_MAX_ANSWER_BYTES).document("data")
    except DocumentError as error:
        raise KeyServiceError(f"{what}: the server's answer cannot be read: {error}") from None


def _refusal(status: int, text: str, what: str) -> PipecryptError:
    if status == http.client.NOT_FOUND or "key not found" in text:
        hint = "check mount, namespace and name of the key"
        return KeyNotFoundError(f"{what}: the server has no such key", hint=hint)
    if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        return KeyServiceError(f"{what}: the server denied it (status {status})", hint=_DENIED_HINT)
    if any(part in text for part in _SWITCHED_OFF):
        hint = "look at min_decryption_version of the key, and whether it was deleted"
        return KeyServiceError(f"{what}: this version of the key was switched off", hint=hint)
    if any(part in text for part in _UNAUTHENTIC):
        return IntegrityError(f"{what}: the key encryption key was not wrapped by this master key for this dataset")
    if http.client.MULTIPLE_CHOICES <= status < http.client.BAD_REQUEST:
        return KeyServiceError(f"{what}: the server redirects to another", hint="name the active server itself")
    return KeyServiceError(f"{what}: the server refused it (status {status})")


def _texts(answer: bytes, name: str) -> str:
    # Only searched, never shown: it may hold anything.
    try:
        document = parse_document(answer, max_bytes=_MAX_ANSWER_BYTES)
        return "\n".join(document.texts(name, max_count=100, max_characters=_MAX_ANSWER_BYTES)).lower()
    except DocumentError:
        return ""


def _retry_after(headers: http.client.HTTPMessage) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and int(text) <= _MAX_WAIT_SECONDS else 0.0
