"""List the files of a source, match their paths against globs, and refuse sinks that lie among them.

In a glob, `*`, `?` and `[...]` match within one part, `**` any number of directories. Names that begin with `_` or `.`
match only where the pattern spells that first character: other readers of datasets skip them too. An exact name comes
before a glob, so that a file called `a*b.parquet` can be named. A directory gives all files below that the caller's
pattern takes. Links are followed, but not in circles.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from pipecrypt.errors import NoRegularFileError, SourceNotFoundError, UsageError
from pipecrypt.store.filesystem import (
    RemoteFilesystem,
    fingerprint_of,
    look_up,
    open_filesystem,
    size_of,
    strip_protocol,
)
from pipecrypt.store.location import Location
from pipecrypt.store.problems import map_errors
from pipecrypt.store.publication import is_temporary

__all__ = [
    "ALL_PARQUET",
    "EVERY_FILE",
    "PARQUET_SUFFIXES",
    "Pattern",
    "SourceFile",
    "all_ending",
    "all_parquet_and_hidden",
    "check_disjoint",
    "check_outputs",
    "find_file",
    "has_glob",
    "list_sources",
    "local_fingerprint",
    "split_glob",
]

_ANY_DEPTH: Final = "**"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob below some directory.

    Args:
        parts: what stood between the slashes.
        suffixes: if given, how names must end besides, in lower case.
        takes_hidden: whether names that begin with `_` or `.` match like others.
        hidden_suffixes: if given, they do so on the way to files whose names end so.
        left_out: name of a directory at the very top that never matches.
    """

    parts: tuple[str, ...]
    suffixes: tuple[str, ...] = ()
    takes_hidden: bool = False
    hidden_suffixes: tuple[str, ...] = ()
    left_out: str | None = None

    def matches(self, names: Sequence[str]) -> bool:
        """Say whether the file at `names` matches."""
        if self.suffixes and not names[-1].lower().endswith(self.suffixes):
            return False
        if names[0] == self.left_out:
            return False
        takes_hidden = self.takes_hidden or names[-1].endswith(self.hidden_suffixes)
        return len(self.parts) in self._positions(names, takes_hidden=takes_hidden)

    def admits_directory(self, names: Sequence[str]) -> bool:
        """Say whether a file below the directory at `names` can match."""
        takes_hidden = self.takes_hidden or bool(self.hidden_suffixes)
        if names and names[0] == self.left_out:
            return False
        return any(position < len(self.parts) for position in self._positions(names, takes_hidden=takes_hidden))

    def _positions(self, names: Sequence[str], *, takes_hidden: bool) -> set[int]:
        """Return how many parts can be used up by `names`: the states of a nondeterministic automaton."""
        positions = self._skip_any_depth({0})
        for name in names:
            following: set[int] = set()
            for position in positions:
                following |= self._step(position, name, hides=not takes_hidden and _is_hidden(name))
            positions = self._skip_any_depth(following)
        return positions

    def _step(self, position: int, name: str, *, hides: bool) -> set[int]:
        if position == len(self.parts):
            return set()
        part = self.parts[position]
        if part == _ANY_DEPTH:
            return set() if hides else {position}
        if fnmatchcase(name, part) and (not hides or part[:1] == name[:1]):
            return {position + 1}
        return set()

    def _skip_any_depth(self, positions: set[int]) -> set[int]:
        closed = set(positions)
        for position in sorted(positions):
            following = position
            while following < len(self.parts) and self.parts[following] == _ANY_DEPTH:
                following += 1
                closed.add(following)
        return closed


# In upper or lower case. Whatever this project writes into a directory ends so: else it would not be found there again.
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
ALL_PARQUET: Final = Pattern((_ANY_DEPTH, "*"), PARQUET_SUFFIXES)
EVERY_FILE: Final = Pattern((_ANY_DEPTH, "*"), takes_hidden=True)


