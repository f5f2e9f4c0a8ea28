"""The key service `vault://`: the transit engine of HashiCorp Vault or OpenBao, over plain HTTP of our own.

URI form: `vault://HOST[:PORT]/MOUNT/KEY`, port 8200 by default, or `vault:///MOUNT/KEY` with the host of VAULT_ADDR.
A mount may have several parts. Options: `namespace=N`, else VAULT_NAMESPACE; `address=https://HOST:PORT`, where the
server is reached in another place than the one it is known by; `tls=off` for the server of this machine.
Credentials: the token in VAULT_TOKEN or `~/.vault-token`; VAULT_CACERT, VAULT_CAPATH, VAULT_TLS_SERVER_NAME,
VAULT_CLIENT_CERT and VAULT_CLIENT_KEY. A variable that begins with BAO_ goes before its twin with VAULT_.

Permissions, as a policy of Vault (MOUNT is `transit`, the key `pii`)::

    path "transit/keys/pii"              { capabilities = ["read"] }      all
    path "transit/datakey/plaintext/pii" { capabilities = ["update"] }    to encrypt, derived keys
    path "transit/encrypt/pii"           { capabilities = ["update"] }    to encrypt, other keys; never "create"
    path "transit/decrypt/pii"           { capabilities = ["update"] }    to decrypt
    path "transit/sign/pii"              { capabilities = ["update"] }    to sign

Keys of type aes256-gcm96, chacha20-poly1305 or xchacha20-poly1305 wrap. Made with `derived=true`, their context goes
into the derivation of the key that wraps, and Vault makes the KEK. Of other keys Vault's `datakey` binds no context;
there the KEK is made here, and `encrypt` binds the context as associated data. Keys of type ed25519, ecdsa-p256,
ecdsa-p384, rsa-2048, rsa-3072 and rsa-4096 sign, the newest version; all but Ed25519 keys are sent a digest.

The id that data files store is `vault/HOST[:PORT]/[NAMESPACE/]MOUNT/KEY`, without the port where it is 8200. HOST is
the one in the reference, or else that of VAULT_ADDR; never the one in the option `address`. A namespace in a path means
to Vault what it means in a header, so two references to one key have one id.

Certificates are always checked; plain HTTP is for this machine only. Redirects are not followed, because they would
take the token elsewhere. Answers are JSON of at most 256 KiB.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, TypeAlias
from urllib.parse import urlsplit

from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, pem_text
from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyReferenceError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials, read_private_file
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.schemes.caller import (
    BUSY_STATUSES,
    Caller,
    Failure,
    FailureKind,
    Patience,
    Rule,
    is_this_machine,
    retry_after,
    take_data_key,
)
from pipecrypt.keys.service import WrappingMasterKey
from pipecrypt.keys.signers import ServiceSigner
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import Document, DocumentError, decode_base64, encode_base64, parse_document
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["SERVICE", "VaultAddress", "VaultMasterKey", "VaultPlace", "VaultService", "locate_vault_key"]

_DEFAULT_PORT: Final = 8200
_LOCATION: Final = re.compile(
    r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?)?/(?P<mount>.+)/(?P<key>[^/]+)"
)
# What needs no escape in a URL, and names no place above it.
_PARTS: Final = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*")
_FORM: Final = "write vault://HOST/MOUNT/KEY, or vault:///MOUNT/KEY with the host in VAULT_ADDR"

_MAX_ANSWER_BYTES: Final = 256 * 1024
_MAX_TOKEN_CHARACTERS: Final = 8192
_MAX_WRAPPED_BYTES: Final = 1024
_MAX_KEY_BYTES: Final = 48
_MAX_PEM_CHARACTERS: Final = 8192
_MAX_SIGNATURE_CHARACTERS: Final = 1024
_TOKEN_FILE: Final = ".vault-token"  # noqa: S105 - a name, no secret
_WRAPPING_TYPES: Final = frozenset({"aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
_SIGNING_TYPES: Final = frozenset({"ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"})
_VERSIONED: Final = re.compile(r"vault:v(?P<version>[1-9][0-9]{0,8}):(?P<value>[A-Za-z0-9+/]+={0,2})")
# RFC 8410 4: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING }, without the 32 bytes of the key.
_ED25519_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
_ED25519_BYTES: Final = 32
_Members: TypeAlias = dict[str, str | int | bool]

# Vault has one status for most refusals, and tells them apart in English only.
_RULES: Final = (
    Rule(kind=FailureKind.LOST, message="{shown}", hint="check host, port and network, then run again", passes=True),
    Rule(
        kind=FailureKind.NO_LOGIN,
        message="the server's certificate is not trusted: {shown}",
        hint="name the certificate of its authority in VAULT_CACERT",
    ),
    Rule(
        statuses={429},
        message="the server has too many requests (status {shown})",
        hint="look at vault status, then run again",
        passes=True,
    ),
    Rule(
        statuses=BUSY_STATUSES - {408} | {412},
        message="the server is sealed, or busy, or failed (status {shown})",
        hint="look at vault status, then run again",
        passes=True,
    ),
    Rule(
        statuses={404},
        message="the server has no such key",
        hint="check mount, namespace and name of the key",
        error=KeyNotFoundError,
    ),
    Rule(
        words=("key not found",),
        message="the server has no such key",
        hint="check mount, namespace and name of the key",
        error=KeyNotFoundError,
    ),
    Rule(
        statuses={401, 403},
        message="the server denied it (status {shown})",
        hint="the token may have expired, or its policy lacks a path that the documentation lists",
    ),
    Rule(
        words=("disallowed by policy", "too old", "soft-deleted"),
        message="this version of the key was switched off",
        hint="look at min_decryption_version of the key, and whether it was deleted",
    ),
    Rule(
        words=("message authentication failed", "invalid ciphertext"),
        message="the key encryption key was not wrapped by this master key for this dataset",
        error=IntegrityError,
    ),
    Rule(statuses=range(300, 400), message="the server redirects to another", hint="name the active server itself"),
    Rule(message="the server refused it (status {shown})"),
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultPlace:
    """Where a key is.

    Args:
        address: where its server listens.
        namespace: "" for none.
        mount: of the transit engine.
        key: its name.
        id: what data files store.
        text: the key reference.
    """

    address: VaultAddress
    namespace: str
    mount: str
    key: str
    id: str
    text: str

    def path(self, operation: str) -> str:
        """Return the path of an operation with the key, such as `transit/decrypt/pii`."""
        return f"{self.mount}/{operation}/{self.key}"


def locate_vault_key(reference: KeyReference, environ: Mapping[str, str]) -> VaultPlace:
    """Return where the key of a reference is; nothing is asked.

    Raises:
        KeyReferenceError: it lacks a part or has one too many.
        UsageError: VAULT_ADDR or the option `address` is not an address.
    """
    reference.check_options("address", "namespace", "tls")
    match = _LOCATION.fullmatch(reference.location)
    if match is None or reference.fragment is not None or not _PARTS.fullmatch(f"{match['mount']}/{match['key']}"):
        raise reference.malformed("names no key of a Vault server", hint=_FORM)
    namespace = (reference.option("namespace") or _variable(environ, "NAMESPACE") or "").strip("/")
    if namespace and not _PARTS.fullmatch(namespace):
        raise KeyReferenceError(f"the namespace for key reference {reference.text} is malformed")
    known_as = _known_as(match, reference, environ)
    address = reference.option("address")
    return VaultPlace(
        address=known_as if address is None else _address_from_url(address, f"the address in {reference.text}"),
        namespace=namespace,
        mount=match["mount"],
        key=match["key"],
        id="/".join(filter(None, ("vault", _shown(known_as), namespace, match["mount"], match["key"]))),
        text=reference.text,
    )


class VaultMasterKey(WrappingMasterKey):
    """A key of the transit engine.

    The wrapped form of a KEK is Vault's own text, `vault:v<version>:<base64>`: new ones are under the newest version,
    and each version opens until `min_decryption_version` passes it.

    Args:
        server: the connection.
        is_derived: Vault derives a key from the context.
    """

    __slots__ = ("_is_derived", "_server")

    def __init__(self, server: _VaultServer, *, is_derived: bool) -> None:
        """Keep them."""
        super().__init__(server.place.id)
        self._server = server
        self._is_derived = is_derived

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form; one request."""
        if not self._is_derived:
            return super().generate_key(context)
        answer = self._server.ask("datakey/plaintext", {"bits": 256, **self._binding(context)})
        wrapped = self._wrapped(answer)
        return self._plaintext(answer), wrapped

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one request.

        Raises:
            IntegrityError: `wrapped` was not made by this master key for `context`.
            KeyServiceError: the server refused, failed, or answered nonsense.
        """
        text = wrapped.decode("ascii", errors="replace")
        if len(wrapped) > _MAX_WRAPPED_BYTES or _VERSIONED.fullmatch(text) is None:
            raise IntegrityError(f"the key encryption key was not wrapped by master key {self.id}")
        return self._plaintext(self._server.ask("decrypt", {"ciphertext": text, **self._binding(context)}))

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already; one request."""
        plaintext = encode_base64(bytes(key.expose_key_bytes()))
        return self._wrapped(self._server.ask("encrypt", {"plaintext": plaintext, **self._binding(context)}))

    def _binding(self, context: Context) -> _Members:
        # Vault ignores a context for keys that are not derived, without a word. So it is never sent alone to one.
        return {"context" if self._is_derived else "associated_data": encode_base64(context.key_binding())}

    def _wrapped(self, answer: Document) -> bytes:
        try:
            return answer.text("ciphertext", max_characters=_MAX_WRAPPED_BYTES, pattern=_VERSIONED).encode()
        except DocumentError:
            raise self._server.refusal("the server's answer holds no wrapped key") from None

    def _plaintext(self, answer: Document) -> DataKey:
        try:
            key_bytes = bytearray(answer.base64("plaintext", max_bytes=_MAX_KEY_BYTES))
        except DocumentError:
            key_bytes = bytearray()
        return take_data_key(key_bytes, self._server.refusal("the server's answer holds no 256-bit key"))


