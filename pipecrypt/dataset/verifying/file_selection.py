"""Which files of a dataset are verified: all, those below a directory, or those that globs take. Matching: pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from pipecrypt.errors import UsageError
from pipecrypt.store.patterns import Pattern, has_glob

__all__ = ["Selection"]

_EVERYTHING_BELOW = "**"


@dataclass(frozen=True, slots=True)
class _Glob:
    text: str
    pattern: Pattern

    def matches(self, path: str) -> bool:
        # An exact name comes first, so that a file called `a[1].parquet` can be named.
        return path == self.text or self.pattern.matches(path.split("/"))


@dataclass(frozen=True, slots=True)
class Selection:
    """What a caller asked for; paths are those below the dataset.

    Args:
        directory: names that lead to the directory below which files count; empty for the dataset itself.
        globs: if any, files below the directory count where one of them matches the path from there.
    """

    directory: tuple[str, ...] = ()
    globs: tuple[_Glob, ...] = ()

    @classmethod
    def of(cls, globs: Sequence[str], *, directory: str = "") -> Self:
        """Return the selection that a caller names.

        Args:
            globs: relative to the directory, with `/`; a `/` at the end means everything below. Names that begin with
                `_` or `.` match where the glob spells that character. None: everything.
            directory: path below the dataset; empty for the dataset itself.

        Raises:
            UsageError: a glob is empty, or leads out of the dataset.
        """
        return cls(tuple(name for name in directory.split("/") if name), tuple(map(_glob, globs)))

    @property
    def is_everything(self) -> bool:
        """Whether all files count."""
        return not self.directory and not self.globs

    def takes(self, path: str) -> bool:
        """Say whether a file counts."""
        if self.is_everything:
            return True
        depth = len(self.directory)
        names = path.split("/", depth)
        if len(names) <= depth or tuple(names[:depth]) != self.directory:
            return False
        return not self.globs or any(glob.matches(names[depth]) for glob in self.globs)

    def admits(self, names: tuple[str, ...]) -> bool:
        """Say whether a file below a directory of the dataset can count."""
        depth = len(self.directory)
        if names[:depth] != self.directory[: len(names)]:
            return False
        below = names[depth:]
        return (
            not self.globs
            or not below
            or any(glob.pattern.admits_directory(below) or _leads_to(glob.text, below) for glob in self.globs)
        )

    def starts(self) -> tuple[str, ...]:
        """Return paths of directories of the dataset below which everything lies that counts, none below another."""
        if not self.globs:
            return ("/".join(self.directory),)
        found = sorted({(*self.directory, *_fixed(glob.text)) for glob in self.globs})
        kept: list[tuple[str, ...]] = []
        for names in found:
            if not any(names[: len(above)] == above for above in kept):
                kept.append(names)
        return tuple("/".join(names) for names in kept)

    def __iter__(self) -> Iterator[str]:
        """Yield the globs as they were given."""
        return (glob.text for glob in self.globs)


def _glob(text: str) -> _Glob:
    if not isinstance(text, str) or not text.strip("/"):
        raise UsageError(f"{text!r} is not a glob of files", hint="write it relative to the dataset: day=1/*.parquet")
    parts = text.strip("/").split("/")
    if {"", ".", ".."}.intersection(parts):
        raise UsageError(f"{text!r} leads out of the dataset", hint="write it relative to the dataset: day=1/*.parquet")
    if text.endswith("/"):
        parts.append(_EVERYTHING_BELOW)
    return _Glob("/".join(parts), Pattern(tuple(parts)))


def _fixed(glob: str) -> tuple[str, ...]:
    """Return the directories that a glob begins with."""
    fixed: list[str] = []
    for part in glob.split("/")[:-1]:
        if has_glob(part):
            break
        fixed.append(part)
    return tuple(fixed)


def _leads_to(path: str, names: tuple[str, ...]) -> bool:
    return tuple(path.split("/")[: len(names)]) == names
