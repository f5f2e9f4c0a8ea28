"""What a caller named for verification: a dataset, some of its files, a file in it, or a file by itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Self

from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, SIGNATURE_SUFFIX, is_reserved
from pipecrypt.dataset.version import VerifiedVersion, read_version_above, read_version_beside, unsigned
from pipecrypt.errors import IntegrityError, NotTrustedError, SourceNotFoundError, StorageError, UsageError
from pipecrypt.store.location import Location, Pattern, has_glob
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import EntryKind
from pipecrypt.store.small_files import LocatedFiles, locate

__all__ = ["Selection", "VerifyTarget", "find_target"]

_EVERYTHING_BELOW: Final = "**"
# What a run that signs leaves in its directory: the blocks of its journal, and at last that it is done.
_NOTE: Final = re.compile(r"(?P<run>\d{8}T\d{6}Z-[0-9a-f]{8})/(?:parts-\d{6,9}|(?P<end>finished))\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a caller asked for; paths are those below the dataset.

    Args:
        directory: names that lead to the directory below which files count; empty for the dataset itself.
        globs: if any, files below the directory count where one of them matches the path from there.
    """

    directory: tuple[str, ...] = ()
    globs: tuple[Pattern, ...] = ()

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
        """Return whether a file counts."""
        if self.is_everything:
            return True
        depth = len(self.directory)
        names = path.split("/", depth)
        if len(names) <= depth or tuple(names[:depth]) != self.directory:
            return False
        below = tuple(names[depth].split("/"))
        # An exact name counts too, so that a file called `a[1].parquet` can be named.
        return not self.globs or any(below == glob.parts or glob.matches(below) for glob in self.globs)

    def admits(self, names: tuple[str, ...]) -> bool:
        """Return whether a file below a directory of the dataset can count."""
        depth = len(self.directory)
        if names[:depth] != self.directory[: len(names)]:
            return False
        below = names[depth:]
        return (
            not self.globs
            or not below
            or any(glob.admits_directory(below) or glob.parts[: len(below)] == below for glob in self.globs)
        )

    def starts(self) -> tuple[str, ...]:
        """Return paths of directories of the dataset below which everything lies that counts, none below another."""
        if not self.globs:
            return ("/".join(self.directory),)
        fixed = (takewhile(lambda part: not has_glob(part), glob.parts[:-1]) for glob in self.globs)
        found = sorted({(*self.directory, *names) for names in fixed})
        kept: list[tuple[str, ...]] = []
        for names in found:
            if not any(names[: len(above)] == above for above in kept):
                kept.append(names)
        return tuple("/".join(names) for names in kept)


@dataclass(frozen=True, slots=True)
class VerifyTarget:
    """What a caller named for verification.

    Args:
        files: its storage.
        version: what was signed.
        selection: which files of a dataset count; None where one file was named.
        path: of that file below the dataset, whether it was signed or not; the name of a single file.
    """

    files: LocatedFiles
    version: VerifiedVersion
    selection: Selection | None
    path: str = ""

    @property
    def is_single_file(self) -> bool:
        """Whether it is a file with its statement beside it."""
        return self.version.manifest.single_file is not None

    @property
    def is_whole(self) -> bool:
        """Whether all that was signed is looked at."""
        return self.is_single_file or (self.selection is not None and self.selection.is_everything)

    def takes(self, path: str) -> bool:
        """Return whether a file counts."""
        return path == self.path if self.selection is None else self.selection.takes(path)

    def location(self, path: str = "") -> Location:
        """Return where a file of the dataset is, or the directory of the dataset."""
        root = self.files.location(self.version.root)
        return root if self.is_single_file or not path else root.child(path)


