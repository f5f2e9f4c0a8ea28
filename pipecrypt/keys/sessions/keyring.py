"""The master keys and explicit keys of a session's references, and every call to their services.

Caching what comes back, and what files say about keys, are left to session and material.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from pipecrypt.errors import FormatError, IntegrityError, KeyNotFoundError, KeyServiceError, PipecryptError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keyring import KEKLimits, RequestOrigin, WrongKEKs
from pipecrypt.keys.material import parse_kek_text
from pipecrypt.keys.service import (
    EarlierVersions,
    ExplicitKeys,
    KeyServices,
    MasterKey,
    OpensHere,
    Replicas,
    SealsOnly,
    Wipeable,
    WrapsKeys,
    open_key_reference,
)
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["Keyring"]

_SHOWN_CHARACTERS: Final = 200
_Result = TypeVar("_Result")


class Keyring:
    """All keys that a caller configured; nothing else is ever asked.

    Args:
        references: key references; a second mention of one counts once.
        credentials: what opens the key services.
        services: key services by scheme that are asked before the built-in ones.
        wrong: counts what a master key did not wrap; by default for as long as this lives.

    Raises:
        KeyReferenceError: a reference is none, or has an unknown scheme.
        AccessError: a key is missing, or the credentials do not open it.
    """

    __slots__ = ("_by_reference", "_explicit", "_master_keys", "_opened", "_wrong", "service_calls")

    def __init__(
        self,
        references: Sequence[str],
        credentials: Credentials,
        services: KeyServices | None,
        wrong: WrongKEKs | None = None,
    ) -> None:
        """Open all references; what derives slowly is derived once for all of them."""
        self._wrong = wrong or WrongKEKs(KEKLimits(), time.monotonic)
        self.service_calls = 0
        self._opened: dict[str, MasterKey | ExplicitKeys] = {}
        self._by_reference: dict[str, MasterKey] = {}
        self._master_keys: dict[str, MasterKey] = {}
        self._explicit: list[ExplicitKeys] = []
        try:
            for text in dict.fromkeys(references):
                self._add(text, open_key_reference(text, credentials, services=services))
        except BaseException:
            self.wipe()
            raise
        finally:
            credentials.forget()

    def master_key(self, key_reference: str) -> MasterKey:
        """Return the master key of one of the references.

        Raises:
            UsageError: it names keys that only open files.
        """
        master_key = self._by_reference.get(key_reference)
        if master_key is None:
            if key_reference not in self._opened:
                raise RuntimeError("this key reference is none of the session's, or the session is closed")
            raise UsageError(
                f"{key_reference} only opens files of other writers",
                hint="encrypt under a master key, such as keystore:///path/keys.json#name",
            )
        return master_key

    def check_makes_keys(self) -> None:
        """Pass if all references name master keys, so that each can wrap new keys.

        Raises:
            UsageError: one names keys that only open files.
        """
        for key_reference in self._opened:
            self.master_key(key_reference)

    def generate(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its form wrapped by a master key; one service call.

        Raises:
            KeyServiceError: the service failed or refused.
        """
        master_key = self.master_key(key_reference)
        key, wrapped = self._call(lambda: master_key.generate_key(context), key_reference)
        if key.bits != DATA_KEY_BYTES * 8:
            raise KeyServiceError(f"{key_reference} made a key of {key.bits} bits, not 256")
        return key, wrapped

    def unwrap(self, wrapped: str, master_key_id: str, origin: RequestOrigin) -> DataKey:
        """Return the key in a text of "wrappedKEK" or of a singly wrapped "wrappedDEK"; one service call.

        `master_key_id` comes from a file and is a hint: it chooses among the configured keys, and adds none.

        Args:
            wrapped: the text.
            master_key_id: as the file names it.
            origin: the file or message; what is wrong counts against it.

        Raises:
            KeyNotFoundError: the master key is none of the configured ones; lists it and those.
            KeyServiceError: the service failed or refused, or met too many wrong texts; see `WrongKEKs`.
            IntegrityError: the text was not made by that master key for that dataset.
            FormatError: the text is no wrapped key.
        """
        master_key = self._master_keys.get(master_key_id) or self._replica_of(master_key_id)
        if master_key is None:
            return self._unwrap_explicit(wrapped, master_key_id)
        dataset_id, sealed = parse_kek_text(wrapped)
        context = Context(dataset_id=dataset_id or "", path="")
        # By the configured key's own id: files may call one key by several, as a replica in another region.
        costs_calls = not (isinstance(master_key, OpensHere) and master_key.opens_here)
        if costs_calls:
            self._wrong.check(master_key.id, wrapped, origin)
        try:
            return self._call(lambda: master_key.unwrap_key(sealed, context), master_key_id)
        except (IntegrityError, FormatError):
            if costs_calls:
                self._wrong.add(master_key.id, wrapped, origin)
            raise

    def wrap(self, key_reference: str, key: DataKey, context: Context) -> bytes:
        """Return a key that exists, wrapped by the master key of a reference; one service call.

        Raises:
            KeyServiceError: the service failed or refused.
            UsageError: keys of that service only wrap keys that they make, or none.
        """
        master_key = self.master_key(key_reference)
        if not isinstance(master_key, WrapsKeys):
            raise UsageError(
                f"{key_reference} cannot wrap a key that exists", hint="name a master key of another key service"
            )
        return self._call(lambda: master_key.wrap_key(key, context), key_reference)

    def master_key_ids(self) -> tuple[str, ...]:
        """Return the ids of all configured master keys, earlier versions included."""
        return tuple(self._master_keys)

    def can_open(self, master_key_id: str) -> bool:
        """Say whether a configured master key opens what one of this id wrapped; nothing is called."""
        master_key = self._master_keys.get(master_key_id) or self._replica_of(master_key_id)
        return master_key is not None and not isinstance(master_key, SealsOnly)

    def find(self, key_metadata: bytes, context: Context) -> DataKey:
        """Return the explicit key for the key metadata of another scheme.

        Raises:
            KeyNotFoundError: none is listed.
        """
        for keys in self._explicit:
            key = keys.find_key(key_metadata, context)
            if key is not None:
                return key
        named = f"with key metadata {_shown(_as_text(key_metadata))}" if key_metadata else "without key metadata"
        raise KeyNotFoundError(
            f"another program wrote the file, {named}; none of the configured keys fits: {self._configured()}",
            hint="list the key in a JSON file and pass static://FILE",
        )

    def wipe(self) -> None:
        """Wipe what key services hold in this process, and forget all keys."""
        for opened in (*self._opened.values(), *self._master_keys.values()):
            if isinstance(opened, Wipeable):
                opened.wipe()
        self._opened.clear()
        self._by_reference.clear()
        self._master_keys.clear()
        self._explicit.clear()

    def _add(self, key_reference: str, opened: MasterKey | ExplicitKeys) -> None:
        self._opened[key_reference] = opened
        if isinstance(opened, ExplicitKeys):
            self._explicit.append(opened)
        if isinstance(opened, MasterKey):
            self._by_reference[key_reference] = opened
            earlier = opened.earlier_versions() if isinstance(opened, EarlierVersions) else ()
            for master_key in (*earlier, opened):
                # A public key never takes the place of its private half, which answers to the same id.
                if not (isinstance(master_key, SealsOnly) and master_key.id in self._master_keys):
                    self._master_keys[master_key.id] = master_key

    def _replica_of(self, master_key_id: str) -> MasterKey | None:
        for master_key in self._master_keys.values():
            if isinstance(master_key, Replicas) and master_key.opens_for(master_key_id):
                return master_key
        return None

    def _unwrap_explicit(self, wrapped: str, master_key_id: str) -> DataKey:
        for keys in self._explicit:
            key = keys.unwrap_named(wrapped, master_key_id)
            if key is not None:
                return key
        raise KeyNotFoundError(
            f"the file needs master key {_shown(master_key_id)}, which is none of the configured keys: "
            f"{self._configured()}",
            hint="pass the key reference of that master key; pipecrypt inspect shows which keys a file needs",
        )

    def _configured(self) -> str:
        named = [
            f"{key_reference} ({opened.id})" if isinstance(opened, MasterKey) else key_reference
            for key_reference, opened in self._opened.items()
        ]
        return ", ".join(named) or "none"

    def _call(self, call: Callable[[], _Result], what: str) -> _Result:
        self.service_calls += 1
        try:
            return call()
        except PipecryptError:
            raise
        except Exception as error:
            # A plug-in should have mapped it. Its text may hold anything, so it is not repeated.
            raise KeyServiceError(f"the key service of {_shown(what)} failed: {type(error).__name__}") from error


def _as_text(key_metadata: bytes) -> str:
    return key_metadata[: 4 * _SHOWN_CHARACTERS].decode(errors="replace")


def _shown(text: str) -> str:
    # Escaped, because the text comes from a file and may hold control sequences of a terminal.
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
