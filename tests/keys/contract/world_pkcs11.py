"""A token of SoftHSM2: a module in this process, so nothing throttles or hangs; who is denied lacks the PIN."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pipecrypt.keys.credentials import Credentials
from tests.keys.contract.worlds import Servers, Trouble, World
from tests.keys.softhsm import OTHER_PIN, PIN, TOKEN, log_out, softhsm

_NO_WIRE = "the token's module answers in this process, and counts no calls"
_numbers = itertools.count(1000)


class TokenWorld(World):
    name = "pkcs11"
    lacks: ClassVar[Mapping[str, str]] = {
        "test_calls_are_counted_by_the_service": _NO_WIRE,
        "test_denial_is_not_asked_again": f"{_NO_WIRE}; tries of a PIN: tests/keys/schemes/test_pkcs11.py",
        "test_some_throttling_is_overcome": _NO_WIRE,
        "test_endless_throttling_ends": _NO_WIRE,
        "test_a_service_that_hangs_is_given_up": _NO_WIRE,
        "test_garbage_is_refused": f"{_NO_WIRE}; a failing token: tests/keys/schemes/test_pkcs11.py",
    }

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._tokens = softhsm()
        self._environ = self._tokens.environ
        self.stack.callback(log_out)
        self._number = next(_numbers)  # the tokens live as long as the process
        for name in ("pii", "ops"):
            number = next(_numbers)
            self._tokens.make_key(f"{name}-{self._number}", number.to_bytes(2, "big"))
            self.stack.callback(self._tokens.destroy, f"{name}-{self._number}")

    def _reference(self, name: str) -> str:
        return f"pkcs11:token={TOKEN};object={name}-{self._number}"

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
        return (PIN,)

    def credentials(self) -> Credentials:
        return Credentials(self._environ)

    def cause(self, trouble: Trouble) -> None:
        if trouble is Trouble.DENIED:
            self._environ |= {"PIPECRYPT_PKCS11_PIN": OTHER_PIN}
        elif trouble is Trouble.DISABLED:
            self._tokens.destroy(f"pii-{self._number}")
        else:
            self._environ |= {"PIPECRYPT_PKCS11_MODULE": f"{self.folder}/gone.so"}

    def calls(self) -> int:
        return 0


WORLDS = (TokenWorld,)
