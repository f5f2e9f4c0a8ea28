"""The key service `vault://`: the transit engine of HashiCorp Vault or OpenBao. HTTP is left to server.

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
    path "transit/rewrap/pii"            { capabilities = ["update"] }    to rotate, derived keys
    path "transit/sign/pii"              { capabilities = ["update"] }    to sign

Keys of type aes256-gcm96, chacha20-poly1305 or xchacha20-poly1305. Made with `derived=true`, their context goes into
the derivation of the key that wraps, and Vault makes the KEK. Of other keys Vault's `datakey` and `rewrap` bind no
context; there the KEK is made here, and `encrypt` binds the context as associated data.
"""

from __future__ import annotations

import re
from typing import Final

from pipecrypt.errors import IntegrityError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import MasterKey
from pipecrypt.keys.services.retry import Patience
from pipecrypt.keys.services.vault.place import VaultPlace, locate_vault_key
from pipecrypt.keys.services.vault.server import VaultServer
from pipecrypt.keys.services.vault.signer import VaultSigner, open_vault_signer
from pipecrypt.keys.services.wrapping import generate_and_wrap
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import Document, DocumentError, decode_base64, encode_base64
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["SERVICE", "VaultMasterKey", "VaultService"]

_TYPES: Final = frozenset({"aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
_MAX_WRAPPED_BYTES: Final = 1024
_WRAPPED: Final = re.compile(rb"vault:v(?P<version>[1-9][0-9]{0,8}):(?P<sealed>[A-Za-z0-9+/]+={0,2})")


class VaultMasterKey:
    """A key of the transit engine.

    The wrapped form of a KEK is Vault's own text, `vault:v<version>:<base64>`: new ones are under the newest version,
    and each version opens until `min_decryption_version` passes it.

    Args:
        place: server, mount and name.
        server: the connection.
        is_derived: Vault derives a key from the context.
    """

    __slots__ = ("_is_derived", "_place", "_server")

    def __init__(self, place: VaultPlace, server: VaultServer, *, is_derived: bool) -> None:
        """Keep them."""
        self._place = place
        self._server = server
        self._is_derived = is_derived

    @property
    def id(self) -> str:
        """What data files store."""
        return self._place.id

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form.

        Raises:
            KeyNotFoundError: there is no such key any more.
            KeyServiceError: the server refused, failed, or answered nonsense.
        """
        if not self._is_derived:
            return generate_and_wrap(self.wrap_key, context)
        answer = self._ask("datakey/plaintext", {"bits": 256, **self._binding(context)})
        wrapped = self._wrapped(answer)
        return self._plaintext(answer), wrapped

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds.

        Raises:
            IntegrityError: `wrapped` was not made by this master key for `context`.
            KeyServiceError: the server refused, failed, or answered nonsense.
        """
        text = self._checked(wrapped)
        return self._plaintext(self._ask("decrypt", {"ciphertext": text, **self._binding(context)}))

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already.

        Raises:
            KeyNotFoundError: there is no such key any more.
            KeyServiceError: the server refused, failed, or answered nonsense.
        """
        plaintext = encode_base64(bytes(key.expose_key_bytes()))
        return self._wrapped(self._ask("encrypt", {"plaintext": plaintext, **self._binding(context)}))

    def rewrap_key(self, wrapped: bytes, context: Context, to: MasterKey) -> bytes | None:
        """Return the key in `wrapped`, wrapped under the newest version of `to`, without showing it to this process.

        Returns None where Vault cannot do it: `to` is another key, or the key is not derived, whose associated data
        Vault's `rewrap` does not take.

        Raises:
            IntegrityError: `wrapped` was not made by this master key for `context`.
            KeyServiceError: the server refused, failed, or answered nonsense.
        """
        if not self._is_derived or not isinstance(to, VaultMasterKey) or to.id != self.id:
            return None
        text = self._checked(wrapped)
        return self._wrapped(self._ask("rewrap", {"ciphertext": text, **self._binding(context)}))

    def _ask(self, operation: str, members: dict[str, str | int | bool]) -> Document:
        return self._server.ask("POST", self._place.path(operation), self._place.text, members)

    def _binding(self, context: Context) -> dict[str, str | int | bool]:
        # Vault ignores a context for keys that are not derived, without a word. So it is never sent alone to one.
        return {"context" if self._is_derived else "associated_data": encode_base64(context.key_binding())}

    def _checked(self, wrapped: bytes) -> str:
        if len(wrapped) > _MAX_WRAPPED_BYTES or _WRAPPED.fullmatch(wrapped) is None:
            raise IntegrityError(f"the key encryption key was not wrapped by master key {self.id}")
        return wrapped.decode("ascii")

    def _wrapped(self, answer: Document) -> bytes:
        try:
            wrapped = answer.text("ciphertext", max_characters=_MAX_WRAPPED_BYTES).encode()
            self._checked(wrapped)
        except (DocumentError, IntegrityError, UnicodeEncodeError):
            raise KeyServiceError(f"{self._place.text}: the server's answer holds no wrapped key") from None
        return wrapped

    def _plaintext(self, answer: Document) -> DataKey:
        try:
            key_bytes = bytearray(decode_base64(answer.text("plaintext", max_characters=64)))
        except (DocumentError, ValueError):
            key_bytes = bytearray()
        try:
            if len(key_bytes) != DATA_KEY_BYTES:
                raise KeyServiceError(f"{self._place.text}: the server's answer holds no 256-bit key")
            return DataKey(key_bytes)
        finally:
            key_bytes[:] = bytes(len(key_bytes))

    def __repr__(self) -> str:
        """Show the id."""
        return f"<VaultMasterKey {self.id}>"


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
        place, server = self._server(reference, credentials)
        key_type, is_derived = _describe(server.ask("GET", place.path("keys"), place.text), place)
        if key_type not in _TYPES:
            raise UsageError(
                f"{place.text} is a key of type {key_type!a}, under which nothing is wrapped here",
                hint=f"make one of type aes256-gcm96: vault write {place.path('keys')} derived=true",
            )
        return VaultMasterKey(place, server, is_derived=is_derived)

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> VaultSigner:
        """Ask the server for the public key of the newest version; one request.

        Raises:
            KeyReferenceError: the reference names no key of a server.
            KeyNotFoundError: there is no such key.
            UsageError: the key signs nothing that we check.
            KeyServiceError: there is no token, or the server refused, failed, or answered nonsense.
        """
        return open_vault_signer(*self._server(reference, credentials))

    def _server(self, reference: KeyReference, credentials: Credentials) -> tuple[VaultPlace, VaultServer]:
        place = locate_vault_key(reference, credentials.environ)
        server = VaultServer(place.address, place.namespace, credentials.environ, patience=self._patience)
        return place, server


SERVICE: Final = VaultService()


def _describe(answer: Document, place: VaultPlace) -> tuple[str, bool]:
    try:
        return answer.text("type", max_characters=64), answer.boolean("derived")
    except DocumentError as error:
        raise KeyServiceError(f"{place.text}: the server's answer cannot be read: {error}") from None
