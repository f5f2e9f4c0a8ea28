"""Name a place on some storage, or several by a glob, and say how calls are made there.

A location is a plain path, a `file://` URL, or any URL of fsspec. Percent signs are not decoded, as fsspec does not.
It remembers which of its last parts nobody named: `beneath` follows no link among those. How calls are made users give
among the storage options, under the name `transfer`, so that it goes wherever a location goes.

Globs are matched part by part: `*`, `?` and `[...]` within one part, `**` any number of directories. Names that begin
with `_` or `.` match only where the pattern spells that first character: other readers of datasets skip them too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Final, Self, TypeAlias

from pipecrypt.errors import IntegrityError, UsageError

__all__ = [
    "ALL_PARQUET",
    "EVERY_FILE",
    "NAME_BYTES",
    "OPTION",
    "PARQUET_SUFFIXES",
    "STANDARD_STREAM",
    "Location",
    "Pattern",
    "Place",
    "TransferSettings",
    "all_ending",
    "all_parquet_and_hidden",
    "has_glob",
    "split_glob",
    "transfer_settings",
]

Place: TypeAlias = "str | os.PathLike[str]"
STANDARD_STREAM: Final = "-"
NAME_BYTES: Final = 255
"""The longest name that file systems take."""
_SCHEME: Final = re.compile(r"\A(?:[A-Za-z0-9]+::)*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_CHAINED: Final = re.compile(r"\A[A-Za-z0-9]+::")
_LOCAL_PREFIXES: Final = ("file://", "local://")
# Behind a user's name and a colon comes a password, which may hold any character, "@" and "/" too.
_USER_INFO: Final = re.compile(r"://(?:[^/@:]*:(?!\d+(?:/|$)).*@|[^/@]*@)")
_HTTP: Final = ("http://", "https://")
_SHOWN_CHARACTERS: Final = 120


@dataclass(frozen=True, slots=True, repr=False)
class Location:
    """A file, a directory or a glob, with what its storage needs to be reached.

    Args:
        url: a local path (`~` is expanded), a URL, or `-` for standard input or output; for a sink, a last `/` says
            that it is a directory.
        options: storage options for fsspec; may hold secrets, so they are never shown.
        depth: how many of the last parts of the path lie below what the caller named. They were found there, or are
            what pipecrypt calls its files, so a symbolic link among them is not followed.

    Raises:
        UsageError: the URL is empty or holds a NUL character.
    """

    url: str
    options: Mapping[str, object] = field(default_factory=dict, hash=False)
    depth: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        """Refuse what no storage can name, and keep a copy of the options that nobody else changes."""
        _check_url(self.url)
        object.__setattr__(self, "options", dict(self.options))

    @classmethod
    def of(cls, place: Place | Location, options: Mapping[str, object] | None = None) -> Location:
        """Return the location that a caller names; `options` replace those of a Location.

        Raises:
            UsageError: it is not a path, URL or Location.
        """
        if isinstance(place, Location):
            return place if options is None else Location(place.url, options)
        if not isinstance(place, str | os.PathLike):
            raise UsageError(f"a place is a path or a URL, not {type(place).__name__}")
        return Location(os.fspath(place), options or {})

    @property
    def is_local(self) -> bool:
        """Whether this names a file of the operating system."""
        if "://" not in self.url:
            return self.url != STANDARD_STREAM
        return self.url.startswith(_LOCAL_PREFIXES) or _SCHEME.match(self.url) is None

    @property
    def is_in_this_process(self) -> bool:
        """Whether other processes see something else there: memory:// is a dictionary."""
        return "memory://" in self.url or "memory::" in self.url or self.is_standard_stream

    @property
    def is_standard_stream(self) -> bool:
        """Whether this is standard input or output; a file of that name is called `./-`."""
        return self.url == STANDARD_STREAM

    @property
    def is_chained(self) -> bool:
        """Whether this is a chain of storages, such as simplecache::s3://bucket/file."""
        return _CHAINED.match(self.url) is not None and not self.is_local

    @property
    def names_directory(self) -> bool:
        """Whether the spelling says directory."""
        return self.url.endswith("/")

    @property
    def local_path(self) -> str:
        """The path for the operating system."""
        if not self.is_local:
            raise AssertionError("only a local location has a path")
        path = self.written_path
        return (os.path.expanduser(path) if path.startswith("~") else path) or "/"

    @property
    def written_path(self) -> str:
        """The path as it was written, `~` and all, of a local location."""
        path = self.url
        if "://" in path:
            for prefix in _LOCAL_PREFIXES:
                path = path.removeprefix(prefix)
        return path

    @property
    def name(self) -> str:
        """The last part of the path."""
        if self.is_local:
            name = self.url.rpartition("/")[2]
            if name and name.strip(".") and not name.startswith("~"):
                return name
            return os.path.basename(os.path.abspath(self.local_path))
        # A signed query is not a part of the name: names are written into files and shown.
        url = _without_query(self.url.rsplit("::", 1)[-1])
        return url.rstrip("/").rsplit("/", 1)[-1]

    @property
    def display(self) -> str:
        """The URL as errors show it, without a user's name or password or a signed query."""
        if self.is_local:
            return self.url
        if self.is_standard_stream:
            return "standard input or output"
        return "::".join(_redacted(member) for member in self.url.split("::"))

    @property
    def above(self) -> Location:
        """The directory that a local place is in; that of the root, or of the working directory, is itself."""
        path = os.path.dirname(self.local_path.rstrip("/"))
        root = "/" if self.local_path.startswith("/") else "."
        return Location(path or root, depth=max(0, self.depth - 1))

    def absolute(self) -> Self:
        """Return this location as a process elsewhere names it, with an absolute path where it is local."""
        return replace(self, url=os.path.abspath(self.local_path)) if self.is_local else self

    def anchored(self, directory: str) -> Self:
        """Return this location with its path, where it is local and relative, starting from a directory.

        Args:
            directory: absolute. A `/` at the end of the path stays.
        """
        path = self.written_path if self.is_local else "/"
        if path.startswith(("/", "~")):
            return self
        # By names, which says the same as the file system does: the directory has no links.
        while path in {".", ".."} or path.startswith(("./", "../")):
            step, slash, path = path.partition("/")
            directory = os.path.dirname(directory) if step == ".." else directory
            if not slash:
                return replace(self, url=directory)
        return replace(self, url=f"{directory.rstrip('/')}/{path}")

    def child(self, relative_path: str) -> Self:
        """Return the location of `relative_path` (with `/`) below this one.

        The path may come from a document or a listing that somebody else wrote, so it cannot lead anywhere else.

        Raises:
            IntegrityError: it is absolute, or has an empty part, `.`, `..` or a NUL character.
        """
        parts = self._checked_parts(relative_path)
        return self._elsewhere(self._joined(relative_path), self.depth + len(parts))

    def listed(self, relative_path: str) -> Self:
        """Return the location of what a storage itself lists below a source, whatever it is called.

        Links there are the user's own, and are followed. Nothing is written to such a place.
        """
        url = self._joined(relative_path)
        _check_url(url)
        return self._elsewhere(url, 0)

    def sibling(self, name: str) -> Self:
        """Return the location of `name` in the same directory.

        Raises:
            IntegrityError: it is not a name of one part.
        """
        if len(self._checked_parts(name)) != 1:
            raise self._leads_out(name)
        parent, slash, _ = self.url.rstrip("/").rpartition("/")
        return self._elsewhere(parent + slash + name, max(1, self.depth))

    def _elsewhere(self, url: str, depth: int) -> Self:
        """Return another place of the same storage, whose URL the caller has checked: options are not copied."""
        place = object.__new__(type(self))
        object.__setattr__(place, "url", url)
        object.__setattr__(place, "options", self.options)
        object.__setattr__(place, "depth", depth)
        return place

    def _joined(self, relative_path: str) -> str:
        return (self.url if self.url.endswith("/") else self.url + "/") + relative_path

    def _checked_parts(self, relative_path: str) -> list[str]:
        parts = relative_path.split("/")
        if "\0" in relative_path or not {"", ".", ".."}.isdisjoint(parts):
            raise self._leads_out(relative_path)
        return parts

    def _leads_out(self, relative_path: str) -> IntegrityError:
        shown = ascii(relative_path[:_SHOWN_CHARACTERS])
        return IntegrityError(
            f"{shown} is not a path below {self.display}", hint="whoever wrote this path meant a file somewhere else"
        )

    def __repr__(self) -> str:
        """Show the names of the options only."""
        return f"Location({self.display!r}, options={sorted(self.options)})"