def all_ending(suffixes: tuple[str, ...]) -> Pattern:
    """Return the pattern of all files below a directory whose names end so, in upper or lower case."""
    return Pattern((_ANY_DEPTH, "*"), suffixes)


def all_parquet_and_hidden(suffix: str, *, left_out: str) -> Pattern:
    """Return the pattern of all Parquet files below a directory, and of the hidden ones whose names end so.

    Args:
        suffix: of names that may be hidden.
        left_out: a directory at the top where none of them counts.
    """
    return Pattern((_ANY_DEPTH, "*"), PARQUET_SUFFIXES, hidden_suffixes=(suffix,), left_out=left_out)


def has_glob(text: str) -> bool:
    """Say whether `text` has a character that globs use."""
    return any(character in text for character in "*?[")


def _is_hidden(name: str) -> bool:
    # Spark's rule: `_date=2026-01-01` is a partition, `_SUCCESS` and `_pipecrypt` are not data.
    # The keys `.` and `..` of an object store are not hidden: whoever lists must see and refuse them.
    if name in {".", ".."}:
        return False
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


_NO_FILES_HINT: Final = "names that begin with _ or . are skipped; to reach into directories, end a glob with /**"

_PERMISSION_BITS: Final = 0o777

_Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file, as it was when the run was planned.

    Args:
        location: the file.
        relative_path: its path below the source, with `/`; its name where the source is this one file.
        size_bytes: its size.
        fingerprint: changes when the file does.
        mode: permission bits of a local file (0o777).
        mtime_ns: when it was last changed, in nanoseconds since 1970; of sources on other storages nobody asks.
    """

    location: Location
    relative_path: str
    size_bytes: int
    fingerprint: str
    mode: int | None = None
    mtime_ns: int | None = None


def list_sources(location: Location, below: Pattern = ALL_PARQUET) -> tuple[SourceFile, ...]:
    """Return the files that `location` names, in the order of their relative paths.

    Args:
        location: a file, a directory or a glob.
        below: which files of a directory count.

    Raises:
        SourceNotFoundError: nothing is there, or nothing matches.
        NoRegularFileError: something that counts is a named pipe, a socket or a device.
        StorageError: the storage refused or failed.
        UsageError: a name cannot be mirrored under a sink.
    """
    if location.is_standard_stream:
        return (SourceFile(location, location.name, 0, ""),)
    found = list(_list_local(location, below) if location.is_local else _list_remote(location, below))
    if not found:
        what = "Parquet file" if below.suffixes == PARQUET_SUFFIXES else "source file"
        hint = None if below.takes_hidden and not has_glob(location.url) else _NO_FILES_HINT
        raise SourceNotFoundError(f"no {what} in {location.display}", hint=hint)
    for file in found:
        _check_relative_path(file)
    return tuple(sorted(found, key=lambda file: file.relative_path))


def find_file(location: Location) -> SourceFile:
    """Return the one file that a location names.

    Raises:
        UsageError: it names a directory or a glob with several.
        SourceNotFoundError: there is none.
    """
    found = list_sources(location)
    if len(found) != 1:
        raise UsageError(f"{location.display} names {len(found)} files", hint="name one of them")
    return found[0]


def local_fingerprint(status: os.stat_result) -> str:
    """Return a text that changes when a local file is written to or replaced."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def split_glob(location: Location) -> tuple[Location, Pattern]:
    """Split a glob into the directory that it starts from and the pattern below.

    Local directories that exist under a name with glob characters belong to the directory.
    """
    head, slash, rest = location.url.partition("://")
    parts = (rest if slash else head).split("/")
    prefix = head + slash if slash else ""
    fixed = 0
    while fixed < len(parts) - 1 and _is_fixed(location, prefix + "/".join(parts[: fixed + 1]), parts[fixed]):
        fixed += 1
    base = prefix + "/".join(parts[:fixed])
    if fixed and not parts[fixed - 1]:
        base += "/"  # the root of the file system
    directory = Location(base or ".", location.options)
    return directory, Pattern(tuple(part for part in parts[fixed:] if part))


