"""Add up a verification while it goes on, in any order. What it adds up to is left to report."""

from __future__ import annotations

import logging
from bisect import insort
from typing import Final

from pipecrypt.dataset.verifying.file_inspection import Inspected
from pipecrypt.dataset.verifying.report import Unchecked
from pipecrypt.errors import PipecryptError
from pipecrypt.manifest.findings import Finding

__all__ = ["Tally"]

_KEPT_FAILURES: Final = 20
_logger = logging.getLogger(__name__)


class Tally:
    """Findings and failures so far; keeps nothing of files that are as they were signed. Used by one thread."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.files = 0
        self.bytes = 0
        self.failures = 0
        self._findings: list[Finding] = []
        self._failures: list[tuple[str, int, PipecryptError]] = []

    def take(self, inspected: Inspected) -> None:
        """Take what became of one file."""
        self._findings += inspected.findings
        if inspected.failure is not None:
            self.fail(inspected.path, inspected.failure)
        else:
            self.files += 1
            self.bytes += inspected.size_bytes

    def find(self, finding: Finding) -> None:
        """Take a finding about a file that could not be looked into."""
        self._findings.append(finding)

    def fail(self, path: str, error: PipecryptError) -> None:
        """Take a failure. The first ones by path are kept, so that the same error is raised whatever the order."""
        self.failures += 1
        insort(self._failures, (path, self.failures, error))
        del self._failures[_KEPT_FAILURES:]
        if self.failures <= _KEPT_FAILURES:
            _logger.info("could not check %r: %s", path, error.message)

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings, sorted by path."""
        return tuple(sorted(self._findings, key=lambda finding: finding.path))

    def unchecked(self) -> tuple[Unchecked, ...]:
        """Return the first failures, sorted by path."""
        return tuple(Unchecked.of(path, error) for path, _, error in self._failures)

    def first_failure(self) -> PipecryptError | None:
        """Return the first failure by path, if there is any."""
        return self._failures[0][2] if self._failures else None
