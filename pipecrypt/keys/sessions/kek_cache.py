"""Keep unwrapped KEKs for a while, and wipe those that leave. Unwrapping them is left to keyring, wrong ones to others.

Without limits a reader could go on for ever with what it once unwrapped, and a hostile writer could fill its memory.
Only what a master key unwrapped comes here, so that forged texts put nothing out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.crypto.aead import MAX_INVOCATIONS
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["MAX_CACHED_KEKS", "KEKCache", "KEKLimits"]

MAX_CACHED_KEKS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class KEKLimits:
    """How long a session uses a KEK before it calls its key service again, and how many it keeps.

    Args:
        age_seconds: since the service made or unwrapped it. Who loses the right to a master key goes on for so long.
        uses: data keys wrapped or opened under one KEK; SP 800-38D 8.3 bounds those wrapped.
        count: unwrapped KEKs that are kept.
        text_bytes: the length of all wrapped texts that are kept along with them.
        wrong: texts of one file or message that a master key did not wrap, within `age_seconds`, before it is asked no
            more for that one.
        wrong_in_all: of all files and messages; then one wrong text of each further one is enough.
    """

    age_seconds: float = 3600.0
    uses: int = MAX_INVOCATIONS
    count: int = MAX_CACHED_KEKS
    text_bytes: int = 16 * 1024 * 1024
    wrong: int = 16
    wrong_in_all: int = 64

    def __post_init__(self) -> None:
        """Check that each limit lets something pass."""
        counts = (self.count, self.text_bytes, self.wrong, self.wrong_in_all)
        if not (self.age_seconds > 0 and 0 < self.uses <= MAX_INVOCATIONS and all(each > 0 for each in counts)):
            raise ValueError("each limit is positive, and no KEK wraps more than SP 800-38D allows")

    def is_used_up(self, made_at: float, uses: int, now: float) -> bool:
        """Say whether a KEK that has been used so often, made at such a time, is not to be used again."""
        return uses >= self.uses or now - made_at >= self.age_seconds


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
