"""Make sure of an undo file before a footer is put back: by what was signed about the file, or by the caller's keys.

An undo file lies where an attacker may write, and so does the file beside it. Nothing that stands in either is written
anywhere before it is shown to be what was there.
"""

from __future__ import annotations

from pipecrypt.crypto.digest import digest
from pipecrypt.dataset.checked_source import digest_file
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.errors import ContentError, DamagedKeystoreError, IntegrityError, KeyNotFoundError
from pipecrypt.parquet.files import check_first_page
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.segments import check_opened_structure
from pipecrypt.parquet.footer.stored import StoredFooter, read_stored_footer
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.store.open import open_range_source
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.undo import Undo, as_before, undo_place
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "check_signed_undo",
    "check_unsigned_undo",
    "is_authentic",
    "is_of_another_file",
    "refused_undo",
    "same_as_signed",
]


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
    """Return whether a whole file has the digests that were signed; reads all of it."""
    return digest_file(file, entry.digests()) == entry.digests()


def refused_undo(source: SourceFile, reason: str) -> IntegrityError:
    """Return the error that an undo file is not believed."""
    place = undo_place(source.location).display
    return IntegrityError(
        f"{place} is not shown to be the old end of the file beside it: {reason}",
        hint="nothing was written; remove it, and fetch the file beside it again where it cannot be read",
    )


def check_unsigned_undo(source: SourceFile, undo: Undo, keys: DataKeys) -> None:
    """Pass if a footer that nobody signed is that of the file beside it.

    What holds when it returns: 1. the undo file holds a footer and nothing else, and the file's body ends where that
    footer says; 2. the footer's tag fits a footer key that the caller's keys open, for the id of this file; 3. all
    parts that it names lie in the body, over no other; 4. the first page that these keys open is in the body, and was
    written with the same id. The caller still owes to write to the file that was looked at.

    Raises:
        IntegrityError: one of these does not hold; or a keystore of the caller's is damaged, which it names.
        AccessError: a key service failed.
        StorageError: the storage refused or failed.
    """
    with as_before(source, undo) as before:
        try:
            stored = read_stored_footer(before)
            if stored.body_end != undo.body_end:  # 1
                raise refused_undo(source, "more than a footer is in it")
            with _opened(stored, keys) as opened:  # 2
                check_first_page(before, opened)  # 4
                check_opened_structure(opened)  # 3
        except DamagedKeystoreError:  # an error of the caller's keystore, not of the undo file
            raise
        except (ContentError, IntegrityError, KeyNotFoundError) as error:
            raise refused_undo(source, error.message) from error


def is_authentic(source: SourceFile, keys: DataKeys) -> bool:
    """Return whether a file has a whole footer, whose tag fits a footer key that the caller's keys open.

    Raises:
        AccessError: a key service failed.
        StorageError: the storage refused or failed.
    """
    with open_range_source(source) as file:
        try:
            with _opened(read_stored_footer(file), keys):
                return True
        except DamagedKeystoreError:  # an error of the caller's keystore, not of the undo file
            raise
        except (ContentError, IntegrityError, KeyNotFoundError):
            return False


def is_of_another_file(source: SourceFile, undo: Undo) -> bool:
    """Return whether a whole file of another encryption, or a plaintext one, is where the undo file's was.

    The end of the body cannot tell: columns that stay plaintext are the same in each encryption of a file.
    """
    with open_range_source(source) as file:
        now = _file_unique(file)
    with as_before(source, undo) as before:
        return now is not None and now != _file_unique(before)


def _opened(stored: StoredFooter, keys: DataKeys) -> OpenedFile:
    if stored.sealed is None:
        raise IntegrityError(f"{stored.name} is not encrypted")
    opened = OpenedFile(stored.sealed, keys=keys, aad_prefix=None, allow_missing_keys=True)
    if not opened.is_authenticated:
        opened.close()
        raise KeyNotFoundError(f"no key opens the footer of {stored.name}")
    return opened


def _file_unique(file: RangeSource) -> bytes | None:
    """Return the random id that a file got when it was encrypted, b"" where it is not; None where it has no footer."""
    try:
        sealed = read_stored_footer(file).sealed
    except ContentError:
        return None
    return b"" if sealed is None else sealed.algorithm.file_unique
