"""What the contract suite asks of a key service: a World. The tests themselves: test_contract, test_contract_session.

To add a key service, write one file `world_<name>.py` beside this one, with one or more subclasses of `World` and the
tuple `WORLDS` that lists them. Nothing else changes: `all_worlds` finds the file, and each test runs in each world.
world_memory is the shortest example, world_aws one with servers.

1. `__init__` makes two keys in a service of its own, or in one that `servers.start(...)` shares among tests: it is
   given a function without arguments that returns a context manager, is entered once for each worker of pytest-xdist,
   and is left when the session ends. Only loopback addresses, only free ports.
2. The properties name references; `services` and `credentials` are what a caller of the library passes on. Wait for
   nothing real: give the service a fake clock and sleep, and short time limits once it is to hang.
3. `cause` brings trouble, after which the next calls meet it. For services behind HTTP, the module
   `tests.doubles.http_service` stands between client and emulator or fake: it counts, holds and spoils answers.
4. `fakes` maps the name of a test to what the emulator does wrong. That test must fail there (a strict xfail), so the
   list shrinks when the emulator is mended. `lacks` maps the name of a test to why it cannot apply; it does not run.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.service import KeyServices, MasterKey, open_key_reference

T = TypeVar("T")


def all_worlds() -> list[type[World]]:
    names = sorted(path.stem for path in Path(__file__).parent.glob("world_*.py"))
    return [world for name in names for world in importlib.import_module(f"tests.keys.contract.{name}").WORLDS]


class Trouble(Enum):
    DENIED = auto()  # this identity may not use the key
    DISABLED = auto()  # the key exists, and is switched off
    DOOMED = auto()  # the key exists, and waits for its deletion
    THROTTLED = auto()  # every call is refused as one too many
    HALF_THROTTLED = auto()  # about every second one is
    SLOW = auto()  # no answer comes
    GONE = auto()  # nothing listens any more


class Servers:
    """Servers that are started once in a session, when the first test asks for them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[Callable[[], AbstractContextManager[Any]], Any] = {}

    def start(self, server: Callable[[], AbstractContextManager[T]]) -> T:
        if server not in self._running:
            self._running[server] = self._stack.enter_context(server())
        running: T = self._running[server]
        return running

    def stop(self) -> None:
        self._stack.close()


class World(ABC):
    """A key service with two keys, fresh for each test."""

    name: ClassVar[str]
    fakes: ClassVar[Mapping[str, str]] = {}
    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, servers: Servers, folder: Path) -> None:
        self.servers = servers
        self.folder = folder
        self.stack = ExitStack()  # of what belongs to this test alone

    @property
    @abstractmethod
    def reference(self) -> str:
        """A key that makes keys."""

    @property
    def reading_reference(self) -> str:
        """The key that opens what `reference` made, where that is another one."""
        return self.reference

    @property
    @abstractmethod
    def other_reference(self) -> str:
        """Another key that opens keys, of the same service."""

    @property
    @abstractmethod
    def unknown_reference(self) -> str:
        """A key that does not exist, of the same service."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that no error and no log may hold: passphrases, tokens."""
        return ()

    def services(self) -> KeyServices | None:
        return None

    def credentials(self) -> Credentials:
        return Credentials({})

    @abstractmethod
    def cause(self, trouble: Trouble) -> None:
        """Let the next calls meet trouble."""

    def garbage(self) -> tuple[Callable[[], None], ...]:
        """Return one function for each kind of garbage, after which the service answers that."""
        raise NotImplementedError

    @abstractmethod
    def calls(self) -> int:
        """How many calls made or opened a key so far, as the service counted them."""

    def open(self, reference: str | None = None) -> MasterKey:
        opened = open_key_reference(reference or self.reference, self.credentials(), services=self.services())
        assert isinstance(opened, MasterKey)
        return opened

    def open_reading(self) -> MasterKey:
        return self.open(self.reading_reference)
