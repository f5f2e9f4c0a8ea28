"""The contract in a fake of Google Cloud KMS, to which Google's own library talks."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

from pipecrypt.keys.schemes.gcp_kms import GCPKMSService
from pipecrypt.keys.service import KeyServices
from tests.doubles.http_service import HTTPAnswer, HTTPService
from tests.keys.contract.worlds import Servers, Trouble, World
from tests.keys.fakes.clock import FakeTime
from tests.keys.fakes.gcp_kms import RING, FakeGCPKMS, FakeKey, call_name, refuse
from tests.keys.fakes.gcp_transport import transport_to


class GCPWorld(World):
    name = "gcp-kms"
    reference = f"gcp-kms://{RING}pii"
    other_reference = f"gcp-kms://{RING}ops"
    unknown_reference = f"gcp-kms://{RING}nobody"

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._kms = FakeGCPKMS(pii=FakeKey(), ops=FakeKey())
        self._http = self.stack.enter_context(HTTPService(self._kms, call_name))
        self._service = GCPKMSService(FakeTime().patience(answer_seconds=1), transport=transport_to(self._http.url))

    def services(self) -> KeyServices:
        return {"gcp-kms": self._service}

    def cause(self, trouble: Trouble) -> None:
        if trouble is Trouble.DENIED:
            self._kms.denied = True
        elif trouble is Trouble.DISABLED:
            self._kms.keys[f"{RING}pii"].versions[0].state = "DISABLED"
        elif trouble is Trouble.THROTTLED:
            self._http.trouble = lambda request: refuse("RESOURCE_EXHAUSTED")
        elif trouble is Trouble.HALF_THROTTLED:
            turns = count()
            self._http.trouble = lambda request: refuse("RESOURCE_EXHAUSTED") if next(turns) % 2 else None
        elif trouble is Trouble.SLOW:
            self._http.hold()
        else:
            self._http.stop()

    def garbage(self) -> tuple[Callable[[], None], ...]:
        name = f"{RING}pii/cryptoKeyVersions/1"
        verified = {"verifiedPlaintextCrc32c": True, "verifiedAdditionalAuthenticatedDataCrc32c": True}
        bodies = (
            b"",
            b"<html>",
            b"[]",
            b"null",
            b"{}",
            b'{"plaintext":1,"ciphertext":2}',
            json.dumps({"name": name, "ciphertext": "?", "plaintext": "?"}).encode(),
            json.dumps({"name": name, "ciphertext": "", "ciphertextCrc32c": "0", **verified}).encode(),
            json.dumps({"name": name, "plaintext": "AAAA", "plaintextCrc32c": "0", "ciphertext": "AAAA"}).encode(),
            json.dumps({"name": name, "plaintext": "A" * 43 + "=", "ciphertext": "A" * 80, **verified}).encode(),
            json.dumps({"name": name, "ciphertext": "A" * 80_000, **verified}).encode(),
        )
        return tuple(lambda body=body: self._answer(body) for body in bodies)  # type: ignore[misc]

    def calls(self) -> int:
        return sum(self._http.calls.values())

    def _answer(self, body: bytes) -> None:
        self._http.trouble = lambda request: HTTPAnswer(200, body, {"Content-Type": "application/json"})


WORLDS = (GCPWorld,)
