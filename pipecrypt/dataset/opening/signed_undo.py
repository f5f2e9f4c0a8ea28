"""Make sure of an undo file by what was signed about the file beside it. Reading and writing such files: storage/tail.

An undo file lies where an attacker may write, and so does the file beside it. It says something only where both
together give the file that was signed.
"""

from __future__ import annotations

from pipecrypt.crypto.digest import digest
from pipecrypt.dataset.opening.file_digests import digest_file
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.undo import Undo, as_before, undo_place
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["check_signed_undo", "refused_undo", "same_as_signed"]


def check_signed_undo(source: SourceFile, undo: Undo, entry: FileEntry) -> None:
    """Pass if putting back gives the file that was signed.

    What holds when it returns: 1. the file then has the signed size, 2. its footer the signed digest, 3. the whole
    file, body and footer, the signed digests. The caller still owes to write to the file that was looked at.

    Raises:
        IntegrityError: one of these does not hold.
        StorageError: the storage refused or failed.
    """
    if undo.size_bytes != entry.size_bytes:  # 1
        raise refused_undo(source, "it has another size than was signed")
    if digest(undo.tail) != entry.footer_sha256:  # 2
        raise refused_undo(source, "it is not the footer that was signed")
    with as_before(source, undo) as before:
        if not same_as_signed(before, entry):  # 3
            raise refused_undo(source, "with it, the file is not as it was signed")


def same_as_signed(file: RangeSource, entry: FileEntry) -> bool:
    """Say whether a whole file has the digests that were signed; reads all of it."""
    return digest_file(file, entry.digests()) == entry.digests()


def refused_undo(source: SourceFile, reason: str) -> IntegrityError:
    """Return the error that an undo file is not believed."""
    place = undo_place(source.location).display
    return IntegrityError(
        f"{place} is not shown to be the old end of the file beside it: {reason}",
        hint="nothing was written; remove it, and fetch the file beside it again where it cannot be read",
    )
