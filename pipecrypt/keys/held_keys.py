"""Keys that stay open between calls, until the `with` block of a `Session` ends.

A `KeySession` belongs to one call: it opens its keys, and wipes them. With a Session as its credentials it borrows the
keys that the Session holds, and gives them back. What a call may use does not change by that: only the references that
it was given. KEKs that were unwrapped are shared among readers of the same references, where the Session holds all of
them, and by nobody else; writers make KEKs of their own, as ever, and they too are wiped when the Session is closed.
All that borrow from one Session take turns by its lock, because a key service need not be safe across threads.

`Session` is what callers see, and its `HeldKeys` what a `KeySession` borrows from.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from contextlib import ExitStack, suppress
from contextvars import Token
from types import TracebackType
from typing import Protocol, Self

from pipecrypt.errors import UsageError
from pipecrypt.keys.credentials import ACTIVE, Credentials, given_credentials
from pipecrypt.keys.keyring import KEKCache, KEKLimits, WrongKEKs, wipe_versions
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import ExplicitKeys, MasterKey, open_key_reference
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["HeldKeys", "Session", "held_keys_of"]


class _Closes(Protocol):
    def close(self) -> None:
        """Wipe all keys."""


class HeldKeys:
    """The keys of a `Session`, and what borrows them.

    Args:
        references: key references of the keys; none is open yet.
    """

    __slots__ = ("_borrowers", "_forks", "_is_closed", "_opened", "_references", "_unwrapped", "_wrong", "turn")

    def __init__(self, references: tuple[str, ...]) -> None:
        """Open nothing yet."""
        self._references = references
        # Held by whoever borrows a key, for as long as it is used. A forked process has another one.
        self.turn = threading.Lock()
        self._opened: dict[str, MasterKey | ExplicitKeys] = {}
        limits = KEKLimits()
        self._unwrapped = KEKCache(limits, time.monotonic)
        self._wrong = WrongKEKs(limits, time.monotonic)
        self._borrowers: weakref.WeakSet[_Closes] = weakref.WeakSet()
        self._is_closed = False
        self._forks = 0

    @property
    def is_closed(self) -> bool:
        """Whether its keys were wiped for good."""
        return self._is_closed

    @property
    def lendings(self) -> int:
        """Changes when all that was lent before is no longer there: when it is closed, or the process was forked."""
        return -1 if self._is_closed else self._forks

    def check_open(self) -> None:
        """Pass if it is not closed; else raise a UsageError."""
        if self._is_closed:
            raise UsageError("this Session was closed, and its keys were wiped", hint="work inside of its with block")

    def lend(self, reference: str | KeyReference, credentials: Credentials) -> MasterKey | ExplicitKeys | None:
        """Return one of its keys, which stays its own and is used while `turn` is held; None for any other key.

        Args:
            reference: of the key.
            credentials: open it where it is not open: at the beginning, or in a forked process.

        Raises:
            UsageError: the Session is closed.
            AccessError: the key is missing, or the credentials do not open it.
        """
        text = str(reference)
        with self.turn:
            self.check_open()
            if text in self._references and text not in self._opened:
                self._opened[text] = open_key_reference(text, credentials)
            return self._opened.get(text)

    def lend_keks(self, references: Sequence[str | KeyReference]) -> tuple[KEKCache, WrongKEKs] | None:
        """Return where its readers keep what they unwrapped; None for a reader of other keys than it holds.

        One for all of them, so that its limits hold for all of them together. It is used while `turn` is held, and each
        set of references is a reader of its own there.

        Raises:
            UsageError: the Session is closed.
        """
        with self.turn:
            self.check_open()
            self._unwrapped.drop_old()
            return (self._unwrapped, self._wrong) if set(map(str, references)) <= set(self._references) else None

    def add_borrower(self, borrower: _Closes) -> None:
        """Close this one too when the Session is closed.

        Raises:
            UsageError: the Session is closed.
        """
        with self.turn:
            self.check_open()
            self._borrowers.add(borrower)

    def close(self) -> None:
        """Wipe all keys, and those of all that borrow from it. Safe to call twice."""
        with self.turn:
            self._is_closed = True
            borrowers = tuple(self._borrowers)
            self.wipe()
        with ExitStack() as stack:  # which closes all of them, whatever one raises
            for borrower in borrowers:  # each takes its turn
                stack.callback(borrower.close)

    def begin_anew(self) -> None:
        """Wipe all keys in a process that was forked: a thread that is not there may have held `turn`."""
        self.turn = threading.Lock()
        self._forks += 1
        self.wipe()

    def wipe(self) -> None:
        """Wipe all keys; they are opened anew when they are asked for, unless it is closed."""
        self._unwrapped.wipe()
        while self._opened:
            wipe_versions(self._opened.popitem()[1])


class Session(Credentials):
    """Keys that are opened once for many calls of this process; a context manager that wipes them.

    A script that makes many small calls pays for opening its keys once: no passphrase is stretched again, and no key
    service is asked again for what it unwrapped within the last hour for a call that named the same keys, all of them
    the Session's. In its `with` block, all calls on the same thread use it that are given no other credentials; on
    other threads, give it as `credentials=`. Keys that a call names and the Session does not are opened by the call, as
    ever, with the credentials of the Session.

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

    __slots__ = ("_held", "_keys", "_tokens")

    def __init__(self, keys: Sequence[str] = (), *, credentials: Credentials | None = None) -> None:
        """Open all keys."""
        if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
            raise UsageError("the keys of a Session are a list of key references", hint="write keys=[...]")
        self._keys = tuple(dict.fromkeys(keys))
        self._held = HeldKeys(self._keys)
        self._tokens: list[Token[Credentials | None]] = []
        given = given_credentials(credentials)
        super().__init__(given.environ)  # from here on a fork may meet it
        self._adopt_answers(given)
        weakref.finalize(self, _wipe, self._held, self._derived)
        try:
            for key in self._keys:
                self._held.lend(key, self)
        except BaseException:
            self.close()
            raise

    @property
    def keys(self) -> tuple[str, ...]:
        """The key references of the keys that stay open."""
        return self._keys

    def close(self) -> None:
        """Wipe all keys, and those of calls that borrow from it, which fail from now on. Safe to call twice."""
        try:
            self._held.close()
        finally:
            self._wipe_derived()

    def forget(self) -> None:
        """Keep what was derived until the Session is closed: that is what it is for."""
        if self._is_closed:
            self._wipe_derived()

    def __enter__(self) -> Self:
        """Let the calls on this thread use it."""
        self._held.check_open()
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

    @property
    def _is_closed(self) -> bool:
        return self._held.is_closed

    def _begin_anew(self) -> None:
        try:
            super()._begin_anew()
        finally:
            self._held.begin_anew()


def held_keys_of(credentials: Credentials) -> HeldKeys | None:
    """Return what a `KeySession` may borrow; None for credentials that hold no keys."""
    return credentials._held if isinstance(credentials, Session) else None


def _wipe(held: HeldKeys, derived: dict[tuple[Hashable, str], DataKey]) -> None:
    held.wipe()
    while derived:
        derived.popitem()[1].wipe()
