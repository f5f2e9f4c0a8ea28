"""What is told about signing, as plain records: how to sign, what to sign, what was signed.

It imports nothing heavy: whoever shows the progress of a run imports it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.promise import PromisedPolicy

__all__ = ["SignableFile", "SignedStatement", "SigningOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningOptions:
    """How what a run writes is signed.

    Args:
        key_references: of the signing keys, at least one, each once.
        digest: of whole files.
        valid_for: after which readers refuse the statement, in whole seconds; None for never.
        accept_future_statement: whether to follow a statement of a signer whose clock was ahead.
    """

    key_references: tuple[str, ...]
    digest: DigestAlgorithm
    valid_for: timedelta | None
    accept_future_statement: bool = False


@dataclass(frozen=True, slots=True)
class SignableFile:
    """A file that was written, and what holds of its encryption. Nothing in it is secret: workers send it.

    Args:
        entry: path, size and digests.
        promise: what a dataset of this file alone would promise.
    """

    entry: FileEntry
    promise: PromisedPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatement:
    """A statement that was published.

    Args:
        path: where it lies.
        dataset_id: what it is about, as the files themselves say.
        version: counts from 1.
        expires: from when on readers refuse it; None for never.
        key_ids: of the public keys whose private halves signed it.
    """

    path: str
    dataset_id: str
    version: int
    expires: datetime | None
    key_ids: tuple[str, ...]
