"""Name runs. What they leave under their names is left to journal and report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from pipecrypt.crypto.aead import random_bytes

__all__ = ["new_run_id"]

_TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_TIME_CHARACTERS: Final = 16
_RANDOM_BYTES: Final = 4


def new_run_id(now: datetime, earlier: Sequence[str] = ()) -> str:
    """Return the id of a run that begins: its time, and what tells it from others of that second.

    Ids sort by time, so an id later than all earlier ones is made even where this machine's clock is behind.

    Args:
        now: the time, in UTC.
        earlier: ids of runs of the same sink.
    """
    last = max(earlier, default="")[:_TIME_CHARACTERS]
    if last and now.strftime(_TIME_FORMAT) <= last:
        now = datetime.strptime(last + "+0000", _TIME_FORMAT + "%z") + timedelta(seconds=1)
    return f"{now.strftime(_TIME_FORMAT)}-{random_bytes(_RANDOM_BYTES).hex()}"
