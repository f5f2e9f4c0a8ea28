"""Try a call of a store or a key service again after a failure that passes, until a deadline.

Clients come with retries of their own, which multiply: s3fs makes five attempts around five of botocore, and reading
five around those. For S3 both are switched off (see filesystem), so that this file decides alone.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pipecrypt.errors import PipecryptError

__all__ = ["Retry", "TruncatedError", "error_code", "http_status", "is_transient"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
_MOST_UNREACHABLE: Final = 4  # attempts at an address where nobody answers, which is most often mistyped
_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# Of S3 and Azure. Key services have tables of their own. One that also says that nothing was done belongs into
# `_NOT_DONE` of store/conditional.py too.
_CODES: Final = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"}
    | {"RequestLimitExceeded", "TooManyRequests", "TooManyRequestsException", "BandwidthLimitExceeded"}
)
_PERMANENT: Final = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_ERRNOS: Final = frozenset(
    {errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
    | {errno.ENETRESET}
)
# Known by name, because their packages are extras: of aiohttp, botocore, gcsfs and Azure.
_PASSING: Final = frozenset(
    {"ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError", "IncompleteReadError", "IncompleteRead"}
    | {"HTTPClientError", "ConnectionClosedError", "ReadTimeoutError", "ResponseStreamingError", "ResponseParserError"}
    | {"ServiceRequestError", "ServiceResponseError", "ChecksumError", "FlexibleChecksumError"}
)
_UNREACHABLE: Final = frozenset({"EndpointConnectionError", "ClientConnectorError", "ConnectionRefusedError"})


class TruncatedError(Exception):
    """Fewer bytes came than were asked for."""


@dataclass(slots=True)
class Retry:
    """Tries calls again, with pauses that grow and differ between clients, so that they do not all come back at once.

    Args:
        deadline_seconds: how long one call is tried; 0 for one attempt.
        clock: seconds that only go forwards.
        pause: waits so many seconds; true ends the attempts.
        jitter: returns a number from 0 to 1.
    """

    deadline_seconds: float
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], bool] | None = None
    jitter: Callable[[], float] = random.random
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Let no call be tried again: its result is not wanted any more."""
        self._stopped.set()

    def call(self, action: Callable[[], _T], *, is_passing: Callable[[BaseException], bool] | None = None) -> _T:
        """Return what `action` returns, tried until it does.

        Args:
            action: one attempt; it may be made twice although the first took effect.
            is_passing: says which failures pass; default `is_transient`.

        Raises:
            Exception: the last failure, where it is permanent or time is over.
        """
        end = self.clock() + self.deadline_seconds
        attempts, longest = 0, _FIRST_PAUSE_SECONDS
        while True:
            attempts += 1
            try:
                return action()
            except Exception as error:
                seconds = longest * (0.5 + self.jitter() / 2) + getattr(error, "wait_seconds", 0.0)  # as it was asked
                if not (is_passing or is_transient)(error) or self.clock() + seconds >= end:
                    raise
                if (_is_unreachable(error) and attempts >= _MOST_UNREACHABLE) or self._stopped.is_set():
                    raise
                _log.info("attempt %d failed, next in %.1f s: %s", attempts, seconds, type(error).__name__)
                if (self.pause or self._stopped.wait)(seconds):
                    raise
            longest = min(longest * 2, _LONGEST_PAUSE_SECONDS)


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed in a moment: connections, timeouts, short bodies, statuses, codes."""
    if isinstance(error, PipecryptError):
        return False
    status = http_status(error)
    if status is not None and status not in _STATUSES:
        # Some stores answer 200 or 400 and tell in the body that it was not done.
        return error_code(error) in _CODES
    if status is not None or error_code(error) in _CODES:
        return True
    return any(_passes(each) for each in _chain(error))


def _passes(error: BaseException) -> bool:
    if isinstance(error, _PERMANENT):
        return False
    if isinstance(error, ConnectionError | TimeoutError | TruncatedError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    return any(kind.__name__ in _PASSING or kind.__name__ in _UNREACHABLE for kind in type(error).__mro__)


def _is_unreachable(error: BaseException) -> bool:
    return any(type(each).__name__ in _UNREACHABLE for each in _chain(error))


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status that a store answered with, or None where it did not answer or the client hides it."""
    for each in _chain(error):
        answer = getattr(each, "response", None)
        if isinstance(answer, dict):  # botocore
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # aiohttp, gcsfs, Azure
            # aiohttp's parser has a code, too, which no server sent.
            names = ("status", "status_code", *(("code",) if type(each).__name__ == "HttpError" else ()))
            named = (getattr(each, name, None) for name in names)
            status = next((value for value in named if isinstance(value, int) and not isinstance(value, bool)), None)
        if isinstance(status, int):
            return status
    return None


def error_code(error: BaseException) -> str | None:
    """Return the name that S3 or Azure gives to an error, such as NoSuchBucket, or None."""
    for each in _chain(error):
        answer = getattr(each, "response", None)
        if isinstance(answer, dict) and isinstance(code := answer.get("Error", {}).get("Code"), str):
            return code
        if isinstance(code := getattr(each, "error_code", None), str):
            return str(getattr(code, "value", code))  # of Azure, an enumeration
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was made from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
