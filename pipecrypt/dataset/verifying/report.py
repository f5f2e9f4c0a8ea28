"""What a verification says in the end. Making it is left to verification, showing it to cli."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import PipecryptError
from pipecrypt.manifest.findings import Finding
from pipecrypt.manifest.promise import PromisedPolicy

__all__ = ["PolicySummary", "Unchecked", "VerifyReport"]


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """What was promised about the encryption of every file.

    Args:
        footer: `plaintext` or `encrypted`.
        columns: dotted paths of the leaf columns that are encrypted.
        others: whether all other columns are `encrypted` or `plaintext`.
        master_key_ids: of all of them and the footers, sorted.
        bind_path: whether each file stores dataset id and path.
    """

    footer: str
    columns: tuple[str, ...]
    others: str
    master_key_ids: tuple[str, ...]
    bind_path: bool

    @classmethod
    def of(cls, policy: PromisedPolicy) -> Self:
        """Return a promise in short."""
        key_ids = {*policy.footer_key_ids, *(policy.other_key_ids or ())}
        key_ids.update(*(column.master_key_ids for column in policy.columns))
        return cls(
            footer=policy.footer.value,
            columns=tuple(".".join(column.path) for column in policy.columns),
            others="plaintext" if policy.other_key_ids is None else "encrypted",
            master_key_ids=tuple(sorted(key_ids)),
            bind_path=policy.bind_path,
        )


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A file that could not be checked to the end: nothing is known about it.

    Args:
        path: inside the dataset.
        error: the class of what went wrong.
        message: its text.
    """

    path: str
    error: str
    message: str

    @classmethod
    def of(cls, path: str, error: PipecryptError) -> Self:
        """Return the record of a failure."""
        return cls(path, type(error).__name__, error.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was verified, and what is not as it was signed.

    Args:
        root: the dataset, or the single file.
        dataset_id: 32 lower-case hex digits.
        version: of the statement.
        created: when it was signed.
        expires: from when on it is refused; None for never.
        key_ids: of the trusted keys that signed it.
        policy: what was promised.
        digests: which digests of whole files were compared.
        tags_checked: whether GCM tags were checked too, with keys.
        whole_dataset: whether all files were looked at, rather than some of them; true of a single file.
        signed_files: how many files were signed.
        files: how many of them were there and checked to the end.
        bytes: size of those, in bytes.
        seconds: wall-clock time.
        findings: sorted by path; empty where everything is as it was signed.
        unchecked: the first files that could not be checked, sorted by path.
        unchecked_files: how many there are.
        unfinished_files: tables below `_pipecrypt/` that runs wrote for a version that is still to come.
    """

    root: str
    dataset_id: str
    version: int
    created: datetime
    expires: datetime | None
    key_ids: tuple[str, ...]
    policy: PolicySummary
    digests: tuple[DigestAlgorithm, ...]
    tags_checked: bool
    whole_dataset: bool
    signed_files: int
    files: int
    bytes: int
    seconds: float
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...] = ()
    unchecked_files: int = 0
    unfinished_files: int = 0
