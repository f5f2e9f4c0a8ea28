"""The key service `azure-kv://`: keys of Azure Key Vault and Managed HSM. Calling them is left to client.

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
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pipecrypt.crypto.mac import append_context_digest, remove_context_digest
from pipecrypt.errors import IntegrityError, KeyReferenceError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.services.azure_kv.client import AzureKVClient, open_azure_client
from pipecrypt.keys.services.retry import Patience
from pipecrypt.keys.services.wrapping import bind_to_master_key, generate_and_wrap, join_parts
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import Document, DocumentError
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

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


class AzureMasterKey:
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
        name: of the key, in lower case.
        version: to wrap under, or None for the newest.
        text: the key reference.
    """

    __slots__ = ("_client", "_host", "_name", "_newest", "_text", "_version")

    def __init__(self, client: AzureKVClient, host: str, name: str, version: str | None, text: str) -> None:
        """Keep them; nothing is called."""
        self._client = client
        self._host = host
        self._name = name
        self._version = version
        self._text = text
        self._newest: tuple[str, int] | None = None

    @property
    def id(self) -> str:
        """What data files store: `azure-kv/HOST/keys/NAME`, without a version."""
        return f"azure-kv/{self._host}/keys/{self._name}"

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form; one wrapKey, and before the first one look at the key.

        Raises:
            KeyNotFoundError: there is no such key.
            KeyServiceError: Azure refused or failed.
            UsageError: the key is of a type that wraps nothing here.
        """
        return generate_and_wrap(self.wrap_key, context)

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
            wrapped = self._call("wrapkey", version, suite, message)
        finally:
            message[:] = bytes(len(message))
        if len(wrapped) not in _WRAPPED_SIZES[suite]:
            raise KeyServiceError(f"{self._text}: the answer of Key Vault holds no wrapped key")
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
        message, key_bytes = self._call("unwrapkey", version.hex(), suite, sealed), bytearray()
        try:
            key_bytes = remove_context_digest(message, self._info(context))
            if len(key_bytes) != DATA_KEY_BYTES:
                raise IntegrityError("wrong size")
            return DataKey(key_bytes)
        except IntegrityError:
            raise IntegrityError(
                f"the key encryption key was not wrapped by master key {self.id} for this dataset"
            ) from None
        finally:
            for buffer in (message, key_bytes):
                buffer[:] = bytes(len(buffer))

    def _call(self, operation: str, version: str, suite: int, value: bytes | bytearray) -> bytearray:
        members = {"alg": _ALGORITHMS[suite], "value": _encode(value)}
        answer = self._client.ask(f"keys/{self._name}/{version}/{operation}", members)
        try:
            if self._version_of(answer.text("kid", max_characters=512)) != version:
                raise KeyServiceError(f"{self._text}: another version than this answered", hint="check the network")
            return _decode(answer.text("value", max_characters=_MAX_VALUE_CHARACTERS))
        except (DocumentError, ValueError) as error:
            raise self._nonsense(error) from None

    def _look_up(self) -> tuple[str, int]:
        answer = self._client.ask("/".join(filter(None, ("keys", self._name, self._version))))
        try:
            key_type, is_enabled = _describe(answer)
            version = self._version_of(answer.document("key").text("kid", max_characters=512))
        except DocumentError as error:
            raise self._nonsense(error) from None
        if self._version not in {None, version}:
            raise KeyServiceError(f"{self._text}: another version than this answered", hint="check the network")
        if not is_enabled:
            raise KeyServiceError(
                f"{self._text}: the key is disabled", hint="az keyvault key set-attributes --enabled true"
            )
        if key_type not in _SUITES:
            raise UsageError(
                f"{self._text} is a key of type {key_type!a}, which wraps nothing here",
                hint="make one of type RSA: az keyvault key create --kty RSA --size 3072",
            )
        return version, _SUITES[key_type]

    def _version_of(self, kid: str) -> str:
        key, _, version = kid.lower().rpartition("/")
        if key.replace(":443/", "/", 1) != f"https://{self._host}/keys/{self._name}":
            raise KeyServiceError(f"{self._text}: another key than this answered", hint="check the network")
        if re.fullmatch(r"[0-9a-f]{32}", version) is None:
            raise KeyServiceError(f"{self._text}: the answer of Key Vault names no version")
        return version

    def _info(self, context: Context) -> bytes:
        return bind_to_master_key(_LABEL, self.id, context)

    def _head(self, suite: int) -> bytes:
        return bytes([suite]) + hashlib.sha256(self._named()).digest()[:_TAG_BYTES]

    def _named(self) -> bytes:
        return join_parts(_LABEL, self.id.encode())

    def _nonsense(self, error: Exception) -> KeyServiceError:
        what = str(error) if isinstance(error, DocumentError) else type(error).__name__
        return KeyServiceError(f"{self._text}: the answer of Key Vault cannot be read: {what}")

    def __repr__(self) -> str:
        """Show the id."""
        return f"<AzureMasterKey {self.id}>"


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
            raise KeyReferenceError(
                f"key reference {reference.text} names no key of a vault",
                hint="write azure-kv://VAULT/keys/NAME, VAULT being a name or a host of Azure",
            )
        host = (match["vault"] + (match["suffix"] or ".vault.azure.net")).lower()
        client = open_azure_client(
            host, reference.text, patience=self._patience, credential=self._credential, transport=self._transport
        )
        return AzureMasterKey(client, host, match["name"].lower(), match["version"], reference.text)


SERVICE: Final = AzureKVService()


def _describe(answer: Document) -> tuple[str, bool]:
    key_type = answer.document("key").text("kty", max_characters=64)
    return key_type, answer.document("attributes").boolean("enabled")


def _encode(data: bytes | bytearray) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytearray:
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("not base64url")
    return bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