def find_target(location: Location, requirements: Requirements, globs: Sequence[str] = ()) -> VerifyTarget:
    """Return what a caller named, with its statement verified.

    A directory with a statement is a dataset. A path below one belongs to it, whatever lies beside that path: a
    statement that is valid elsewhere may have been put there. Any other file needs its own statement.

    Args:
        location: what the caller named.
        requirements: what must hold of the statement.
        globs: which files of a dataset count; all, if there is none.

    Raises:
        SourceNotFoundError: nothing is there, and nothing was signed there.
        UsageError: standard input, a statement, or globs below a single file.
        NotTrustedError: there is no statement, or too few trusted keys signed it.
        IntegrityError: as `verify_envelope`, or the list of files is another.
        StorageError: the storage refused or failed.
    """
    if location.is_standard_stream:
        raise UsageError("standard input has no place, so nothing was signed about it", hint="name a file or a dataset")
    files, path = locate(location)
    if path.endswith(SIGNATURE_SUFFIX):
        hint = f"name the file: {path.removesuffix(SIGNATURE_SUFFIX)}"
        raise UsageError(f"{files.display(path)} is a statement, not what it is about", hint=hint)
    kind = open_store(files.location(path)).stat().kind
    dataset = read_version_above(files, path if kind is EntryKind.FILE else f"{path}/", requirements)
    if dataset is not None and dataset.root == path:
        return VerifyTarget(files, dataset, Selection.of(globs))
    if dataset is not None:
        return _in_dataset(files, dataset, path, kind, globs)
    if kind is EntryKind.DIRECTORY:
        raise _not_signed(files, path)
    if (
        kind is EntryKind.NOTHING
        and open_store(files.location(path + SIGNATURE_SUFFIX)).stat().kind is not EntryKind.FILE
    ):
        raise SourceNotFoundError(f"{files.display(path)} does not exist", hint=_missing_hint(path))
    if globs:
        raise UsageError(f"{files.display(path)} is one file, of which no part can be chosen", hint="leave out --files")
    version = read_version_beside(files, path, requirements)
    return VerifyTarget(files, version, None, version.single_file().entry.path)


def _not_signed(files: LocatedFiles, path: str) -> NotTrustedError:
    """Return the error that a directory is not signed; where a run has not come to sign it, with what to do.

    Nothing in that run's directory is read or believed: it says no more than that the statement may be still to come.
    """
    begun, ended = set[str](), set[str]()
    with contextlib.suppress(IntegrityError, StorageError):  # that there is no statement is what counts
        for entry in open_store(files.location(path)).list(RUNS_DIRECTORY, lambda below: len(below) == 1):
            if (note := _NOTE.fullmatch(entry.path)) is not None:
                (ended if note["end"] else begun).add(note["run"])
    waiting = begun - ended
    if not waiting:
        return unsigned(files, path)
    return NotTrustedError(
        f"{files.display(path)} is not signed yet: run {max(waiting)} is at work there, or was stopped before that",
        hint="let it end; if it was stopped, run again with --resume; then verify again",
    )


def _in_dataset(
    files: LocatedFiles, dataset: VerifiedVersion, path: str, kind: EntryKind, globs: Sequence[str]
) -> VerifyTarget:
    below = dataset.below(path)
    if not below:
        raise AssertionError("a dataset found above a path has it below")
    if is_reserved(below):
        hint = f"name the dataset: {dataset.name}"
        raise UsageError(f"{below!a} belongs to the statement of {dataset.name}", hint=hint)
    if below not in dataset.entries:
        if kind is EntryKind.DIRECTORY or any(entry.startswith(below + "/") for entry in dataset.entries):
            return VerifyTarget(files, dataset, Selection.of(globs, directory=below))
        if kind is EntryKind.NOTHING:
            raise SourceNotFoundError(
                f"{dataset.name} has no {below!a}, and none was signed", hint=_missing_hint(below)
            )
    if globs:
        raise UsageError(f"{below!a} is one file, of which no part can be chosen", hint="leave out --files")
    return VerifyTarget(files, dataset, None, below)


def _missing_hint(path: str) -> str | None:
    globs = "to verify some files of a dataset, name the dataset and give --files GLOB"
    return globs if has_glob(path) else "check the path"


def _glob(text: str) -> Pattern:
    if not isinstance(text, str) or not text.strip("/"):
        raise UsageError(f"{text!r} is not a glob of files", hint="write it relative to the dataset: day=1/*.parquet")
    parts = text.strip("/").split("/")
    if {"", ".", ".."}.intersection(parts):
        raise UsageError(f"{text!r} leads out of the dataset", hint="write it relative to the dataset: day=1/*.parquet")
    if text.endswith("/"):
        parts.append(_EVERYTHING_BELOW)
    return Pattern(tuple(parts))
