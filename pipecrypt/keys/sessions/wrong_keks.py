"""Count what master keys did not wrap, so that forged files cost few calls and deny nobody else. Asking: keyring.

A file may name a million texts that nobody wrapped. Which of them are forged only the key service can tell, so each
file or message has a budget of its own: who forges one uses up its budget, and no other's. Dataset ids, paths and KEK
ids are what a file claims, and no budget goes by them. Honest files give no wrong text, however many KEKs they have.

What a flood costs is bounded likewise: once `wrong_in_all` wrong texts were met within the time, each further file or
message is given up after its first. None is refused before it was asked for, since the next one may be honest.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from pipecrypt.crypto.digest import digest
from pipecrypt.errors import IntegrityError, KeyServiceError
from pipecrypt.keys.keyring import KEKLimits

__all__ = ["RequestOrigin", "WrongKEKs"]

_MAX_KNOWN: Final = 4096
_KNOWN_SECONDS: Final = 60.0


class RequestOrigin:
    """One file or message that keys are asked for. Not safe across threads; the session holds its lock."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        """Nothing was asked."""
        self.times: dict[str, deque[float]] = {}

    @property
    def wrong(self) -> int:
        """How many texts counted against it so far, of all master keys."""
        return sum(map(len, self.times.values()))


class WrongKEKs:
    """How often each master key met what it did not wrap. Not safe across threads; the session holds its lock.

    A service that refuses or fails says nothing about the text, so that does not count. Nor does what is opened in this
    process, which costs no call: the caller leaves it out.

    Args:
        limits: how many are too many, and when they are forgotten.
        clock: a clock that never goes back, in seconds.
    """

    __slots__ = ("_clock", "_in_all", "_known", "_limits")

    def __init__(self, limits: KEKLimits, clock: Callable[[], float]) -> None:
        """Know of none."""
        self._limits = limits
        self._clock = clock
        self._in_all: dict[str, deque[float]] = {}
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, master_key_id: str, wrapped: str, origin: RequestOrigin) -> None:
        """Pass if this master key, a configured one, may be asked for a text.

        Raises:
            KeyServiceError: it met too many wrong texts of this origin.
            IntegrityError: it was asked for the very text a moment ago, and had not wrapped it.
        """
        now = self._clock()
        told = self._known.get((master_key_id, digest(wrapped.encode(errors="surrogatepass"))))
        if told is not None and now - told < _KNOWN_SECONDS:
            raise IntegrityError(f"the key encryption key was not wrapped by master key {master_key_id}")
        count = self._recent(origin.times, master_key_id, now)
        is_flood = self._recent(self._in_all, master_key_id, now) >= self._limits.wrong_in_all
        if count >= (1 if is_flood else self._limits.wrong):
            raise KeyServiceError(
                f"{master_key_id} is asked no more for this file or message: it did not wrap {count} of the key "
                "encryption keys there",
                hint="it was forged or damaged; others are not concerned",
            )

    def add(self, master_key_id: str, wrapped: str, origin: RequestOrigin) -> None:
        """Count a text that a configured master key did not wrap."""
        now = self._clock()
        origin.times.setdefault(master_key_id, deque()).append(now)
        self._in_all.setdefault(master_key_id, deque(maxlen=self._limits.wrong_in_all)).append(now)
        self._known[master_key_id, digest(wrapped.encode(errors="surrogatepass"))] = now
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    def _recent(self, times: dict[str, deque[float]], master_key_id: str, now: float) -> int:
        of_key = times.get(master_key_id)
        while of_key and now - of_key[0] >= self._limits.age_seconds:
            of_key.popleft()
        return len(of_key or ())
