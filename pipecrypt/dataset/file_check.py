"""Check a file before a byte of it is used: its footer, and if asked for, every byte. Finding its entry: opening.

Reading what passed is left to parquet, which authenticates it again as it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipecrypt.crypto.digest import Digester
from pipecrypt.dataset.requirements import VerifyMode
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.errors import FormatError, LimitError, MissingExtraError, UnsupportedError
from pipecrypt.manifest.findings import Finding, FindingKind, refuse
from pipecrypt.parquet.footer import StoredFooter, read_stored_footer
from pipecrypt.parquet.opened import OpenedCheck, Protection
from pipecrypt.parquet.protocols import RangeSource

__all__ = ["check_file", "check_when_opened"]

_PIECE_BYTES: Final = 8 << 20


def _ignore_piece() -> None:
    """Do nothing about a piece that was digested."""


def check_file(
    signed: SignedFile, source: RangeSource, mode: VerifyMode, *, on_piece: Callable[[], None] = _ignore_piece
) -> StoredFooter:
    """Return the footer of a file that was found to be the signed one, as far as the mode says.

    What holds when it returns: 1. the file has a footer; 2. it is the signed one, the file has the signed size, and is
    encrypted as promised; 3. in mode FULL, so is each of its bytes. The caller still owes what `check_footer` says; and
    that it authenticates what it reads afterwards, since a storage may change in between.

    Args:
        signed: what was signed about it.
        source: the file.
        mode: how much is compared.
        on_piece: called after each piece of the whole file; may raise to stop.

    Raises:
        IntegrityError: it is another file.
        MissingExtraError: only digests with BLAKE3 were signed, and its package is not installed.
        StorageError: the storage failed.
    """
    stored = _read_footer(signed, source)  # 1
    signed.check_footer(stored)  # 2
    if mode is VerifyMode.FULL:
        _check_digests(signed, source, on_piece=on_piece)  # 3
    return stored


def check_when_opened(
    signed: SignedFile, source: RangeSource, mode: VerifyMode, *, on_piece: Callable[[], None] = _ignore_piece
) -> OpenedCheck:
    """Return what is called when a file that passed `check_file` was opened, before a byte of it is used.

    It refuses columns in plaintext that were promised to be encrypted. Where tags and digests in the file do not
    authenticate all of its pages, no reader could check them as they are read: then the whole file is compared now.

    Args:
        signed: as for `check_file`, with the same.
        source: likewise.
        mode: likewise.
        on_piece: likewise.
    """

    def check(protection: Protection) -> None:
        signed.check_clear(protection.clear_columns)
        if not protection.authenticates_all and mode is not VerifyMode.FULL:
            _check_digests(signed, source, on_piece=on_piece)

    return check


def _check_digests(signed: SignedFile, source: RangeSource, *, on_piece: Callable[[], None]) -> None:
    """Pass if the whole file is the signed one, byte for byte. Memory: one piece of 8 MiB."""
    digesters = _digesters(signed)
    for start in range(0, source.size_bytes, _PIECE_BYTES):
        piece = source.read_range(start, min(_PIECE_BYTES, source.size_bytes - start))
        for digester in digesters:
            digester.update(piece)
        on_piece()
    digests = {digester.algorithm: digester.hexdigest() for digester in digesters}
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
        _check_digests(signed, source, on_piece=lambda: None)
        raise


def _digesters(signed: SignedFile) -> list[Digester]:
    """Return a digester for each digest that was signed and can be computed here, at least one."""
    found, missing = [], None
    for algorithm in signed.entry.digests():
        try:
            found.append(Digester(algorithm))
        except MissingExtraError as error:
            missing = error
    if not found and missing is not None:
        raise missing
    return found
