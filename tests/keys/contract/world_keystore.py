"""A keystore: no service is called, so nothing throttles or hangs; who is denied lacks the passphrase."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from tests.keys.conftest import CHEAP_KDF
from tests.keys.contract.worlds import Servers, Trouble, World

_RIGHT, _WRONG = "correct horse battery", "wrong horse battery"
_NO_CALLS = "a keystore is opened once, and answers in this process"


class KeystoreWorld(World):
    name = "keystore"
    lacks: ClassVar[Mapping[str, str]] = {
        "test_calls_are_counted_by_the_service": _NO_CALLS,
        "test_denial_is_not_asked_again": _NO_CALLS,
        "test_some_throttling_is_overcome": _NO_CALLS,
        "test_endless_throttling_ends": _NO_CALLS,
        "test_a_service_that_hangs_is_given_up": _NO_CALLS,
    }

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._passphrase = _RIGHT
        self._path = folder / "keys.json"
        for reference in (self.reference, self.other_reference):
            create_key(reference, "aes256", self.credentials(), kdf=CHEAP_KDF)

    @property
    def reference(self) -> str:
        return f"keystore://{self._path}#pii"

    @property
    def other_reference(self) -> str:
        return f"keystore://{self._path}#ops"

    @property
    def unknown_reference(self) -> str:
        return f"keystore://{self._path}#nobody"

    @property
    def secrets(self) -> tuple[str, ...]:
        return (_RIGHT,)

    def credentials(self) -> Credentials:
        return Credentials({"PIPECRYPT_PASSPHRASE": self._passphrase})

    def cause(self, trouble: Trouble) -> None:
        if trouble is Trouble.DENIED:
            self._passphrase = _WRONG
        else:
            self._path.rename(self._path.with_suffix(".gone"))

    def garbage(self) -> tuple[Callable[[], None], ...]:
        whole = self._path.read_bytes()
        document = json.loads(whole)
        for key in document["keys"]:
            del key["id"]
        files = (b"", whole[: len(whole) // 2], json.dumps(document).encode())
        return tuple(partial(self._path.write_bytes, data) for data in files)

    def calls(self) -> int:
        return 0


WORLDS = (KeystoreWorld,)
