"""What a verification says in the end, and how it adds up while it goes on."""

from __future__ import annotations

import logging
from bisect import insort
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Final, Self

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.statement.findings import Finding, FindingKind
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.dataset.verify.inspection import InspectionResult
from pipecrypt.errors import ConflictError, PipecryptError

__all__ = ["PolicySummary", "Tally", "Unchecked", "VerifyReport"]
_KEPT_FAILURES: Final = 20
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """What was promised about the encryption of every file.

    Args:
        footer: `plaintext` or `encrypted`.
        columns: dotted paths of the leaf columns that are encrypted.
        others: whether all other columns are `encrypted` or `plaintext`.
        master_key_ids: of all of them and the footers, sorted.
        bind_path: whether each file stores dataset id and path.
    """

    footer: str
    columns: tuple[str, ...]
    others: str
    master_key_ids: tuple[str, ...]
    bind_path: bool

    @classmethod
    def of(cls, policy: PromisedPolicy) -> Self:
        """Return a promise in short."""
        return cls(
            footer=policy.footer.value,
            columns=tuple(".".join(column.path) for column in policy.columns),
            others="plaintext" if policy.other_key_ids is None else "encrypted",
            master_key_ids=tuple(sorted(policy.master_key_ids)),
            bind_path=policy.bind_path,
        )


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A file that could not be checked to the end: nothing is known about it.

    Args:
        path: inside the dataset.
        error: the class of what went wrong.
        message: its text.
    """

    path: str
    error: str
    message: str

    @classmethod
    def of(cls, path: str, error: PipecryptError) -> Self:
        """Return the record of a failure."""
        return cls(path, type(error).__name__, error.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was verified, and what is not as it was signed.

    Args:
        root: the dataset, or the single file.
        dataset_id: 32 lower-case hex digits.
        version: of the statement.
        created: when it was signed.
        expires: from when on it is refused; None for never.
        key_ids: of the trusted keys that signed it.
        policy: what was promised.
        digests: which digests of whole files were compared.
        tags_checked: whether GCM tags were checked too, with keys.
        whole_dataset: whether all files were looked at, rather than some of them; true of a single file.
        signed_files: how many files were signed.
        files: how many of them were there and checked to the end.
        bytes: size of those, in bytes.
        seconds: wall-clock time.
        findings: sorted by path; empty where everything is as it was signed.
        unchecked: the first files that could not be checked, sorted by path.
        unchecked_files: how many there are.
        unfinished_files: tables below `_pipecrypt/` that runs wrote for a version that is still to come.
    """

    root: str
    dataset_id: str
    version: int
    created: datetime
    expires: datetime | None
    key_ids: tuple[str, ...]
    policy: PolicySummary
    digests: tuple[DigestAlgorithm, ...]
    tags_checked: bool
    whole_dataset: bool
    signed_files: int
    files: int
    bytes: int
    seconds: float
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...] = ()
    unchecked_files: int = 0
    unfinished_files: int = 0


class Tally:
    """Findings and failures so far; keeps nothing of files that are as they were signed. Used by one thread.

    Attributes:
        files: how many were checked to the end.
        bytes: their sizes.
        unfinished: tables below `_pipecrypt/` that runs noted for a version that is still to come.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.files = 0
        self.bytes = 0
        self.unfinished = 0
        self._findings: dict[str, list[Finding]] = {}
        self._sizes_of_differing: dict[str, int] = {}  # of files that were checked
        self._failed: dict[str, bool] = {}  # files that could not be checked; whether because they changed meanwhile
        self._failures: list[tuple[str, PipecryptError]] = []  # the first of them by path

    @property
    def failures(self) -> int:
        """How many files could not be checked."""
        return len(self._failed)

    def take(self, inspected: InspectionResult) -> None:
        """Take what became of one file."""
        for finding in inspected.findings:
            self.find(finding)
        if inspected.failure is not None:
            self.fail(inspected.path, inspected.failure)
        else:
            self.files += 1
            self.bytes += inspected.size_bytes
            if inspected.findings:
                self._sizes_of_differing[inspected.path] = inspected.size_bytes

    def find(self, finding: Finding) -> None:
        """Take a finding about a file that could not be looked into."""
        self._findings.setdefault(finding.path, []).append(finding)

    def fail(self, path: str, error: PipecryptError) -> None:
        """Take a failure, the last one of each file. The first files by path are kept, whatever the order."""
        self._drop_failure(path)
        self._failed[path] = bool(path) and isinstance(error, ConflictError)
        insort(self._failures, (path, error), key=itemgetter(0))
        del self._failures[_KEPT_FAILURES:]
        if self.failures <= _KEPT_FAILURES:
            _logger.info("could not check %r: %s", path, error.message)

    def doubtful(self) -> tuple[str, ...]:
        """Return the paths that a second look may show to be as they were signed, sorted."""
        return tuple(sorted(self._findings.keys() | {path for path, changed in self._failed.items() if changed}))

    def forget(self, path: str) -> None:
        """Take back all that was said about a file, which is looked at again."""
        self._findings.pop(path, None)
        size = self._sizes_of_differing.pop(path, None)
        if size is not None:
            self.files -= 1
            self.bytes -= size
        self._drop_failure(path)

    def replace_missing(self, finding: Finding) -> None:
        """Take a finding that says more of a file than that it is missing."""
        kept = [each for each in self._findings.get(finding.path, ()) if each.kind is not FindingKind.MISSING]
        self._findings[finding.path] = [finding, *kept]

    def of(self, path: str) -> tuple[Finding, ...]:
        """Return the findings about one file."""
        return tuple(self._findings.get(path, ()))

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings, sorted by path."""
        return tuple(finding for path in sorted(self._findings) for finding in self._findings[path])

    def unchecked(self) -> tuple[Unchecked, ...]:
        """Return the first failures, sorted by path."""
        return tuple(Unchecked.of(path, error) for path, error in self._failures)

    def first_failure(self) -> PipecryptError | None:
        """Return the first failure by path, if there is any."""
        return self._failures[0][1] if self._failures else None

    def _drop_failure(self, path: str) -> None:
        if self._failed.pop(path, None) is not None:
            self._failures = [each for each in self._failures if each[0] != path]
