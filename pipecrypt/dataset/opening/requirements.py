"""What a reader demands of a signed dataset before it uses it. Checking that is left to signed_dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipecrypt.dataset.opening.accepted_versions import VersionMemory
from pipecrypt.dataset.opening.verify_mode import VerifyMode, parse_mode
from pipecrypt.errors import UsageError
from pipecrypt.keys.trust import TrustedKeys

__all__ = ["Requirements", "VerifyMode", "parse_mode"]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What must hold of a statement; can be sent to worker processes.

    Args:
        trust: whose signatures count, and how many.
        min_version: lowest version that is accepted.
        dataset_id: of the dataset that the reader means; None for whichever is there.
        memory: what was accepted here before; None to remember nothing.
        clock: the time in UTC.

    Raises:
        UsageError: `min_version` is no version.
    """

    trust: TrustedKeys
    min_version: int = 1
    dataset_id: str | None = None
    memory: VersionMemory | None = None
    clock: Callable[[], datetime] = field(default=_now)

    def __post_init__(self) -> None:
        """Refuse a version that no statement has."""
        if type(self.min_version) is not int or self.min_version < 1:
            raise UsageError(f"the lowest version is {self.min_version!r}", hint="versions count from 1")
