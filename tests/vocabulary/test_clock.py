"""Times as text: one spelling, which is read as it is written and in no other way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.vocabulary.clock import parse_utc, utc_text

_MOMENTS = st.datetimes(timezones=st.just(UTC))


@given(_MOMENTS)
def test_what_is_written_is_read_again(moment: datetime) -> None:
    assert parse_utc(utc_text(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize("year", [1, 999, 9999])
def test_years_have_four_digits(year: int) -> None:
    assert utc_text(datetime(year, 1, 2, tzinfo=UTC)) == f"{year:04}-01-02T00:00:00Z"


def test_other_zones_are_written_in_utc() -> None:
    there = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert utc_text(there) == "2025-12-31T23:30:00Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00:00z",
        "2026-01-31T12:00:00+00:00",
        "2026-01-31T12:00:00.0Z",
        "20260131T120000Z",
        "2026-1-31T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:60Z",
        "0000-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "٢٠٢٦-01-31T12:00:00Z",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_utc(text)
