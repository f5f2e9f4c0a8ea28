"""The key service `recipient://`: public keys, for writers that cannot read what they wrote. Opening: keystore and pem.

URI form: `recipient:///abs/alice.pub`, `recipient://./alice.pub`, `recipient://~/alice.pub`, each with `?sha256=HEX` to
pin the key: who can write the file decides otherwise who reads the data.
Credentials: none. Permissions: to read the file.

The file holds one public key in PEM: mlkem768x25519 or x25519, as `pipecrypt keys export KEYREF --public` writes them,
or RSA of 2048 bits or more, as `openssl pkey -pubout` does. The private half is an identity: `keystore://PATH#NAME`, or
`pem://PATH` for keys that exist already. Data files store `recipient/<algorithm>/<SHA-256 of the public key>`, to which
recipient and identity both answer. `crypto.recipient` draws the wrapped form of a KEK. It is bound to::

    part(label) || part(master key id) || context.key_binding()      part(x) = length (8 hex digits) || x

The public key alone decides the algorithm: nothing in a file does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pipecrypt.crypto.recipient import Identity, RecipientKey, key_digest, parse_recipient
from pipecrypt.errors import KeyNotFoundError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.public_keys import public_blocks, read_public_file, recipient_id, retired_at
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import MasterKey, SealingMasterKey, WrappingMasterKey, bind_to_master_key
from pipecrypt.vocabulary.clock import utc_text
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "SERVICE",
    "IdentityMasterKey",
    "RecipientMasterKey",
    "RecipientService",
]

_KEK_LABEL: Final = b"pipecrypt recipient kek v1"
_PIN: Final = "sha256"
_PIN_FORM: Final = re.compile(r"[0-9a-fA-F]{64}")


class RecipientMasterKey(WrappingMasterKey):
    """A public key that seals KEKs and opens none.

    Args:
        key: the public key.
        name: the key reference, for errors.
    """

    __slots__ = ("_key", "_name")

    def __init__(self, key: RecipientKey, name: str) -> None:
        """Keep them."""
        super().__init__(recipient_id(key))
        self._key = key
        self._name = name

    @property
    def seals_only(self) -> bool:
        """Whether it opens nothing: it is a public key."""
        return True

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the sealed form of a key that exists already."""
        return self._key.seal(key.expose_key_bytes(), bind_to_master_key(_KEK_LABEL, self._id, context))

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Refuse: a public key opens nothing.

        Raises:
            KeyNotFoundError: always; the hint names the identity.
        """
        raise KeyNotFoundError(
            f"{self._name} is a public key, which opens nothing",
            hint=f"pass the identity whose public key has the SHA-256 {key_digest(self._key)}: keystore://PATH#NAME, "
            "or pem://PATH",
        )


class IdentityMasterKey(SealingMasterKey):
    """A private key that opens what was sealed to its public half, and seals to it as well.

    Args:
        identity: the private key; owned, and wiped by `wipe`.
        earlier: the versions before it.
        is_retired: it opens what was sealed to it, and seals nothing more.
    """

    __slots__ = ("_identity", "_wiped")

    label = _KEK_LABEL

    def __init__(self, identity: Identity, earlier: tuple[MasterKey, ...] = (), *, is_retired: bool = False) -> None:
        """Keep them."""
        super().__init__(recipient_id(identity.public_key), earlier, is_retired=is_retired)
        self._identity = identity
        self._wiped = False

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form."""
        if self._wiped:
            raise RuntimeError("this key was wiped")
        return super().generate_key(context)

    def wipe(self) -> None:
        """Wipe this version's private key."""
        self._identity.wipe()
        self._wiped = True

    def _seal(self, key_bytes: bytearray, info: bytes) -> bytes:
        return self._identity.public_key.seal(key_bytes, info)

    def _open(self, sealed: bytes, info: bytes) -> bytes:
        return self._identity.open(sealed, info)


class RecipientService:
    """The key service of the scheme `recipient`."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> RecipientMasterKey:
        """Read a public key.

        Raises:
            KeyReferenceError: the reference has a fragment, an unknown option or a malformed pin.
            KeyNotFoundError: the file does not exist.
            UsageError: it holds no public key that seals, more than one, a private key, or another than the pin says.
        """
        return RecipientMasterKey(_read(reference), reference.text)

    def check_exists(self, reference: KeyReference, credentials: Credentials, *, signs: bool) -> str | None:
        """Pass if the public key can be read; errors as in `open_key`. That it signs nothing is told elsewhere."""
        _read(reference)
        return None

    def siblings(self, reference: KeyReference, credentials: Credentials) -> tuple[KeyReference, ...]:
        """Return none: the key is a file of its own."""
        return ()

    def known_ids(self, reference: KeyReference, credentials: Credentials) -> frozenset[str] | None:
        """Return the id of the public key; errors as in `open_key`."""
        return frozenset({recipient_id(_read(reference))})

    def find_recipient(
        self, reference: KeyReference, credentials: Credentials, *, prove: bool
    ) -> tuple[RecipientKey, str | None] | None:
        """Return the public key; errors as in `open_key`."""
        return _read(reference), None


SERVICE: Final = RecipientService()


def _read(reference: KeyReference) -> RecipientKey:
    """Return the public key that a reference names.

    What holds when it returns: (1) the file holds one block in PEM, and no private key; (2) the key is of an algorithm
    that seals; (3) it is safe to seal to: size, exponent, order of the point; (4) it is the one of the pin, if any.
    """
    path, pin = reference.whole_file(_PIN), _pin(reference)
    if not os.path.lexists(path):
        raise KeyNotFoundError(
            f"{reference.text}: there is no such file", hint="check the path; recipient:///path has three slashes"
        )
    try:
        key = _parse(path)  # (1), (2), (3)
    except UsageError as error:
        raise UsageError(f"{reference.text}: {error.message}", hint=error.hint) from None
    if pin is not None and pin != key_digest(key):  # (4)
        raise UsageError(
            f"{reference.text} holds another public key than its pin names: {key_digest(key)}",
            hint="find out who changed the file before changing the pin",
        )
    return key


def _parse(path: Path) -> RecipientKey:
    text = read_public_file(path, "the file")
    blocks = public_blocks(text, "the file")
    if len(blocks) != 1:
        raise UsageError(f"the file holds {len(blocks)} public keys", hint="give each recipient a file of its own")
    retired = retired_at(text, "the file")
    if retired is not None:
        raise UsageError(f"the public key is retired since {utc_text(retired)}", hint="ask for the newest one")
    return parse_recipient(blocks[0])


def _pin(reference: KeyReference) -> str | None:
    pin = reference.option(_PIN)
    if pin is not None and _PIN_FORM.fullmatch(pin) is None:
        raise reference.malformed(
            "has no SHA-256 in hexadecimal as its pin", hint="pipecrypt keys export KEYREF --public --json shows it"
        )
    return None if pin is None else pin.lower()
