"""What verification found, named by its attack. Finding it is left to verify and compare, showing it to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipecrypt.errors import ExpiredError, FutureStatementError, IntegrityError, NotTrustedError, RolledBackError

__all__ = ["Finding", "FindingKind", "extra", "finding_of", "missing", "not_in_place", "refuse"]


class FindingKind(StrEnum):
    """Names of attacks, most of them those of The Update Framework."""

    MISSING = "missing"
    EXTRA = "extra"
    MODIFIED = "modified"
    TRUNCATED = "truncated"
    SWAPPED = "swapped"
    ROLLED_BACK = "rolled back"
    NOT_TRUSTED = "not trusted"
    EXPIRED = "expired"
    FROM_FUTURE = "from the future"
    PLAINTEXT = "plaintext where encryption was promised"
    NOT_IN_PLACE = "not in place"
    LEFT_OVER = "left over"
    UNEXPECTED = "unexpected"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was signed.

    Args:
        kind: the attack.
        path: of the file inside the dataset, or of the statement.
        detail: what differs, in words; lower case, no full stop, no values of the data.
    """

    kind: FindingKind
    path: str
    detail: str


_ERRORS: Final[dict[FindingKind, type[IntegrityError]]] = {
    FindingKind.ROLLED_BACK: RolledBackError,
    FindingKind.NOT_TRUSTED: NotTrustedError,
    FindingKind.EXPIRED: ExpiredError,
    FindingKind.FROM_FUTURE: FutureStatementError,
}


def missing(path: str) -> Finding:
    """Return the finding that a signed file is not at its place."""
    return Finding(FindingKind.MISSING, path, "it was signed, but is not there")


def extra(path: str) -> Finding:
    """Return the finding that a file was not signed."""
    return Finding(FindingKind.EXTRA, path, "it is there, but was not signed")


def not_in_place(path: str) -> Finding:
    """Return the finding that the signed file waits elsewhere, so that whoever looks at its place reads another."""
    return Finding(FindingKind.NOT_IN_PLACE, path, "published, but not in its place yet: run again")


def finding_of(error: IntegrityError, path: str) -> Finding:
    """Return the finding that an error of `verify_envelope` stands for, for a report that goes on.

    Args:
        error: what was raised.
        path: of the statement.
    """
    for kind, error_class in _ERRORS.items():
        if isinstance(error, error_class):
            return Finding(kind, path, error.message)
    return Finding(FindingKind.MODIFIED, path, error.message)


def refuse(findings: Sequence[Finding], *, name: str) -> None:
    """Pass if nothing was found; a reader calls it before it releases a byte.

    Args:
        findings: of one file or dataset.
        name: what errors call the dataset or file.

    Raises:
        IntegrityError: something was found; of the class that fits the first.
    """
    if not findings:
        return
    first = findings[0]
    more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    text = f"{name}: {first.path!a}: {first.kind.value}: {first.detail}{more}"
    raise _ERRORS.get(first.kind, IntegrityError)(text)
