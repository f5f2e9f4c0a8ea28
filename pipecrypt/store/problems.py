"""Turn what storages raise into our errors, and name what all stores refuse alike."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipecrypt.errors import (
    ConflictError,
    FormatError,
    MissingExtraError,
    PipecryptError,
    SinkNotEmptyError,
    StorageAccessError,
    StorageError,
)
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.retry import http_status

__all__ = [
    "changed",
    "describe",
    "map_errors",
    "not_regular",
    "occupied",
    "replaced_meanwhile",
    "too_large",
    "unknown_outcome",
]

_HINTS: Final = {
    errno.ENOSPC: "free some space, then run again",
    errno.EDQUOT: "free some of the quota, then run again",
    errno.EACCES: "check the permissions of the path",
    errno.EPERM: "check the permissions of the path",
    errno.EROFS: "the file system is mounted read-only; choose another sink",
    errno.EIO: "the device failed; check the system's log",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# Named as text, since neither s3fs nor botocore need be installed.
_HINTS_BY_NAME: Final = {
    "FlexibleChecksumError": "some stores send the checksum of a whole object for a part of it; then set the "
    "storage option config_kwargs: {response_checksum_validation: when_required}",
}
_EXTRAS: Final = {"s3fs": "s3", "gcsfs": "gcs", "adlfs": "azure", "aiohttp": "http", "requests": "http"}
_DENIED: Final = frozenset({401, 403})
_SECRET_QUERY: Final = re.compile(r"([?&][\w.-]+=)[^&\s'\"]+")
_USER_INFO: Final = re.compile(r"://(?:[^/@:\s]*:(?!\d+(?:/|\s|$))[^\s'\"]*@|[^/@\s]*@)")
_SHOWN_CHARACTERS: Final = 300
_NOT_EXPECTED: Final = "this is not what it should be"


@contextmanager
def map_errors(what: str) -> Iterator[None]:
    """Raise whatever the storage raises inside as one of our errors.

    Args:
        what: what was being done, with the path: "cannot write out/a.parquet".

    Raises:
        StorageError: the storage refused or failed.
        StorageAccessError: it denied access.
        MissingExtraError: the package for this storage is not installed.
    """
    try:
        yield
    except PipecryptError:
        raise
    except ImportError as error:
        raise _missing_extra(what, error) from error
    except Exception as error:
        is_denied = isinstance(error, PermissionError) or http_status(error) in _DENIED
        kind = StorageAccessError if is_denied else StorageError
        raise kind(f"{what}: {describe(error)}", hint=_hint(error)) from error


def describe(error: BaseException) -> str:
    """Return one line about a foreign error, without signed queries or passwords."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[:1].lower() + error.strerror[1:]
    else:
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    text = _USER_INFO.sub("://***@", _SECRET_QUERY.sub(r"\1***", text))
    return text[:_SHOWN_CHARACTERS].rstrip(".")


def _hint(error: Exception) -> str | None:
    by_name = _HINTS_BY_NAME.get(type(error).__name__)
    return by_name or (_HINTS.get(error.errno or 0) if isinstance(error, OSError) else None)


def _missing_extra(what: str, error: ImportError) -> MissingExtraError:
    text = str(error).lower()
    for module, extra in _EXTRAS.items():
        if module in text:
            return MissingExtraError(f"{what}: {module} is not installed", hint=f"pip install 'pipecrypt[{extra}]'")
    hint = "install the fsspec package for this kind of URL"
    return MissingExtraError(f"{what}: {describe(error)}", hint=hint)


# ---- what all stores refuse alike ----


def too_large(name: str, max_bytes: int) -> FormatError:
    """Return the error for a small file that is not small."""
    return FormatError(f"{name} is larger than {max_bytes} bytes", hint=_NOT_EXPECTED)


def not_regular(name: str) -> FormatError:
    """Return the error for what should be a small file, and is not a file."""
    return FormatError(f"{name} is not a regular file", hint=_NOT_EXPECTED)


def changed(location: Location) -> ConflictError:
    """Return the error for a file that is not the pinned one any more."""
    return ConflictError(
        f"{location.display} changed while it was read", hint="wait until its writer is done, then run again"
    )


def occupied(location: Location) -> SinkNotEmptyError:
    """Return the error for a file that is there already."""
    return SinkNotEmptyError(f"{location.display} exists already")


def replaced_meanwhile(location: Location) -> ConflictError:
    """Return the error for an object that is not the one any more that was looked at."""
    return ConflictError(
        f"{location.display} was replaced by another run in the meantime",
        hint="let one run at a time write here; look which one goes on, then run again",
    )


def unknown_outcome(location: Location, reason: str) -> ConflictError:
    """Return the error for a file that may or may not have been published."""
    return ConflictError(
        f"{location.display} may or may not have been published: {reason}",
        hint="look whether it is there before running again; nothing was deleted",
    )
