"""Find what was signed about the files of one file system, and keep the datasets opened so far. Comparing: views.

A dataset's statement is read once, not for each of its files. It is read again when a file is not as it says, or not
in its list, because the dataset may have a new version since; and when it expires.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from pipecrypt.dataset.governing import read_envelope, recall
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.statement.findings import missing, refuse
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY, is_reserved, signature_path, staged_path
from pipecrypt.dataset.version import VerifiedVersion, read_version_above, read_version_beside
from pipecrypt.errors import IntegrityError, MovedError
from pipecrypt.reading.kept_listings import KeptListings, Listing
from pipecrypt.storage.problems import map_errors
from pipecrypt.storage.small_files import FilesystemFiles

__all__ = [
    "DIRECTORY",
    "OTHER",
    "Beside",
    "ComparedListing",
    "FoundStatements",
    "PinnedStatements",
    "ShownAs",
    "Statements",
]

# What fsspec calls a directory, and a named pipe, a socket or a device.
DIRECTORY: Final = "directory"
OTHER: Final = "other"

# From a file's path to the path by which a listing shows it, which may be a directory's; None where it does not.
ShownAs: TypeAlias = Callable[[str], str | None]

# Returns further paths of the storage among which those of `_pipecrypt` are, where a listing does not show them itself.
Beside: TypeAlias = Callable[[], Iterable[str]]

_KEPT_BESIDE_DATA: Final = re.compile(rf"/{RESERVED_DIRECTORY}(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class ComparedListing:
    """What a listing was compared with.

    Args:
        root: the directory of the dataset.
        staged: what the storage says about files that are not at their places yet, by those places.
    """

    root: str
    staged: Mapping[str, Mapping[str, Any]]


class Statements(Protocol):
    """Says what was signed about a file; safe to use from several threads."""

    @property
    def generation(self) -> int:
        """A number that changes when a statement was replaced: what was shown under the one before is outdated."""

    def find(self, path: str) -> SignedFile:
        """Return what was signed about a file.

        Raises:
            NotTrustedError: there is no statement about it, or too few trusted keys signed it.
            IntegrityError: the statement does not hold, or the file was not signed: nothing below `_pipecrypt/` is.
        """

    def find_again(self, path: str, refused: SignedFile) -> SignedFile | None:
        """Return what a newer statement says about a file that was refused; None if there is none."""

    def check_listing(
        self, directory: str, found: Mapping[str, str], shown_as: ShownAs, beside: Beside
    ) -> tuple[ComparedListing, ...]:
        """Pass if a listing shows every signed file that it must; of files that were added, opening them tells.

        Returns:
            What it was compared with: the dataset that governs the directory; where none does, those that show below.

        Args:
            directory: below which was listed, or a file that was. Where no dataset is there or above, nor shows below,
                nothing is compared but that it is not in the place of a single signed file.
            found: the paths that are shown, and of each its type, as fsspec calls it.
            shown_as: how each file must be.
            beside: what else tells of datasets below the directory; looked for only where none is there or above.

        Raises:
            IntegrityError: a file is missing, or the statement does not hold.
        """


class PinnedStatements:
    """What was signed about files that were listed before, once and for all: versions are never mixed.

    Args:
        files: by path in the file system.
    """

    generation = 0

    def __init__(self, files: Mapping[str, SignedFile]) -> None:
        """Keep them."""
        self._files = dict(files)

    def find(self, path: str) -> SignedFile:
        """Return what was signed about a file."""
        found = self._files.get(path)
        if found is None:
            raise IntegrityError(f"{path} is none of the signed files that were opened", hint="open it by its own name")
        return found

    def find_again(self, path: str, refused: SignedFile) -> SignedFile | None:
        """Return None."""
        return None

    def check_listing(
        self, directory: str, found: Mapping[str, str], shown_as: ShownAs, beside: Beside
    ) -> tuple[ComparedListing, ...]:
        """Return nothing: what was listed before has been compared."""
        return ()


@dataclass(frozen=True, slots=True)
class _OpenDataset:
    """A dataset, and its paths in order."""

    dataset: VerifiedVersion
    paths: tuple[str, ...]

    def below(self, directory: str) -> tuple[str, ...]:
        """Return the paths of the storage of all files below a directory of it; of a file, its own."""
        root = self.dataset.root
        if directory != root and self.dataset.below(directory) in self.dataset.entries:
            return (directory,)
        prefix = "" if directory == root else f"{self.dataset.below(directory)}/"
        first = bisect_left(self.paths, prefix)
        last = bisect_left(self.paths, True, lo=first, key=lambda path: not path.startswith(prefix))
        return tuple(f"{root}/{path}" for path in self.paths[first:last])


class FoundStatements:
    """Looks for statements as files are opened.

    Args:
        fs: the fsspec file system that stores the files.
        requirements: what must hold of a statement.
    """

    def __init__(self, fs: Any, requirements: Requirements) -> None:
        """Look for nothing yet."""
        self._fs = fs
        self._files = FilesystemFiles(fs)
        self._requirements = requirements
        self._lock = threading.Lock()
        self._open: dict[str, _OpenDataset] = {}
        self._listings = KeptListings()
        self._generation = 0

    @property
    def generation(self) -> int:
        """How many statements were replaced."""
        return self._generation

    def find(self, path: str) -> SignedFile:
        """Return what was signed about a file, first by the datasets that are open: climbing to one costs requests."""
        with self._lock:
            for each in self._open.values():
                below = each.dataset.below(path)
                if below is not None and below in each.dataset.entries and not self._is_expired(each):
                    self._check_listings_of(path, each)
                    return each.dataset.file(below)
            return self._look(path)

    def find_again(self, path: str, refused: SignedFile) -> SignedFile | None:
        """Return what is signed about a file now, if that is something else."""
        with self._lock:
            found = self._look(path)
        return None if found == refused else found

    def check_listing(
        self, directory: str, found: Mapping[str, str], shown_as: ShownAs, beside: Beside
    ) -> tuple[ComparedListing, ...]:
        """Pass if a listing shows every signed file that it must, but for those that a run has staged."""
        known = self._current_above(directory, found, shown_as)
        if known is not None:
            compared: tuple[ComparedListing, ...] = (self._compare(known, directory, found, shown_as),)
        else:
            self._check_no_signed_file(directory, found)
            below = self._datasets_below(directory, found, shown_as, beside)
            compared = tuple(self._compare(each, each.dataset.root, found, shown_as) for each in below)
        listing = Listing(directory, found, shown_as, {each.root for each in compared})
        with self._lock:
            self._listings.supersede(listing)
            if known is None and any(shown_as(name) is not None for name in found):
                self._listings.add(listing)
        return compared

    def _check_listings_of(self, path: str, known: _OpenDataset) -> None:
        """Pass if no listing showed a file beside a part of its dataset only, before that was signed."""
        root = known.dataset.root
        for each in self._listings.showing(path, root):
            start = each.directory if known.dataset.below(each.directory) is not None else root
            if root in each.partial or _missing(known, start, each.found, each.shown_as):
                self._listings.tell(each, root)
                listed = self._files.display(each.directory)
                raise MovedError(
                    f"{known.dataset.name} was signed after {listed} was listed, which showed a part of it",
                    hint="list it again",
                )
            each.whole.add(root)

    def _current_above(self, directory: str, found: Mapping[str, str], shown_as: ShownAs) -> _OpenDataset | None:
        with self._lock:
            known = self._known_above(directory)
            if known is None or _missing(known, directory, found, shown_as):
                known = self._open_above(f"{directory}/")  # perhaps a newer one
            return known

    def _compare(
        self, known: _OpenDataset, directory: str, found: Mapping[str, str], shown_as: ShownAs
    ) -> ComparedListing:
        root, gone = known.dataset.root, _missing(known, directory, found, shown_as)
        staged = self._staged(known, gone) if gone else {}
        refuse([missing(path[len(root) + 1 :]) for path in gone if path not in staged], name=known.dataset.name)
        return ComparedListing(root, staged)

    def _datasets_below(
        self, directory: str, found: Mapping[str, str], shown_as: ShownAs, beside: Beside
    ) -> list[_OpenDataset]:
        """Return the uppermost datasets below a directory that none governs.

        Looked for where `_pipecrypt` shows, and where a version is remembered, which costs no request; so directories
        that hold neither cost none.
        """
        names = (*found, *beside())
        kept = {name[: match.start()] for name in names if (match := _KEPT_BESIDE_DATA.search(name, len(directory)))}
        below: dict[str, _OpenDataset] = {}
        governed: set[str] = set()
        for level in sorted(_directories(names, directory), key=len):
            if level.rpartition("/")[0] in governed:
                governed.add(level)
            elif level in kept or recall(self._files, level, self._requirements.memory) is not None:
                known = self._current_above(level, found, shown_as)
                if known is not None:
                    governed.add(level)
                    below[known.dataset.root] = known
        return list(below.values())

    def _check_no_signed_file(self, path: str, found: Mapping[str, str]) -> None:
        """Pass if what was listed is not in the place of a single file that was signed."""
        if not path or (path in found and _is_file(found[path])):
            return
        place, memory = signature_path(path), self._requirements.memory
        if read_envelope(self._files, place) is not None or recall(self._files, place, memory) is not None:
            refuse([missing(path.rpartition("/")[2])], name=self._files.display(path))

    def _staged(self, known: _OpenDataset, places: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Return what the storage says about files that are staged, by their places; nobody has looked into them."""
        dataset = known.dataset
        if dataset.verified.manifest.run is None:
            return {}
        base = f"{dataset.root}/{staged_path(dataset.verified.manifest.run)}"
        with map_errors(f"cannot list {self._files.display(base)}"):
            try:
                found = self._fs.find(base, detail=True)
            except FileNotFoundError:
                return {}
        staged: dict[str, Mapping[str, Any]] = {}
        for place in places:
            below = place[len(dataset.root) + 1 :]
            info = found.get(f"{base}/{below}", {})
            if info.get("type") == "file" and info.get("size") == dataset.entries[below].size_bytes:
                staged[place] = {**info, "name": place}
        return staged

    def _known_above(self, directory: str) -> _OpenDataset | None:
        for each in self._open.values():
            is_above = each.dataset.root == directory or each.dataset.below(directory) is not None
            if is_above and not self._is_expired(each):
                return each
        return None

    def _look(self, path: str) -> SignedFile:
        found = self._open_above(path)
        if found is None:
            return read_version_beside(self._files, path, self._requirements).single_file()
        below = found.dataset.below(path) or ""
        if is_reserved(below):
            # Whoever can write there chooses what it holds, and no list names it: not even the statement is data.
            raise IntegrityError(
                f"{path} is not a file of {found.dataset.name}: nobody signed it as data",
                hint="read what pipecrypt keeps there without trust, or with another file system",
            )
        self._check_listings_of(path, found)
        return found.dataset.file(below)

    def _open_above(self, path: str) -> _OpenDataset | None:
        dataset = read_version_above(self._files, path, self._requirements)
        if dataset is None:
            return None
        known = self._open.get(dataset.root)
        if known is not None and known.dataset.verified.statement_sha256 != dataset.verified.statement_sha256:
            self._generation += 1
        self._open[dataset.root] = found = _OpenDataset(dataset, tuple(dataset.entries))
        return found

    def _is_expired(self, known: _OpenDataset) -> bool:
        expires = known.dataset.verified.manifest.expires
        return expires is not None and self._requirements.clock() >= expires


def _missing(known: _OpenDataset, directory: str, found: Mapping[str, str], shown_as: ShownAs) -> tuple[str, ...]:
    def is_shown(path: str) -> bool:
        shown = shown_as(path)
        if shown is None:
            return True
        # What is not a file in the place of one, or not a directory, would be skipped by readers who look for tables,
        # as if nothing had been signed there.
        return shown in found and (_is_file(found[shown]) if shown == path else found[shown] == DIRECTORY)

    return tuple(path for path in known.below(directory) if not is_shown(path))


def _directories(names: Iterable[str], directory: str) -> set[str]:
    """Return the directories in which names lie, as far as they lie below one themselves."""
    found: set[str] = set()
    for name in names:
        above = name.rpartition("/")[0]
        while len(above) > len(directory) and above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


def _is_file(kind: str) -> bool:
    return kind not in (DIRECTORY, OTHER)
