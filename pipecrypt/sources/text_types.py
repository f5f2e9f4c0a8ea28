"""Find the type of a column of texts, and convert it. Reading the texts is left to csv_lines.

A column gets another type than text only where the texts can be told from the values again: `007`, `+47`, `1e5`, `-0`,
` 12`, `NaN` or 16 digits stay text, and so does `1.10` beside `1.1`. What a type takes is written as a regular
expression of Arrow's (RE2) for whole texts; docs/sources.md lists them. The expressions hold for every row of a file:
what the first rows decided makes a later row that differs a bad one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["InferredColumn", "infer_column"]

_MOST_DIGITS: Final = 15
_WHOLE: Final = f"0|-?[1-9][0-9]{{0,{_MOST_DIGITS - 1}}}"
_FIRST_TEXTS: Final = 100
_LARGEST: Final = 10**_MOST_DIGITS - 1
_DATE: Final = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-[0-9]{2}-[0-9]{2}"
_TIME: Final = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
# Year to second, what stands between date and time, the fraction with its point, the zone.
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\d([ T])\d\d:\d\d:\d\d(\.\d{1,9})?(Z?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Form:
    """Texts of one shape, and their type."""

    type: pa.DataType
    # None where Arrow's own conversion takes this shape only.
    pattern: str | None = None
    # What stands for True, and the point of a fraction.
    true: str | None = None
    point: str = "."

    def takes(self, texts: pa.ChunkedArray) -> bool:
        if self.pattern is None:
            return _are_whole(texts) if pa.types.is_integer(self.type) else _are_days(texts)
        fit = pc.all(pc.match_substring_regex(texts, f"^(?:{self.pattern})$"), min_count=0).as_py()
        return bool(fit) and (not pa.types.is_floating(self.type) or _have_few_digits(texts))

    def values(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        if self.true is not None:
            return pc.starts_with(texts, self.true)
        if pa.types.is_time(self.type):
            return pc.cast(pc.cast(pc.replace_substring_regex(texts, "^", "1970-01-01T"), pa.timestamp("s")), self.type)
        return pc.cast(pc.replace_substring(texts, self.point, ".") if self.point != "." else texts, self.type)


def _are_days(texts: pa.ChunkedArray) -> bool:
    try:
        pc.cast(texts, pa.date32())
    except pa.ArrowInvalid:
        return False
    # Arrow has a year 0, which Python and others have not.
    return not pc.any(pc.starts_with(texts, "0000")).as_py()


def _are_whole(texts: pa.ChunkedArray) -> bool:
    """Say whether all texts are whole numbers as they are written usually; faster than an expression."""
    try:
        bounds = pc.min_max(pc.cast(texts, pa.int64())).as_py()
    except pa.ArrowInvalid:
        return False
    if bounds["min"] is not None and not -_LARGEST <= bounds["min"] <= bounds["max"] <= _LARGEST:
        return False
    # What else Arrow takes begins with a zero, or with a zero behind the sign: 007, 0x1F, -0.
    longer = texts.filter(pc.starts_with(texts, "0"))
    return (pc.max(pc.binary_length(longer)).as_py() or 1) == 1 and not pc.any(pc.starts_with(texts, "-0")).as_py()


def _have_few_digits(numbers: pa.ChunkedArray) -> bool:
    """Say whether no number has more digits than a double keeps; zeros before the first other one count."""
    characters = pc.binary_length(numbers)
    if (pc.max(characters).as_py() or 0) > _MOST_DIGITS + 1:
        # One character is the point, another may be the sign.
        characters = pc.subtract(characters, pc.cast(pc.starts_with(numbers, "-"), characters.type))
    return (pc.max(characters).as_py() or 0) <= _MOST_DIGITS + 1


class InferredColumn:
    """The type of a column whose type was not given, and the shapes that its texts may still have.

    Args:
        forms: what all rows so far fit, of one type; empty for text.
    """

    __slots__ = ("_forms", "type")

    def __init__(self, forms: Sequence[_Form]) -> None:
        """Keep them."""
        self._forms = tuple(forms)
        self.type = forms[0].type if forms else pa.string()

    @property
    def is_text(self) -> bool:
        """Whether every text is its own value."""
        return not self._forms

    def converted(self, texts: pa.ChunkedArray) -> tuple[pa.ChunkedArray, InferredColumn] | None:
        """Return the values, and what later texts must fit; None where a text has no place in this column.

        Args:
            texts: as they stand in the file; the empty one means null, as null does.
        """
        return _converted(texts, self._forms)


def infer_column(texts: pa.ChunkedArray, decimal_point: str) -> InferredColumn:
    """Return the type that the first texts of a column have.

    Args:
        texts: as bytes or text, without rows that are malformed.
        decimal_point: one ASCII character.
    """
    try:
        texts = pc.cast(texts, pa.string())
    except pa.ArrowInvalid:
        return InferredColumn(())  # the row that is not UTF-8 is named when its turn comes
    some = texts.filter(_has_characters(texts)).slice(0, _FIRST_TEXTS)
    if not len(some):
        return InferredColumn(())
    likely = [form for form in _forms(some[0].as_py(), decimal_point) if form.takes(some)]
    for kind in dict.fromkeys(form.type for form in likely):
        found = _converted(texts, [form for form in likely if form.type == kind])
        if found is not None:
            return found[1]
    return InferredColumn(())


def _converted(texts: pa.ChunkedArray, forms: Sequence[_Form]) -> tuple[pa.ChunkedArray, InferredColumn] | None:
    has_characters = _has_characters(texts)
    if not pc.all(has_characters, min_count=0).as_py():
        texts = pc.if_else(has_characters, texts, pa.NULL)
    fitting = [form for form in forms if form.takes(texts)]
    if not fitting:
        return None
    try:
        values = fitting[0].values(texts)
    except pa.ArrowInvalid:
        return None  # no such day, or hour
    return values, InferredColumn(fitting)


def _has_characters(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    # Comparing with a value of Python's would make pyarrow import pandas.
    return pc.cast(pc.binary_length(texts), pa.bool_())


def _forms(first: str, decimal_point: str) -> Iterator[_Form]:
    """Yield the shapes that a column may have which begins with such a text; it may still fit none of them."""
    for true, false in (("true", "false"), ("True", "False"), ("TRUE", "FALSE")):
        if first in {true, false}:
            yield _Form(pa.bool_(), f"{true}|{false}", true=true)
    if found := _TIMESTAMP.fullmatch(first):
        between, fraction, zone = found.groups()
        digits = len(fraction or ".") - 1
        unit = ("s", "ms", "us", "ns")[(digits + 2) // 3]
        pattern = f"{_DATE}{between}{_TIME}{rf'[.][0-9]{{{digits}}}' if digits else ''}{zone}"
        yield _Form(pa.timestamp(unit, "UTC" if zone else None), pattern)
    if not first.startswith(tuple("-0123456789")):
        return
    if first.count("-") > 1:
        yield _Form(pa.date32())
    elif ":" in first:
        yield _Form(pa.time32("s"), _TIME)
    else:
        yield _Form(pa.int64())
        yield from _fractions(first, decimal_point)


def _fractions(first: str, decimal_point: str) -> Iterator[_Form]:
    """Yield the shapes of numbers with a fraction, in each of which a number has one text only."""
    point = decimal_point if decimal_point.isalnum() or decimal_point == "_" else f"\\{decimal_point}"
    digits = len(first.partition(decimal_point)[2])
    whole, short = "(?:0|[1-9][0-9]*)", f"{point}[0-9]*[1-9]"
    if digits:
        # As many digits behind the point in every row, as in 12.50.
        yield _Form(pa.float64(), f"-?{whole}{point}[0-9]{{{min(digits, _MOST_DIGITS)}}}", point=decimal_point)
    # No more zeros at the end than there must be: 1 and 2.5, as most programs print it; 1.0 and 2.5, as Python does.
    yield _Form(pa.float64(), f"-?{whole}{short}|{_WHOLE}", point=decimal_point)
    yield _Form(pa.float64(), f"-?{whole}(?:{short}|{point}0)", point=decimal_point)