def _sign(server: _VaultServer, version: int, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
    """Return a signature of `message` by one version of a key; one request."""
    answer = server.ask("sign", {"key_version": version, **_input(algorithm, message)})
    try:
        match = _VERSIONED.fullmatch(answer.text("signature", max_characters=_MAX_SIGNATURE_CHARACTERS))
        if match is None or int(match["version"]) != version:
            raise ValueError("another version")
        return decode_base64(match["value"])
    except (DocumentError, ValueError):
        raise server.refusal("the server's answer holds no signature") from None


class VaultService:
    """The key service of the scheme `vault`.

    Args:
        patience: how long a call may take.
    """

    __slots__ = ("_patience",)

    def __init__(self, patience: Patience | None = None) -> None:
        """Ask nothing."""
        self._patience = patience or Patience()

    def open_key(self, reference: KeyReference, credentials: Credentials) -> VaultMasterKey:
        """Ask the server what the key is; one request.

        Raises:
            KeyReferenceError: the reference names no key of a server.
            KeyNotFoundError: there is no such key.
            UsageError: the key is of a type that binds no context.
            KeyServiceError: there is no token, or the server refused, failed, or answered nonsense.
        """
        server = self._server(reference, credentials)
        answer = server.ask("keys")
        try:
            key_type, is_derived = answer.text("type", max_characters=64), answer.boolean("derived")
        except DocumentError as error:
            raise server.refusal(f"the server's answer cannot be read: {error}") from None
        if key_type not in _WRAPPING_TYPES:
            raise UsageError(
                f"{reference.text} is a key of type {key_type!a}, under which nothing is wrapped here",
                hint=f"make one of type aes256-gcm96: vault write {server.place.path('keys')} derived=true",
            )
        return VaultMasterKey(server, is_derived=is_derived)

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> ServiceSigner:
        """Ask the server for the public key of the newest version; one request.

        Raises:
            KeyReferenceError: the reference names no key of a server.
            KeyNotFoundError: there is no such key.
            UsageError: the key signs nothing that we check.
            KeyServiceError: there is no token, or the server refused, failed, or answered nonsense.
        """
        server = self._server(reference, credentials)
        answer = server.ask("keys")
        try:
            key_type, is_derived = answer.text("type", max_characters=64), answer.boolean("derived")
            if key_type not in _SIGNING_TYPES or is_derived:
                raise UsageError(
                    f"{reference.text} is of type {key_type!a}{', derived' if is_derived else ''}: "
                    "it signs nothing here",
                    hint=f"make one of type ecdsa-p256: vault write {server.place.path('keys')} type=ecdsa-p256",
                )
            version = answer.integer("latest_version")
            public_key = _public_key(answer, version, key_type)
        except (DocumentError, ValueError) as error:
            raise server.refusal(f"the server's answer holds no public key: {error}") from None
        return ServiceSigner(public_key, partial(_sign, server, version, public_key.algorithm))

    def _server(self, reference: KeyReference, credentials: Credentials) -> _VaultServer:
        return _VaultServer(locate_vault_key(reference, credentials.environ), credentials.environ, self._patience)


SERVICE: Final = VaultService()


class _VaultServer(Caller):
    """The server of one key, and the token that is shown to it; nothing is sent when it is made."""

    __slots__ = ("_headers", "_server_name", "_tls", "place")

    def __init__(self, place: VaultPlace, environ: Mapping[str, str], patience: Patience) -> None:
        super().__init__(place.text, "the server", _RULES, patience=patience, describe=_describe)
        self.place = place
        self._headers = {"X-Vault-Request": "true", "X-Vault-Token": _token(environ)}
        if place.namespace:
            self._headers["X-Vault-Namespace"] = place.namespace
        self._tls = _tls_context(environ) if place.address.tls else None
        self._server_name = _variable(environ, "TLS_SERVER_NAME") or place.address.host

    def ask(self, operation: str, members: _Members | None = None) -> Document:
        """Return the "data" of the answer to one request about the key; it is read without `members`."""
        return self.call(operation, lambda: self._send(operation, members), self._read)

    def _send(self, operation: str, members: _Members | None) -> bytes | Failure:
        method, body, headers = "GET", None, self._headers
        if members is not None:
            method, body = "POST", json.dumps(members).encode()
            headers = {**headers, "Content-Type": "application/json"}
        connection = self._connection(self.patience.connect_seconds)
        try:
            connection.connect()
            connection.sock.settimeout(self.patience.answer_seconds)
            connection.request(method, f"/v1/{self.place.path(operation)}", body, headers)
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER_BYTES + 1)
        finally:
            connection.close()
        if response.status != http.client.OK:
            return Failure(
                status=response.status,
                words=_texts(answer, "errors"),
                shown=str(response.status),
                wait_seconds=retry_after(response.headers),
            )
        return answer

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        address = self.place.address
        if self._tls is None:
            return http.client.HTTPConnection(address.host, address.port, timeout=seconds)
        return _NamedHTTPSConnection(address, self._tls, self._server_name, seconds)

    def _read(self, answer: bytes) -> Document:
        if "associated_data" in _texts(answer, "warnings"):
            raise self.refusal(
                "the server is too old to bind associated data",
                hint="use Vault 1.13 or newer, or a key that was made with derived=true",
            )
        try:
            return parse_document(answer, max_bytes=_MAX_ANSWER_BYTES).document("data")
        except DocumentError as error:
            raise self.refusal(f"the server's answer cannot be read: {error}") from None


