"""Add up a verification while it goes on, in any order. What it adds up to is left to report."""

from __future__ import annotations

import logging
from bisect import insort
from typing import Final

from pipecrypt.dataset.verifying.file_inspection import Inspected
from pipecrypt.dataset.verifying.report import Unchecked
from pipecrypt.errors import ConflictError, PipecryptError
from pipecrypt.manifest.findings import Finding, FindingKind

__all__ = ["Tally"]

_KEPT_FAILURES: Final = 20
_logger = logging.getLogger(__name__)


class Tally:
    """Findings and failures so far; keeps nothing of files that are as they were signed. Used by one thread.

    Attributes:
        files: how many were checked to the end.
        bytes: their sizes.
        failures: how many files could not be checked.
        changed: paths of those of them that changed while they were read.
        unfinished: tables below `_pipecrypt/` that runs noted for a version that is still to come.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.files = 0
        self.bytes = 0
        self.failures = 0
        self.unfinished = 0
        self.changed: set[str] = set()
        self._findings: dict[str, list[Finding]] = {}
        self._sizes: dict[str, int] = {}  # of files that were checked, and differ
        self._failures: list[tuple[str, int, PipecryptError]] = []

    def take(self, inspected: Inspected) -> None:
        """Take what became of one file."""
        for finding in inspected.findings:
            self.find(finding)
        if inspected.failure is not None:
            self.fail(inspected.path, inspected.failure)
        else:
            self.files += 1
            self.bytes += inspected.size_bytes
            if inspected.findings:
                self._sizes[inspected.path] = inspected.size_bytes

    def find(self, finding: Finding) -> None:
        """Take a finding about a file that could not be looked into."""
        self._findings.setdefault(finding.path, []).append(finding)

    def fail(self, path: str, error: PipecryptError) -> None:
        """Take a failure. The first ones by path are kept, so that the same error is raised whatever the order."""
        self.failures += 1
        if path and isinstance(error, ConflictError):
            self.changed.add(path)
        insort(self._failures, (path, self.failures, error))
        del self._failures[_KEPT_FAILURES:]
        if self.failures <= _KEPT_FAILURES:
            _logger.info("could not check %r: %s", path, error.message)

    def doubtful(self) -> tuple[str, ...]:
        """Return the paths that a second look may show to be as they were signed, sorted."""
        return tuple(sorted(self._findings.keys() | self.changed))

    def forget(self, path: str) -> None:
        """Take back all that was said about a file, which is looked at again."""
        self._findings.pop(path, None)
        size = self._sizes.pop(path, None)
        if size is not None:
            self.files -= 1
            self.bytes -= size
        if path in self.changed:
            self.changed.remove(path)
            self.failures -= 1
            self._failures = [each for each in self._failures if each[0] != path]

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
        return tuple(Unchecked.of(path, error) for path, _, error in self._failures)

    def first_failure(self) -> PipecryptError | None:
        """Return the first failure by path, if there is any."""
        return self._failures[0][2] if self._failures else None
