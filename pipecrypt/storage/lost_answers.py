"""A request that failed may have taken effect: its answer was lost. Look at what is there before saying that it failed.

Which request it is, what tells that it took effect, and which failures pass are left to the callers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe
from pipecrypt.store.publication import unknown_outcome
from pipecrypt.vocabulary.retry import Retry

__all__ = ["repeat_until_known", "settle"]

_log = logging.getLogger(__name__)


def repeat_until_known(
    send: Callable[[], None],
    look: Callable[[Exception], Exception | None],
    location: Location,
    retry: Retry,
    *,
    is_passing: Callable[[BaseException], bool] | None = None,
) -> None:
    """Make a request until it is known whether it took effect.

    Args:
        send: makes the request once.
        look: looks at what is there after a failure; see `settle`.
        location: what errors call the object.
        retry: how often the request is made.
        is_passing: says after which errors of `look` it is made again; default `is_transient`.

    Raises:
        ConflictError: nobody knows what became of the request. Nothing is deleted.
        Exception: the last error of `look`.
    """

    def attempt() -> None:
        try:
            send()
        except Exception as error:
            settle(error, look, location)

    retry.call(attempt, is_passing=is_passing)


def settle(error: Exception, look: Callable[[Exception], Exception | None], location: Location) -> None:
    """Return if a request took effect although it failed with `error`; else raise what became of it.

    Args:
        error: the failure.
        look: looks at what is there. Returns None where the request took effect, `error` itself where it did not, or
            the error for what is there instead. What it raises means that the storage does not tell.
        location: what errors call the object.

    Raises:
        ConflictError: the storage does not tell.
        Exception: what `look` returned.
    """
    try:
        failure = look(error)
    except Exception as unreadable:
        raise unknown_outcome(location, describe(unreadable)) from error
    if failure is error:
        raise error
    if failure is not None:
        raise failure from error
    _log.info("%s was changed although its answer was lost: %s", location.display, describe(error))
