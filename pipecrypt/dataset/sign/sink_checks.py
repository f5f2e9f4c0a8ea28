"""Refuse to write where it would make a signed statement false, before anything is written.

A file in a signed dataset that was not signed with it, or a signed file that another one replaces, is what every reader
refuses; whoever writes it by mistake should hear of it first. So it is where this user's records know of a statement
that is gone: whoever can remove one must not turn this off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Final

from pipecrypt.dataset.governing import check_none_removed
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX, signature_path
from pipecrypt.errors import ConflictError, StorageError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.small_files import directories_above, locate
from pipecrypt.vocabulary.in_flight import call_both

__all__ = ["check_outside_datasets", "check_unsigned_directory", "check_unsigned_file"]


_STATEMENTS: Final = (SIGNATURE_SUFFIX, MANIFEST_PATH)
_HINT: Final = "sign it with the key that signed what is there, or choose another sink"
_log = logging.getLogger(__name__)


def check_outside_datasets(place: Location) -> None:
    """Pass if no directory above a file or directory is a signed dataset: readers look for its statement there first.

    Raises:
        ConflictError: one is.
    """
    files, path = locate(place)
    for directory in dict.fromkeys([*directories_above(path), *directories_above(files.real_path(path) or path)]):
        try:
            is_signed = open_store(files.location(f"{directory}/{MANIFEST_PATH}")).stat().exists()
        except StorageError as error:
            # Who may write below a directory need not be allowed to look above.
            _log.debug("cannot tell whether a directory above is a signed dataset: %s", error.message)
            continue
        if is_signed:
            raise ConflictError(
                f"{place.display} lies inside {files.location(directory).display}, which is a signed dataset",
                hint="write to the dataset itself with --overwrite, signed with its key; or choose another sink",
            )


def check_unsigned_directory(sink: Location, paths: Iterable[str], *, overwrite: bool) -> None:
    """Pass if writing files into a directory without signing makes no statement in it false.

    Args:
        sink: the directory.
        paths: of the files below it.
        overwrite: whether files may be replaced; where not, a directory that holds anything is refused elsewhere.

    Raises:
        ConflictError: the directory is a signed dataset, or one of the files is signed or would lie in one below.
        NotTrustedError: a signed version was accepted there or above, and its statement is gone.
        StorageError: the storage refused or failed.
    """
    store = open_store(sink)

    def is_signed() -> bool:
        return open_store(sink.child(MANIFEST_PATH)).stat().exists()

    def find_statements() -> set[str]:
        return {entry.path for entry in store.list() if entry.path.endswith(_STATEMENTS)}

    def look() -> tuple[bool, set[str]]:
        return call_both(is_signed, find_statements)

    if store.is_remote:  # each look waits for its answer, and where nothing is they cost no more
        there, (has_statement, statements) = call_both(store.stat, look)
        is_there = there.is_directory()
    else:
        is_there = store.stat().is_directory()
        has_statement, statements = is_there and is_signed(), set[str]()
    if is_there and has_statement:
        raise ConflictError(f"{sink.display} is a signed dataset, and this run would not sign", hint=_HINT)
    check_none_removed(sink, VersionMemory.of_user(os.environ))
    if not is_there:
        return
    statements = statements if store.is_remote else find_statements()
    roots = {path.removesuffix(MANIFEST_PATH) for path in statements if path.endswith(f"/{MANIFEST_PATH}")}
    for path in paths if statements else ():
        if overwrite and signature_path(path) in statements:
            raise _signed(sink.child(path))
        inner = next((root for root in _directories_of(path) if root in roots), None)
        if inner is not None:
            dataset = sink.child(inner.rstrip("/")).display
            raise ConflictError(f"{sink.child(path).display} would lie in the signed dataset {dataset}", hint=_HINT)


def _directories_of(path: str) -> Iterator[str]:
    """Yield the directories that a path below a sink lies in, each with a slash at its end."""
    return (path[: index + 1] for index, character in enumerate(path) if character == "/")


def check_unsigned_file(file: Location) -> None:
    """Pass if no statement lies beside a file that is to be written without signing.

    Raises:
        ConflictError: there is one.
        NotTrustedError: one was accepted there, or a version of a dataset above, and it is gone.
        StorageError: the storage refused or failed.
    """
    statement = file.sibling(signature_path(file.name))
    if open_store(statement).stat().exists():
        raise _signed(file)
    check_none_removed(statement, VersionMemory.of_user(os.environ))


def _signed(file: Location) -> ConflictError:
    return ConflictError(f"{file.display} is signed, and what would replace it is not", hint=_HINT)
