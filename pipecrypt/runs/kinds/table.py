"""All kinds of tasks, in the order in which they are asked whether a source is theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.kinds.candidate import Candidate
from pipecrypt.runs.kinds.decrypt import Decryption
from pipecrypt.runs.kinds.encrypt import Encryption
from pipecrypt.runs.kinds.ingest import Ingestion
from pipecrypt.runs.task import Kind

__all__ = ["choose_kind"]

# Returns what would be done with a source; None where that is another kind's.
ChooseKind: TypeAlias = Callable[[Candidate], Kind | None]
_KINDS: Final[tuple[ChooseKind, ...]] = (
    Decryption.of,
    BlobEncryption.of,
    Encryption.of,
    Ingestion.of,
)


def choose_kind(candidate: Candidate) -> Kind:
    """Return what is done with a source.

    Raises:
        FormatError: nothing says what the file is.
        UsageError: likewise.
        StorageError: the storage refused or failed.
    """
    for of in _KINDS:
        kind = of(candidate)
        if kind is not None:
            return kind
    raise AssertionError(f"no kind of task takes {candidate.source.relative_path}")
