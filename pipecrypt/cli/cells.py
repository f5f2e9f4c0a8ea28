"""Values of rows as JSON values and as text. Laying rows out is left to rows.

JSON has no decimals, times or bytes, so those are text: decimals in full, times in ISO 8601, durations in ISO 8601,
bytes in hex, NaN and infinities by name.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

__all__ = ["json_value", "text_value"]


def json_value(value: Any) -> Any:
    """Return a Python value as one that JSON can carry."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _float_name(value)
    if isinstance(value, Mapping):
        return {_member_name(name): json_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return _pairs(value) or [json_value(each) for each in value]
    return _text(value)


def text_value(value: Any) -> str | None:
    """Return a Python value as text, nested ones as JSON; None for a null."""
    plain = json_value(value)
    if plain is None or isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False)


def _pairs(value: list[Any] | tuple[Any, ...]) -> dict[str, Any] | None:
    """Return a map, which pyarrow gives as a list of pairs, as an object; None if keys would collide or it is none."""
    if not value or not all(isinstance(each, tuple) and len(each) == 2 for each in value):
        return None
    result = {_member_name(name): json_value(each) for name, each in value}
    return result if len(result) == len(value) else None


def _member_name(name: Any) -> str:
    return name if isinstance(name, str) else str(text_value(name))


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, datetime.timedelta):
        return _duration(value)
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat()) if isoformat is not None else str(value)


def _float_name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _duration(value: datetime.timedelta) -> str:
    """Return a duration as ISO 8601 in days and seconds, such as `P1DT0.5S` or `-PT3S`."""
    sign, size = ("-", -value) if value < datetime.timedelta(0) else ("", value)
    seconds = f"{size.seconds + size.microseconds / 1_000_000:.6f}".rstrip("0").rstrip(".")
    days = f"{size.days}D" if size.days else ""
    return f"{sign}P{days}T{seconds}S"
