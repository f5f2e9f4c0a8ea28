"""Match paths against globs, part by part.

`*`, `?` and `[...]` match within one part, `**` any number of directories. Names that begin with `_` or `.` match only
where the pattern spells that first character: other readers of datasets skip them too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from pipecrypt.store.location import Location

__all__ = [
    "ALL_PARQUET",
    "EVERY_FILE",
    "PARQUET_SUFFIXES",
    "Pattern",
    "all_ending",
    "all_parquet_and_hidden",
    "has_glob",
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
