"""Key encryption keys in memory: those that a session made and wraps data keys under, and those that it unwrapped.

Without limits a reader could go on for ever with what it once unwrapped, and a hostile writer could fill its memory.
Only what a master key unwrapped is kept, so that forged texts put nothing out. Nothing here is safe across threads; the
session holds its lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipecrypt.crypto.aead import MessageCipher, random_bytes
from pipecrypt.crypto.mac import commit
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.keyring import KEKLimits, Keyring
from pipecrypt.keys.material import KEK_ID_BYTES, MaterialWriter, kek_text
from pipecrypt.keys.reference import KeyReference
from pipecrypt.vocabulary.clock import utc_now, utc_text
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["KEKCache", "WritingKEKs"]


@dataclass(slots=True)
class _Entry:
    key: DataKey = field(repr=False)
    made_at: float
    uses: int = 0


class KEKCache:
    """Unwrapped KEKs by master key and wrapped text. Not safe across threads; the session holds its lock.

    The whole wrapped text is part of the name: a KEK id is only a file's claim, and would let one file put its KEK in
    the place of another's.

    Args:
        limits: when a KEK leaves.
        clock: a clock that never goes back, in seconds.
    """

    __slots__ = ("_clock", "_entries", "_limits", "_text_bytes")

    def __init__(self, limits: KEKLimits, clock: Callable[[], float]) -> None:
        """Hold nothing."""
        self._limits = limits
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._text_bytes = 0

    def get(self, master_key_id: str, wrapped: str) -> DataKey | None:
        """Return a KEK for one use, or None; it stays the cache's, which may wipe it at the next `put`."""
        name = (master_key_id, wrapped)
        entry = self._entries.get(name)
        if entry is None:
            return None
        if self._limits.is_used_up(entry.made_at, entry.uses, self._clock()):
            self._drop(name)
            return None
        entry.uses += 1
        self._entries.move_to_end(name)
        return entry.key

    def put(self, master_key_id: str, wrapped: str, key: DataKey) -> None:
        """Keep a KEK that was just unwrapped for its first use; what is old, or too much, leaves."""
        name, now = (master_key_id, wrapped), self._clock()
        old = [name for name, each in self._entries.items() if self._limits.is_used_up(each.made_at, each.uses, now)]
        for each in old:
            self._drop(each)
        self._entries[name] = _Entry(key, now, uses=1)
        self._text_bytes += len(wrapped)
        while len(self._entries) > 1 and self._is_too_much():
            self._drop(next(iter(self._entries)))

    def wipe(self) -> None:
        """Wipe all KEKs and forget them."""
        for name in tuple(self._entries):
            self._drop(name)

    def _is_too_much(self) -> bool:
        return len(self._entries) > self._limits.count or self._text_bytes > self._limits.text_bytes

    def _drop(self, name: tuple[str, str]) -> None:
        self._entries.pop(name).key.wipe()
        self._text_bytes -= len(name[1])


@dataclass(slots=True)
class _WritingKEK:
    key: DataKey
    cipher: MessageCipher
    id: bytes
    writer: MaterialWriter
    made_at: float
    wraps: int = 0


class WritingKEKs:
    """Wraps data keys under KEKs that it makes when they are needed.

    Args:
        keyring: calls the key services.
        limits: how long a KEK is used.
        clock: a clock that never goes back, in seconds.
        also: key references that each KEK is wrapped for, too.
    """

    __slots__ = ("_also", "_clock", "_grants", "_keks", "_keyring", "_limits")

    def __init__(
        self, keyring: Keyring, limits: KEKLimits, clock: Callable[[], float], also: Sequence[str | KeyReference]
    ) -> None:
        """Make no KEK yet."""
        self._keyring = keyring
        self._limits = limits
        self._clock = clock
        self._also = tuple(dict.fromkeys(also))
        self._keks: dict[tuple[str, str], _WritingKEK] = {}
        self._grants: list[Grant] = []

    def wrap(self, key_reference: str | KeyReference, key: DataKey, context: Context, dataset_id: str | None) -> bytes:
        """Return the `key_metadata` of a data key.

        Args:
            key_reference: of the master key.
            key: the data key.
            context: where it is used.
            dataset_id: that the KEK is bound to; None for that of the context.

        Raises:
            KeyServiceError: the key service failed or refused to make a KEK.
            UsageError: the reference names keys that only open files.
        """
        kek = self._kek(key_reference, context.dataset_id if dataset_id is None else dataset_id)
        # The AAD is the KEK's id, because parquet-java and parquet-cpp unwrap data keys so.
        wrapped = kek.cipher.seal(key.expose_key_bytes(), kek.id)
        kek.wraps += 1
        return kek.writer.encode(wrapped, commit(key, context.key_binding()), is_footer_key=context.column is None)

    def take_grants(self) -> tuple[Grant, ...]:
        """Return the KEKs made since the last call, wrapped for the further master keys."""
        made, self._grants = tuple(self._grants), []
        return made

    def wipe(self) -> None:
        """Wipe all KEKs and forget them."""
        for kek in self._keks.values():
            kek.key.wipe()
        self._keks.clear()

    def _kek(self, key_reference: str | KeyReference, dataset_id: str) -> _WritingKEK:
        master_key_id = self._keyring.master_key(key_reference).id
        kek = self._keks.get((master_key_id, dataset_id))
        if kek is None or self._limits.is_used_up(kek.made_at, kek.wraps, self._clock()):  # SP 800-38D 8.3
            key, wrapped = self._keyring.generate(key_reference, Context(dataset_id=dataset_id, path=""))
            if kek is not None:
                kek.key.wipe()
            kek_id = random_bytes(KEK_ID_BYTES)
            writer = MaterialWriter(master_key_id, kek_id, kek_text(dataset_id, wrapped))
            kek = _WritingKEK(key, MessageCipher(key), kek_id, writer, self._clock())
            self._grant(kek, dataset_id)  # first: a KEK that could not be wrapped for all is not used
            self._keks[master_key_id, dataset_id] = kek
        return kek

    def _grant(self, kek: _WritingKEK, dataset_id: str) -> None:
        context, since = Context(dataset_id=dataset_id, path=""), utc_text(utc_now())
        for reference in self._also:
            wrapped = kek_text(dataset_id, self._keyring.wrap(reference, kek.key, context))
            self._grants.append(Grant(encode_base64(kek.id), self._keyring.master_key(reference).id, wrapped, since))
