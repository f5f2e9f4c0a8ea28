"""Tell what may lie below `_pipecrypt/`. Engines that take every Parquet file below a directory read what lies there.

Only names that pipecrypt gives pass. Tables pass where an honest run wrote them for a version to come: see `RunTables`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pipecrypt.dataset.checked_source import computable, digest_file
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.findings import Finding, FindingKind, ObservedFile, compare_file
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY, RUNS_DIRECTORY, parse_run_id
from pipecrypt.errors import ConflictError, ContentError
from pipecrypt.store.open import open_range_source
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.publication import is_temporary
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["NO_JOURNALS", "Journals", "RunTable", "RunTables", "find_unexpected", "table_of"]


_KNOWN: Final = re.compile(
    rf"""{RESERVED_DIRECTORY}/(?:
        manifest\.json | grants\.json
        | files/[1-9][0-9]{{0,18}}-[0-9a-f]{{16}}\.jsonl
        | lock/[0-9]{{1,9}}\.json
        | probe-[0-9a-f]{{16}}(?:-copy)?
        | runs/[0-9]{{8}}T[0-9]{{6}}Z-[0-9a-f]{{8}}/(?:parts-[0-9]{{6,9}}\.jsonl? | report\.json | finished\.json)
    )""",
    re.ASCII | re.VERBOSE,
)
_OF_A_RUN: Final = re.compile(rf"{RUNS_DIRECTORY}/(?P<run>[^/]+)/(?P<where>staged|attempts)/(?P<path>.+)", re.DOTALL)
_STAGED: Final = "staged"


class Journals(Protocol):
    """What runs noted about files that no version lists yet."""

    def noted(self, run_id: str, dataset_id: str) -> Mapping[str, FileEntry]:
        """Return the files that a run staged for its version, by path, as trusted keys signed it; else nothing.

        Raises:
            StorageError: the storage refused or failed.
        """


class _NoJournals:
    def noted(self, run_id: str, dataset_id: str) -> Mapping[str, FileEntry]:
        return {}


NO_JOURNALS: Final[Journals] = _NoJournals()


@dataclass(frozen=True, slots=True)
class RunTable:
    """A file in the directory of a run, which is not a place of a dataset.

    Args:
        run_id: of the run.
        path: where it is to go, or part of that.
        is_staged: whether it lies where a version's files wait.
    """

    run_id: str
    path: str
    is_staged: bool


def table_of(reserved_path: str) -> RunTable | None:
    """Return which table a path below the dataset is; None if it does not belong to a run."""
    found = _OF_A_RUN.fullmatch(reserved_path)
    if found is None:
        return None
    try:
        parse_run_id(found["run"])
    except DocumentError:
        return None
    return RunTable(found["run"], found["path"], found["where"] == _STAGED)


def find_unexpected(reserved: Mapping[str, SourceFile | None]) -> list[Finding]:
    """Return which of the paths below `_pipecrypt/` pipecrypt gives to no file; tables of runs are left out."""
    return [
        Finding(
            FindingKind.UNEXPECTED,
            path,
            "pipecrypt writes no file of this name here" if file else "this is not a regular file in its place",
        )
        for path, file in sorted(reserved.items())
        if file is None or not (_is_known(path) or table_of(path) is not None)
    ]


def _is_known(path: str) -> bool:
    return _KNOWN.fullmatch(path) is not None or is_temporary(path.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class RunTables:
    """What tells tables that wait for their version from those that were left, or put there.

    Args:
        manifest: the signed version.
        journals: what runs noted.
    """

    manifest: Manifest
    journals: Journals

    def left_over(self, found: Iterable[tuple[str, SourceFile]]) -> list[Finding]:
        """Return a finding for each table that no run is known to have written for a version that is still to come.

        What holds of each of the others: 1. its run began after the one whose version is there; 2. the journal of that
        run, which trusted keys signed, says that it is of this dataset; 3. it names the file, with this size and
        digest. Nobody else wrote it, and no version has it yet.
        """
        noted: dict[str, Mapping[str, FileEntry]] = {}
        findings = []
        for path, file in sorted(found, key=lambda each: each[0]):
            table = table_of(path)
            if is_temporary(path.rpartition("/")[2]) or table is None:
                continue
            if table.is_staged and self._is_later(table.run_id):  # 1
                if table.run_id not in noted:
                    noted[table.run_id] = self.journals.noted(table.run_id, self.manifest.dataset_id)  # 2
                entry = noted[table.run_id].get(table.path)
                if entry is not None and _is_same(file, entry):  # 3
                    continue
            findings.append(_left_over(path, table.run_id))
        return findings

    def _is_later(self, run_id: str) -> bool:
        of_version = self.manifest.run
        if of_version is not None:
            return run_id > of_version
        return parse_run_id(run_id) >= self.manifest.created.replace(microsecond=0)


def _left_over(path: str, run_id: str) -> Finding:
    detail = f"a table that no version lists, in the directory of run {run_id}: finish that run, or pipecrypt clean"
    return Finding(FindingKind.LEFT_OVER, path, detail)


def _is_same(file: SourceFile, entry: FileEntry) -> bool:
    """Say whether a file is the one that was noted, byte for byte."""
    if file.size_bytes != entry.size_bytes:
        return False
    digests = computable(entry.digests())
    try:
        with open_range_source(file) as opened:
            seen = digest_file(opened, digests, most_bytes=file.size_bytes + 1)
    except (ContentError, ConflictError):
        return False
    return not compare_file(entry, ObservedFile(file.size_bytes, seen))
