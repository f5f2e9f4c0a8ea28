"""Change one object of a store that compares and changes in one step, whatever its API calls that.

A request may be held back on its way for as long as a network likes, and arrive after another process has changed the
object. So what replaces, copies or removes says what it has seen: the object's tag (an ETag, or a generation), or that
nothing was there. A request that failed may have taken effect, and only its answer was lost: what is there is looked at
before it is said to have failed. How each store says it is in s3_object, gcs and azure.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pipecrypt.errors import ConflictError, PipecryptError
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, replaced_meanwhile, unknown_outcome
from pipecrypt.store.protocol import Revision
from pipecrypt.vocabulary.retry import Retry, error_code, http_status, is_transient

__all__ = [
    "WRITE_ID",
    "ConditionalObject",
    "ObjectHead",
    "asks_to_repeat",
    "carry_out",
    "is_condition_failed",
    "is_worth_repeating",
    "knows_no_condition",
    "new_write_id",
    "precondition_failed",
    "repeat_until_known",
    "settle",
]

WRITE_ID = "pipecrypt-write-id"
"""Name of the metadata that tells which write made an object."""
_WRITE_ID_BYTES: Final = 16
_log = logging.getLogger(__name__)


def new_write_id() -> str:
    """Return a random id for one write."""
    return secrets.token_hex(_WRITE_ID_BYTES)


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What a store says about an object.

    Args:
        size_bytes: its size.
        write_id: what its writer marked it with; None where pipecrypt did not write it.
        tag: changes when the object does; what conditions compare. None where the store does not tell.
    """

    size_bytes: int
    write_id: str | None
    tag: str | None = None


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


_CONDITION_FAILED: Final = 412
_CONFLICT: Final = 409
_BAD_REQUEST: Final = 400
_EXISTS: Final = "BlobAlreadyExists"  # Azure answers 409 where "if none is there" does not hold
_UNSUPPORTED: Final = frozenset({405, 501})
_UNSUPPORTED_CODES: Final = frozenset({"NotImplemented", "MethodNotAllowed"})
# Some servers that only speak S3 refuse a header that they do not know as if it were malformed.
_UNKNOWN_HEADER_CODES: Final = frozenset({"InvalidArgument", "InvalidRequest", "BadRequest"})
_NOT_DONE: Final = frozenset({429, 503})  # the store says that it did nothing


class ConditionalObject(Protocol):
    """One object, there or not. Each call is one attempt, and raises what the store's client raises."""

    def head(self) -> ObjectHead | None:
        """Return what is there, or None if nothing is."""

    def tag_of(self, info: Mapping[str, Any]) -> str | None:
        """Return the tag in what fsspec says about an object; None where it says none."""

    def read(self, max_bytes: int, name: str) -> Revision | None:
        """Return a whole small object and its tag, or None if nothing is there.

        Raises:
            FormatError: `name` is larger than that; nothing of it was read.
        """

    def replace(self, data: bytes | bytearray, write_id: str, *, expected: str | None) -> None:
        """Store a whole object if the one that is there has the tag `expected`; None: if nothing is there."""

    def copy_from(self, path: str, head: ObjectHead, *, expected: str | None) -> None:
        """Become a copy of another object, if that has the tag in `head`, and this one `expected`."""

    def remove(self, *, expected: str | None) -> None:
        """Remove the object, if it has the tag `expected`; None: whatever it is."""


def carry_out(
    target: ConditionalObject,
    send: Callable[[], None],
    is_done: Callable[[ObjectHead | None], bool],
    *,
    expected: str | None,
    location: Location,
    retry: Retry,
) -> bool:
    """Make a request that has a condition, until it is known whether it took effect.

    Args:
        target: the object.
        send: makes the request once.
        is_done: says of what is there whether the request took effect.
        expected: the tag that the object had; None where nothing was there.
        location: what errors call the object.
        retry: how often the request is made.

    Returns:
        Whether the store compares there; where it has no such condition, it did nothing.

    Raises:
        ConflictError: something else is there than was expected; or nobody knows what became of the request.
        Exception: as the store's client says; the object is as it was.
    """

    def look(error: Exception) -> Exception | None:
        if not is_condition_failed(error) and not is_transient(error) and not asks_to_repeat(error):
            return error
        head = retry.call(target.head)
        if is_done(head):
            return None
        if is_condition_failed(error) or (None if head is None else head.tag) != expected:
            return replaced_meanwhile(location)
        return error

    try:
        repeat_until_known(send, look, location, retry, is_passing=is_worth_repeating)
    except ConflictError:
        raise
    except Exception as error:
        if knows_no_condition(error):
            return False
        if is_transient(error) and http_status(error) not in _NOT_DONE:
            # It may be under way still: nothing that the store was asked is ever known not to arrive.
            raise unknown_outcome(location, describe(error)) from error
        raise
    return True


def is_condition_failed(error: BaseException) -> bool:
    """Return whether a store did nothing, because the object is not the one that was expected, or is gone."""
    return isinstance(error, FileNotFoundError | FileExistsError) or precondition_failed(error)


def precondition_failed(error: BaseException) -> bool:
    """Return whether a store compared, and refused because the condition did not hold."""
    if isinstance(error, PipecryptError):  # what was made of an answer is decided
        return False
    return http_status(error) == _CONDITION_FAILED or error_code(error) in {"PreconditionFailed", _EXISTS}


def asks_to_repeat(error: BaseException) -> bool:
    """Return whether a store was busy with another write to the same name: neither has been decided."""
    if isinstance(error, PipecryptError) or precondition_failed(error):
        return False
    return http_status(error) == _CONFLICT or error_code(error) == "ConditionalRequestConflict"


def is_worth_repeating(error: BaseException) -> bool:
    """Return whether the same request, with its condition, may succeed in a moment."""
    return asks_to_repeat(error) or (is_transient(error) and not knows_no_condition(error))


def knows_no_condition(error: BaseException) -> bool:
    """Return whether a store refused a request because it has no such thing as a condition there."""
    if isinstance(error, PipecryptError):
        return False
    status, code = http_status(error), error_code(error)
    if status == _BAD_REQUEST:
        return code in _UNKNOWN_HEADER_CODES | _UNSUPPORTED_CODES
    return status in _UNSUPPORTED or code in _UNSUPPORTED_CODES
