"""Find out what a caller named for verification: a dataset, a part of it, a file in it, or a file by itself.

Verifying it is left to verification.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pipecrypt.dataset.opening.requirements import Requirements
from pipecrypt.dataset.opening.signed_dataset import SignedDataset, open_above, open_beside, unsigned
from pipecrypt.dataset.opening.signed_file import SignedFile
from pipecrypt.dataset.verifying.file_selection import Selection
from pipecrypt.errors import IntegrityError, NotTrustedError, SourceNotFoundError, StorageError, UsageError
from pipecrypt.manifest.paths import RUNS_DIRECTORY, SIGNATURE_SUFFIX, is_reserved
from pipecrypt.store.inventory import look_at, take_inventory
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import Kind
from pipecrypt.store.small_files import LocatedFiles, locate

__all__ = ["DatasetPart", "FileInDataset", "SingleFile", "Target", "find_target"]

# What a run that signs leaves in its directory: the blocks of its journal, and at last that it is done.
_NOTE: Final = re.compile(r"(?P<run>\d{8}T\d{6}Z-[0-9a-f]{8})/(?:parts-\d{6,9}|(?P<end>finished))\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class DatasetPart:
    """A dataset, or some of its files.

    Args:
        dataset: what was signed.
        selection: which files count.
    """

    dataset: SignedDataset
    selection: Selection


@dataclass(frozen=True, slots=True)
class FileInDataset:
    """One file in a dataset, whether it was signed or not.

    Args:
        dataset: what was signed.
        path: of the file below the dataset.
    """

    dataset: SignedDataset
    path: str


@dataclass(frozen=True, slots=True)
class SingleFile:
    """A file with its statement beside it.

    Args:
        signed: what was signed.
        path: of the file, as a path of its storage.
    """

    signed: SignedFile
    path: str


Target: TypeAlias = DatasetPart | FileInDataset | SingleFile


def find_target(
    location: Location, requirements: Requirements, globs: Sequence[str] = ()
) -> tuple[LocatedFiles, Target]:
    """Return what a caller named, with its statement verified, and its storage.

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
    kind = look_at(files.location(path))
    dataset = open_above(files, path if kind is Kind.FILE else f"{path}/", requirements)
    if dataset is not None and dataset.root == path:
        return files, DatasetPart(dataset, Selection.of(globs))
    if dataset is not None:
        return files, _in_dataset(dataset, path, kind, globs)
    if kind is Kind.DIRECTORY:
        raise _not_signed(files, path)
    if kind is Kind.NOTHING and not _is_there(files, path + SIGNATURE_SUFFIX):
        raise SourceNotFoundError(f"{files.display(path)} does not exist", hint=_missing_hint(path))
    if globs:
        raise UsageError(f"{files.display(path)} is one file, of which no part can be chosen", hint="leave out --files")
    return files, SingleFile(open_beside(files, path, requirements), path)


def _not_signed(files: LocatedFiles, path: str) -> NotTrustedError:
    """Return the error that a directory is not signed; where a run has not come to sign it, with what to do.

    Nothing in that run's directory is read or believed: it says no more than that the statement may be still to come.
    """
    begun, ended = set[str](), set[str]()
    with contextlib.suppress(IntegrityError, StorageError):  # that there is no statement is what counts
        for name, _ in take_inventory(files.location(path).child(RUNS_DIRECTORY), _is_run):
            if (note := _NOTE.fullmatch(name)) is not None:
                (ended if note["end"] else begun).add(note["run"])
    waiting = begun - ended
    if not waiting:
        return unsigned(files, path)
    return NotTrustedError(
        f"{files.display(path)} is not signed yet: run {max(waiting)} is at work there, or was stopped before that",
        hint="let it end; if it was stopped, run again with --resume; then verify again",
    )


def _is_run(below: tuple[str, ...]) -> bool:
    return len(below) == 1


def _in_dataset(dataset: SignedDataset, path: str, kind: Kind, globs: Sequence[str]) -> Target:
    below = dataset.below(path)
    if not below:
        raise AssertionError("a dataset found above a path has it below")
    if is_reserved(below):
        hint = f"name the dataset: {dataset.name}"
        raise UsageError(f"{below!a} belongs to the statement of {dataset.name}", hint=hint)
    if below not in dataset.entries:
        if kind is Kind.DIRECTORY or any(entry.startswith(below + "/") for entry in dataset.entries):
            return DatasetPart(dataset, Selection.of(globs, directory=below))
        if kind is Kind.NOTHING:
            raise SourceNotFoundError(
                f"{dataset.name} has no {below!a}, and none was signed", hint=_missing_hint(below)
            )
    if globs:
        raise UsageError(f"{below!a} is one file, of which no part can be chosen", hint="leave out --files")
    return FileInDataset(dataset, below)


def _is_there(files: LocatedFiles, path: str) -> bool:
    return look_at(files.location(path)) is Kind.FILE


def _missing_hint(path: str) -> str | None:
    globs = "to verify some files of a dataset, name the dataset and give --files GLOB"
    return globs if any(character in path for character in "*?[") else "check the path"
