"""A file as it was signed, and the comparison with what a reader finds. Finding the statement: signed_dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.opening.observed_footer import observe, observe_footer
from pipecrypt.errors import ContentError, FormatError
from pipecrypt.manifest.compare import NOTHING_KNOWN, KnownDigests, ObservedFile, compare_encryption, compare_file
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.findings import Finding, FindingKind, refuse
from pipecrypt.manifest.model import Manifest
from pipecrypt.manifest.paths import staged_path
from pipecrypt.parquet.footer.stored import StoredFooter

__all__ = ["Origin", "SignedFile"]


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
        refuse(self.compare_footer(stored), name=self.name)

    def check_clear(self, columns: Iterable[tuple[str, ...]]) -> None:
        """Pass if none of the columns that a file shows in plaintext was promised to be encrypted.

        A readable footer tells `check_footer` as much; an encrypted one, only after it was opened.

        Raises:
            IntegrityError: one was.
        """
        path, promised = self.entry.path, self.manifest.policy.keys_of
        broken = [f"column {'.'.join(column)!a} is not encrypted" for column in columns if promised(column) is not None]
        refuse([Finding(FindingKind.PLAINTEXT, path, detail) for detail in broken], name=self.name)

    def compare_footer(self, stored: StoredFooter) -> tuple[Finding, ...]:
        """Return what a footer shows to be different from what was signed, the broken promises first."""
        path = self.entry.path
        try:
            file, encryption = observe(stored, path)
        except ContentError as error:
            # Another footer than the signed one is a finding also where it makes no sense.
            findings = compare_file(self.entry, observe_footer(stored))
            if not findings and not isinstance(error, FormatError):
                raise
            return findings or (Finding(FindingKind.MODIFIED, path, error.message),)
        return compare_encryption(self.manifest, path, encryption) + compare_file(self.entry, file)

    def compare_digests(
        self, size_bytes: int, digests: Mapping[DigestAlgorithm, str], known: KnownDigests = NOTHING_KNOWN
    ) -> tuple[Finding, ...]:
        """Return how the whole file differs from the signed one."""
        return compare_file(self.entry, ObservedFile(size_bytes, digests), known=known)
