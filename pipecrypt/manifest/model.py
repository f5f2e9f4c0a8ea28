"""The manifest: everything that one signed statement says. Its spelling on disk is left to statement and file_list."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.manifest.clear_columns import ClearColumns
from pipecrypt.manifest.entry import FileEntry, check_count, check_digest
from pipecrypt.manifest.paths import check_file_name, parse_run_id
from pipecrypt.manifest.promise import PromisedPolicy
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["MAX_FILES", "MAX_FILE_LIST_BYTES", "MAX_UNVERIFIED_LIST_BYTES", "FileListSummary", "Manifest"]

MAX_FILES: Final = 10_000_000
MAX_FILE_LIST_BYTES: Final = 1 << 32
# Of a list whose statement nobody checked: some 400,000 files, which take twice as much again once they are read.
MAX_UNVERIFIED_LIST_BYTES: Final = 128 << 20
_DATASET_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileListSummary:
    """What a statement says about its file list.

    Args:
        sha256: of the file list's bytes, in lower-case hex.
        size_bytes: of the file list.
        count: how many files it lists.
        total_bytes: of all those files.
        total_rows: of all those files.

    Raises:
        DocumentError: a member is outside of its range.
    """

    sha256: str
    size_bytes: int
    count: int
    total_bytes: int
    total_rows: int

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_digest("the digest of the file list", self.sha256)
        for name in ("size_bytes", "count", "total_bytes", "total_rows"):
            check_count(name, getattr(self, name))
        if self.count > MAX_FILES or self.size_bytes > MAX_FILE_LIST_BYTES:
            raise DocumentError(f"the file list has more than {MAX_FILES} files or {MAX_FILE_LIST_BYTES} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a signer says about a dataset, or about one file outside of any.

    Args:
        dataset_id: 32 lower-case hex digits, as in the AAD prefix of each file.
        version: counts from 1 for each dataset.
        previous_sha256: digest of the statement of the version before; None in version 1 only.
        created: when, in UTC and whole seconds.
        expires: from when on readers refuse it; None for never.
        policy: what is encrypted.
        digests: which digests of whole files are given, in the order of `DigestAlgorithm`; at least one.
        files: the file list of a dataset, or the one file of a statement beside a file.
        clear_columns: leaf columns that files have, or had, in plaintext; None where they were not noted.
        run: id of the run that wrote the version, where some of its files may still lie in that run's own directory;
            None where all of them were at their places before the statement was signed.

    Raises:
        DocumentError: a member is outside of its range, or contradicts another.
    """

    dataset_id: str
    version: int
    previous_sha256: str | None
    created: datetime
    expires: datetime | None
    policy: PromisedPolicy
    digests: tuple[DigestAlgorithm, ...]
    files: FileListSummary | FileEntry
    run: str | None = None
    clear_columns: ClearColumns | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.run is not None:
            parse_run_id(self.run)
        if _DATASET_ID.fullmatch(self.dataset_id) is None:
            raise DocumentError("the dataset id is not 32 lower-case hex digits")
        self._check_chain()
        self._check_times()
        if not self.digests or self.digests != tuple(kind for kind in DigestAlgorithm if kind in self.digests):
            raise DocumentError("the digests are missing, doubled or in another order")
        if isinstance(self.files, FileEntry):
            check_file_name(self.files.path)
            if tuple(self.files.digests()) != self.digests:
                raise DocumentError("the file has other digests than the manifest names")

    @property
    def file_list(self) -> FileListSummary | None:
        """The file list of a dataset; None for a single file."""
        return self.files if isinstance(self.files, FileListSummary) else None

    @property
    def single_file(self) -> FileEntry | None:
        """The single file; None for a dataset."""
        return self.files if isinstance(self.files, FileEntry) else None

    def _check_chain(self) -> None:
        check_count("version", self.version)
        if self.version == 0 or (self.version == 1) != (self.previous_sha256 is None):
            raise DocumentError("the version is 0, or a digest of the statement before it is missing or too much")
        if self.previous_sha256 is not None:
            check_digest("previous_sha256", self.previous_sha256)

    def _check_times(self) -> None:
        for moment in (self.created, *([self.expires] if self.expires is not None else [])):
            # UTC itself: a zone that is at UTC in winter only would pass here and be written wrong in summer.
            if moment.tzinfo is not UTC or moment.microsecond:
                raise DocumentError("a time is not in UTC and whole seconds")
        if self.expires is not None and self.expires <= self.created:
            raise DocumentError("the statement expires before it is created")
