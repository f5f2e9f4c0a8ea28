"""A file as it was signed, and the checks that a reader makes before a byte of it is used.

Nothing is parsed before its size and digest were compared. What passed is authenticated again as it is read, by tags
and by the digests in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.checked_source import CheckedSource, computable, ignore_bytes
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.findings import (
    Finding,
    FindingKind,
    KnownDigests,
    ObservedFile,
    compare_file,
    nothing_known,
    refusal,
    refuse,
)
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.paths import staged_path
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import ContentError, FormatError, PipecryptError
from pipecrypt.parquet.footer.keys import FooterColumn, FooterEncryption, observe_encryption
from pipecrypt.parquet.footer.opened import OpenedCheck, OpenedFile
from pipecrypt.parquet.footer.stored import (
    BytesCheck,
    FooterBytes,
    StoredFooter,
    parse_footer,
    read_footer_bytes,
    read_stored_footer,
)
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.store.open import open_range_source
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "MAX_OTHER_FOOTER_BYTES",
    "Origin",
    "SignedFile",
    "check_bytes",
    "check_file",
    "check_when_opened",
    "compare_encryption",
    "master_keys_of",
    "written_as",
]
# A footer that is not the signed one is parsed only to name what was done to the file, and only where it is small.
MAX_OTHER_FOOTER_BYTES: Final = 1 << 20
# A broken promise: what kind of finding it is, and its detail.
_Broken: TypeAlias = tuple[FindingKind, str]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where verified data comes from.

    Args:
        dataset_id: 32 hex digits.
        version: of the dataset; of a single file outside of one, of its statement.
        key_ids: of the trusted keys that signed.
    """

    dataset_id: str
    version: int
    key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignedFile:
    """One file of a verified manifest. It was verified where it was made, and can be sent to worker processes.

    Args:
        manifest: what was signed.
        entry: what it says about this file.
        name: what errors call the dataset.
        key_ids: of the trusted keys that signed it.
    """

    manifest: Manifest
    entry: FileEntry
    name: str
    key_ids: tuple[str, ...] = ()

    @property
    def origin(self) -> Origin:
        """The statement, in short."""
        return Origin(self.manifest.dataset_id, self.manifest.version, self.key_ids)

    def other_place(self, path: str) -> str | None:
        """Return where the file may lie if not at `path`: its place in the dataset, or where a run staged it.

        None for a file outside of a dataset, whose run stages nothing.
        """
        run, below = self.manifest.run, self.entry.path
        if run is None or self.manifest.single_file is not None:
            return None
        staged = f"{staged_path(run)}/{below}"
        for here, there in ((staged, below), (below, staged)):
            root = path.removesuffix(f"/{here}")
            if root != path:
                return f"{root}/{there}"
        return None

    def check_footer(self, stored: StoredFooter) -> None:
        """Pass if a file has the signed size and footer, and is encrypted as was promised: a `FooterCheck`.

        The caller still owes: that what it reads of the body is authenticated by that footer, by GCM tags where it is
        encrypted and by the digests of `pipecrypt.integrity` where it is not.

        Raises:
            IntegrityError: something differs; nothing of the file may be used.
        """
        broken, differing = self.compare(stored)
        refuse(broken + differing, name=self.name)

    def check_clear(self, columns: Iterable[tuple[str, ...]]) -> None:
        """Pass if none of the columns that a file shows in plaintext was promised to be encrypted.

        A readable footer tells `check_footer` as much; an encrypted one, only after it was opened.

        Raises:
            IntegrityError: one was.
        """
        path, promised = self.entry.path, self.manifest.policy.keys_of
        broken = [f"column {'.'.join(column)!a} is not encrypted" for column in columns if promised(column) is not None]
        refuse([Finding(FindingKind.PLAINTEXT, path, detail) for detail in broken], name=self.name)

    def compare(
        self,
        stored: StoredFooter,
        digests: Mapping[DigestAlgorithm, str] = MappingProxyType({}),
        *,
        known: Callable[[], KnownDigests] = nothing_known,
    ) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Return which promises a footer shows to be broken, and how the file differs from what was signed.

        Args:
            stored: the footer, of the very bytes that were parsed.
            digests: of the whole file, where they were made.
            known: tells swapped and old files from modified ones.
        """
        path = self.entry.path
        seen = ObservedFile(stored.size_bytes, digests, stored.sha256)
        try:
            encryption = observe_encryption(stored, path)
        except ContentError as error:
            # Another footer than the signed one is a finding also where it makes no sense.
            findings = compare_file(self.entry, seen, known=known)
            if not findings and not isinstance(error, FormatError):
                raise
            return (), findings or (Finding(FindingKind.MODIFIED, path, error.message),)
        # An encrypted footer hides rows, and of its KEKs it shows its own only.
        kek_ids = None if stored.metadata is None else encryption.kek_ids
        seen = replace(seen, rows=stored.rows, kek_ids=kek_ids)
        return compare_encryption(self.manifest, path, encryption), compare_file(self.entry, seen, known=known)


def written_as(file: SourceFile) -> Context | None:
    """Return the dataset and the path that a file says it was written for; None where that cannot be told."""
    seen = _read(file)
    if seen is None or seen.dataset_id is None or seen.path is None:
        return None
    return Context(seen.dataset_id, seen.path)


def master_keys_of(file: SourceFile) -> frozenset[str]:
    """Return the ids of the master keys that a file shows without a key; none where it cannot be read."""
    seen = _read(file)
    columns = () if seen is None or seen.columns is None else seen.columns
    lists = [() if seen is None else seen.footer_key_ids, *(column.master_key_ids for column in columns)]
    return frozenset(key_id for key_ids in lists for key_id in key_ids)


def _read(file: SourceFile) -> FooterEncryption | None:
    try:
        with open_range_source(file) as source:
            return observe_encryption(read_stored_footer(source), source.name)
    except PipecryptError:
        return None


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

    def check(opened: OpenedFile) -> None:
        signed.check_clear(opened.clear_paths)
        if not opened.authenticates_all and not source.is_checked:
            _check_digests(signed, source, on_bytes=on_bytes)

    return check


def _check_digests(signed: SignedFile, source: CheckedSource, *, on_bytes: Callable[[int], None]) -> None:
    """Pass if the whole file is the signed one, byte for byte."""
    digests = source.digest(computable(signed.entry.digests()), on_bytes=on_bytes)
    refuse(compare_file(signed.entry, ObservedFile(source.size_bytes, digests)), name=signed.name)


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
        raise refusal([Finding(kind, entry.path, detail)], name=signed.name) from error


def _named(signed: SignedFile, found: FooterBytes) -> tuple[Finding, ...]:
    """Return what was done to a file that is another one; nothing where its footer is too large to be worth it."""
    if len(found.stored) > MAX_OTHER_FOOTER_BYTES:
        return ()
    try:
        broken, differing = signed.compare(parse_footer(found))
        return broken + differing
    except ContentError:
        return ()


def compare_encryption(manifest: Manifest, path: str, seen: FooterEncryption) -> tuple[Finding, ...]:
    """Return where a file breaks the promised policy or is bound to another place.

    Args:
        manifest: what was signed.
        path: of the file inside the dataset, or the name of a single file.
        seen: what its footer shows.
    """
    policy = manifest.policy
    if seen.mode is None:
        return (Finding(FindingKind.PLAINTEXT, path, "the file is not encrypted"),)
    broken = [*_compare_place(manifest, path, seen), *_compare_footer(policy, seen)]
    for column in seen.columns or ():
        broken += _compare_column(policy, column)
    return tuple(Finding(kind, path, detail) for kind, detail in broken)


def _compare_place(manifest: Manifest, path: str, seen: FooterEncryption) -> Iterator[_Broken]:
    if seen.dataset_id is None:
        if manifest.policy.bind_path:
            yield FindingKind.MODIFIED, "the file is bound to no dataset, although that was promised"
    elif seen.dataset_id != manifest.dataset_id:
        yield FindingKind.SWAPPED, f"the file belongs to dataset {seen.dataset_id}"
    elif seen.path != path:
        yield FindingKind.SWAPPED, f"the file was written as {seen.path!a}"


def _compare_footer(policy: PromisedPolicy, seen: FooterEncryption) -> Iterator[_Broken]:
    if policy.footer is FooterMode.ENCRYPTED and seen.mode is not FooterMode.ENCRYPTED:
        yield FindingKind.PLAINTEXT, "the footer is not encrypted"
        return
    if policy.footer is not seen.mode:
        yield FindingKind.MODIFIED, "the footer is encrypted, although that was not promised"
    yield from _compare_keys("the footer", policy.footer_key_ids, seen.footer_key_ids)


def _compare_column(policy: PromisedPolicy, column: FooterColumn) -> Iterator[_Broken]:
    name = f"column {'.'.join(column.path)!a}"
    promised = policy.keys_of(column.path)
    if promised is None:
        if column.is_encrypted:
            yield FindingKind.MODIFIED, f"{name} is encrypted, although that was not promised"
    elif not column.is_encrypted:
        yield FindingKind.PLAINTEXT, f"{name} is not encrypted"
    else:
        yield from _compare_keys(name, promised, column.master_key_ids)


def _compare_keys(what: str, promised: tuple[str, ...], seen: tuple[str, ...]) -> Iterator[_Broken]:
    # Without a promised key, somebody else chose who can read.
    others = sorted(set(seen).difference(promised))
    if others:
        yield FindingKind.MODIFIED, f"{what} is under master key {others[0]!a}, which was not promised"
