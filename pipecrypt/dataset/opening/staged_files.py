"""Find the files of a signed version that have not reached their places yet. Moving them there: signing/staged_version.

A run that replaces files writes the new ones below its own directory, signs the version that lists them, and moves them
to their places then. So a version exists as a whole from the moment its statement appears, and a run that is killed
before leaves the version before as it was. Whoever reads looks there first, and takes what has the size and the footer
that were signed: an attempt that was given up may write there at any later time. What is taken is compared with what
was signed like any other file: putting something there gains an attacker what replacing the file itself would.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipecrypt.dataset.opening.data_files import is_data
from pipecrypt.errors import ConflictError, ContentError
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.paths import staged_path
from pipecrypt.parquet.footer.stored import read_footer_bytes
from pipecrypt.store.inventory import take_inventory
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.source import open_range_source

__all__ = ["has_footer", "is_listed", "listed_staged_files", "staged_files"]


def staged_files(directory: Location, run_id: str | None) -> dict[str, SourceFile]:
    """Return what is staged below a run, by paths below the dataset; usually nothing. Nobody has compared it yet.

    Args:
        directory: of the dataset.
        run_id: the run that the verified statement names.

    Raises:
        StorageError: the storage refused or failed.
    """
    if run_id is None:
        return {}
    found = take_inventory(directory.child(staged_path(run_id)), lambda _: True)
    return {path: file for path, file in found if file is not None and is_data(path, file)}


def listed_staged_files(
    directory: Location,
    run_id: str | None,
    entries: Mapping[str, FileEntry],
    *,
    in_place: Collection[str] | None = None,
) -> dict[str, SourceFile]:
    """Return the staged files that are to be taken rather than those at their places, by path; usually none.

    They have the size and, where another file may be the right one, the footer that were signed. The caller still owes
    to compare all else.

    Args:
        directory: of the dataset.
        run_id: the run that the verified statement names.
        entries: what was signed, by path; other files are left out.
        in_place: paths at whose places a file of the signed size is; None where nobody has looked yet. A version of
            which much is staged is opened without reading each footer.

    Raises:
        StorageError: the storage refused or failed.
    """
    found = staged_files(directory, run_id)
    return {
        path: file
        for path, file in found.items()
        if path in entries
        and file.size_bytes == entries[path].size_bytes
        and ((in_place is not None and path not in in_place) or is_listed(file, entries[path]))
    }


def is_listed(file: SourceFile, entry: FileEntry) -> bool:
    """Say whether a file has the size and the footer of an entry, whatever it is called and wherever it lies.

    Two attempts at one output have keys of their own, so their footers differ.

    Raises:
        StorageError: the storage refused or failed.
    """
    return file.size_bytes == entry.size_bytes and has_footer(file, entry.footer_sha256)


def has_footer(file: SourceFile, sha256: str) -> bool:
    """Say whether a file ends with the footer that has this digest; one that changes or goes meanwhile does not.

    Raises:
        StorageError: the storage refused or failed.
    """
    try:
        with open_range_source(file) as source:
            return read_footer_bytes(source).sha256 == sha256
    except (ContentError, ConflictError):
        return False
