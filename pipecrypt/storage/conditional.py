"""One object of a store that compares and changes in one step, whatever the store's API calls it.

A request may be held back on its way for as long as a network likes, and arrive after another process has changed the
object. So what replaces, copies or removes says what it has seen: the object's tag (an ETag, or a generation), or that
nothing was there. Which kind of store says it how is in s3_object, gcs_object and azure_object; trying again, and what
an answer means, is the same for all and stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pipecrypt.errors import ConflictError, PipecryptError
from pipecrypt.store.azure import AzureObject
from pipecrypt.store.conditional import ObjectHead, repeat_until_known
from pipecrypt.store.filesystem import RemoteFilesystem
from pipecrypt.store.gcs import GCSObject
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe
from pipecrypt.store.publication import unknown_outcome
from pipecrypt.store.s3_object import S3Object
from pipecrypt.vocabulary.retry import error_code, http_status, is_transient

__all__ = [
    "ConditionalChange",
    "ConditionalObject",
    "asks_to_repeat",
    "carry_out",
    "conditional_object",
    "is_condition_failed",
    "is_worth_repeating",
    "knows_no_condition",
    "precondition_failed",
    "replaced_meanwhile",
]

_GCS: Final = frozenset({"gs", "gcs"})
_AZURE: Final = frozenset({"az", "abfs", "abfss"})
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

    def read(self, max_bytes: int) -> tuple[bytes, str] | None:
        """Return at most so many bytes from the beginning, and the tag of the object that they are of."""

    def replace(self, data: bytes | bytearray, write_id: str, *, expected: str | None) -> None:
        """Store a whole object if the one that is there has the tag `expected`; None: if nothing is there."""

    def copy_from(self, path: str, head: ObjectHead, *, expected: str | None) -> None:
        """Become a copy of another object, if that has the tag in `head`, and this one `expected`."""

    def remove(self, *, expected: str | None) -> None:
        """Remove the object, if it has the tag `expected`; None: whatever it is."""


@dataclass(frozen=True, slots=True)
class ConditionalChange:
    """What is asked of an object.

    Args:
        target: the object.
        location: what errors call it.
        expected: the tag that it had; None where nothing was there.
        send: makes the request once.
        is_done: says of what is there whether the request took effect.
    """

    target: ConditionalObject
    location: Location
    expected: str | None
    send: Callable[[], None]
    is_done: Callable[[ObjectHead | None], bool]


def conditional_object(remote: RemoteFilesystem) -> ConditionalObject | None:
    """Return an object of a store that takes conditions; None for storages that have none."""
    if remote.is_s3:
        s3 = S3Object(remote)
        return s3 if s3.takes_conditions else None
    if remote.protocol in _GCS and hasattr(remote.fs, "_call"):
        return GCSObject(remote)
    if remote.protocol in _AZURE and hasattr(remote.fs, "service_client"):
        return AzureObject(remote)
    return None


def carry_out(change: ConditionalChange, remote: RemoteFilesystem) -> bool:
    """Make a request that has a condition, until it is known whether it took effect.

    Returns:
        Whether the store compares there; where it has no such condition, it did nothing.

    Raises:
        ConflictError: something else is there than was expected; or nobody knows what became of the request.
        Exception: as the store's client says; the object is as it was.
    """

    def look(error: Exception) -> Exception | None:
        if not is_condition_failed(error) and not is_transient(error) and not asks_to_repeat(error):
            return error
        head = remote.retry.call(change.target.head)
        if change.is_done(head):
            return None
        if is_condition_failed(error) or (None if head is None else head.tag) != change.expected:
            return replaced_meanwhile(change.location)
        return error

    try:
        repeat_until_known(change.send, look, change.location, remote.retry, is_passing=is_worth_repeating)
    except ConflictError:
        raise
    except Exception as error:
        if knows_no_condition(error):
            return False
        if is_transient(error) and http_status(error) not in _NOT_DONE:
            # It may be under way still: nothing that the store was asked is ever known not to arrive.
            raise unknown_outcome(change.location, describe(error)) from error
        raise
    return True


def replaced_meanwhile(location: Location) -> ConflictError:
    """Return the error for an object that is not the one any more that was looked at."""
    return ConflictError(
        f"{location.display} was replaced by another run in the meantime",
        hint="let one run at a time write here; look which one goes on, then run again",
    )


def is_condition_failed(error: BaseException) -> bool:
    """Say whether a store did nothing, because the object is not the one that was expected, or is gone."""
    return isinstance(error, FileNotFoundError | FileExistsError) or precondition_failed(error)


def precondition_failed(error: BaseException) -> bool:
    """Say whether a store compared, and refused because the condition did not hold."""
    if isinstance(error, PipecryptError):  # what was made of an answer is decided
        return False
    return http_status(error) == _CONDITION_FAILED or error_code(error) in {"PreconditionFailed", _EXISTS}


def asks_to_repeat(error: BaseException) -> bool:
    """Say whether a store was busy with another write to the same name: neither has been decided."""
    if isinstance(error, PipecryptError) or precondition_failed(error):
        return False
    return http_status(error) == _CONFLICT or error_code(error) == "ConditionalRequestConflict"


def is_worth_repeating(error: BaseException) -> bool:
    """Say whether the same request, with its condition, may succeed in a moment."""
    return asks_to_repeat(error) or (is_transient(error) and not knows_no_condition(error))


def knows_no_condition(error: BaseException) -> bool:
    """Say whether a store refused a request because it has no such thing as a condition there."""
    if isinstance(error, PipecryptError):
        return False
    status, code = http_status(error), error_code(error)
    if status == _BAD_REQUEST:
        return code in _UNKNOWN_HEADER_CODES | _UNSUPPORTED_CODES
    return status in _UNSUPPORTED or code in _UNSUPPORTED_CODES
