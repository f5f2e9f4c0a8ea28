"""Match paths against globs, part by part. Walking the storage is left to listing.

`*`, `?` and `[...]` match within one part, `**` any number of directories. Names that begin with `_` or `.` match
only where the pattern spells that first character: other readers of datasets skip them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

__all__ = ["ALL_FILES", "ALL_PARQUET", "Pattern", "has_glob"]

_ANY_DEPTH: Final = "**"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob below some directory.

    Args:
        parts: what stood between the slashes.
        takes_hidden: names that begin with `_` or `.` match like any other.
    """

    parts: tuple[str, ...]
    takes_hidden: bool = False

    def matches(self, names: Sequence[str]) -> bool:
        """Say whether the file at `names` matches."""
        return len(self.parts) in self._positions(names)

    def admits_directory(self, names: Sequence[str]) -> bool:
        """Say whether a file below the directory at `names` can match."""
        return any(position < len(self.parts) for position in self._positions(names))

    def _positions(self, names: Sequence[str]) -> set[int]:
        """Return how many parts can be used up by `names`: the states of a nondeterministic automaton."""
        positions = self._skip_any_depth({0})
        for name in names:
            following: set[int] = set()
            for position in positions:
                following |= self._step(position, name)
            positions = self._skip_any_depth(following)
        return positions

    def _step(self, position: int, name: str) -> set[int]:
        if position == len(self.parts):
            return set()
        part = self.parts[position]
        if part == _ANY_DEPTH:
            return set() if self._hides(name) else {position}
        if fnmatchcase(name, part) and (not self._hides(name) or part[:1] == name[:1]):
            return {position + 1}
        return set()

    def _hides(self, name: str) -> bool:
        return not self.takes_hidden and _is_hidden(name)

    def _skip_any_depth(self, positions: set[int]) -> set[int]:
        closed = set(positions)
        for position in sorted(positions):
            following = position
            while following < len(self.parts) and self.parts[following] == _ANY_DEPTH:
                following += 1
                closed.add(following)
        return closed


ALL_PARQUET: Final = Pattern((_ANY_DEPTH, "*.parquet"))
ALL_FILES: Final = Pattern((_ANY_DEPTH, "*"), takes_hidden=True)


def has_glob(text: str) -> bool:
    """Say whether `text` has a character that globs use."""
    return any(character in text for character in "*?[")


def _is_hidden(name: str) -> bool:
    # Spark's rule: `_date=2026-01-01` is a partition, `_SUCCESS` and `_pipecrypt` are not data.
    # The keys `.` and `..` of an object store are not hidden: whoever lists must see and refuse them.
    if name in {".", ".."}:
        return False
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
