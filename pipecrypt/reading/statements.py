"""What was signed about the files of one file system, and listings compared with it.

A dataset's statement is read once, not for each of its files. It is read again when a file is not as it says, or not in
its list, because the dataset may have a new version since; and when it expires. A run publishes the first version file
by file, and its statement last, so a listing that nothing governed is kept until one of its files is opened: what was
listed before the statement and is opened after it may be a part.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pipecrypt.dataset.governing import read_envelope, recall
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.statement.findings import missing, refuse
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY, is_reserved, signature_path, staged_path
from pipecrypt.dataset.version import VerifiedVersion, read_version_above, read_version_beside
from pipecrypt.errors import IntegrityError, MovedError
from pipecrypt.store.problems import map_errors
from pipecrypt.store.small_files import FilesystemFiles

__all__ = [
    "DIRECTORY",
    "OTHER",
    "Beside",
    "Listing",
    "ShownAs",
    "Statements",
    "UncheckedListings",
    "beside_glob",
    "by_name",
    "kept_beside_data",
    "name_of",
    "shown_by_glob",
    "staged_as",
]

# What fsspec calls a directory, and a named pipe, a socket or a device.
DIRECTORY: Final = "directory"
OTHER: Final = "other"
_KEPT_BESIDE_DATA: Final = re.compile(rf"/{RESERVED_DIRECTORY}(?:/|\Z)")
_MOST_NAMES: Final = 100_000  # of all of them together; the last one is kept whatever it shows


# From a file's path to the path by which a listing shows it, which may be a directory's; None where it does not.
ShownAs: TypeAlias = Callable[[str], str | None]

# Returns further paths of the storage among which those of `_pipecrypt` are, where a listing does not show them itself.
Beside: TypeAlias = Callable[[], Iterable[str]]


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


class Statements:
    """Says what was signed about a file; safe to use from several threads.

    Args:
        fs: the fsspec file system that stores the files.
        requirements: what must hold of a statement.
        pinned: what was signed about files that were listed before, by path, once and for all: versions are never
            mixed. None: looked for as files are opened.
    """

    def __init__(self, fs: Any, requirements: Requirements, *, pinned: Mapping[str, SignedFile] | None = None) -> None:
        """Look for nothing yet."""
        self._fs = fs
        self._files = FilesystemFiles(fs)
        self._requirements = requirements
        self._pinned = pinned
        self._lock = threading.Lock()
        self._open: dict[str, _OpenDataset] = {}
        self._listings = UncheckedListings()
        self._generation = 0

    @property
    def generation(self) -> int:
        """How many statements were replaced: what was shown under the one before is outdated."""
        return self._generation

    def find(self, path: str) -> SignedFile:
        """Return what was signed about a file, first by the datasets that are open: climbing to one costs requests.

        Raises:
            NotTrustedError: there is no statement about it, or too few trusted keys signed it.
            IntegrityError: the statement does not hold, or the file was not signed: nothing below `_pipecrypt/` is.
        """
        if self._pinned is not None:
            if path not in self._pinned:
                what = f"{path} is not among the signed files opened here"
                raise IntegrityError(what, hint="open it by its own name")
            return self._pinned[path]
        with self._lock:
            for each in self._open.values():
                below = each.dataset.below(path)
                if below is not None and below in each.dataset.entries and not self._is_expired(each):
                    self._check_listings_of(path, each)
                    return each.dataset.file(below)
            return self._look(path)

    def find_again(self, path: str, refused: SignedFile) -> SignedFile | None:
        """Return what a newer statement says about a file that was refused; None if there is none."""
        if self._pinned is not None:
            return None
        with self._lock:
            found = self._look(path)
        return None if found == refused else found

    def check_listing(
        self, directory: str, found: Mapping[str, str], shown_as: ShownAs, beside: Beside
    ) -> dict[str, Mapping[str, Any]]:
        """Pass if a listing shows every signed file that it must, but for those that a run has staged.

        Added files are noticed when they are opened. Pinned files were listed and compared before.

        Returns:
            By the roots of the datasets that it was compared with (the one that governs the directory; where none does,
            those that show below): what the storage says about staged files, by the places where they are not yet.

        Args:
            directory: below which was listed, or a file that was. Where no dataset is there or above, nor shows below,
                nothing is compared but that it is not in the place of a single signed file.
            found: the paths that are shown, and of each its type, as fsspec calls it.
            shown_as: how each file must be.
            beside: what else shows that there are datasets below the directory; asked where none is there or above.

        Raises:
            IntegrityError: a file is missing, or the statement does not hold.
        """
        if self._pinned is not None:
            return {}
        with self._lock:
            known = self._current_above(directory, found, shown_as)
        if known is not None:
            compared = {known.dataset.root: self._compare(known, directory, found, shown_as)}
        else:
            self._check_no_signed_file(directory, found)
            below = self._datasets_below(directory, found, shown_as, beside)
            compared = {each.dataset.root: self._compare(each, each.dataset.root, found, shown_as) for each in below}
        listing = Listing(directory, found, shown_as, set(compared))
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
                self._listings.mark_partial(each, root)
                listed = self._files.display(each.directory)
                raise MovedError(
                    f"{known.dataset.name} was signed after {listed} was listed, which showed a part of it",
                    hint="list it again",
                )
            each.whole.add(root)

    def _current_above(self, directory: str, found: Mapping[str, str], shown_as: ShownAs) -> _OpenDataset | None:
        for known in self._open.values():
            is_above = known.dataset.root == directory or known.dataset.below(directory) is not None
            if is_above and not self._is_expired(known):
                if not _missing(known, directory, found, shown_as):
                    return known
                break
        return self._open_above(f"{directory}/")  # perhaps a newer one

    def _compare(
        self, known: _OpenDataset, directory: str, found: Mapping[str, str], shown_as: ShownAs
    ) -> Mapping[str, Any]:
        gone = _missing(known, directory, found, shown_as)
        staged = self._staged(known, gone) if gone else {}
        away = [missing(path[len(known.dataset.root) + 1 :]) for path in gone if path not in staged]
        refuse(away, name=known.dataset.name)
        return staged

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
                with self._lock:
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
        if dataset.manifest.run is None:
            return {}
        base = f"{dataset.root}/{staged_path(dataset.manifest.run)}"
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
        if known is not None and known.dataset.statement_sha256 != dataset.statement_sha256:
            self._generation += 1
        self._open[dataset.root] = found = _OpenDataset(dataset, tuple(dataset.entries))
        return found

    def _is_expired(self, known: _OpenDataset) -> bool:
        expires = known.dataset.manifest.expires
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


@dataclass(eq=False, slots=True)
class Listing:
    """What a listing showed.

    Args:
        directory: below which was listed.
        found: the paths, and their types.
        shown_as: how each file had to be.
        whole: the roots of the datasets of which it is known to show all.
        partial: those of which it showed a part.
    """

    directory: str
    found: Mapping[str, str]
    shown_as: Callable[[str], str | None]
    whole: set[str]
    partial: set[str] = field(default_factory=set)


class UncheckedListings:
    """Keeps listings by their directories. Not safe to use from several threads."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._kept: dict[str, list[Listing]] = {}
        self._partial: list[Listing] = []
        self._names = 0

    def supersede(self, latest: Listing) -> None:
        """Let go of what a later listing makes good.

        That is those of its directory that showed no more, and those that were found to show a part of its datasets.
        """
        before = self._kept.pop(latest.directory, [])
        kept = [each for each in before if not each.found.keys() <= latest.found.keys()]
        self._names += sum(len(each.found) for each in kept) - sum(len(each.found) for each in before)
        if kept:
            self._kept[latest.directory] = kept
        for each in self._partial:
            each.whole |= each.partial & latest.whole
            each.partial -= latest.whole
        self._partial = [each for each in self._partial if each.partial]

    def add(self, listing: Listing) -> None:
        """Keep a listing."""
        self._kept.setdefault(listing.directory, []).append(listing)
        self._names += len(listing.found)
        while self._names > _MOST_NAMES and len(self._kept) > 1:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._names -= sum(len(each.found) for each in oldest)

    def mark_partial(self, listing: Listing, root: str) -> None:
        """Note that a listing showed a part of a dataset: so it is until the dataset is listed again."""
        if not listing.partial:
            self._partial.append(listing)
        listing.partial.add(root)

    def showing(self, path: str, root: str) -> Iterator[Listing]:
        """Yield the listings that show a file or its directory, and are not known to show all of its dataset."""
        directory = path
        while directory:
            directory = directory.rpartition("/")[0]
            for each in self._kept.get(directory, ()):
                if root not in each.whole and each.shown_as(path) in each.found:
                    yield each


