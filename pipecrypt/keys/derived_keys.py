"""Keys that took long to derive from a secret, remembered in this process for a while.

A passphrase is stretched for a tenth of a second on purpose, and a script that encrypts many small files would pay
that for each of them. What is remembered is the stretched key alone: the keystore is read and authenticated each time,
and its age compared, so a changed file, an older one or a wrong passphrase is noticed as before. Whoever asks has to
know the secret. Of that an HMAC is kept, under a random key that goes when the last entry goes.

An entry is wiped when it was not used for so long, by a thread that lives no longer than the entries do; when others
push it out; and when the process ends. Where no thread can be started, nothing is remembered. A forked process begins
with none.
"""

from __future__ import annotations

import atexit
import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pipecrypt.vocabulary.secret import DataKey

__all__ = ["DERIVED_KEYS", "DerivedKeys"]

_MOST_KEPT: Final = 16
_Name: TypeAlias = tuple[Hashable, bytes]


@dataclass(slots=True)
class _Entry:
    key: DataKey = field(repr=False)
    ends_at: float


class DerivedKeys:
    """Derives each key once while it is remembered. Safe to use from several threads.

    Args:
        most: how many keys are kept; what was used longest ago leaves first.
        clock: a clock that never goes back, in seconds.
    """

    def __init__(self, most: int = _MOST_KEPT, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember nothing yet."""
        self._most = most
        self._clock = clock
        # Held while a key is derived: derivations wait for each other anyway, and no key is derived twice.
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Name, _Entry] = OrderedDict()
        self._random: bytes | None = None
        self._timer: threading.Timer | None = None
        self._wakes_at = 0.0  # the timer, if there is one

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: Hashable, secret: str, derive: Callable[[], DataKey], seconds: float) -> DataKey:
        """Return a key that the caller wipes; derived by `derive` where it is not remembered.

        Args:
            name: tells apart what is derived from one secret; not secret itself.
            secret: what the key is derived from.
            derive: derives it.
            seconds: how long it is remembered from now on.
        """
        with self._lock:
            self._drop_old()
            if self._random is None:
                self._random = secrets.token_bytes(32)
            named = (name, hmac.digest(self._random, secret.encode(errors="surrogateescape"), "sha256"))
            entry = self._entries.get(named)
            if entry is None:
                entry = self._entries[named] = _Entry(derive(), 0.0)
            entry.ends_at = self._clock() + seconds
            self._entries.move_to_end(named)
            while len(self._entries) > self._most:
                self._drop(next(iter(self._entries)))
            key = DataKey(entry.key.expose_key_bytes())
            self._watch()
            return key

    def wipe(self) -> None:
        """Wipe all keys and forget them."""
        with self._lock:
            self._drop_all()

    def begin_anew(self) -> None:
        """Wipe all keys in a process that was forked: a thread that is not there may have held the lock."""
        self._lock = threading.Lock()
        self._timer = None
        self._drop_all()

    def _drop_all(self) -> None:
        for named in tuple(self._entries):
            self._drop(named)
        self._random = None

    def _drop_old(self) -> None:
        now = self._clock()
        for named in [named for named, entry in self._entries.items() if entry.ends_at <= now]:
            self._drop(named)
        if not self._entries:
            self._random = None

    def _drop(self, named: _Name) -> None:
        self._entries.pop(named).key.wipe()

    def _watch(self) -> None:
        """See to it that a thread wipes what is old as soon as it is; without one, remember nothing."""
        if not self._entries:
            return
        first = min(entry.ends_at for entry in self._entries.values())
        if self._timer is not None and self._wakes_at <= first:
            return
        timer = threading.Timer(max(first - self._clock(), 0.0), self._look_after)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # the system has no thread left, or the process is about to end
            self._drop_all()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._wakes_at = timer, first

    def _look_after(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()  # another one than the caller, where an earlier end came while this one waited
            self._timer = None
            self._drop_old()
            self._watch()


DERIVED_KEYS: Final = DerivedKeys()
atexit.register(DERIVED_KEYS.wipe)
os.register_at_fork(after_in_child=DERIVED_KEYS.begin_anew)
