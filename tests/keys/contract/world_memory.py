"""The contract in the key service in memory that pipecrypt ships for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pipecrypt.errors import KeyServiceError
from pipecrypt.keys.service import KeyServices
from pipecrypt.testing import MemoryKeyService
from tests.keys.contract.worlds import Servers, Trouble, World

_NO_WIRE = "nothing lies between caller and service"


class MemoryWorld(World):
    name = "memory"
    lacks: ClassVar[Mapping[str, str]] = {
        "test_some_throttling_is_overcome": _NO_WIRE,
        "test_a_service_that_hangs_is_given_up": _NO_WIRE,
        "test_garbage_is_refused": _NO_WIRE,
    }
    reference = "memory://pii"
    other_reference = "memory://ops"
    unknown_reference = "memory://nobody"

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._service = MemoryKeyService(names=frozenset({"pii", "ops"}))

    def services(self) -> KeyServices:
        return {"memory": self._service}

    def cause(self, trouble: Trouble) -> None:
        self._service.fail(KeyServiceError(f"the key service in memory is {trouble.name.lower()}"))

    def calls(self) -> int:
        return len(self._service.calls)


WORLDS = (MemoryWorld,)
