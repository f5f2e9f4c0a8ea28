"""Keys that stay open between calls, until the `with` block of a `Session` ends.

A `KeySession` belongs to one call: it opens its keys, and wipes them. With a Session as its credentials it borrows the
keys that the Session holds, and gives them back. What a call may use does not change by that: only the references that
it was given. KEKs that were unwrapped are shared among readers of the same references, and by nobody else; writers make
KEKs of their own, as ever. All that borrow from one Session take turns by its lock, because a key service need not be
safe across threads.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import Self

from pipecrypt.errors import UsageError
from pipecrypt.keys.credentials import ACTIVE, Credentials, given_credentials
from pipecrypt.keys.keyring import KEKCache, KEKLimits, WrongKEKs, wipe_versions
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import ExplicitKeys, MasterKey, open_key_reference
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["Session"]


class Session(Credentials):
    """Keys that are opened once for many calls of this process; a context manager that wipes them.

    A script that makes many small calls pays for opening its keys once: no passphrase is stretched again, and no key
    service is asked again for what it unwrapped within the last hour. In its `with` block, all calls on the same thread
    use it that are given no other credentials; on other threads, give it as `credentials=`. Keys that a call names and
    the Session does not are opened by the call, as ever, with the credentials of the Session.

    Keys are those that there were when the Session began: a version that is added to a keystore later is not seen, one
    that is removed still opens, and a relative path is not looked up again. Safe to use from several threads. Pickled,
    for worker processes, it holds no key; a forked process opens its keys anew.

    Args:
        keys: key references of the keys that stay open.
        credentials: what opens them; default: the environment of this process, as it is now.

    Raises:
        UsageError: the keys are not a list of texts, or one of them signs.
        KeyReferenceError: a reference is malformed, or has an unknown scheme.
        AccessError: a key is missing, or the credentials do not open it.
    """

    __slots__ = ("_forks", "_held", "_is_closed", "_keks", "_keys", "_tokens", "_wipe", "turn")

    def __init__(self, keys: Sequence[str] = (), *, credentials: Credentials | None = None) -> None:
        """Open all keys."""
        if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
            raise UsageError("the keys of a Session are a list of key references", hint="write keys=[...]")
        given = given_credentials(credentials)
        super().__init__(given.environ)
        self.adopt_answers(given)
        self._keys = tuple(dict.fromkeys(keys))
        # Held by whoever borrows a key, for as long as it is used.
        self.turn = threading.Lock()
        self._held: dict[str, MasterKey | ExplicitKeys] = {}
        self._keks: dict[frozenset[str], tuple[KEKCache, WrongKEKs]] = {}
        self._tokens: list[Token[Credentials | None]] = []
        self._is_closed = False
        self._forks = 0
        self._wipe = weakref.finalize(self, _wipe, self._held, self._keks, self._derived)
        try:
            for key in self._keys:
                self.lend(key)
        except BaseException:
            self.close()
            raise

    @property
    def keys(self) -> tuple[str, ...]:
        """The key references of the keys that stay open."""
        return self._keys

    def lend(self, reference: str | KeyReference) -> MasterKey | ExplicitKeys | None:
        """Return one of its keys, which stays its own and is used while `turn` is held; None for any other key.

        Raises:
            UsageError: the Session is closed.
            AccessError: a forked process cannot open the key anew.
        """
        text = str(reference)
        with self.turn:
            self._check_open()
            if text in self._keys and text not in self._held:
                self._held[text] = open_key_reference(text, self)
            return self._held.get(text)

    def lend_keks(self, references: Sequence[str | KeyReference]) -> tuple[KEKCache, WrongKEKs]:
        """Return the KEKs that were unwrapped for readers of just these references; used while `turn` is held."""
        with self.turn:
            self._check_open()
            limits = KEKLimits()
            new = (KEKCache(limits, time.monotonic), WrongKEKs(limits, time.monotonic))
            return self._keks.setdefault(frozenset(map(str, references)), new)

    @property
    def is_closed(self) -> bool:
        """Whether its keys were wiped for good."""
        return self._is_closed

    @property
    def lendings(self) -> int:
        """Changes when all that was lent before is no longer there: when it is closed, or the process was forked."""
        return -1 if self._is_closed else self._forks

    def close(self) -> None:
        """Wipe all keys; what still uses them fails from now on. Safe to call twice."""
        with self.turn:
            self._is_closed = True
            self._wipe()

    def forget(self) -> None:
        """Keep what was derived, until the Session is closed: that is what it is for."""

    def begin_anew(self) -> None:
        """Wipe all keys in a process that was forked, which opens them again when it needs them."""
        self.turn = threading.Lock()
        self._forks += 1
        super().begin_anew()
        _wipe(self._held, self._keks, self._derived)

    def __enter__(self) -> Self:
        """Let the calls on this thread use it."""
        self._check_open()
        self._tokens.append(ACTIVE.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        with suppress(ValueError):  # it was entered in another context, which finds it closed
            ACTIVE.reset(self._tokens.pop())
        self.close()

    def __repr__(self) -> str:
        """Show how many keys it holds."""
        return f"<Session of {len(self._keys)} keys{', closed' if self._is_closed else ''}>"

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("this Session was closed, and its keys were wiped", hint="work inside of its with block")


def _wipe(
    held: dict[str, MasterKey | ExplicitKeys],
    keks: dict[frozenset[str], tuple[KEKCache, WrongKEKs]],
    derived: dict[tuple[Hashable, str], DataKey],
) -> None:
    for opened in held.values():
        wipe_versions(opened)
    for unwrapped, _ in keks.values():
        unwrapped.wipe()
    for key in derived.values():
        key.wipe()
    for each in (held, keks, derived):
        each.clear()