def _check_url(url: str) -> None:
    if not url or "\0" in url:
        raise UsageError(f"{url!r} is not a path or URL", hint="give a path or a URL such as s3://bucket/folder/")


def _without_query(url: str) -> str:
    # Elsewhere "?" is a wildcard or part of a name.
    return url.split("?", 1)[0] if url.startswith(_HTTP) else url


def _redacted(member: str) -> str:
    return _USER_INFO.sub("://***@", _without_query(member))


# ---- how calls are made ----

OPTION: Final = "transfer"
_LEAST_PART_BYTES: Final = 5 << 20  # of S3, for all parts but the last
_MOST_PART_BYTES: Final = 5 << 30


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How storage calls are made.

    Args:
        deadline_seconds: how long one operation (a range, a part, a listing) is tried again after passing failures; 0
            for one attempt.
        part_bytes: size of the parts of an upload; larger files get larger parts.
        parts_in_flight: how many parts travel at once, besides the one that is being filled.
        range_bytes: the longest range that is one request.
        ranges_in_flight: how many ranges are fetched at once.

    Raises:
        UsageError: a number that no storage takes.
    """

    deadline_seconds: float = 120.0
    part_bytes: int = 8 << 20
    parts_in_flight: int = 4
    range_bytes: int = 8 << 20
    ranges_in_flight: int = 8

    def __post_init__(self) -> None:
        """Refuse what no storage takes."""
        for each in fields(self):
            value = getattr(self, each.name)
            is_number = isinstance(value, int | float) if each.name == "deadline_seconds" else isinstance(value, int)
            if not is_number or isinstance(value, bool):
                raise UsageError(f"{OPTION}.{each.name} is a number, not {value!r}")
        if self.deadline_seconds < 0:
            raise UsageError(f"{OPTION}.deadline_seconds is {self.deadline_seconds}, less than 0")
        if not _LEAST_PART_BYTES <= self.part_bytes <= _MOST_PART_BYTES:
            raise UsageError(f"{OPTION}.part_bytes is {self.part_bytes}, not from 5 MiB to 5 GiB")
        if min(self.parts_in_flight, self.range_bytes, self.ranges_in_flight) < 1:
            raise UsageError(f"{OPTION}: parts_in_flight, range_bytes and ranges_in_flight are at least 1")


def transfer_settings(options: Mapping[str, object]) -> TransferSettings:
    """Return what storage options say under `transfer`, as a mapping or as settings; the defaults where they do not.

    Raises:
        UsageError: a name or a value is not one of `TransferSettings`.
    """
    given = options.get(OPTION, {})
    if isinstance(given, TransferSettings):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(f"the storage option {OPTION} is a mapping, not {type(given).__name__}")
    known = [each.name for each in fields(TransferSettings)]
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise UsageError(f"{OPTION}.{unknown[0]} is not a setting", hint=f"choose from {', '.join(known)}")
    return TransferSettings(**given)


# ---- globs ----

_ANY_DEPTH: Final = "**"
_EVERYTHING: Final = (_ANY_DEPTH, "*")


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
        """Return whether the file at `names` matches."""
        if self.suffixes and not names[-1].lower().endswith(self.suffixes):
            return False
        if names[0] == self.left_out:
            return False
        takes_hidden = self.takes_hidden or names[-1].endswith(self.hidden_suffixes)
        if self.parts == _EVERYTHING:
            return takes_hidden or not any(map(_is_hidden, names))
        return len(self.parts) in self._positions(names, takes_hidden=takes_hidden)

    def admits_directory(self, names: Sequence[str]) -> bool:
        """Return whether a file below the directory at `names` can match."""
        takes_hidden = self.takes_hidden or bool(self.hidden_suffixes)
        if names and names[0] == self.left_out:
            return False
        if self.parts == _EVERYTHING:
            return takes_hidden or not any(map(_is_hidden, names))
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
ALL_PARQUET: Final = Pattern(_EVERYTHING, PARQUET_SUFFIXES)
EVERY_FILE: Final = Pattern(_EVERYTHING, takes_hidden=True)


def all_ending(suffixes: tuple[str, ...]) -> Pattern:
    """Return the pattern of all files below a directory whose names end so, in upper or lower case."""
    return Pattern(_EVERYTHING, suffixes)


def all_parquet_and_hidden(suffix: str, *, left_out: str) -> Pattern:
    """Return the pattern of all Parquet files below a directory, and of the hidden ones whose names end so.

    Args:
        suffix: of names that may be hidden.
        left_out: a directory at the top where none of them counts.
    """
    return Pattern(_EVERYTHING, PARQUET_SUFFIXES, hidden_suffixes=(suffix,), left_out=left_out)


def has_glob(text: str) -> bool:
    """Return whether `text` has a character that globs use."""
    return any(character in text for character in "*?[")


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


def _is_hidden(name: str) -> bool:
    # Spark's rule: `_date=2026-01-01` is a partition, `_SUCCESS` and `_pipecrypt` are not data.
    # The keys `.` and `..` of an object store are not hidden: whoever lists must see and refuse them.
    if name in {".", ".."}:
        return False
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
