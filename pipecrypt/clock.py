"""Tell the time in UTC, and as the text that keystores and public keys have. What it means is left to the callers."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utc_now", "utc_text"]


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def utc_text(moment: datetime) -> str:
    """Return a time in UTC, in whole seconds: 2026-11-30T12:00:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