class _NamedHTTPSConnection(http.client.HTTPSConnection):
    """Checks the certificate for a name of the caller's choice."""

    def __init__(self, address: VaultAddress, context: ssl.SSLContext, server_name: str, seconds: float) -> None:
        super().__init__(address.host, address.port, timeout=seconds, context=context)
        self._named = (context, server_name)

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context, server_name = self._named
        self.sock = context.wrap_socket(self.sock, server_hostname=server_name)


def _known_as(match: re.Match[str], reference: KeyReference, environ: Mapping[str, str]) -> VaultAddress:
    tls = reference.option("tls")
    if tls not in {None, "on", "off"}:
        raise reference.malformed(f"has tls={tls!a}", hint="write tls=off, or leave it out")
    if match["host"] is None:
        url = _variable(environ, "ADDR")
        if url is None:
            raise reference.malformed("names no server, nor does VAULT_ADDR", hint=_FORM)
        if tls is not None:
            raise reference.malformed("has tls, which VAULT_ADDR decides", hint=_FORM)
        return _address_from_url(url, "VAULT_ADDR")
    host, port = match["host"].strip("[]").lower(), int(match["port"] or _DEFAULT_PORT)
    if not 0 < port < 2**16:
        raise reference.malformed("has no valid port", hint=_FORM)
    if tls == "off" and reference.option("address") is None and not is_this_machine(host):
        raise reference.malformed(
            "turns TLS off for another machine", hint="leave out tls=off; it is for 127.0.0.1 and localhost"
        )
    return VaultAddress(host=host, port=port, tls=tls != "off")


