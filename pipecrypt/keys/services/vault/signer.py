"""Sign with keys of the transit engine of Vault or OpenBao. Keys that wrap are left to service.

Keys of type ed25519, ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 and rsa-4096. The newest version signs. All but
Ed25519 keys are sent a digest, so the size of a message does not matter to the server.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, pem_text
from pipecrypt.errors import KeyServiceError, UsageError
from pipecrypt.keys.services.vault.place import VaultPlace
from pipecrypt.keys.services.vault.server import VaultServer
from pipecrypt.keys.signers import WithPublicKey
from pipecrypt.vocabulary.documents import Document, DocumentError, decode_base64, encode_base64

__all__ = ["VaultSigner", "open_vault_signer"]

_MAX_PEM_CHARACTERS: Final = 8192
_MAX_SIGNATURE_CHARACTERS: Final = 1024
_TYPES: Final = frozenset({"ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"})
# RFC 8410 4: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING }, without the 32 bytes of the key.
_ED25519_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
_ED25519_BYTES: Final = 32
_SIGNATURE: Final = re.compile(r"vault:v(?P<version>[1-9][0-9]{0,8}):(?P<value>[A-Za-z0-9+/]+={0,2})")


class VaultSigner(WithPublicKey):
    """One version of a signing key.

    Args:
        place: server, mount and name.
        server: the connection.
        version: of the key.
        public_key: of that version.
    """

    __slots__ = ("_place", "_server", "_version")

    def __init__(self, place: VaultPlace, server: VaultServer, version: int, public_key: PublicKey) -> None:
        """Keep them."""
        super().__init__(public_key)
        self._place = place
        self._server = server
        self._version = version

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`.

        Raises:
            KeyNotFoundError: there is no such key any more.
            KeyServiceError: the server refused, failed, or answered nonsense.
        """
        members = {"key_version": self._version, **_input(self._public_key.algorithm, message)}
        answer = self._server.ask("POST", self._place.path("sign"), self._place.text, members)
        try:
            match = _SIGNATURE.fullmatch(answer.text("signature", max_characters=_MAX_SIGNATURE_CHARACTERS))
            if match is None or int(match["version"]) != self._version:
                raise ValueError("another version")
            return decode_base64(match["value"])
        except (DocumentError, ValueError):
            raise KeyServiceError(f"{self._place.text}: the server's answer holds no signature") from None


def open_vault_signer(place: VaultPlace, server: VaultServer) -> VaultSigner:
    """Ask the server for the newest version of a signing key and its public key.

    Raises:
        KeyNotFoundError: there is no such key.
        UsageError: the key signs nothing that we check.
        KeyServiceError: the server refused, failed, or answered nonsense.
    """
    answer = server.ask("GET", place.path("keys"), place.text)
    try:
        key_type, is_derived = answer.text("type", max_characters=64), answer.boolean("derived")
        if key_type not in _TYPES or is_derived:
            raise UsageError(
                f"{place.text} is of type {key_type!a}{', derived' if is_derived else ''}: it signs nothing here",
                hint=f"make one of type ecdsa-p256: vault write {place.path('keys')} type=ecdsa-p256",
            )
        version = answer.integer("latest_version")
        return VaultSigner(place, server, version, _public_key(answer, version, key_type))
    except (DocumentError, ValueError) as error:
        raise KeyServiceError(f"{place.text}: the server's answer holds no public key: {error}") from None


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


def _input(algorithm: SignatureAlgorithm, message: bytes) -> dict[str, str | int | bool]:
    if algorithm is SignatureAlgorithm.ED25519:
        return {"input": encode_base64(message)}
    name, bits = ("sha384", 384) if algorithm is SignatureAlgorithm.ECDSA_P384 else ("sha256", 256)
    members: dict[str, str | int | bool] = {
        "input": encode_base64(hashlib.new(name, message).digest()),
        "prehashed": True,
        "hash_algorithm": f"sha2-{bits}",
    }
    if algorithm is SignatureAlgorithm.RSA_PSS:
        # The default "auto" takes the longest salt that fits, which no reader of ours accepts.
        members |= {"signature_algorithm": "pss", "salt_length": "hash"}
    else:
        members["marshaling_algorithm"] = "asn1"
    return members
