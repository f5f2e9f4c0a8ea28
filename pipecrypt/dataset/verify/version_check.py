"""Compare what is there with one signed version, and again what was not as it was signed.

A run may be at work meanwhile. It moves files from one place to another, so one pass may miss what the next one finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pipecrypt.dataset.checked_source import computable
from pipecrypt.dataset.listing import is_data
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.signed_sources import SignedSource
from pipecrypt.dataset.staged import staged_files
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.findings import (
    NOTHING_KNOWN,
    Finding,
    FindingKind,
    KnownDigests,
    extra,
    missing,
    not_in_place,
)
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.paths import is_reserved, staged_path
from pipecrypt.dataset.undo import check_signed_undo
from pipecrypt.dataset.verify.inspection import InspectionResult, Inspector, LazyKnownDigests, Unlocking
from pipecrypt.dataset.verify.report import Tally
from pipecrypt.dataset.verify.reserved import Journals, RunTables, find_unexpected, table_of
from pipecrypt.dataset.verify.target import Selection, Target
from pipecrypt.dataset.verify.threads import Tell, WorkResult, work_through
from pipecrypt.dataset.version import VerifiedVersion
from pipecrypt.errors import (
    ConflictError,
    ContentError,
    IntegrityError,
    LinkError,
    StorageError,
)
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import Admits, Entry, Kind, SourceFile
from pipecrypt.store.undo import read_undo

__all__ = ["VersionCheck", "Watcher"]
_NO_FILE: Final = "a file was signed, and this is not a regular one"


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


@dataclass(frozen=True, slots=True)
class _FileStarted:
    path: str


class VersionCheck:
    """Compares what is there with one signed version.

    Args:
        target: what was named.
        unlocking: checks tags too; None without keys.
        journals: what runs noted about files that no version lists yet.
        workers: how many files are read at once.
        watcher: told how far it is.

    Attributes:
        tally: what was found, and is still so.
        inspector: what looks at files.
    """

    def __init__(
        self,
        target: Target,
        unlocking: Unlocking | None,
        journals: Callable[[Location], Journals],
        workers: int,
        watcher: Watcher,
    ) -> None:
        """Look at nothing yet."""
        self._target = target
        self._journals = journals
        self._workers = workers
        self._watcher = watcher
        self.tally = Tally()
        self._links: set[str] = set()  # where the pass before met a link
        self._lists = None if target.is_single_file else LazyKnownDigests(target.version, target.files)
        entries = target.version.entries
        self._due = [entry for path, entry in entries.items() if target.takes(path)]
        largest = max((entry.size_bytes for entry in entries.values()), default=0)
        digests = computable(self.manifest.digests)
        self.inspector = Inspector(digests=digests, max_bytes=largest, known=self._known, unlocking=unlocking)

    @property
    def manifest(self) -> Manifest:
        """What was signed."""
        return self._target.version.manifest

    @property
    def due_files(self) -> int:
        """How many signed files are looked at."""
        return len(self._due)

    @property
    def is_whole(self) -> bool:
        """Whether all that was signed is looked at."""
        return self._target.is_whole

    def run(self) -> None:
        """Compare everything once."""
        passes = 2 if self.inspector.unlocking is not None else 1
        total = sum(entry.size_bytes for entry in self._due)
        self._watcher.started(len(self._due), passes * total)
        target = self._target
        if target.selection is None:
            self._inspect(self._at_places([target.path]))
            self._look_below_reserved({})
        else:
            comparison = DirectoryComparison(target.version, target.location(), target.selection, self.tally)
            self._inspect(comparison.sources())
            self._look_below_reserved(comparison.reserved)

    def run_again(self) -> None:
        """Compare again all that was not as it was signed."""
        doubtful = self.tally.doubtful()
        self._links = {path for path in doubtful if FindingKind.LINK in {each.kind for each in self.tally.of(path)}}
        for path in doubtful:
            self.tally.forget(path)
        self._watcher.bytes_done(0)
        self._inspect(self._at_places([path for path in doubtful if not is_reserved(path)]), is_told=False)
        self._look_below_reserved(self._reserved_again(path for path in doubtful if is_reserved(path)))

    def is_in_motion(self) -> bool:
        """Say whether all that is not as it was signed may be so because a run, or a rotation, is at work there."""
        return all(self._moves(path) for path in self.tally.doubtful())

    def _known(self) -> KnownDigests:
        return NOTHING_KNOWN if self._lists is None else self._lists.known()

    # ---- places ----

    def _leads_out(self, path: str) -> bool:
        """Say whether a server listed a name that leads elsewhere, where nothing is looked at."""
        try:
            self._target.location(path)
        except IntegrityError:
            return True
        return False

    def _at_places(self, paths: Iterable[str]) -> Iterator[SignedSource]:
        for path in paths:
            if self._leads_out(path):
                self.tally.find(extra(path))
                continue
            signed, place = self._target.signed(path), self._target.location(path)
            if signed is not None:
                yield from signed_source(signed, place, self.tally)
                continue
            try:
                kind = open_store(place).stat().kind
            except StorageError as error:
                self.tally.fail(path, error)
                continue
            if kind is Kind.LINK and path in self._links:
                self.tally.find(Finding(FindingKind.LINK, path, f"{place.display} is a symbolic link"))
            elif kind is not Kind.NOTHING:
                self.tally.find(extra(path))

    def _reserved_again(self, paths: Iterable[str]) -> dict[str, SourceFile | None]:
        found: dict[str, SourceFile | None] = {}
        for path in paths:
            if self._leads_out(path):
                found[path] = None
                continue
            try:
                there = open_store(self._target.location(path)).stat()
                is_there = there.exists() and there.kind is not Kind.DIRECTORY
            except LinkError as error:
                self.tally.find(Finding(FindingKind.LINK, path, error.message))
                continue
            except StorageError as error:
                self.tally.fail(path, error)
                continue
            if is_there:
                found[path] = None if there.source is None else replace(there.source, relative_path=path)
        return found

    # ---- what a run has still to move, or has left ----

    def _look_below_reserved(self, reserved: Mapping[str, SourceFile | None]) -> None:
        if self._target.is_single_file:
            return
        for finding in find_unexpected(reserved):
            self.tally.find(finding)
        try:
            waiting = self._find_waiting()
            tables = {path: file for path, file in reserved.items() if file is not None and path not in waiting}
            of_runs = {path: file for path, file in tables.items() if table_of(path) is not None}
            left = RunTables(self.manifest, self._journals(self._target.location())).left_over(of_runs.items())
        except StorageError as error:
            self.tally.fail("", error)
            return
        self.tally.unfinished += len(of_runs) - len(left)
        for finding in left:
            self.tally.find(finding)

    def _find_waiting(self) -> set[str]:
        """Add a finding for each file whose true copy waits to be moved, and return where those copies are."""
        missed = [path for path in self.tally.doubtful() if self._target.signed(path) is not None]
        run_id = self.manifest.run
        if not missed or run_id is None:
            return set()
        try:
            staged = staged_files(self._target.location(), run_id)
        except LinkError as error:
            self.tally.find(Finding(FindingKind.LINK, staged_path(run_id), error.message))
            return set()
        waiting = [SignedSource(staged[path], signed) for path, signed in self._each_signed(missed) if path in staged]
        found = set()
        for news in work_through(waiting, self._compare, workers=self._workers):
            if isinstance(news, WorkResult) and not news.result.findings and news.result.failure is None:
                self.tally.replace_missing(not_in_place(news.result.path))
                found.add(f"{staged_path(run_id)}/{news.result.path}")
        return found

    def _each_signed(self, paths: Iterable[str]) -> Iterator[tuple[str, SignedFile]]:
        for path in paths:
            signed = self._target.signed(path)
            if signed is not None:
                yield path, signed

    def _moves(self, path: str) -> bool:
        kinds = {finding.kind for finding in self.tally.of(path)}
        if not kinds or kinds == {FindingKind.LEFT_OVER}:
            return True
        if kinds == {FindingKind.EXTRA}:
            return self._lists is not None and self._lists.was_listed(path)
        is_older = kinds <= {FindingKind.NOT_IN_PLACE, FindingKind.ROLLED_BACK}
        return (is_older and FindingKind.NOT_IN_PLACE in kinds) or self._is_rotated(path)

    def _is_rotated(self, path: str) -> bool:
        """Say whether a rotation has changed the end of a file, and kept the signed one. Anybody can do so."""
        signed = self._target.signed(path)
        if signed is None:
            return False
        place = self._target.location(path)
        try:
            source = open_store(place).stat().file()
            undo = read_undo(place, max_end_bytes=signed.entry.size_bytes)
            if source is None or undo is None:
                return False
            check_signed_undo(source, undo, signed.entry)
        except (ConflictError, ContentError, IntegrityError, StorageError):
            return False
        return True

    # ---- looking into files ----

    def _inspect(self, sources: Iterable[SignedSource], *, is_told: bool = True) -> None:
        watcher = self._watcher
        for news in work_through(sources, self._inspect_one, workers=self._workers):
            if isinstance(news, WorkResult):
                self.tally.take(news.result)
                if is_told:
                    watcher.file_checked(news.result.path, len(news.result.findings))
            elif isinstance(news, _FileStarted):
                if is_told:
                    watcher.file_started(news.path)
            else:
                watcher.bytes_done(news if is_told else 0)

    def _compare(self, file: SignedSource, tell: Tell[int]) -> InspectionResult:
        return self.inspector.inspect(file.signed, file.source, lambda _: tell(0))

    def _inspect_one(self, file: SignedSource, tell: Tell[_FileStarted | int]) -> InspectionResult:
        tell(_FileStarted(file.signed.entry.path))
        due = file.signed.entry.size_bytes * (1 if self.inspector.unlocking is None else 2)
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            tell(count)

        inspected = self.inspector.inspect(file.signed, file.source, on_bytes)
        # What was not read, as the footer in the second pass, is done as well.
        if done < due:
            tell(due - done)
        return inspected


class DirectoryComparison:
    """Goes through the directory of a dataset once, and compares its files with those that were signed.

    Args:
        dataset: what was signed.
        directory: where its files are.
        selection: which of them count.
        tally: told about missing and extra files, and about what cannot be listed.

    Attributes:
        reserved: what lies below `_pipecrypt/`, once all sources were taken; nothing where only some files count.
    """

    def __init__(self, dataset: VerifiedVersion, directory: Location, selection: Selection, tally: Tally) -> None:
        """Look at nothing yet."""
        self._dataset = dataset
        self._directory = directory
        self._selection = selection
        self._tally = tally
        self._seen: set[str] = set()
        self.reserved: dict[str, SourceFile | None] = {}

    def signed(self) -> Iterator[FileEntry]:
        """Yield the signed files that count."""
        return (entry for path, entry in self._dataset.entries.items() if self._selection.takes(path))

    def sources(self) -> Iterator[SignedSource]:
        """Yield each signed file that is there, in the order in which the storage names them.

        What holds in the end: each file that counts was yielded, or is a finding: missing where it was signed and a
        look at its very place found nothing, extra where it was not signed. Temporary files of runs that were killed do
        not count, if they are regular files, and what lies below `_pipecrypt/` is noted. Where a listing failed, that
        is a failure instead, and nothing is called missing.
        """
        try:
            for start in self._selection.starts():
                yield from self._sources_below(start)
        except StorageError as error:
            self._tally.fail("", error)
            return
        for entry in self.signed():
            if entry.path not in self._seen:
                path = entry.path
                yield from signed_source(self._dataset.file(path), self._directory.child(path), self._tally)

    def _sources_below(self, start: str) -> Iterator[SignedSource]:
        try:
            for found in open_store(self._directory).list(start, self._admits_below(start)):
                yield from self._compare(f"{start}/{found.path}" if start else found.path, found)
        except LinkError as error:
            self._tally.find(Finding(FindingKind.LINK, start, error.message))

    def _admits_below(self, start: str) -> Admits:
        above = tuple(start.split("/")) if start else ()

        def admits(names: tuple[str, ...]) -> bool:
            whole = (*above, *names)
            return self._selection.is_everything if is_reserved(whole[0]) else self._selection.admits(whole)

        return admits

    def _compare(self, path: str, found: Entry) -> Iterator[SignedSource]:
        if is_reserved(path):
            if self._selection.is_everything:
                self.reserved[path] = found.source
            return
        if path in self._seen:
            return
        if not self._selection.takes(path):
            self._refuse_way(path, found)
            return
        entry = self._dataset.entries.get(path)
        if entry is not None:
            self._seen.add(entry.path)
            yield from _checked(self._dataset.file(entry.path), found, self._tally)
        elif is_data(path, found.source):
            self._tally.find(extra(path))

    def _refuse_way(self, path: str, found: Entry) -> None:
        """Find a link where a directory would be of files that count."""
        if found.kind is Kind.LINK and self._selection.admits(tuple(path.split("/"))):
            self._tally.find(Finding(FindingKind.LINK, path, f"{found.location.display} is a symbolic link"))


def signed_source(signed: SignedFile, location: Location, tally: Tally) -> Iterator[SignedSource]:
    """Yield a signed file if it is at its place; otherwise it is a finding.

    Some storages list late, or not at all. Only a look at its very place tells that a file is missing.
    """
    try:
        there = open_store(location).stat()
        is_there = there.exists() and there.kind is not Kind.DIRECTORY
    except LinkError as error:
        tally.find(Finding(FindingKind.LINK, signed.entry.path, error.message))
        return
    except StorageError as error:
        tally.fail(signed.entry.path, error)
        return
    if is_there:
        yield from _checked(signed, there, tally)
    else:
        tally.find(missing(signed.entry.path))


def _checked(signed: SignedFile, found: Entry, tally: Tally) -> Iterator[SignedSource]:
    if found.source is None:
        kind = FindingKind.LINK if found.kind is Kind.LINK else FindingKind.MODIFIED
        tally.find(Finding(kind, signed.entry.path, _NO_FILE))
    else:
        yield SignedSource(replace(found.source, relative_path=signed.entry.path), signed)


_EVERYTHING_BELOW = "**"
