"""Recipients: the writer holds a public key file, the reader the identity in a keystore, or a PEM file for RSA."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric import rsa

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.signers import export_public_half
from tests.crypto.keys import private_pem
from tests.keys.conftest import CHEAP_KDF
from tests.keys.contract.worlds import Servers, Trouble, World

_RIGHT, _WRONG = "correct horse battery", "wrong horse battery"
_NO_CALLS = "recipients and identities answer in this process"


class RecipientWorld(World):
    """The default algorithm."""

    name = "recipient"
    key_type: ClassVar[str] = "mlkem768x25519"
    lacks: ClassVar[Mapping[str, str]] = {
        "test_calls_are_counted_by_the_service": _NO_CALLS,
        "test_denial_is_not_asked_again": _NO_CALLS,
        "test_some_throttling_is_overcome": _NO_CALLS,
        "test_endless_throttling_ends": _NO_CALLS,
        "test_a_service_that_hangs_is_given_up": _NO_CALLS,
        "test_garbage_is_refused": "a malformed key is the caller's mistake: tests/keys/schemes/test_recipient.py",
    }

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._passphrase = _RIGHT
        for name in ("alice", "bob"):
            self.make_identity(name)
        (folder / "alice.pub").write_text(export_public_half(self.identity("alice"), self.credentials()).public_key)

    def identity(self, name: str) -> str:
        return f"keystore://{self.folder}/keys.json#{name}"

    def make_identity(self, name: str) -> None:
        create_key(self.identity(name), self.key_type, self.credentials(), kdf=CHEAP_KDF)

    @property
    def reference(self) -> str:
        return f"recipient://{self.folder}/alice.pub"

    @property
    def reading_reference(self) -> str:
        return self.identity("alice")

    @property
    def other_reference(self) -> str:
        return self.identity("bob")

    @property
    def unknown_reference(self) -> str:
        return f"recipient://{self.folder}/nobody.pub"

    @property
    def secrets(self) -> tuple[str, ...]:
        return (_RIGHT,)

    def credentials(self) -> Credentials:
        return Credentials({"PIPECRYPT_PASSPHRASE": self._passphrase})

    def cause(self, trouble: Trouble) -> None:
        # Nobody is denied a public key that is at hand, so it goes missing in any trouble.
        (self.folder / "alice.pub").unlink()
        if trouble is Trouble.DENIED:
            self._passphrase = _WRONG
        else:
            self.lose_identities()

    def lose_identities(self) -> None:
        (self.folder / "keys.json").unlink()

    def calls(self) -> int:
        return 0


class ClassicalWorld(RecipientWorld):
    name = "recipient-x25519"
    key_type = "x25519"


class RSAWorld(RecipientWorld):
    """Keys that exist already, in PEM files under a passphrase."""

    name = "recipient-rsa"

    def identity(self, name: str) -> str:
        return f"pem://{self.folder}/{name}.pem"

    def make_identity(self, name: str) -> None:
        path = self.folder / f"{name}.pem"
        path.write_bytes(private_pem(_rsa_key(name), _RIGHT.encode()))
        path.chmod(0o600)

    def lose_identities(self) -> None:
        (self.folder / "alice.pem").unlink()


class IdentityWorld(RecipientWorld):
    """Who holds the identity writes as well."""

    name = "identity"

    @property
    def reference(self) -> str:
        return self.identity("alice")

    @property
    def unknown_reference(self) -> str:
        return self.identity("nobody")


@lru_cache
def _rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


WORLDS = (RecipientWorld, ClassicalWorld, RSAWorld, IdentityWorld)
