"""How storage calls are made: for how long, how large, how many at once. Making them is left to the others.

Users give these among the storage options, under the name `transfer`, so that they go wherever a location goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from pipecrypt.errors import UsageError

__all__ = ["OPTION", "TransferSettings", "transfer_settings"]

OPTION: Final = "transfer"
_LEAST_PART_BYTES: Final = 5 << 20  # of S3, for all parts but the last
_MOST_PART_BYTES: Final = 5 << 30


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How storage calls are made.

    Args:
        deadline_seconds: how long one operation (a range, a part, a listing) is tried again after passing failures; 0
            for one attempt.
        part_bytes: size of the parts of an upload; larger files get larger parts.
        parts_in_flight: how many parts travel at once, besides the one that is being filled.
        range_bytes: the longest range that is one request.
        ranges_in_flight: how many ranges are fetched at once.

    Raises:
        UsageError: a number that no storage takes.
    """

    deadline_seconds: float = 120.0
    part_bytes: int = 8 << 20
    parts_in_flight: int = 4
    range_bytes: int = 8 << 20
    ranges_in_flight: int = 8

    def __post_init__(self) -> None:
        """Refuse what no storage takes."""
        for each in fields(self):
            value = getattr(self, each.name)
            is_number = isinstance(value, int | float) if each.name == "deadline_seconds" else isinstance(value, int)
            if not is_number or isinstance(value, bool):
                raise UsageError(f"{OPTION}.{each.name} is a number, not {value!r}")
        if self.deadline_seconds < 0:
            raise UsageError(f"{OPTION}.deadline_seconds is {self.deadline_seconds}, less than 0")
        if not _LEAST_PART_BYTES <= self.part_bytes <= _MOST_PART_BYTES:
            raise UsageError(f"{OPTION}.part_bytes is {self.part_bytes}, not from 5 MiB to 5 GiB")
        if min(self.parts_in_flight, self.range_bytes, self.ranges_in_flight) < 1:
            raise UsageError(f"{OPTION}: parts_in_flight, range_bytes and ranges_in_flight are at least 1")


def transfer_settings(options: Mapping[str, object]) -> TransferSettings:
    """Return what storage options say under `transfer`, as a mapping or as settings; the defaults where they do not.

    Raises:
        UsageError: a name or a value is none of `TransferSettings`.
    """
    given = options.get(OPTION, {})
    if isinstance(given, TransferSettings):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(f"the storage option {OPTION} is a mapping, not {type(given).__name__}")
    known = [each.name for each in fields(TransferSettings)]
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise UsageError(f"{OPTION}.{unknown[0]} is not a setting", hint=f"choose from {', '.join(known)}")
    return TransferSettings(**given)
