"""Compare what was signed with what is there, and name the attack. No file is looked at here.

A comparison returns what it found; nothing found is an empty tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.paths import is_reserved
from pipecrypt.errors import ExpiredError, FutureStatementError, IntegrityError, NotTrustedError, RolledBackError

__all__ = [
    "Finding",
    "FindingKind",
    "KnownDigests",
    "ObservedFile",
    "compare_file",
    "compare_listing",
    "extra",
    "finding_of",
    "missing",
    "not_in_place",
    "nothing_known",
    "refusal",
    "refuse",
]


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
    if findings:
        raise refusal(findings, name=name)


def refusal(findings: Sequence[Finding], *, name: str) -> IntegrityError:
    """Return the error for what was found, at least one thing; see `refuse`."""
    first = findings[0]
    more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    text = f"{name}: {first.path!a}: {first.kind.value}: {first.detail}{more}"
    return _ERRORS.get(first.kind, IntegrityError)(text)


@dataclass(frozen=True, slots=True)
class ObservedFile:
    """What a reader saw of a file's bytes; None where it did not look. It looks at the size and one digest at least.

    Args:
        size_bytes: its size.
        digests: of the whole file, in lower-case hex.
        footer_sha256: of footer, footer length and magic.
        rows: as the footer says.
        kek_ids: sorted, as the key material says.
    """

    size_bytes: int
    digests: Mapping[DigestAlgorithm, str] = field(default_factory=dict, hash=False)
    footer_sha256: str | None = None
    rows: int | None = None
    kek_ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class KnownDigests:
    """What tells a swapped or an old file from a modified one.

    Args:
        paths: from a digest of a whole file to its path in this version.
        earlier: digests of whole files of versions before.
        earlier_paths: paths of files of versions before.
    """

    paths: Mapping[str, str] = field(default_factory=dict, hash=False)
    earlier: Collection[str] = ()
    earlier_paths: Collection[str] = ()


def nothing_known() -> KnownDigests:
    """Return no digests, where nothing is to be told apart."""
    return KnownDigests()


def compare_listing(signed: Collection[str], found: Iterable[str]) -> tuple[Finding, ...]:
    """Return which files are missing and which are extra, sorted by path.

    Args:
        signed: paths of the file list.
        found: every path below the dataset; those under `_pipecrypt/` are left out here.
    """
    there = {path for path in found if not is_reserved(path)}
    expected = frozenset(signed)
    findings = [missing(path) for path in expected - there]
    findings += [extra(path) for path in there - expected]
    return tuple(sorted(findings, key=lambda finding: finding.path))


def compare_file(
    entry: FileEntry, seen: ObservedFile, *, known: Callable[[], KnownDigests] = nothing_known
) -> tuple[Finding, ...]:
    """Return how a file differs from the one that was signed: at most one finding, the most telling.

    Args:
        entry: what was signed.
        seen: what is there.
        known: tells swapped and old files from modified ones; called when the file differs.

    Raises:
        RuntimeError: the observation holds no digest that was signed, so it could prove nothing.
    """
    signed = entry.digests()
    common = signed.keys() & seen.digests.keys()
    if not common and seen.footer_sha256 is None:
        raise RuntimeError("a file is compared by a digest of it or of its footer")
    differing = _differences(entry, seen)
    if not differing:
        return ()
    kind, detail = _attack(entry, seen, known())
    return (Finding(kind, entry.path, detail or f"another {' and '.join(differing)} than was signed"),)


def _differences(entry: FileEntry, seen: ObservedFile) -> list[str]:
    signed = entry.digests()
    pairs: list[tuple[str, object, object]] = [("size", entry.size_bytes, seen.size_bytes)]
    pairs += [(kind.value, digest, seen.digests.get(kind)) for kind, digest in signed.items()]
    pairs += [
        ("footer", entry.footer_sha256, seen.footer_sha256),
        ("number of rows", entry.rows, seen.rows),
        ("list of KEK ids", entry.kek_ids, seen.kek_ids),
    ]
    return [name for name, expected, found in pairs if found is not None and found != expected]


def _attack(entry: FileEntry, seen: ObservedFile, known: KnownDigests) -> tuple[FindingKind, str]:
    for digest in seen.digests.values():
        other = known.paths.get(digest)
        if other is not None and other != entry.path:
            return FindingKind.SWAPPED, f"it is the file that was signed as {other!a}"
        if digest in known.earlier:
            return FindingKind.ROLLED_BACK, "it is a file of an earlier version"
    if seen.size_bytes < entry.size_bytes:
        return FindingKind.TRUNCATED, f"it has {seen.size_bytes} bytes, but {entry.size_bytes} were signed"
    return FindingKind.MODIFIED, ""
