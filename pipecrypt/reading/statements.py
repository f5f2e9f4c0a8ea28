"""Find what was signed about the files of one file system, and keep the datasets opened so far. Comparing: views.

A dataset's statement is read once, not for each of its files. It is read again when a file is not as it says, or not
in its list, because the dataset may have a new version since; and when it expires.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

from pipecrypt.dataset.opening import SignedDataset, open_above, open_beside
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.paths import is_reserved
from pipecrypt.storage.small_files import FilesystemFiles

__all__ = ["FoundStatements", "PinnedStatements", "Statements"]


class Statements(Protocol):
    """Says what was signed about a file; safe to use from several threads."""

    @property
    def generation(self) -> int:
        """A number that changes when a statement was replaced: what was shown under the one before is outdated."""

    def find(self, path: str) -> SignedFile | None:
        """Return what was signed about a file; None for a statement or list of files itself, which says it by itself.

        Raises:
            NotTrustedError: there is no statement about it, or too few trusted keys signed it.
            IntegrityError: the statement does not hold, or the file was not signed.
        """

    def find_again(self, path: str, refused: SignedFile) -> SignedFile | None:
        """Return what a newer statement says about a file that was refused; None if there is none."""


class PinnedStatements:
    """What was signed about files that were listed before, once and for all: versions are never mixed.

    Args:
        files: by path in the file system.
    """

    generation = 0

    def __init__(self, files: Mapping[str, SignedFile]) -> None:
        """Keep them."""
        self._files = dict(files)

    def find(self, path: str) -> SignedFile | None:
        """Return what was signed about a file."""
        found = self._files.get(path)
        if found is None:
            raise IntegrityError(f"{path} is none of the signed files that were opened", hint="open it by its own name")
        return found

    def find_again(self, path: str, refused: SignedFile) -> SignedFile | None:
        """Return None."""
        return None


class FoundStatements:
    """Looks for statements as files are opened.

    Args:
        fs: the fsspec file system that stores the files.
        requirements: what must hold of a statement.
    """

    def __init__(self, fs: Any, requirements: Requirements) -> None:
        """Look for nothing yet."""
        self._files = FilesystemFiles(fs)
        self._requirements = requirements
        self._lock = threading.Lock()
        self._datasets: dict[str, SignedDataset] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """How many statements were replaced."""
        return self._generation

    def find(self, path: str) -> SignedFile | None:
        """Return what was signed about a file, first by the datasets that are open: climbing to one costs requests."""
        with self._lock:
            for dataset in self._datasets.values():
                below = dataset.below(path)
                if below is not None and below in dataset.entries and not self._is_expired(dataset):
                    return dataset.file(below)
            return self._look(path)

    def find_again(self, path: str, refused: SignedFile) -> SignedFile | None:
        """Return what is signed about a file now, if that is something else."""
        with self._lock:
            found = self._look(path)
        return None if found == refused else found

    def _look(self, path: str) -> SignedFile | None:
        dataset = open_above(self._files, path, self._requirements)
        if dataset is None:
            return open_beside(self._files, path, self._requirements)
        known = self._datasets.get(dataset.root)
        if known is not None and known.verified.statement_sha256 != dataset.verified.statement_sha256:
            self._generation += 1
        self._datasets[dataset.root] = dataset
        below = dataset.below(path) or ""
        return None if is_reserved(below) else dataset.file(below)

    def _is_expired(self, dataset: SignedDataset) -> bool:
        expires = dataset.verified.manifest.expires
        return expires is not None and self._requirements.clock() >= expires