def _is_fixed(location: Location, url: str, part: str) -> bool:
    if not has_glob(part):
        return True
    return location.is_local and os.path.isdir(Location(url).local_path)


def _check_relative_path(file: SourceFile) -> None:
    parts = file.relative_path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise UsageError(f"{file.location.display} has a name that cannot be mirrored under a sink", hint="rename it")
    try:
        file.relative_path.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{file.location.url!a} has a name that is not valid Unicode", hint="rename it") from error


# ---- local ----


def _list_local(location: Location, below: Pattern) -> Iterator[SourceFile]:
    path = location.local_path
    with map_errors(f"cannot read {location.display}"):
        if os.path.isdir(path):
            yield from _walk_local(location, below)
        elif os.path.lexists(path):
            yield _local_file(location, location.name)
        elif has_glob(path):
            directory, pattern = split_glob(location)
            yield from _walk_local(directory, pattern)
        else:
            raise SourceNotFoundError(f"{location.display} does not exist")


def _local_file(location: Location, relative_path: str) -> SourceFile:
    try:
        status = os.stat(location.local_path)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{location.display} does not exist, or is a broken link") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SourceNotFoundError(f"{location.display} is a link that leads to itself") from error
    if not stat.S_ISREG(status.st_mode):
        raise NoRegularFileError(f"{location.display} is not a regular file")
    mode = stat.S_IMODE(status.st_mode) & _PERMISSION_BITS
    return SourceFile(
        location, relative_path, status.st_size, local_fingerprint(status), mode=mode, mtime_ns=status.st_mtime_ns
    )


def _walk_local(directory: Location, pattern: Pattern) -> Iterator[SourceFile]:
    # Below a directory that does not exist, a glob matches nothing.
    if not os.path.isdir(directory.local_path):
        return
    status = os.stat(directory.local_path)
    # Each directory with its names below the first one and the identities of its ancestors, to see circles.
    pending: list[tuple[tuple[str, ...], tuple[_Identity, ...]]] = [((), ((status.st_dev, status.st_ino),))]
    while pending:
        names, ancestors = pending.pop()
        path = os.path.join(directory.local_path, *names)
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                below = (*names, entry.name)
                if _is_directory(entry):
                    identity = _identity(entry)
                    if identity not in ancestors and pattern.admits_directory(below):
                        pending.append((below, (*ancestors, identity)))
                elif pattern.matches(below) and not is_temporary(entry.name):
                    yield _local_file(directory.listed("/".join(below)), "/".join(below))


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself is not a file either, and is named where it counts
            raise
        return False


def _identity(entry: os.DirEntry[str]) -> _Identity:
    status = os.stat(entry.path)
    return status.st_dev, status.st_ino


# ---- any other storage ----


def _list_remote(location: Location, below: Pattern) -> Iterator[SourceFile]:
    remote = open_filesystem(location)
    with map_errors(f"cannot read {location.display}"):
        info = look_up(remote)
        if info is None:
            if not has_glob(location.url):
                raise SourceNotFoundError(f"{location.display} does not exist")
            directory, pattern = split_glob(location)
            yield from _find_remote(directory, pattern)
        elif info.get("type") == "directory":
            yield from _find_remote(location, below)
        else:
            yield _remote_file(location, location.name, info)


def _find_remote(directory: Location, pattern: Pattern) -> Iterator[SourceFile]:
    remote = open_filesystem(directory)
    try:
        found = remote.retry.call(lambda: remote.fs.find(remote.path, detail=True))
    except FileNotFoundError:
        return
    for path, info in found.items():
        relative_path = _below(remote, path)
        # An empty object that stands for a directory, or what a run that was killed left behind.
        is_other = relative_path.endswith("/") or is_temporary(relative_path.rsplit("/", 1)[-1])
        if info.get("type", "file") == "file" and not is_other and pattern.matches(relative_path.split("/")):
            yield _remote_file(directory.listed(relative_path), relative_path, info)


