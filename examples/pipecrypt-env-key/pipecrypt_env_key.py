"""The key service `env-key://`: keys in environment variables, as CI systems and Kubernetes hand them out.

URI form: `env-key://NAME`; the variable NAME holds 32 random bytes in base64. It is a master key, or the seed of an
Ed25519 key that signs: give each use a variable of its own.
Credentials: none. Permissions: to see the environment.

Data files store `env-key/NAME/<16 hex digits of a digest of the key>`, so that a variable with another key in it is
another master key. The wrapped form of a KEK is::

    nonce (12) || ciphertext (32) || tag (16)       AES-256-GCM, AAD = part(label) || part(master key id) || context
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pipecrypt.errors import IntegrityError, KeyNotFoundError
from pipecrypt.keys.service import (
    Context,
    Credentials,
    DataKey,
    KeyReference,
    WrappingMasterKey,
    bind_to_master_key,
)

__all__ = ["SERVICE", "EnvKeyService", "EnvMasterKey", "EnvSigner"]

_LABEL = b"env-key kek v1"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class EnvMasterKey(WrappingMasterKey):
    """A master key of the environment; KEKs are made and wrapped in this process."""

    def __init__(self, name: str, key: DataKey) -> None:
        """Own the key from now on; `wipe` wipes it."""
        digest = hashlib.sha256(_LABEL + bytes(key.expose_key_bytes())).hexdigest()
        super().__init__(f"env-key/{name}/{digest[:16]}")
        self._key = key

    @property
    def opens_here(self) -> bool:
        """It opens keys in this process, so asking it costs no call."""
        return True

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key, bound to `context`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, bytes(key.expose_key_bytes()), self._aad(context))

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; `wrapped` comes from a file, and may be anything."""
        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            return DataKey(self._cipher().decrypt(nonce, sealed, self._aad(context)))
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(f"the key encryption key was not wrapped by {self.id} for this dataset") from error

    def wipe(self) -> None:
        """Wipe the key; the session calls it when it closes."""
        self._key.wipe()

    def _cipher(self) -> AESGCM:
        return AESGCM(bytes(self._key.expose_key_bytes()))

    def _aad(self, context: Context) -> bytes:
        return bind_to_master_key(_LABEL, self.id, context)


class EnvSigner:
    """An Ed25519 key whose seed is in the environment."""

    def __init__(self, seed: DataKey) -> None:
        """Own the seed from now on; `wipe` wipes it."""
        self._seed = seed
        public = self._private().public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = hashlib.sha256(spki).hexdigest()
        self.public_key_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`, which pipecrypt checks before it uses it."""
        return self._private().sign(message)

    def wipe(self) -> None:
        """Wipe the seed."""
        self._seed.wipe()

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes(self._seed.expose_key_bytes()))


class EnvKeyService:
    """What the scheme `env-key` stands for: keys that encrypt, and keys that sign."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> EnvMasterKey:
        """Return the master key that a reference names."""
        return EnvMasterKey(reference.location, _read(reference, credentials))

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> EnvSigner:
        """Return the signing key that a reference names."""
        return EnvSigner(_read(reference, credentials))


SERVICE = EnvKeyService()


def _read(reference: KeyReference, credentials: Credentials) -> DataKey:
    reference.check_options()
    if reference.fragment is not None:
        raise reference.malformed("has a fragment", hint="write env-key://NAME")
    text = credentials.environ.get(reference.location)
    if text is None:
        raise KeyNotFoundError(f"{reference}: there is no such environment variable", hint="export it")
    try:
        key_bytes = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key_bytes = b""
    if len(key_bytes) != _KEY_BYTES:  # neither the text nor its cause is shown: they hold the key
        raise KeyNotFoundError(f"{reference}: it does not hold 32 bytes in base64", hint="openssl rand -base64 32")
    return DataKey(key_bytes)
