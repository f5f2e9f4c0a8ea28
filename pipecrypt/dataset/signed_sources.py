"""The files that a location names, compared with those that were signed, and read on where a run moves them meanwhile.

A location may name a whole dataset, a directory in it, a glob, or one file. Of what it takes, nothing may be missing
and nothing may be there that was not signed: a reader of several files would not notice either.

Whoever reads a file keeps reading that one version of it. So when it is no longer where it was, one more look is taken
at the two places where it may lie, and only a file of the signed size and footer is read on. All that is read is
authenticated by that footer, or compared with digests of the first look, as before: a move changes nothing about that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias, TypeVar

from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.staged import is_signed, listed_staged_files
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.findings import compare_listing, refuse
from pipecrypt.dataset.statement.paths import SIGNATURE_SUFFIX
from pipecrypt.dataset.version import VerifiedVersion, read_version_above, read_version_beside, unsigned
from pipecrypt.errors import (
    ConflictError,
    ExpiredError,
    FutureStatementError,
    IntegrityError,
    LinkError,
    NoRegularFileError,
    NotTrustedError,
    SourceNotFoundError,
    StorageError,
    UsageError,
)
from pipecrypt.parquet.files import Gatherer
from pipecrypt.store.listing import find_file, list_sources
from pipecrypt.store.location import ALL_PARQUET, Location, Pattern, has_glob, split_glob
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import EntryKind, SourceFile
from pipecrypt.store.small_files import locate
from pipecrypt.vocabulary.ranges import RangeSource, SourceTraits, read_into

__all__ = [
    "SignedRanges",
    "SignedSource",
    "find_signed_source",
    "first_signed",
    "list_signed_sources",
    "open_signed_source",
]


_PAUSES_SECONDS: Final = (0.02, 0.1, 0.3)
_T = TypeVar("_T")

_Source = TypeVar("_Source", bound=RangeSource)

# Opens what lies at the places where a file may be now, one after another; what is not there is left out.
Places: TypeAlias = Callable[[], Iterable[_Source]]


@dataclass(frozen=True, slots=True)
class SignedSource:
    """A file that is there, and what was signed about it.

    Args:
        source: as its storage lists it.
        signed: what the reader compares it with before it uses a byte.
        is_named: whether the location that was asked for names this file itself, which may lie elsewhere meanwhile.
    """

    source: SourceFile
    signed: SignedFile
    is_named: bool = False


def list_signed_sources(
    location: Location, requirements: Requirements, below: Pattern = ALL_PARQUET
) -> tuple[SignedSource, ...]:
    """Return the files that `location` names, in the order of their relative paths.

    What holds when it returns: 1. a statement that meets the requirements covers them, that of the uppermost dataset
    above (`find_governing`), or the one beside a single file where there is none; 2. each file that was signed and that
    the location takes is there; 3. each that is there was signed. The caller still owes to compare each file with its
    entry.

    A run may be at work meanwhile. Where what it moves could be why something is not as it was signed, the whole is
    looked at three times more, 0.4 s later at most.

    Args:
        location: a file, a directory or a glob.
        requirements: what must hold of the statement.
        below: which files of a directory count.

    Raises:
        NotTrustedError: there is no statement, or too few trusted keys signed it.
        IntegrityError: a statement, a file or the list of files is not as it was signed.
        SourceNotFoundError: nothing is there, and nothing was signed there.
        UsageError: standard input, which has no place where a statement could lie.
    """
    if location.is_standard_stream:
        raise UsageError(
            "what comes from standard input has no statement beside it", hint="name a file, or verify nothing"
        )
    for pause_seconds in _PAUSES_SECONDS:
        # A run may have moved files since they were listed, or published another version: then another look differs.
        try:
            return _list_signed(location, requirements, below)
        except (NotTrustedError, ExpiredError, FutureStatementError, LinkError):
            raise
        except IntegrityError:
            time.sleep(pause_seconds)
    return _list_signed(location, requirements, below)


def _list_signed(location: Location, requirements: Requirements, below: Pattern) -> tuple[SignedSource, ...]:
    sources, absence = _list(location, below)
    if len(sources) == 1 and sources[0].location == location:
        return (_single(sources[0], location, requirements),)  # 1, 3
    directory, pattern = _reach(location, below, sources)
    files, place = locate(directory)
    dataset = read_version_above(files, f"{place}/", requirements)  # 1
    if dataset is None:
        if absence is not None:
            _refuse_missing(location, requirements)  # 2
        raise absence or unsigned(files, place)
    prefix = "" if place == dataset.root else f"{dataset.below(place)}/"
    expected = _expected(dataset, prefix, pattern)
    due = {path: dataset.entries[path] for path in expected}
    found = {prefix + source.relative_path: source for source in sources}
    in_place = {path for path, entry in due.items() if path in found and found[path].size_bytes == entry.size_bytes}
    staged = listed_staged_files(files.location(dataset.root), dataset.manifest.run, due, in_place=in_place)
    itself = prefix.rstrip("/")  # where the location names a file that is not at its place
    found |= {path: _below(prefix, file, is_named=path == itself) for path, file in staged.items()}
    refuse(compare_listing(expected, found), name=dataset.name)  # 2, 3
    if absence is not None and not found:
        raise absence
    return tuple(SignedSource(source, dataset.file(path), path == itself) for path, source in sorted(found.items()))


def _single(source: SourceFile, location: Location, requirements: Requirements) -> SignedSource:
    files, path = locate(location)
    dataset = read_version_above(files, path, requirements)
    if dataset is None:
        return SignedSource(source, read_version_beside(files, path, requirements).single_file(), is_named=True)
    below = dataset.below(path) or ""
    signed = dataset.file(below)
    due = {below: signed.entry}
    staged = listed_staged_files(files.location(dataset.root), dataset.manifest.run, due).get(below)
    if staged is not None:
        source = replace(staged, relative_path=source.relative_path)
    return SignedSource(source, signed, is_named=True)


def _below(prefix: str, staged: SourceFile, *, is_named: bool) -> SourceFile:
    path = staged.relative_path
    return replace(staged, relative_path=path.rpartition("/")[2] if is_named else path.removeprefix(prefix))


def find_signed_source(location: Location, requirements: Requirements) -> SignedSource:
    """Return the one file that `location` names, wherever it lies; otherwise as `list_signed_sources`.

    Raises:
        UsageError: it names a directory or a glob with several files, or standard input.
    """
    found = list_signed_sources(location, requirements)
    if len(found) != 1:
        raise UsageError(f"{location.display} names {len(found)} files", hint="name one of them")
    return found[0]


@contextmanager
def open_signed_source(found: SignedSource) -> Iterator[SignedRanges]:
    """Open a signed file; if a run moves it to its place meanwhile, it is read on there.

    The caller still owes to compare the file with what was signed (`check_file`).

    Raises:
        ConflictError: the file is not, or no longer, the one that was listed, and nowhere else.
        StorageError: the storage refused or failed.
    """
    entry, is_read = found.signed.entry, False
    try:
        with ExitStack() as stack:
            places = partial(_places, found, stack)
            try:
                source: RangeSource = stack.enter_context(open_range_source(found.source))
            except ConflictError:
                moved = first_signed(places, entry)
                if moved is None:
                    raise
                source = moved
            yield SignedRanges(source, entry, places)
            is_read = True
    except ConflictError:
        if not is_read:
            raise
        # What was read is what was signed. Where it was moved, the file is somewhere else now, and still the same.
        with ExitStack() as stack:
            if first_signed(partial(_places, found, stack), entry) is None:
                raise


def _places(found: SignedSource, stack: ExitStack) -> Iterator[RangeSource]:
    """Open the file at its other place and at this one, as what is there now; the stack closes them."""
    files, path = locate(found.source.location)
    for place in (found.signed.other_place(path), path):
        if place is None:
            continue
        with suppress(ConflictError, NoRegularFileError, SourceNotFoundError):
            yield stack.enter_context(open_range_source(find_file(files.location(place))))


def _list(location: Location, below: Pattern) -> tuple[tuple[SourceFile, ...], SourceNotFoundError | None]:
    try:
        return list_sources(location, below), None
    except SourceNotFoundError as error:  # perhaps because all of it was removed
        return (), error
    except NoRegularFileError as error:  # nobody signs one
        raise IntegrityError(f"{error.message}, so it was not signed") from error


def _refuse_missing(location: Location, requirements: Requirements) -> None:
    """Pass if a location names no single file that was signed; nothing is there."""
    files, path = locate(location)
    if open_store(files.location(path + SIGNATURE_SUFFIX)).stat().kind is EntryKind.FILE:
        signed = read_version_beside(files, path, requirements).single_file()
        refuse(compare_listing([signed.entry.path], ()), name=signed.name)


def _reach(location: Location, below: Pattern, sources: Sequence[SourceFile]) -> tuple[Location, Pattern]:
    """Return the directory that a location starts from, and which files below it takes."""
    is_directory = bool(sources) and sources[0].location == location.child(sources[0].relative_path)
    return (location, below) if is_directory or not has_glob(location.url) else split_glob(location)


def _expected(dataset: VerifiedVersion, prefix: str, pattern: Pattern) -> list[str]:
    itself = prefix.rstrip("/")  # where the location names a file that is not at its place
    return [
        path
        for path in dataset.entries
        if path == itself or (path.startswith(prefix) and pattern.matches(path[len(prefix) :].split("/")))
    ]


def first_signed(places: Places[_Source], entry: FileEntry) -> _Source | None:
    """Return the first file that is the signed one, or None if there is none; raises as `is_signed`."""
    return next((source for source in places() if is_signed(source, entry)), None)


class SignedRanges:
    """A RangeSource over a signed file, wherever it lies; as safe to use from several threads as what it reads.

    Args:
        source: the file, where it was found. The caller compares it with what was signed.
        entry: what was signed.
        places: looks where it may be now. Whoever made it closes what that opens.
    """

    traits = SourceTraits(reads_in_flight=1)

    __slots__ = ("_entry", "_lock", "_places", "_source", "name", "size_bytes")

    def __init__(self, source: RangeSource, entry: FileEntry, places: Places[RangeSource]) -> None:
        """Read nothing yet."""
        self._source = source
        self._entry = entry
        self._places = places
        self._lock = threading.Lock()
        self.name = source.name
        self.size_bytes = source.size_bytes

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`.

        Raises:
            FormatError: the file is shorter than that.
            ConflictError: it is not where it was, and nowhere else.
            StorageError: the storage failed.
        """
        return self._reading(lambda source: source.read_range(start, length))

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""
        self._reading(lambda source: read_into(source, start, out))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length), which stay valid; raises what `read_range` raises."""
        return self._reading(lambda source: Gatherer(source).fetch(ranges))

    def _reading(self, read: Callable[[RangeSource], _T]) -> _T:
        source = self._source
        try:
            return read(source)
        except (ConflictError, StorageError):
            moved = self._moved(source)
            if moved is None:
                raise
        return read(moved)

    def _moved(self, lost: RangeSource) -> RangeSource | None:
        with self._lock:
            if self._source is lost:
                found = first_signed(self._places, self._entry)
                if found is None:
                    return None
                self._source = found
            return self._source
