"""The contract in a fake of Azure Key Vault (RSA keys) and Managed HSM (AES keys), to which Azure's library talks."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import ClassVar

from pipecrypt.keys.schemes.azure_kv import AzureKVService
from pipecrypt.keys.service import KeyServices
from tests.doubles.http_service import HTTPAnswer, HTTPService
from tests.keys.contract.worlds import Servers, Trouble, World
from tests.keys.fakes.azure_kv import TOKEN, FakeAzureKV, FakeKey, StaticCredential, ToLoopback, call_name, refuse
from tests.keys.fakes.clock import FakeTime


class AzureWorld(World):
    name = "azure-kv"
    host: ClassVar[str] = "pipecrypt.vault.azure.net"
    key_type: ClassVar[str] = "RSA"

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._vault = FakeAzureKV(self.host, pii=FakeKey(self.key_type), ops=FakeKey(self.key_type))
        self._http = self.stack.enter_context(HTTPService(self._vault, call_name))
        self._service = AzureKVService(
            FakeTime().patience(answer_seconds=1), credential=StaticCredential(), transport=ToLoopback(self._http.url)
        )

    @property
    def reference(self) -> str:
        return f"azure-kv://{self.host}/keys/pii"

    @property
    def other_reference(self) -> str:
        return f"azure-kv://{self.host}/keys/ops"

    @property
    def unknown_reference(self) -> str:
        return f"azure-kv://{self.host}/keys/nobody"

    @property
    def secrets(self) -> tuple[str, ...]:
        return (TOKEN,)

    def services(self) -> KeyServices:
        return {"azure-kv": self._service}

    def cause(self, trouble: Trouble) -> None:
        if trouble is Trouble.DENIED:
            self._vault.denied = True
        elif trouble is Trouble.DISABLED:
            self._vault.keys["pii"].versions[0].is_enabled = False
        elif trouble is Trouble.THROTTLED:
            self._http.trouble = lambda request: refuse(429, "Throttled")
        elif trouble is Trouble.HALF_THROTTLED:
            turns = count()
            self._http.trouble = lambda request: refuse(429, "Throttled") if next(turns) % 2 else None
        elif trouble is Trouble.SLOW:
            self._http.hold()
        else:
            self._http.stop()

    def garbage(self) -> tuple[Callable[[], None], ...]:
        kid = f"https://{self.host}/keys/pii/{self._vault.keys['pii'].versions[0].id}"
        bodies = (
            b"",
            b"<html>",
            b"[]",
            b"null",
            b"{}",
            b'{"kid":1,"value":2}',
            _body(kid=kid, value="?"),
            _body(kid=kid, value=""),
            _body(kid=kid, value="A"),
            _body(kid=kid, value="A" * 44),
            _body(kid=kid, value="A" * 100_000),
            _body(kid=f"https://{self.host}/keys/pii", value="A" * 86),
            _body(kid=kid.replace("pii", "ops", 1), value="A" * 342),
        )
        return tuple(lambda body=body: self._answer(body) for body in bodies)  # type: ignore[misc]

    def calls(self) -> int:
        return sum(self._http.calls.values())

    def _answer(self, body: bytes) -> None:
        self._http.trouble = lambda request: HTTPAnswer(200, body, {"Content-Type": "application/json"})


class ManagedHSMWorld(AzureWorld):
    name = "azure-kv-hsm"
    host: ClassVar[str] = "pipecrypt.managedhsm.azure.net"
    key_type: ClassVar[str] = "oct-HSM"


def _body(**members: str) -> bytes:
    return json.dumps(members).encode()


WORLDS = (AzureWorld, ManagedHSMWorld)
