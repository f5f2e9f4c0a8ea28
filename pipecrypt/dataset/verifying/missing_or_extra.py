"""Compare which files are there with which were signed. Looking into them: file_inspection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipecrypt.dataset.opening.data_files import is_data
from pipecrypt.dataset.opening.signed_dataset import SignedDataset
from pipecrypt.dataset.opening.signed_file import SignedFile
from pipecrypt.dataset.opening.signed_sources import SignedSource
from pipecrypt.dataset.verifying.file_selection import Selection
from pipecrypt.dataset.verifying.tally import Tally
from pipecrypt.errors import LinkError, StorageError
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.findings import Finding, FindingKind, extra, missing
from pipecrypt.manifest.paths import is_reserved
from pipecrypt.store.inventory import Found, look_at, pin, take_inventory
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import Admits, Kind, SourceFile

__all__ = ["DirectoryComparison", "signed_source"]

_NO_FILE: Final = "a file was signed, and this is not a regular one"


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

    def __init__(self, dataset: SignedDataset, directory: Location, selection: Selection, tally: Tally) -> None:
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
            for found in take_inventory(self._below(start), self._admits_below(start)):
                yield from self._compare(_moved(found, start))
        except LinkError as error:
            self._tally.find(Finding(FindingKind.LINK, start, error.message))

    def _below(self, start: str) -> Location:
        return self._directory.child(start) if start else self._directory

    def _admits_below(self, start: str) -> Admits:
        above = tuple(start.split("/")) if start else ()

        def admits(names: tuple[str, ...]) -> bool:
            whole = (*above, *names)
            return self._selection.is_everything if is_reserved(whole[0]) else self._selection.admits(whole)

        return admits

    def _compare(self, found: Found) -> Iterator[SignedSource]:
        path, source = found
        if is_reserved(path):
            if self._selection.is_everything:
                self.reserved[path] = source
            return
        if path in self._seen:
            return
        if not self._selection.takes(path):
            self._refuse_way(path, source)
            return
        entry = self._dataset.entries.get(path)
        if entry is not None:
            self._seen.add(entry.path)
            yield from _checked(self._dataset.file(entry.path), source, self._directory.child(path), self._tally)
        elif is_data(path, source):
            self._tally.find(extra(path))

    def _refuse_way(self, path: str, source: SourceFile | None) -> None:
        """Find a link where a directory would be of files that count."""
        if source is None and self._directory.is_local and self._selection.admits(tuple(path.split("/"))):
            place = self._directory.child(path)
            if look_at(place) is Kind.LINK:
                self._tally.find(Finding(FindingKind.LINK, path, f"{place.display} is a symbolic link"))


def signed_source(signed: SignedFile, location: Location, tally: Tally) -> Iterator[SignedSource]:
    """Yield a signed file if it is at its place; otherwise it is a finding.

    Some storages list late, or not at all. Only a look at its very place tells that a file is missing.
    """
    try:
        found = pin(location, signed.entry.path)
    except LinkError as error:
        tally.find(Finding(FindingKind.LINK, signed.entry.path, error.message))
        return
    except StorageError as error:
        tally.fail(signed.entry.path, error)
        return
    if found is None:
        tally.find(missing(signed.entry.path))
    else:
        yield from _checked(signed, found[1], location, tally)


def _checked(signed: SignedFile, source: SourceFile | None, place: Location, tally: Tally) -> Iterator[SignedSource]:
    if source is None:
        kind = FindingKind.LINK if look_at(place) is Kind.LINK else FindingKind.MODIFIED
        tally.find(Finding(kind, signed.entry.path, _NO_FILE))
    else:
        yield SignedSource(source, signed)


def _moved(found: Found, start: str) -> Found:
    return (f"{start}/{found[0]}", found[1]) if start else found
