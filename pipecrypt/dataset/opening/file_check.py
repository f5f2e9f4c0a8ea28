"""Check a file before a byte of it is used: its footer, perhaps every byte. Finding its entry: signed_dataset.

Reading what passed is left to parquet, which authenticates it again as it goes.
"""

from __future__ import annotations

from collections.abc import Callable

from pipecrypt.dataset.opening.file_digests import computable, digest_file
from pipecrypt.dataset.opening.requirements import VerifyMode
from pipecrypt.dataset.opening.signed_file import SignedFile
from pipecrypt.errors import FormatError, LimitError, UnsupportedError
from pipecrypt.manifest.findings import Finding, FindingKind, refuse
from pipecrypt.parquet.footer import StoredFooter, read_stored_footer
from pipecrypt.parquet.opened import OpenedCheck, Protection
from pipecrypt.parquet.protocols import RangeSource

__all__ = ["check_file", "check_when_opened"]


def _ignore_bytes(count: int) -> None:
    """Do nothing about bytes that were digested."""


def check_file(
    signed: SignedFile, source: RangeSource, mode: VerifyMode, *, on_bytes: Callable[[int], None] = _ignore_bytes
) -> StoredFooter:
    """Return the footer of a file that was found to be the signed one, as far as the mode says.

    What holds when it returns: 1. the file has a footer; 2. it is the signed one, the file has the signed size, and is
    encrypted as promised; 3. in mode FULL, so is each of its bytes. The caller still owes what `check_footer` says; and
    that it authenticates what it reads afterwards, since a storage may change in between.

    Args:
        signed: what was signed about it.
        source: the file.
        mode: how much is compared.
        on_bytes: told after each piece of the whole file how many bytes it had; may raise to stop.

    Raises:
        IntegrityError: it is another file.
        MissingExtraError: only digests with BLAKE3 were signed, and its package is not installed.
        StorageError: the storage failed.
    """
    stored = _read_footer(signed, source)  # 1
    signed.check_footer(stored)  # 2
    if mode is VerifyMode.FULL:
        _check_digests(signed, source, on_bytes=on_bytes)  # 3
    return stored


def check_when_opened(
    signed: SignedFile, source: RangeSource, mode: VerifyMode, *, on_bytes: Callable[[int], None] = _ignore_bytes
) -> OpenedCheck:
    """Return what is called when a file that passed `check_file` was opened, before a byte of it is used.

    It refuses columns in plaintext that were promised to be encrypted. Where tags and digests in the file do not
    authenticate all of its pages, no reader could check them as they are read: then the whole file is compared now.

    Args:
        signed: as for `check_file`, with the same.
        source: likewise.
        mode: likewise.
        on_bytes: likewise.
    """

    def check(protection: Protection) -> None:
        signed.check_clear(protection.clear_columns)
        if not protection.authenticates_all and mode is not VerifyMode.FULL:
            _check_digests(signed, source, on_bytes=on_bytes)

    return check


def _check_digests(signed: SignedFile, source: RangeSource, *, on_bytes: Callable[[int], None]) -> None:
    """Pass if the whole file is the signed one, byte for byte."""
    digests = digest_file(source, computable(signed.entry.digests()), on_bytes=on_bytes)
    refuse(signed.compare_digests(source.size_bytes, digests), name=signed.name)


def _read_footer(signed: SignedFile, source: RangeSource) -> StoredFooter:
    entry = signed.entry
    try:
        return read_stored_footer(source)
    except FormatError as error:  # whatever is there instead, it is not what was signed
        is_shorter = source.size_bytes < entry.size_bytes
        kind = FindingKind.TRUNCATED if is_shorter else FindingKind.MODIFIED
        detail = (
            f"it has {source.size_bytes} bytes, but {entry.size_bytes} were signed" if is_shorter else error.message
        )
        refuse([Finding(kind, entry.path, detail)], name=signed.name)
        raise AssertionError("a finding is refused") from error
    except (LimitError, UnsupportedError):
        # A changed byte may look like a feature of tomorrow. What was signed so is none of the attacker's doing.
        _check_digests(signed, source, on_bytes=_ignore_bytes)
        raise
