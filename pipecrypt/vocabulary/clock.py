"""The time in UTC, and the one form in which our documents write it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

__all__ = ["parse_utc", "utc_now", "utc_text"]

# RFC 3339 in the one spelling that we write; datetime's own parser takes many more.
_FORM: Final = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\dZ", re.ASCII)


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def utc_text(moment: datetime) -> str:
    """Return a time in UTC, in whole seconds: 2026-11-30T12:00:00Z."""
    # strftime writes years before 1000 without zeros on some systems.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def parse_utc(text: str) -> datetime:
    """Return the time that `utc_text` wrote.

    Raises:
        ValueError: the text is in another form, or not a time.
    """
    if _FORM.fullmatch(text) is None:
        raise ValueError("not a time in UTC, such as 2026-11-30T12:00:00Z")
    return datetime.fromisoformat(text)
