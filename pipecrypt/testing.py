"""What tests of your own may use: a key service in memory, with a log of its calls and a failure switch.

It guards nothing real. Within `use_memory_keys()` the key reference `memory://NAME` names one of its keys, in this
process alone. The scheme does not exist otherwise, so that no configuration file can choose it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipecrypt.crypto.aead import open_sealed, random_bytes, seal
from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyServiceError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import provided_key_service
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["MemoryCall", "MemoryKeyService", "MemoryMasterKey", "use_memory_keys"]


@contextmanager
def use_memory_keys(names: Iterable[str] | None = None) -> Iterator[MemoryKeyService]:
    """Let key references `memory://NAME` name keys in memory until the block ends.

    They are known in this process: run with one worker.

    Args:
        names: the only names there are; None for any.
    """
    service = MemoryKeyService(None if names is None else frozenset(names))
    with provided_key_service("memory", service):
        yield service


@dataclass(frozen=True, slots=True)
class MemoryCall:
    """One call of a master key: "generate", "wrap" or "unwrap", whose, and in which context."""

    operation: str
    master_key_id: str
    context: Context


class MemoryMasterKey:
    """A master key of a MemoryKeyService, which logs its calls.

    Args:
        service: the owner of key bytes, log and switch.
        name: the location of the key reference.
    """

    def __init__(self, service: MemoryKeyService, name: str) -> None:
        """Keep them."""
        self._service = service
        self._name = name

    @property
    def id(self) -> str:
        """What data files store."""
        return f"memory/{self._name}"

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh key and its wrapped form.

        Raises:
            KeyServiceError: the switch says so.
        """
        master_key = self._service.use(MemoryCall("generate", self.id, context), self._name)
        key = DataKey(random_bytes(DATA_KEY_BYTES))
        return key, seal(master_key, key.expose_key_bytes(), context.key_binding())

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already.

        Raises:
            KeyServiceError: the switch says so.
        """
        master_key = self._service.use(MemoryCall("wrap", self.id, context), self._name)
        return seal(master_key, key.expose_key_bytes(), context.key_binding())

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds.

        Raises:
            KeyServiceError: the switch says so.
            IntegrityError: `wrapped` was not made by this master key for `context`.
        """
        master_key = self._service.use(MemoryCall("unwrap", self.id, context), self._name)
        try:
            return DataKey(open_sealed(master_key, wrapped, context.key_binding()))
        except ValueError as error:
            raise IntegrityError(f"master key {self.id} did not wrap this key") from error


@dataclass(slots=True)
class MemoryKeyService:
    """Random master keys by name, made on first use, for as long as the object lives.

    Args:
        names: the only names there are; None for any.
        failure: raised by every call from now on; None to work. An exception outside our tree plays a careless plug-in.
        calls: every call so far, failed ones included.
    """

    names: frozenset[str] | None = None
    failure: Exception | None = None
    calls: list[MemoryCall] = field(default_factory=list)
    _keys: dict[str, DataKey] = field(default_factory=dict, repr=False)

    def open_key(self, reference: KeyReference, credentials: Credentials) -> MemoryMasterKey:
        """Return the master key of a name.

        Raises:
            KeyNotFoundError: there is no such name.
        """
        if self.names is not None and reference.location not in self.names:
            raise KeyNotFoundError(f"{reference.text}: there is no such key in memory")
        return MemoryMasterKey(self, reference.location)

    def fail(self, failure: Exception | None = None) -> None:
        """Let every call fail from now on, by default as a service that refuses."""
        self.failure = failure or KeyServiceError("the key service in memory was told to fail")

    def use(self, call: MemoryCall, name: str) -> DataKey:
        """Log a call, fail if told to, and return the master key."""
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure
        if name not in self._keys:
            self._keys[name] = DataKey(random_bytes(DATA_KEY_BYTES))
        return self._keys[name]
