"""The contract in a fake of Vault's transit engine: with derived keys, and with keys that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import ClassVar

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.schemes.vault import VaultService
from pipecrypt.keys.service import KeyServices
from tests.doubles.http_service import HTTPAnswer, HTTPService
from tests.keys.contract.worlds import Servers, Trouble, World
from tests.keys.fakes.clock import FakeTime
from tests.keys.fakes.vault import TOKEN, FakeKey, FakeVault, call_name

_KEY_BYTES = "A" * 43 + "="


class VaultWorld(World):
    name = "vault"
    is_derived: ClassVar[bool] = False

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._vault = FakeVault(pii=FakeKey(is_derived=self.is_derived), ops=FakeKey(is_derived=self.is_derived))
        self._http = self.stack.enter_context(HTTPService(self._vault, call_name))

    @property
    def reference(self) -> str:
        return self._reference("pii")

    @property
    def other_reference(self) -> str:
        return self._reference("ops")

    @property
    def unknown_reference(self) -> str:
        return self._reference("nobody")

    @property
    def secrets(self) -> tuple[str, ...]:
        return (TOKEN,)

    def services(self) -> KeyServices:
        return {"vault": VaultService(FakeTime().patience(answer_seconds=1))}

    def credentials(self) -> Credentials:
        return Credentials({"VAULT_TOKEN": TOKEN})

    def cause(self, trouble: Trouble) -> None:
        if trouble is Trouble.DENIED:
            self._vault.denied = True
        elif trouble is Trouble.DISABLED:
            self._vault.keys["pii"].is_soft_deleted = True
        elif trouble is Trouble.THROTTLED:
            self._http.trouble = lambda request: HTTPAnswer(429)
        elif trouble is Trouble.HALF_THROTTLED:
            turns = count()
            self._http.trouble = lambda request: HTTPAnswer(429) if next(turns) % 2 else None
        elif trouble is Trouble.SLOW:
            self._http.hold()
        else:
            self._http.stop()

    def garbage(self) -> tuple[Callable[[], None], ...]:
        no_version = "vault:v0:" + "A" * 80
        bodies = (
            b"",
            b"<html>",
            b"[]",
            b'{"data":null}',
            b'{"data":{}}',
            b'{"data":{"plaintext":1,"ciphertext":2}}',
            _data(plaintext="AAAA", ciphertext=no_version),
            _data(plaintext="?" * 44, ciphertext=no_version),
            _data(plaintext="A" * 300_000, ciphertext=no_version),
            _data(plaintext=_KEY_BYTES[:-4] + "A===", ciphertext=no_version),
            _data(plaintext="", ciphertext="vault:v1:" + "A" * 4000),
            b'{"data":{"plaintext":"' + _KEY_BYTES.encode(),
        )
        return tuple(lambda body=body: self._answer(body) for body in bodies)  # type: ignore[misc]

    def calls(self) -> int:
        return sum(self._http.calls.values())

    def _answer(self, body: bytes) -> None:
        self._http.trouble = lambda request: HTTPAnswer(200, body)

    def _reference(self, name: str) -> str:
        return f"{self._http.url.replace('http', 'vault')}/transit/{name}?tls=off"


class DerivedVaultWorld(VaultWorld):
    name = "vault-derived"
    is_derived: ClassVar[bool] = True


def _data(**members: str) -> bytes:
    return json.dumps({"data": members}).encode()


WORLDS = (VaultWorld, DerivedVaultWorld)
