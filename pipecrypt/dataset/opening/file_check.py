"""Check a file before a byte of it is used: its footer, perhaps every byte. Finding its entry: signed_dataset.

Nothing is parsed before its size and digest were compared. Reading what passed is left to parquet, which authenticates
it again as it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipecrypt.dataset.opening.checked_source import CheckedSource
from pipecrypt.dataset.opening.file_digests import computable, ignore_bytes
from pipecrypt.dataset.opening.requirements import VerifyMode
from pipecrypt.dataset.opening.signed_file import SignedFile
from pipecrypt.errors import ContentError
from pipecrypt.manifest.compare import ObservedFile, compare_file
from pipecrypt.manifest.findings import Finding, FindingKind, refuse
from pipecrypt.parquet.footer.opened import OpenedCheck, Protection
from pipecrypt.parquet.footer.stored import BytesCheck, FooterBytes, StoredFooter, parse_footer, read_footer_bytes
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["MAX_OTHER_FOOTER_BYTES", "check_bytes", "check_file", "check_when_opened"]

# A footer that is not the signed one is parsed only to name what was done to the file, and only where it is small.
MAX_OTHER_FOOTER_BYTES: Final = 1 << 20


def check_file(
    signed: SignedFile, source: CheckedSource, mode: VerifyMode, *, on_bytes: Callable[[int], None] = ignore_bytes
) -> StoredFooter:
    """Return the footer of a file that was found to be the signed one, as far as the mode says.

    What holds when it returns: 1. the file has the signed size and footer, compared before the footer was parsed; 2. it
    is encrypted as promised; 3. in mode FULL, each of its bytes is the signed one, and `source` serves no others from
    then on. The caller still owes what `check_footer` says; and, in other modes, that it authenticates what it reads
    afterwards, since a storage may change in between.

    Args:
        signed: what was signed about it.
        source: the file.
        mode: how much is compared.
        on_bytes: told after each piece of the whole file how many bytes it had; may raise to stop.

    Raises:
        IntegrityError: it is another file.
        UnsupportedError: it is the signed one, and of a later release.
        MissingExtraError: only digests with BLAKE3 were signed, and its package is not installed.
        StorageError: the storage failed.
    """
    found = _read_footer(signed, source)
    check_bytes(signed)(found)  # 1
    stored = parse_footer(found)
    signed.check_footer(stored)  # 2
    if mode is VerifyMode.FULL:
        _check_digests(signed, source, on_bytes=on_bytes)  # 3
    return stored


def check_bytes(signed: SignedFile) -> BytesCheck:
    """Return what refuses a file with another size or footer than was signed, before anything of it is parsed."""

    def check(found: FooterBytes) -> None:
        seen = ObservedFile(found.size_bytes, footer_sha256=found.sha256)
        findings = compare_file(signed.entry, seen)
        if findings:
            refuse(_named(signed, found) or findings, name=signed.name)

    return check


def check_when_opened(
    signed: SignedFile, source: CheckedSource, mode: VerifyMode, *, on_bytes: Callable[[int], None] = ignore_bytes
) -> OpenedCheck:
    """Return what is called when a file that passed `check_file` was opened, before a byte of it is used.

    It refuses columns in plaintext that were promised to be encrypted. Where tags and digests in the file do not
    authenticate all of its pages, no reader could check them as they are read: then the whole file is compared now, and
    `source` serves no other bytes from then on.

    Args:
        signed: as for `check_file`, with the same.
        source: likewise.
        mode: likewise.
        on_bytes: likewise.
    """

    def check(protection: Protection) -> None:
        signed.check_clear(protection.clear_columns)
        if not protection.authenticates_all and not source.is_checked:
            _check_digests(signed, source, on_bytes=on_bytes)

    return check


def _check_digests(signed: SignedFile, source: CheckedSource, *, on_bytes: Callable[[int], None]) -> None:
    """Pass if the whole file is the signed one, byte for byte."""
    digests = source.digest(computable(signed.entry.digests()), on_bytes=on_bytes)
    refuse(signed.compare_digests(source.size_bytes, digests), name=signed.name)


def _read_footer(signed: SignedFile, source: RangeSource) -> FooterBytes:
    entry = signed.entry
    try:
        return read_footer_bytes(source)
    except ContentError as error:  # whatever is there instead, it is not what was signed
        is_shorter = source.size_bytes < entry.size_bytes
        kind = FindingKind.TRUNCATED if is_shorter else FindingKind.MODIFIED
        detail = (
            f"it has {source.size_bytes} bytes, but {entry.size_bytes} were signed" if is_shorter else error.message
        )
        refuse([Finding(kind, entry.path, detail)], name=signed.name)
        raise AssertionError("a finding is refused") from error


def _named(signed: SignedFile, found: FooterBytes) -> tuple[Finding, ...]:
    """Return what was done to a file that is another one; nothing where its footer is too large to be worth it."""
    if len(found.stored) > MAX_OTHER_FOOTER_BYTES:
        return ()
    try:
        return signed.compare_footer(parse_footer(found))
    except ContentError:
        return ()