def _address_from_url(url: str, what: str) -> VaultAddress:
    """Return the address in a URL, as VAULT_ADDR has it: `https://host[:port]`; `http://` for this machine only."""
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


def _shown(address: VaultAddress) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == _DEFAULT_PORT else f"{host}:{address.port}"


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    """Return the value of BAO_<name>, or else of VAULT_<name>; an empty one counts as none."""
    return environ.get(f"BAO_{name}") or environ.get(f"VAULT_{name}") or None


def _token(environ: Mapping[str, str]) -> str:
    token = _variable(environ, "TOKEN")
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
    def refuse_passphrase() -> NoReturn:  # without it OpenSSL would ask at the terminal
        raise ValueError("the client key is under a passphrase")

    try:
        authority = _variable(environ, "CACERT")
        context = ssl.create_default_context(
            cafile=authority, capath=None if authority else _variable(environ, "CAPATH")
        )
        certificate = _variable(environ, "CLIENT_CERT")
        if certificate is not None:
            context.load_cert_chain(certificate, _variable(environ, "CLIENT_KEY"), password=refuse_passphrase)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise KeyServiceError(
            f"the certificates for Vault cannot be read: {(reason or type(error).__name__).lower()}",
            hint="check VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT and VAULT_CLIENT_KEY",
        ) from None
    return context