def _below(remote: RemoteFilesystem, path: str) -> str:
    base = remote.path.rstrip("/") + "/"
    return path[len(base) :] if path.startswith(base) else path.lstrip("/")


def _remote_file(location: Location, relative_path: str, info: dict[str, object]) -> SourceFile:
    size_bytes = size_of(info, location.display)
    return SourceFile(location, relative_path, size_bytes, fingerprint_of(info))


# Options that lead to another store although the URL is the same.
_STORE_OPTIONS: Final = ("endpoint_url", "client_kwargs", "host", "port", "account_name", "connection_string")
_HINT: Final = "choose a sink outside the source"


@dataclass(frozen=True, slots=True)
class _Place:
    store: str
    parts: tuple[str, ...]


def check_disjoint(source: Location, sink: Location, below: Pattern = ALL_PARQUET) -> None:
    """Refuse a sink that is the source or lies inside it, links resolved.

    A sink below the directory of a glob is fine where the glob cannot reach into it.

    Args:
        source: a file, a directory or a glob.
        sink: a file or a directory.
        below: which files of a directory count.

    Raises:
        UsageError: they overlap.
    """
    if source.is_standard_stream or sink.is_standard_stream:
        return
    directory, pattern = _reach(source, below)
    source_place, sink_place = _place(directory), _place(sink)
    if source_place.store != sink_place.store:
        return
    depth = len(source_place.parts)
    if sink_place.parts[:depth] != source_place.parts:
        return
    names = sink_place.parts[depth:]
    if not names and pattern is None:
        raise UsageError(f"the sink {sink.display} is the source", hint=_HINT)
    if pattern is not None and (not names or pattern.admits_directory(names) or pattern.matches(names)):
        raise UsageError(f"the sink {sink.display} lies inside the source {source.display}", hint=_HINT)


def check_outputs(sources: Sequence[SourceFile], outputs: Sequence[Location]) -> None:
    """Refuse outputs that would replace each other or an input, or lie below one another.

    Raises:
        UsageError: two files would be at one place.
    """
    inputs = {_place(file.location) for file in sources if not file.location.is_standard_stream}
    taken: dict[_Place, Location] = {}
    for output in outputs:
        place = _place(output)
        if place in inputs:
            raise UsageError(f"{output.display} is one of the source files", hint=_HINT)
        if place in taken:
            raise UsageError(f"two source files would be written to {output.display}", hint="name them apart")
        taken[place] = output
    for place, output in taken.items():
        for depth in range(1, len(place.parts)):
            if (above := taken.get(_Place(place.store, place.parts[:depth]))) is not None:
                what = f"{above.display} would be a file and the directory of {output.display}"
                raise UsageError(what, hint="name the source files apart")


def _reach(source: Location, below: Pattern) -> tuple[Location, Pattern | None]:
    """Return where a source starts, and what it takes below: None for a single file."""
    if source.is_local:
        if os.path.isdir(source.local_path):
            return source, below
        is_exact = os.path.lexists(source.local_path)
    else:
        is_exact = not has_glob(source.url)
    if is_exact and source.is_local:
        return source, None
    return (source, below) if is_exact else split_glob(source)


def _place(location: Location) -> _Place:
    if location.is_standard_stream:
        return _Place("standard stream", (location.url,))
    if location.is_local:
        return _Place("file", tuple(part for part in os.path.realpath(location.local_path).split("/") if part))
    kind, path = strip_protocol(location)
    options = [f"{name}={location.options[name]}" for name in _STORE_OPTIONS if name in location.options]
    return _Place(" ".join([kind, *options]), tuple(part for part in path.split("/") if part))
