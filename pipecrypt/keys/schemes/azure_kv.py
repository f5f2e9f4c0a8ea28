"""The key service `azure-kv://`: keys of Azure Key Vault and Managed HSM, called through Azure's libraries.

URI form: `azure-kv://VAULT/keys/NAME`, to which `/VERSION` may be added: new KEKs are wrapped under that version then,
in the place of the newest. VAULT is the vault's name, or its host, such as `pii.vault.azure.net` or
`hsm.managedhsm.azure.net`; only hosts of Azure are asked.
Extra: `pip install "pipecrypt[azure-kv]"`.
Credentials: what azure.identity's DefaultAzureCredential finds: AZURE_CLIENT_ID and its siblings, workload identity,
managed identity, `az login`.
Permissions (data actions of Azure RBAC under Microsoft.KeyVault/vaults; in brackets, of an access policy):

=========================== ======================================================================================
to encrypt                  keys/read (get), keys/wrap/action (wrapKey)
to decrypt                  keys/unwrap/action (unwrapKey)
=========================== ======================================================================================

The role "Key Vault Crypto Service Encryption User" has all three. Keys of type RSA and RSA-HSM wrap with RSA-OAEP-256,
keys of type oct-HSM, which only a Managed HSM has, with AES key wrap (A256KW). Neither takes a context, so its digest
is wrapped along with the KEK, and compared here.

Requests go through the pipeline of `KeyClient`, which finds credentials and answers the vault's challenges.
`CryptographyClient` is left out: it wraps in this process, also under keys that are disabled, and does not tell which
key answered.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pipecrypt.crypto.mac import append_context_digest, remove_context_digest
from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.schemes.caller import (
    BUSY_STATUSES,
    Caller,
    Failure,
    FailureKind,
    Patience,
    Rule,
    import_extra,
    retry_after,
    take_data_key,
)
from pipecrypt.keys.service import WrappingMasterKey, bind_to_master_key, join_parts
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["SERVICE", "AzureKVService", "AzureMasterKey"]

_LABEL: Final = b"pipecrypt azure-kv kek v1"
_SUFFIXES: Final = (
    r"vault\.azure\.net|vault\.azure\.cn|vault\.usgovcloudapi\.net"
    r"|managedhsm\.azure\.net|managedhsm\.azure\.cn|managedhsm\.usgovcloudapi\.net"
)
_LOCATION: Final = re.compile(
    rf"(?P<vault>[A-Za-z][A-Za-z0-9-]{{1,22}}[A-Za-z0-9])(?P<suffix>\.(?:{_SUFFIXES}))?"
    r"/keys/(?P<name>[A-Za-z0-9-]{1,127})(?:/(?P<version>[0-9a-f]{32}))?"
)
_SUITES: Final[Mapping[str, int]] = MappingProxyType({"RSA": 1, "RSA-HSM": 1, "oct-HSM": 2})
_ALGORITHMS: Final[Mapping[int, str]] = MappingProxyType({1: "RSA-OAEP-256", 2: "A256KW"})
_WRAPPED_SIZES: Final[Mapping[int, frozenset[int]]] = MappingProxyType(
    {1: frozenset({256, 384, 512}), 2: frozenset({72})}
)
_TAG_BYTES: Final = 8
_VERSION_BYTES: Final = 16
_MAX_VALUE_CHARACTERS: Final = 1024
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")

_API_VERSION: Final = "7.4"
_MAX_ANSWER_BYTES: Final = 64 * 1024
_DISABLED_HINT: Final = "az keyvault key set-attributes --enabled true"
_LOGIN_HINT: Final = "run az login, or set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET"
_RULES: Final = (
    Rule(kind=FailureKind.NO_LOGIN, message="no credentials for Azure work ({shown})", hint=_LOGIN_HINT),
    Rule(
        kind=FailureKind.LOST,
        message="no answer to {action} came ({shown})",
        hint="check the name of the vault and the network, then run again",
        passes=True,
    ),
    Rule(statuses=BUSY_STATUSES, hint="the vault is busy, or its limit of transactions is reached", passes=True),
    Rule(
        statuses={404},
        message="the vault has no such key or version",
        hint="deleted keys can be recovered",
        error=KeyNotFoundError,
    ),
    Rule(codes={"inner KeyDisabled"}, message="the key is disabled", hint=_DISABLED_HINT),
    Rule(
        statuses={401, 403},
        hint="grant keys/{action} on the key to this identity, and let this machine through the vault's firewall",
    ),
    Rule(
        codes={"BadParameter"},
        actions={"unwrapkey"},
        message="the key encryption key was not wrapped by this version of the key",
        error=IntegrityError,
    ),
    Rule(),
)


class AzureMasterKey(WrappingMasterKey):
    """A key of a vault.

    The wrapped form of a KEK::

        suite (1) || key tag (8) || version of the key (16) || vault( KEK (32) || SHA-256(info) (32) )
        key tag = first bytes of SHA-256(part(label) || part(master key id))
        info = part(label) || part(master key id) || context.key_binding()      part(x) = length (8 hex digits) || x

    Suite 1 is RSA-OAEP-256, 2 is A256KW. The version decides which of the key's versions is asked to unwrap, so that
    older ones go on to open what they wrapped. Tag and version are claims of the file until the vault has unwrapped;
    the tag saves a call, and tells another key from a version that is missing.

    Args:
        client: of the vault.
        host: of the vault, in lower case.
        name: of the key, in lower case. Data files store `azure-kv/HOST/keys/NAME`, without a version.
        version: to wrap under, or None for the newest.
    """

    __slots__ = ("_client", "_host", "_name", "_newest", "_version")

    def __init__(self, client: _AzureClient, host: str, name: str, version: str | None) -> None:
        """Keep them; nothing is called."""
        super().__init__(f"azure-kv/{host}/keys/{name}")
        self._client = client
        self._host = host
        self._name = name
        self._version = version
        self._newest: tuple[str, int] | None = None

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already; one wrapKey, and before the first one look at the key.

        Raises:
            KeyNotFoundError: there is no such key.
            KeyServiceError: Azure refused or failed.
            UsageError: the key is of a type that wraps nothing here.
        """
        if self._newest is None:
            # Key Vault wraps under disabled keys too, and would not unwrap again. So the key is looked at first.
            self._newest = self._look_up()
        version, suite = self._newest
        message = append_context_digest(key.expose_key_bytes(), self._info(context))
        try:
            wrapped = self._ask("wrapkey", version, suite, message)
        finally:
            message[:] = bytes(len(message))
        if len(wrapped) not in _WRAPPED_SIZES[suite]:
            raise self._client.refusal("the answer of Key Vault holds no wrapped key")
        return self._head(suite) + bytes.fromhex(version) + wrapped

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one unwrapKey.

        Raises:
            IntegrityError: `wrapped` was not made by this master key for `context`.
            KeyNotFoundError: there is no such key, or no such version of it any more.
            KeyServiceError: Azure refused or failed.
        """
        suite = wrapped[0] if wrapped else 0
        head, rest = wrapped[: 1 + _TAG_BYTES], wrapped[1 + _TAG_BYTES :]
        version, sealed = rest[:_VERSION_BYTES], rest[_VERSION_BYTES:]
        if len(sealed) not in _WRAPPED_SIZES.get(suite, frozenset()) or head != self._head(suite):
            raise IntegrityError(f"the key encryption key was not wrapped by master key {self.id}")
        message = self._ask("unwrapkey", version.hex(), suite, sealed)
        refusal = IntegrityError(f"the key encryption key was not wrapped by master key {self.id} for this dataset")
        try:
            return take_data_key(remove_context_digest(message, self._info(context)), refusal)
        except IntegrityError:
            raise refusal from None
        finally:
            message[:] = bytes(len(message))

    def _ask(self, operation: str, version: str, suite: int, value: bytes | bytearray) -> bytearray:
        members = {"alg": _ALGORITHMS[suite], "value": _encode(value)}
        answer = self._client.ask(operation, f"keys/{self._name}/{version}/{operation}", members)
        try:
            if self._version_of(answer.text("kid", max_characters=512)) != version:
                raise self._client.refusal("another version than this answered", hint="check the network")
            return _decode(answer.text("value", max_characters=_MAX_VALUE_CHARACTERS))
        except (DocumentError, ValueError) as error:
            raise self._nonsense(error) from None

    def _look_up(self) -> tuple[str, int]:
        answer = self._client.ask("get", "/".join(filter(None, ("keys", self._name, self._version))))
        try:
            key_type = answer.document("key").text("kty", max_characters=64)
            is_enabled = answer.document("attributes").boolean("enabled")
            version = self._version_of(answer.document("key").text("kid", max_characters=512))
        except DocumentError as error:
            raise self._nonsense(error) from None
        if self._version not in {None, version}:
            raise self._client.refusal("another version than this answered", hint="check the network")
        if not is_enabled:
            raise self._client.refusal("the key is disabled", hint=_DISABLED_HINT)
        if key_type not in _SUITES:
            raise UsageError(
                f"{self._client.text} is a key of type {key_type!a}, which wraps nothing here",
                hint="make one of type RSA: az keyvault key create --kty RSA --size 3072",
            )
        return version, _SUITES[key_type]

    def _version_of(self, kid: str) -> str:
        key, _, version = kid.lower().rpartition("/")
        if key.replace(":443/", "/", 1) != f"https://{self._host}/keys/{self._name}":
            raise self._client.refusal("another key than this answered", hint="check the network")
        if re.fullmatch(r"[0-9a-f]{32}", version) is None:
            raise self._client.refusal("the answer of Key Vault names no version")
        return version

    def _info(self, context: Context) -> bytes:
        return bind_to_master_key(_LABEL, self.id, context)

    def _head(self, suite: int) -> bytes:
        return bytes([suite]) + hashlib.sha256(join_parts(_LABEL, self.id.encode())).digest()[:_TAG_BYTES]

    def _nonsense(self, error: Exception) -> KeyServiceError:
        what = str(error) if isinstance(error, DocumentError) else type(error).__name__
        return self._client.refusal(f"the answer of Key Vault cannot be read: {what}")


class AzureKVService:
    """The key service of the scheme `azure-kv`.

    Args:
        patience: how long calls may take.
        credential: of azure.identity; None for the default one.
        transport: of azure.core, in the place of its own; for tests and embedders.
    """

    __slots__ = ("_credential", "_patience", "_transport")

    def __init__(self, patience: Patience | None = None, *, credential: Any = None, transport: Any = None) -> None:
        """Call nothing."""
        self._patience = patience or Patience()
        self._credential = credential
        self._transport = transport

    def open_key(self, reference: KeyReference, credentials: Credentials) -> AzureMasterKey:
        """Return a master key. The vault is not called.

        Raises:
            KeyReferenceError: the reference names no key.
            MissingExtraError: azure-keyvault-keys or azure-identity is not installed.
            KeyServiceError: the libraries cannot be set up.
        """
        reference.check_options()
        match = _LOCATION.fullmatch(reference.location)
        if match is None or reference.fragment is not None:
            raise reference.malformed(
                "names no key of a vault",
                hint="write azure-kv://VAULT/keys/NAME, VAULT being a name or a host of Azure",
            )
        host = (match["vault"] + (match["suffix"] or ".vault.azure.net")).lower()
        client = _AzureClient(self._key_client(host, reference.text), reference.text, self._patience)
        return AzureMasterKey(client, host, match["name"].lower(), match["version"])

    def _key_client(self, host: str, text: str) -> Any:
        identity, keys = import_extra(
            "of Azure Key Vault",
            "the packages azure-keyvault-keys and azure-identity",
            "azure-kv",
            "azure.identity",
            "azure.keyvault.keys",
        )
        options = {} if self._transport is None else {"transport": self._transport}
        try:
            return keys.KeyClient(
                f"https://{host}",
                self._credential or identity.DefaultAzureCredential(),
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


SERVICE: Final = AzureKVService()


class _AzureClient(Caller):
    """A KeyClient of one vault, asked for one key."""

    __slots__ = ("_client",)

    def __init__(self, client: Any, text: str, patience: Patience) -> None:
        super().__init__(text, "Key Vault", _RULES, patience=patience, describe=_describe)
        self._client = client

    def ask(self, operation: str, path: str, members: Mapping[str, str] | None = None) -> Document:
        """Return the answer to one request.

        Args:
            operation: what is asked, for errors.
            path: in the vault.
            members: of the JSON object that is sent; None to read.
        """

        def read(body: bytes) -> Document:
            try:
                return parse_document(body, max_bytes=_MAX_ANSWER_BYTES)
            except DocumentError as error:
                raise self.refusal(f"the answer to {operation} makes no sense: {error}") from None

        return self.call(operation, lambda: self._send(path, members), read)

    def _send(self, path: str, members: Mapping[str, str] | None) -> bytes | Failure:
        request = importlib.import_module("azure.core.rest").HttpRequest
        response = self._client.send_request(
            request("GET" if members is None else "POST", f"/{path}", json=members),
            stream=True,
            connection_timeout=self.patience.connect_seconds,
            read_timeout=self.patience.answer_seconds,
        )
        try:
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _MAX_ANSWER_BYTES:
                    break
        finally:
            response.close()
        return body if response.status_code == 200 else _refusal(response.status_code, response.headers, body)


def _describe(error: Exception) -> Failure:
    kinds, name = importlib.import_module("azure.core.exceptions"), type(error).__name__
    if isinstance(error, kinds.ClientAuthenticationError):
        return Failure(kind=FailureKind.NO_LOGIN, shown=name)
    if isinstance(error, (kinds.ServiceRequestError, kinds.ServiceResponseError, kinds.IncompleteReadError, OSError)):
        return Failure(kind=FailureKind.LOST, shown=name)
    return Failure(kind=FailureKind.NONSENSE, shown=name)


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Return a refusal with Key Vault's names for it, such as Forbidden and, inside of that, KeyDisabled."""
    code = inner = ""
    try:
        error = parse_document(body, max_bytes=_MAX_ANSWER_BYTES).document("error")
        code = error.text("code", max_characters=64)
        name = "innererror" if "innererror" in error else "innerError"
        inner = error.document(name).text("code", max_characters=64)
    except DocumentError:
        pass  # what was read so far counts
    return Failure(
        status=status,
        codes=(code, f"inner {inner}"),
        shown=" ".join(filter(None, (str(status), *(ascii(each)[1:-1] for each in (code, inner))))),
        wait_seconds=retry_after(headers),
    )


def _encode(data: bytes | bytearray) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytearray:
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("not base64url")
    return bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
