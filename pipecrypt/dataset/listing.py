"""Which files of a dataset's directory a version must list, and whether the directory holds those that it lists.

Writers and verifiers must agree on it: what one of them leaves out, the other would call an extra file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, RESERVED_DIRECTORY, is_reserved
from pipecrypt.errors import ConflictError
from pipecrypt.store.location import Location, all_parquet_and_hidden
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.publication import is_temporary
from pipecrypt.store.undo import has_undo
from pipecrypt.vocabulary.in_flight import call_both

__all__ = [
    "CHUNKS_SUFFIX",
    "ENCRYPTED_FILES",
    "check_nothing_nested",
    "check_nothing_unsigned",
    "check_signed_is_there",
    "is_data",
    "name_some",
    "sizes_below",
]


# A file that holds another one's bytes says so in its name, so that decrypting gives back that name.
CHUNKS_SUFFIX: Final = ".chunks.parquet"
# A directory's encrypted files: those of a tree in chunks may be hidden. What a run has staged is in no place yet.
ENCRYPTED_FILES: Final = all_parquet_and_hidden(CHUNKS_SUFFIX, left_out=RESERVED_DIRECTORY)
_SHOWN: Final = 3
_LOOKED_INTO: Final = 100


def is_data(path: str, file: SourceFile | None) -> bool:
    """Return whether what was listed counts: nothing under `_pipecrypt/`, and no temporary file of a killed run.

    Args:
        path: below the dataset.
        file: the regular file there; None for what is not one. That counts whatever it is called: a link to a directory
            leads readers to whatever lies there, and no run makes one.
    """
    return not is_reserved(path) and (file is None or not is_temporary(path.rpartition("/")[2]))


def sizes_below(directory: Location) -> dict[str, int | None]:
    """Return what verifying finds in a directory: each path with its size in bytes, None for what is no file.

    Raises:
        StorageError: the storage refused or failed.
    """
    store = open_store(directory)

    def sizes() -> dict[str, int | None]:
        found = store.list(admits=lambda names: not is_reserved("/".join(names)))
        files = {entry.path: entry.source for entry in found if is_data(entry.path, entry.source)}
        return {path: None if file is None else file.size_bytes for path, file in files.items()}

    if not store.is_remote:
        return sizes() if store.stat().is_directory() else {}
    there, found = call_both(store.stat, sizes)
    return found if there.is_directory() else {}


def check_nothing_nested(directory: Location, found: Iterable[str]) -> None:
    """Pass if no directory below is a signed dataset: what is signed as a whole is so with all that is below.

    Raises:
        ConflictError: one is.
    """
    inner = sorted(path for path in found if path.endswith(f"/{MANIFEST_PATH}"))
    if inner:
        root = directory.child(inner[0].removesuffix(f"/{MANIFEST_PATH}"))
        raise ConflictError(
            f"{root.display} is a signed dataset, and lies below {directory.display}, which would be signed as a whole",
            hint="choose another sink, beside it; or encrypt its files anew together with the others",
        )


def check_nothing_unsigned(directory: Location, stays: Sequence[FileEntry], found: Iterable[str]) -> None:
    """Pass if everything that is found, and not about to be replaced, was signed.

    Raises:
        LinkError: a link is among it.
        ConflictError: something was not.
    """
    unsigned = set(found).difference(entry.path for entry in stays)
    if unsigned:
        store = open_store(directory)
        for path in () if store.is_remote else sorted(unsigned)[:_LOOKED_INTO]:
            store.stat(path).refuse_link()
        raise ConflictError(
            f"{name_some(directory, unsigned)}: in the sink, but neither written by this run nor signed before",
            hint="remove them, or choose another sink: a signed dataset holds what was signed and nothing else",
        )


def check_signed_is_there(
    directory: Location, stays: Sequence[FileEntry], found: Mapping[str, int | None], staged: Mapping[str, int]
) -> None:
    """Pass if every file that stays is there, of the size that was signed.

    Args:
        directory: where.
        stays: what was signed and stays.
        found: sizes in bytes, from `sizes_below`.
        staged: sizes of files that were signed and are on the way to their places.

    Raises:
        ConflictError: one is missing, or of another size.
        StorageError: the storage refused or failed.
    """
    broken = {
        entry.path for entry in stays if staged.get(entry.path, _size(directory, entry.path, found)) != entry.size_bytes
    }
    if broken:
        hint = "put them back as they were, or choose another sink"
        if any(has_undo(directory.child(path)) for path in sorted(broken)[:_LOOKED_INTO]):
            hint = "a deep rotation was stopped there: repeat it first, with the same keys"
        raise ConflictError(
            f"{name_some(directory, broken)}: signed before and not replaced, but missing or of another size", hint=hint
        )


def name_some(directory: Location, paths: Iterable[str]) -> str:
    """Return the first paths in order, as errors show them, and how many more there are."""
    names = sorted(paths)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(directory.listed(name).display for name in names[:_SHOWN]) + more


def _size(directory: Location, path: str, found: Mapping[str, int | None]) -> int | None:
    if path in found:
        return found[path]
    # Some storages list late. Only a look at its very place tells that a file is missing.
    file = open_store(directory).stat(path).regular()
    return None if file is None else file.size_bytes
