"""Compare what is there with one signed version, and again what was not as it was signed.

A run may be at work meanwhile. It moves files from one place to another, so one pass may miss what the next one finds.

Engines that take every Parquet file below a directory read what lies below `_pipecrypt/`, too. There, only names that
pipecrypt gives pass, and tables where an honest run wrote them for a version to come.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol, TypeAlias

from pipecrypt.dataset.checked_source import computable, digest_file
from pipecrypt.dataset.listing import is_data
from pipecrypt.dataset.signed_sources import SignedSource
from pipecrypt.dataset.staged import staged_files
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.findings import (
    Finding,
    FindingKind,
    KnownDigests,
    ObservedFile,
    compare_file,
    extra,
    missing,
    not_in_place,
    nothing_known,
)
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY, RUNS_DIRECTORY, is_reserved, parse_run_id, staged_path
from pipecrypt.dataset.undo import check_signed_undo
from pipecrypt.dataset.verify.inspection import (
    InspectionResult,
    Inspector,
    Tell,
    Unlocking,
    read_known_digests,
    work_through,
)
from pipecrypt.dataset.verify.report import Tally
from pipecrypt.dataset.verify.target import Selection, VerifyTarget
from pipecrypt.errors import ConflictError, ContentError, IntegrityError, LinkError, StorageError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import Entry, EntryKind, SourceFile
from pipecrypt.store.publication import is_temporary
from pipecrypt.store.undo import read_undo
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["RunFiles", "VersionCheck", "Watcher"]

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

# (directory of the dataset, run id, dataset id) -> the files that the run staged for its version, by path, as trusted
# keys signed it in the run's journal; nothing where that does not hold. Raises StorageError.
RunFiles: TypeAlias = Callable[[Location, str, str], Mapping[str, FileEntry]]


class Watcher(Protocol):
    """Is told how far a verification is, on the thread that called it. What it raises stops the verification."""

    def started(self, files: int, total_bytes: int) -> None:
        """So many files are to be checked, and so many bytes read; told again where all of it begins anew."""

    def file_started(self, path: str) -> None:
        """A file is being read."""

    def bytes_done(self, count: int) -> None:
        """So many more bytes are done, of whichever file."""

    def file_checked(self, path: str, findings: int) -> None:
        """A file was compared, or could not be; so many findings are about it."""


class VersionCheck:
    """Compares what is there with one signed version.

    Args:
        target: what was named.
        unlocking: checks tags too; None without keys.
        run_files: what runs noted about files that no version lists yet.
        workers: how many files are read at once.
        watcher: told how far it is.

    Attributes:
        tally: what was found, and is still so.
        inspector: what looks at files.
        due: the signed files that are looked at.
    """

    def __init__(
        self, target: VerifyTarget, unlocking: Unlocking | None, run_files: RunFiles, workers: int, watcher: Watcher
    ) -> None:
        """Look at nothing yet."""
        self._target = target
        self._run_files = run_files
        self._workers = workers
        self._watcher = watcher
        self.tally = Tally()
        self._links: set[str] = set()  # where the pass before met a link
        self._known: KnownDigests | None = None
        self._lock = threading.Lock()
        self._entries = entries = target.version.entries
        self.due = [entry for path, entry in entries.items() if target.takes(path)]
        largest = max((entry.size_bytes for entry in entries.values()), default=0)
        digests = computable(target.version.manifest.digests)
        self.inspector = Inspector(digests, largest, self._known_digests, unlocking)
        self._passes = 1 if unlocking is None else 2

    def run(self) -> None:
        """Compare everything once."""
        self._watcher.started(len(self.due), self._passes * sum(entry.size_bytes for entry in self.due))
        selection = self._target.selection
        reserved: dict[str, SourceFile | None] = {}
        files = self._at_places([self._target.path]) if selection is None else self._listed(selection, reserved)
        self._inspect(files)
        self._look_below_reserved(reserved)

    def run_again(self) -> None:
        """Compare again all that was not as it was signed."""
        doubtful = self.tally.doubtful()
        self._links = {path for path in doubtful if FindingKind.LINK in {each.kind for each in self.tally.of(path)}}
        for path in doubtful:
            self.tally.forget(path)
        self._watcher.bytes_done(0)
        self._inspect(self._at_places(path for path in doubtful if not is_reserved(path)), is_told=False)
        self._look_below_reserved(self._reserved_again(path for path in doubtful if is_reserved(path)))

    def is_in_motion(self) -> bool:
        """Return whether all that is not as it was signed may be so because a run, or a rotation, is at work there."""
        return all(self._moves(path) for path in self.tally.doubtful())

    def _known_digests(self) -> KnownDigests:
        """Return what tells swapped and old files from modified ones; looked up once, when the first file differs."""
        with self._lock:
            if self._known is None:
                is_single = self._target.is_single_file
                self._known = (
                    nothing_known() if is_single else read_known_digests(self._target.version, self._target.files)
                )
            return self._known

    # ---- places ----

    @contextmanager
    def _noting(self, path: str) -> Iterator[None]:
        """Take a link that is in the way as a finding, and what keeps the storage from being looked at as a failure."""
        try:
            yield
        except LinkError as error:
            self.tally.find(Finding(FindingKind.LINK, path, error.message))
        except StorageError as error:
            self.tally.fail(path, error)

    def _listed(self, selection: Selection, reserved: dict[str, SourceFile | None]) -> Iterator[SignedSource]:
        """Yield each signed file that is there, in the order in which the storage names them.

        What holds in the end: each file that counts was yielded, or is a finding: missing where it was signed and a
        look at its very place found nothing, extra where it was not signed. Temporary files of runs that were killed do
        not count, if they are regular files, and what lies below `_pipecrypt/` is noted in `reserved`, where all files
        count. Where a listing failed, that is a failure instead, and nothing is called missing.
        """
        seen: set[str] = set()
        try:
            for start in selection.starts():
                yield from self._listed_below(start, selection, seen, reserved)
        except StorageError as error:
            self.tally.fail("", error)
            return
        # Some storages list late, or not at all. Only a look at its very place tells that a file is missing.
        yield from self._at_places(entry.path for entry in self.due if entry.path not in seen)

    def _listed_below(
        self, start: str, selection: Selection, seen: set[str], reserved: dict[str, SourceFile | None]
    ) -> Iterator[SignedSource]:
        above = tuple(start.split("/")) if start else ()

        def admits(names: tuple[str, ...]) -> bool:
            whole = (*above, *names)
            return selection.is_everything if is_reserved(whole[0]) else selection.admits(whole)

        try:
            for found in open_store(self._target.location()).list(start, admits):
                path = f"{start}/{found.path}" if start else found.path
                if is_reserved(path):
                    if selection.is_everything:
                        reserved[path] = found.source
                elif not selection.takes(path):
                    # A link may be where a directory would be of files that count.
                    if found.kind is EntryKind.LINK and selection.admits(tuple(path.split("/"))):
                        detail = f"{found.location.display} is a symbolic link"
                        self.tally.find(Finding(FindingKind.LINK, path, detail))
                elif path not in self._entries:
                    if is_data(path, found.source):
                        self.tally.find(extra(path))
                elif path not in seen:
                    seen.add(path)
                    yield from self._regular(path, found)
        except LinkError as error:
            self.tally.find(Finding(FindingKind.LINK, start, error.message))

    def _leads_out(self, path: str) -> bool:
        """Return whether a server listed a name that leads elsewhere, where nothing is looked at."""
        try:
            self._target.location(path)
        except IntegrityError:
            return True
        return False

    def _at_places(self, paths: Iterable[str]) -> Iterator[SignedSource]:
        """Yield each signed file that is at its place; otherwise it is a finding, and so is what was not signed."""
        for path in paths:
            if self._leads_out(path):
                self.tally.find(extra(path))
                continue
            with self._noting(path):
                there = open_store(self._target.location(path)).stat()
                if path not in self._entries:
                    self._find_unsigned(path, there)
                elif there.exists() and there.kind is not EntryKind.DIRECTORY:
                    yield from self._regular(path, there)
                else:
                    self.tally.find(missing(path))

    def _find_unsigned(self, path: str, there: Entry) -> None:
        if there.kind is EntryKind.LINK and path in self._links:
            self.tally.find(Finding(FindingKind.LINK, path, f"{there.location.display} is a symbolic link"))
        elif there.kind is not EntryKind.NOTHING:
            self.tally.find(extra(path))

    def _regular(self, path: str, found: Entry) -> Iterator[SignedSource]:
        if found.source is None:
            kind = FindingKind.LINK if found.kind is EntryKind.LINK else FindingKind.MODIFIED
            self.tally.find(Finding(kind, path, "a file was signed, and this is not a regular one"))
        else:
            yield SignedSource(found.source, self._target.version.file(path))

    # ---- what a run has still to move, or has left ----

    def _reserved_again(self, paths: Iterable[str]) -> dict[str, SourceFile | None]:
        found: dict[str, SourceFile | None] = {}
        for path in paths:
            if self._leads_out(path):
                found[path] = None
                continue
            with self._noting(path):
                there = open_store(self._target.location(path)).stat()
                if there.exists() and there.kind is not EntryKind.DIRECTORY:
                    found[path] = there.source
        return found

    def _look_below_reserved(self, reserved: Mapping[str, SourceFile | None]) -> None:
        if self._target.is_single_file:
            return
        for path, file in sorted(reserved.items()):
            if file is None:
                detail = "this is not a regular file in its place"
                self.tally.find(Finding(FindingKind.UNEXPECTED, path, detail))
            elif not _is_known(path):
                detail = "pipecrypt writes no file of this name here"
                self.tally.find(Finding(FindingKind.UNEXPECTED, path, detail))
        try:
            waiting = self._find_waiting()
            tables = [
                (path, file, match)
                for path, file in sorted(reserved.items())
                if file is not None and path not in waiting and (match := _table_of_run(path)) is not None
            ]
            left = self._left_over(tables)
        except StorageError as error:
            self.tally.fail("", error)
            return
        self.tally.unfinished += len(tables) - len(left)
        for finding in left:
            self.tally.find(finding)

    def _find_waiting(self) -> set[str]:
        """Add a finding for each file whose true copy waits to be moved, and return where those copies are."""
        missed = [path for path in self.tally.doubtful() if path in self._entries]
        run_id = self._target.version.manifest.run
        if not missed or run_id is None:
            return set()
        try:
            staged = staged_files(self._target.location(), run_id)
        except LinkError as error:
            self.tally.find(Finding(FindingKind.LINK, staged_path(run_id), error.message))
            return set()
        found: set[str] = set()

        def compare(file: SignedSource, tell: Tell) -> None:
            inspected = self.inspector.inspect(file.signed, file.source, lambda _: tell(lambda: None))
            if not inspected.findings and inspected.failure is None:
                tell(partial(found.add, inspected.path))

        waiting = [SignedSource(staged[path], self._target.version.file(path)) for path in missed if path in staged]
        work_through(waiting, compare, workers=self._workers)
        for path in found:
            self.tally.replace_missing(not_in_place(path))
        return {f"{staged_path(run_id)}/{path}" for path in found}

    def _left_over(self, tables: Iterable[tuple[str, SourceFile, re.Match[str]]]) -> list[Finding]:
        """Return a finding for each table that no run is known to have written for a version that is still to come.

        What holds of each of the others: 1. its run began after the one whose version is there; 2. the journal of that
        run, which trusted keys signed, says that it is of this dataset; 3. it names the file, with this size and
        digest. Nobody else wrote it, and no version has it yet. Temporary files do not count.
        """
        manifest = self._target.version.manifest
        noted: dict[str, Mapping[str, FileEntry]] = {}
        findings = []
        for path, file, table in tables:
            if is_temporary(path.rpartition("/")[2]):
                continue
            run_id = table["run"]
            if table["where"] == _STAGED and _is_after(run_id, manifest):  # 1
                if run_id not in noted:
                    noted[run_id] = self._run_files(self._target.location(), run_id, manifest.dataset_id)  # 2
                entry = noted[run_id].get(table["path"])
                if entry is not None and _is_same(file, entry):  # 3
                    continue
            detail = (
                f"a table that no version lists, in the directory of run {run_id}: finish that run, or pipecrypt clean"
            )
            findings.append(Finding(FindingKind.LEFT_OVER, path, detail))
        return findings

    def _moves(self, path: str) -> bool:
        kinds = {finding.kind for finding in self.tally.of(path)}
        if not kinds or kinds == {FindingKind.LEFT_OVER}:
            return True
        if kinds == {FindingKind.EXTRA}:
            return path in self._known_digests().earlier_paths
        is_older = kinds <= {FindingKind.NOT_IN_PLACE, FindingKind.ROLLED_BACK}
        return (is_older and FindingKind.NOT_IN_PLACE in kinds) or self._is_rotated(path)

    def _is_rotated(self, path: str) -> bool:
        """Return whether a rotation has changed the end of a file, and kept the signed one. Anybody can do so."""
        entry = self._entries.get(path)
        if entry is None:
            return False
        place = self._target.location(path)
        try:
            source = open_store(place).stat().file()
            undo = read_undo(place, max_end_bytes=entry.size_bytes)
            if source is None or undo is None:
                return False
            check_signed_undo(source, undo, entry)
        except (ConflictError, ContentError, IntegrityError, StorageError):
            return False
        return True

    # ---- looking into files ----

    def _inspect(self, files: Iterable[SignedSource], *, is_told: bool = True) -> None:
        watcher = self._watcher

        def take(inspected: InspectionResult) -> None:
            self.tally.take(inspected)
            if is_told:
                watcher.file_checked(inspected.path, len(inspected.findings))

        def inspect(file: SignedSource, tell: Tell) -> None:
            if is_told:
                tell(partial(watcher.file_started, file.signed.entry.path))
            left = file.signed.entry.size_bytes * self._passes

            def on_bytes(count: int) -> None:
                nonlocal left
                left -= count
                tell(partial(watcher.bytes_done, count if is_told else 0))

            inspected = self.inspector.inspect(file.signed, file.source, on_bytes)
            # What was not read, as the footer in the second pass, is done as well.
            if left > 0:
                on_bytes(left)
            tell(partial(take, inspected))

        work_through(files, inspect, workers=self._workers)


def _table_of_run(reserved_path: str) -> re.Match[str] | None:
    """Return the parts of a path below the directory of a run, which is not a place of a dataset; None elsewhere."""
    found = _OF_A_RUN.fullmatch(reserved_path)
    try:
        if found is not None:
            parse_run_id(found["run"])
    except DocumentError:
        return None
    return found


def _is_known(path: str) -> bool:
    """Return whether pipecrypt gives a name below `_pipecrypt/`; tables in a run's directory are looked at apart."""
    is_ours = _KNOWN.fullmatch(path) is not None or is_temporary(path.rpartition("/")[2])
    return is_ours or _table_of_run(path) is not None


def _is_after(run_id: str, manifest: Manifest) -> bool:
    if manifest.run is not None:
        return run_id > manifest.run
    return parse_run_id(run_id) >= manifest.created.replace(microsecond=0)


def _is_same(file: SourceFile, entry: FileEntry) -> bool:
    """Return whether a file is the one that was noted, byte for byte."""
    if file.size_bytes != entry.size_bytes:
        return False
    digests = computable(entry.digests())
    try:
        with open_range_source(file) as opened:
            seen = digest_file(opened, digests, most_bytes=file.size_bytes + 1)
    except (ContentError, ConflictError):
        return False
    return not compare_file(entry, ObservedFile(file.size_bytes, seen))
