from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pytest

from pipecrypt.cli.render import json_value, text_value

_UTC = datetime.UTC


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**70, 2**70),
        (0.5, 0.5),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        ("text", "text"),
        (b"\x00\xff", "00ff"),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-30"), "0." + "0" * 29 + "1"),
        (Decimal("NaN"), "NaN"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006"),
        (datetime.datetime(2026, 1, 2, tzinfo=_UTC), "2026-01-02T00:00:00+00:00"),
        (datetime.time(1, 2, 3), "01:02:03"),
        (datetime.timedelta(days=1, milliseconds=500), "P1DT0.5S"),
        (datetime.timedelta(seconds=-3), "-PT3S"),
        (datetime.timedelta(0), "PT0S"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, None, b"a"], [1, None, "61"]),
        ({"a": {"b": Decimal("1.0")}}, {"a": {"b": "1.0"}}),
        ([("a", 1), ("b", 2)], {"a": 1, "b": 2}),
        ([(1, "x"), (None, "y")], {"1": "x", "None": "y"}),
        ([("a", 1), ("a", 2)], [["a", 1], ["a", 2]]),
        ([], []),
    ],
)
def test_json_values(value: Any, expected: Any) -> None:
    assert json_value(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, "true"),
        (7, "7"),
        ("é", "é"),
        (b"\xab", "ab"),
        ({"a": [1, None, "é"]}, '{"a": [1, null, "é"]}'),
    ],
)
def test_text_values(value: Any, expected: str | None) -> None:
    assert text_value(value) == expected