def name_of(listed: Any) -> str:
    """Return the name of what a file system lists, with or without details."""
    return str(listed["name"] if isinstance(listed, Mapping) else listed)


def by_name(listed: Any) -> dict[str, Any]:
    """Return what a file system lists, by name; of a file that is named itself some say nothing else."""
    if isinstance(listed, Mapping):
        return {str(name): info or {"name": name, "type": "file"} for name, info in listed.items()}
    return {name_of(info): info for info in listed}


def staged_as(staged: Mapping[str, Any], shown_as: ShownAs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield how a listing shows files that are staged: by their places, or by a directory above."""
    for path, info in staged.items():
        shown = shown_as(path)
        if shown is not None:
            yield shown, dict(info) if shown == path else {"name": shown, "size": 0, "type": "directory"}


def shown_by_glob(pattern: str, expression: str, maxdepth: int | None) -> ShownAs:
    """Return how a glob shows files: by their own paths, if they match.

    Args:
        pattern: of paths of the storage.
        expression: the same as a regular expression.
        maxdepth: as fsspec has it, counted from the first `**` on.
    """
    matches = re.compile(expression).match
    slashes = pattern.partition("**")[0].count("/") + maxdepth - 1 if maxdepth and "**" in pattern else None

    def shown_as(file: str) -> str | None:
        is_too_deep = slashes is not None and file.count("/") > slashes
        return None if is_too_deep or not matches(file) else file

    return shown_as


def beside_glob(pattern: str, directory: str) -> Iterator[str]:
    """Yield globs of what is kept beside data in the directories through which a glob leads.

    Each goes no deeper than the glob itself, so a store that keeps its listings is not asked again.

    Args:
        pattern: of paths of the storage.
        directory: the last one before the first part with a wildcard.
    """
    parts = pattern.split("/")
    for count in range(len(directory.split("/")) + 1, len(parts) + 1):
        is_any_depth = parts[count - 1] == "**"
        if count < len(parts) or is_any_depth:
            yield "/".join([*parts[:count], RESERVED_DIRECTORY])
        if is_any_depth:
            return


def kept_beside_data(names: Iterable[str], directory: str, roots: Iterable[str]) -> set[str]:
    """Return which listed names are what pipecrypt keeps beside data.

    Args:
        names: paths of the storage.
        directory: below which they were listed.
        roots: the directories of the datasets that the listing was compared with; elsewhere the names alone tell.
    """
    known, kept = set(roots), set()
    above: dict[str, list[str]] = {}
    for name in names:
        if RESERVED_DIRECTORY not in name:
            continue
        root, slash = name, "/"
        while slash and root not in known:
            root, slash, _ = root.rpartition("/")
        if slash:
            if is_reserved(name[len(root) + 1 :].rstrip("/")):
                kept.add(name)
            continue
        parts = name.removeprefix(directory).lstrip("/").split("/")
        if RESERVED_DIRECTORY in parts:
            above[name] = parts[: parts.index(RESERVED_DIRECTORY)]
    guessed = {tuple(parts) for parts in above.values()}
    # Below the root of a dataset, a directory of data may have that name too.
    others = {name for name, root in above.items() if not any(tuple(root[:n]) in guessed for n in range(len(root)))}
    return kept | others
