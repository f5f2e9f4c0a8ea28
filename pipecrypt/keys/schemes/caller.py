"""How key services elsewhere are called: tries until a deadline, a bound on calls, quiet logs, errors from a table.

A scheme brings what is its own: a function that sends one request, a function that describes an exception of its
library as a `Failure`, and its error table, a tuple of `Rule`s of which the first that applies counts. `Caller` does
the rest, the same for every service. The libraries' own retries are off, so that one budget of time holds for all
tries.
"""

from __future__ import annotations

import contextvars
import http.client
import importlib
import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from types import ModuleType
from typing import Final, TypeVar

from pipecrypt.errors import KeyServiceError, MissingExtraError, PipecryptError
from pipecrypt.vocabulary.retry import Retry
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = [
    "BUSY_STATUSES",
    "CallRate",
    "Caller",
    "Failure",
    "FailureKind",
    "PassingError",
    "Patience",
    "Rule",
    "import_extra",
    "is_this_machine",
    "quiet_loggers",
    "retry_after",
    "take_data_key",
]

BUSY_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
_MAX_WAIT_SECONDS: Final = 3600
_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Answer = TypeVar("_Answer")


class PassingError(Exception):
    """A failure that may be over soon: throttled, busy, no answer. Never shown; its `error` is.

    Args:
        error: what the user sees when time runs out.
        wait_seconds: what the service asked to wait at least.
    """

    def __init__(self, error: PipecryptError, *, wait_seconds: float = 0.0) -> None:
        """Keep both."""
        super().__init__(error.message)
        self.error = error
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one call may take, with all its tries. Clock, sleep and chance are replaced in tests.

    Args:
        total_seconds: no new try begins later than this after the first.
        connect_seconds: how long one try waits for a connection.
        answer_seconds: how long one try waits for an answer.
        clock: a clock that never goes back, in seconds.
        sleep: waits.
        chance: returns a number from 0 up to 1.
    """

    total_seconds: float = 60.0
    connect_seconds: float = 5.0
    answer_seconds: float = 10.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = secrets.SystemRandom().random

    def call(self, attempt: Callable[[], _Result]) -> _Result:
        """Return what `attempt` returns, trying again after each PassingError while time is left.

        Raises:
            PipecryptError: that of the last PassingError.
            Exception: whatever else `attempt` raised.
        """
        retry = Retry(self.total_seconds, clock=self.clock, pause=self._pause, jitter=self.chance)
        try:
            return retry.call(attempt, is_passing=lambda error: isinstance(error, PassingError))
        except PassingError as failure:
            raise failure.error from None

    def _pause(self, seconds: float) -> bool:
        self.sleep(seconds)
        return False


class CallRate:
    """An upper bound on calls in a second, over all threads that share it.

    Args:
        max_per_second: calls are at least the reciprocal of this apart.
        clock: a clock that never goes back, in seconds.
        sleep: waits.
    """

    __slots__ = ("_clock", "_gap_seconds", "_lock", "_next", "_sleep")

    def __init__(self, max_per_second: float, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        """Let the first call pass at once."""
        if not max_per_second > 0:
            raise ValueError("a rate is positive")
        self._gap_seconds = 1 / max_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Return when the next call may be made."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap_seconds
        if turn > now:
            self._sleep(turn - now)


class FailureKind(Enum):
    """What came in the place of an answer."""

    REFUSED = auto()  # the service answered, and did not do it
    NO_LOGIN = auto()  # the library found no credentials, or none that work
    LOST = auto()  # no answer came
    NONSENSE = auto()  # what came is not an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed try, as data: what rules look at, and what may be shown of it.

    Args:
        kind: what came in the place of an answer.
        status: of HTTP; 0 where there is none.
        codes: the service's names for it.
        words: the service's text in lower case; searched, never shown, because it may hold anything.
        shown: what errors show: codes, and the class of an exception.
        wait_seconds: what the service asked to wait at least.
    """

    kind: FailureKind = FailureKind.REFUSED
    status: int = 0
    codes: tuple[str, ...] = ()
    words: str = ""
    shown: str = ""
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of an error table. It applies where all that it names holds; what is left empty always does.

    Args:
        message: after the key reference; {service}, {action} and {shown} are filled in.
        hint: likewise; None for that of the error's class.
        error: its class.
        passes: the same call may succeed in a moment.
        kind: of the failure.
        statuses: the status is one of these.
        codes: one of the failure's codes is one of these.
        words: one of these is in the service's text.
        actions: the call was one of these.
    """

    message: str = "{service} refused {action} ({shown})"
    hint: str | None = None
    error: type[PipecryptError] = KeyServiceError
    passes: bool = False
    kind: FailureKind = FailureKind.REFUSED
    statuses: Container[int] = ()
    codes: Set[str] = frozenset()
    words: tuple[str, ...] = ()
    actions: Set[str] = frozenset()

    def applies(self, failure: Failure, action: str) -> bool:
        """Return whether it is about a failure of an action."""
        return (
            failure.kind is self.kind
            and (not self.statuses or failure.status in self.statuses)
            and (not self.codes or not self.codes.isdisjoint(failure.codes))
            and (not self.words or any(part in failure.words for part in self.words))
            and (not self.actions or action in self.actions)
        )


_NONSENSE: Final = Rule(kind=FailureKind.NONSENSE, message="the answer to {action} makes no sense ({shown})")


class Caller:
    """Calls a key service for one key; a scheme's client is one that knows its requests. Safe across threads.

    Args:
        text: the key reference; what errors name.
        service: what errors call it.
        rules: the service's error table; the last one applies to every refusal.
        patience: how long a call may take.
        describe: what an exception of the service's library means.
        loggers: loggers of that library that would tell of keys; silenced while a call runs.
        rate: bounds the calls; None for no bound.
    """

    __slots__ = ("_describe", "_loggers", "_rate", "_rules", "_service", "patience", "text")

    def __init__(
        self,
        text: str,
        service: str,
        rules: Sequence[Rule],
        *,
        patience: Patience,
        describe: Callable[[Exception], Failure],
        loggers: Iterable[str] = (),
        rate: CallRate | None = None,
    ) -> None:
        """Call nothing."""
        self.text = text
        self.patience = patience
        self._service = service
        self._rules = (*rules, _NONSENSE)
        self._describe = describe
        self._loggers = tuple(loggers)
        self._rate = rate

    def call(self, action: str, send: Callable[[], _Answer | Failure], read: Callable[[_Answer], _Result]) -> _Result:
        """Return what `read` makes of the answer to one request, sent again while failures pass.

        Args:
            action: what is asked, for errors and hints.
            send: sends the request once. Where it returns a Failure, or raises, the error table is looked up.
            read: checks the answer; raises PassingError where it was damaged on its way.

        Raises:
            KeyServiceError: the service refused or failed, or no answer came in time.
            PipecryptError: another error of the table, or of `read`.
        """

        def attempt() -> _Result:
            if self._rate is not None:
                self._rate.wait()
            try:
                answer = send()
            except PipecryptError:
                raise
            except Exception as error:
                # Its text may hold anything, so neither it nor the exception itself goes on.
                raise self._mapped(action, self._describe(error)) from None
            if isinstance(answer, Failure):
                raise self._mapped(action, answer)
            return read(answer)

        with quiet_loggers(self._loggers):
            return self.patience.call(attempt)

    def refusal(self, what: str, *, hint: str | None = None) -> KeyServiceError:
        """Return the error of an answer that cannot be accepted."""
        return KeyServiceError(f"{self.text}: {what}", hint=hint)

    def __repr__(self) -> str:
        """Show the key reference."""
        return f"<{type(self).__name__} {self.text}>"

    def _mapped(self, action: str, failure: Failure) -> PipecryptError | PassingError:
        rule = next(rule for rule in self._rules if rule.applies(failure, action))
        filled = {"service": self._service, "action": action, "shown": failure.shown}
        hint = None if rule.hint is None else rule.hint.format(**filled)
        mapped = rule.error(f"{self.text}: {rule.message.format(**filled)}", hint=hint)
        if not rule.passes:
            return mapped
        _logger.info("%s: %s failed, which may pass: %s", self.text, action, failure.shown)
        return PassingError(mapped, wait_seconds=failure.wait_seconds)


@contextmanager
def quiet_loggers(names: Iterable[str]) -> Iterator[None]:
    """Drop what the named loggers log below a warning in this thread, while the block runs.

    SDKs write whole requests and answers into their debug logs, keys in the clear among them. The program's own use of
    the SDK logs as it did.

    Args:
        names: the loggers that the records are given to; a filter is not asked for records of loggers below.
    """
    for name in names:
        logger = logging.getLogger(name)
        if _drop not in logger.filters:
            logger.addFilter(_drop)
    token = _in_call.set(True)
    try:
        yield
    finally:
        _in_call.reset(token)


_in_call: Final = contextvars.ContextVar("pipecrypt_in_call", default=False)


def _drop(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or not _in_call.get()


def import_extra(what: str, package: str, extra: str, *names: str) -> tuple[ModuleType, ...]:
    """Return modules of a package that comes with an extra.

    Args:
        what: keys of what service need it, for the error.
        package: the distribution's name.
        extra: of pipecrypt.
        names: of the modules.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return tuple(map(importlib.import_module, names))
    except ImportError as error:
        raise MissingExtraError(f"keys {what} need {package}", hint=f'pip install "pipecrypt[{extra}]"') from error


def retry_after(headers: Mapping[str, str] | http.client.HTTPMessage) -> float:
    """Return the seconds that a busy service asked to wait; 0 where it did not, or for longer than an hour."""
    text = headers.get("Retry-After") or ""
    return float(text) if text.isdecimal() and int(text) <= _MAX_WAIT_SECONDS else 0.0


def is_this_machine(host: str) -> bool:
    """Return whether a host is the loopback interface, by its address or as localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def take_data_key(key_bytes: bytearray, refusal: PipecryptError) -> DataKey:
    """Return the 256-bit key in a buffer, which is wiped; raise `refusal` where it is of another size."""
    try:
        if len(key_bytes) != DATA_KEY_BYTES:
            raise refusal
        return DataKey(key_bytes)
    finally:
        key_bytes[:] = bytes(len(key_bytes))
