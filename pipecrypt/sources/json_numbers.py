"""Find JSON numbers that would not be the same as a double: whole ones beyond 2**53, others of more than 17 digits.

Arrow makes a column `double` where one of its numbers has a fraction, or is too large for an int64, and rounds the
others in silence. Parsing is left to json_lines. A block costs one search of Arrow's for long numbers; only the lines
that have one are looked at in Python.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["has_inexact_numbers", "inexact_field", "too_large_field", "without_times"]

_MOST_WHOLE: Final = 1 << 53
# As many digits as any double needs; those of whole numbers count from 2**53 on.
_MOST_DIGITS: Final = 17
_WHOLE_DIGITS: Final = len(str(_MOST_WHOLE))
# RE2: a whole number of 16 digits or more, or any of more than 17 that count.
_LONG_NUMBER: Final = (
    rf"(?:^|[^0-9.])(?:[1-9][0-9]{{{_WHOLE_DIGITS - 1},}}(?:[^0-9.eE]|$)|[0.]*[1-9](?:[.]?[0-9]){{{_MOST_DIGITS},}})"
)
_INEXACT: Final = object()
_TOO_LARGE: Final = object()


def has_inexact_numbers(data: bytes, fields: pa.Schema) -> bool:
    """Say whether a number among valid JSON lines is not what it would be as the type of its field.

    Args:
        data: the lines.
        fields: those whose types were inferred.
    """
    if not any(_has_doubles(field.type) for field in fields):
        return False
    start = 0
    while (at := _long_number(data, start)) >= 0:
        begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        if inexact_field(data[begin : end if end >= 0 else len(data)], fields) is not None:
            return True
        start = end + 1 if end >= 0 else len(data)
    return False


def _long_number(data: bytes, start: int) -> int:
    """Return the offset of a long number at or behind `start`, -1 where there is none."""
    offsets = pa.py_buffer(struct.pack("=ii", start, len(data)))
    text = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(data)])
    found = pc.find_substring_regex(text, _LONG_NUMBER)[0].as_py()
    # The match may begin with the character before the number.
    return -1 if found < 0 else start + found + 1


def inexact_field(line: bytes, fields: pa.Schema) -> str | None:
    """Return the field of a valid line whose number is not what it would be as the field's type."""
    if not any(_has_doubles(field.type) for field in fields):
        return None
    try:
        # Several objects may stand in a line.
        for value in _values(line.decode()):
            for field in fields:
                if isinstance(value, dict) and _is_inexact(value.get(field.name), field.type):
                    return str(field.name)
    except ValueError:
        # What only Arrow takes for JSON, as Inf, or an object that goes on in the next line.
        is_long = _long_number(line, 0) >= 0
        return next((str(field.name) for field in fields if is_long and _has_doubles(field.type)), None)
    return None


def too_large_field(line: bytes, given: Mapping[str, pa.DataType]) -> str | None:
    """Return the field of a line, one JSON object, that has a number beyond the range of a double.

    Args:
        line: as it stands in the file.
        given: types of fields that were not inferred; those without a double are the parser's business.
    """
    value = json.loads(line, parse_int=_ranged, parse_float=_ranged)
    return next(
        (
            name
            for name, field in value.items()
            if (name not in given or _has_doubles(given[name])) and _has_too_large(field)
        ),
        None,
    )


def _ranged(text: str) -> object:
    return _TOO_LARGE if math.isinf(float(text)) else 0


def _has_too_large(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_too_large, value.values()))
    return any(map(_has_too_large, value)) if isinstance(value, list) else value is _TOO_LARGE


def _values(line: str) -> Iterator[object]:
    decoder = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, strict=False)
    at = 0
    while rest := line[at:].lstrip():
        value, end = decoder.raw_decode(rest)
        yield value
        at = len(line) - len(rest) + end


def _whole(text: str) -> object:
    digits = text.removeprefix("-")
    return _INEXACT if len(digits) > _WHOLE_DIGITS or int(digits) > _MOST_WHOLE else 0


def _fraction(text: str) -> object:
    digits = text.lower().partition("e")[0].replace(".", "").lstrip("-0")
    return _INEXACT if len(digits) > _MOST_DIGITS else 0


def _is_inexact(value: object, kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind):
        return value is _INEXACT
    if pa.types.is_list(kind) and isinstance(value, list):
        return any(_is_inexact(each, kind.value_type) for each in value)
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return any(_is_inexact(value.get(field.name), field.type) for field in kind)
    return False


def _has_doubles(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_doubles(kind.field(index).type) for index in range(kind.num_fields))
    return bool(pa.types.is_floating(kind))


def without_times(kind: pa.DataType) -> pa.DataType:
    """Return a type with text in the place of timestamps, which Arrow takes texts for, also in lists and structs.

    The day alone, the zone and the seconds that were not written could not be told from a timestamp again.
    """
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(without_times(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_times(field.type)) for field in kind])
    return kind