def _describe(error: Exception) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(kind=FailureKind.NO_LOGIN, shown=error.verify_message)
    if isinstance(error, TimeoutError):
        shown = "the server did not answer in time"
    elif isinstance(error, ssl.SSLError):
        shown = "the server does not speak TLS as it should"
    elif isinstance(error, OSError):
        shown = f"the server cannot be reached: {(error.strerror or type(error).__name__).lower()}"
    elif isinstance(error, http.client.HTTPException):
        shown = "the server's answer is not HTTP"
    else:
        return Failure(kind=FailureKind.NONSENSE, shown=type(error).__name__)
    return Failure(kind=FailureKind.LOST, shown=shown)


def _texts(answer: bytes, name: str) -> str:
    # Only searched, never shown: it may hold anything.
    try:
        document = parse_document(answer, max_bytes=_MAX_ANSWER_BYTES)
        return "\n".join(document.texts(name, max_count=100, max_characters=_MAX_ANSWER_BYTES)).lower()
    except DocumentError:
        return ""


def _public_key(answer: Document, version: int, key_type: str) -> PublicKey:
    text = answer.document("keys").document(str(version)).text("public_key", max_characters=_MAX_PEM_CHARACTERS)
    if key_type == "ed25519":
        raw = decode_base64(text)
        if len(raw) != _ED25519_BYTES:
            raise ValueError("an Ed25519 key has 32 bytes")
        text = pem_text("PUBLIC KEY", _ED25519_PREFIX + raw)
    try:
        return PublicKey(text)
    except UsageError as error:
        raise ValueError(error.message) from None


def _input(algorithm: SignatureAlgorithm, message: bytes) -> _Members:
    if algorithm is SignatureAlgorithm.ED25519:
        return {"input": encode_base64(message)}
    members: _Members = {
        "input": encode_base64(algorithm.digest(message)),
        "prehashed": True,
        "hash_algorithm": algorithm.digest_name.replace("sha", "sha2-"),
    }
    if algorithm is SignatureAlgorithm.RSA_PSS:
        # The default "auto" takes the longest salt that fits, which no reader of ours accepts.
        return members | {"signature_algorithm": "pss", "salt_length": "hash"}
    return members | {"marshaling_algorithm": "asn1"}
