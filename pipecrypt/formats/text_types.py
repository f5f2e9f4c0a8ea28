"""Infer the type of a column of texts, and convert it.

A column gets another type than text only where the texts can be rebuilt from the values: `007`, `+47`, `1e5`, `-0`,
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
# Year to second, what is between date and time, the fraction with its point, the zone.
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

    def takes(self, texts: pa.ChunkedArray, longest: int) -> bool:
        """Return whether all texts have this shape, none of which is longer; nulls have every shape."""
        if self.pattern is None:
            return self.values(texts, longest) is not None
        fit = pc.all(pc.match_substring_regex(texts, f"^(?:{self.pattern})$"), min_count=0).as_py()
        return bool(fit) and (not pa.types.is_floating(self.type) or _have_few_digits(texts, longest))

    def values(self, texts: pa.ChunkedArray, longest: int) -> pa.ChunkedArray | None:
        """Return the values, or None where a text has another shape, or is no such day or hour; as `takes`."""
        try:
            if self.pattern is None:
                return _whole(texts) if pa.types.is_integer(self.type) else _days(texts)
            return self._cast(texts) if self.takes(texts, longest) else None
        except pa.ArrowInvalid:
            return None

    def _cast(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        if self.true is not None:
            return pc.starts_with(texts, self.true)
        if pa.types.is_time(self.type):
            return pc.cast(pc.cast(pc.replace_substring_regex(texts, "^", "1970-01-01T"), pa.timestamp("s")), self.type)
        return pc.cast(pc.replace_substring(texts, self.point, ".") if self.point != "." else texts, self.type)


def _days(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    days = pc.cast(texts, pa.date32())
    # Arrow has a year 0, which Python and others have not.
    return None if pc.any(pc.starts_with(texts, "0000")).as_py() else days


def _whole(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return whole numbers whose texts are written as usual; faster than an expression."""
    numbers = pc.cast(texts, pa.int64())
    least, most = pc.min_max(numbers).as_py().values()
    if least is None:
        return numbers
    # What else Arrow takes begins with a zero, or with a zero after the sign, which no number above 0 has: 007, -0.
    begin = pc.starts_with(texts, "0")
    if not -_LARGEST <= least <= most <= _LARGEST or (least <= 0 and pc.any(pc.starts_with(texts, "-0")).as_py()):
        return None
    if not pc.any(begin).as_py():
        return numbers
    return numbers if least <= 0 and pc.max(pc.binary_length(texts.filter(begin))).as_py() == 1 else None


def _have_few_digits(numbers: pa.ChunkedArray, longest: int) -> bool:
    """Return whether no number has more digits than a double keeps; zeros before the first other one count."""
    if longest <= _MOST_DIGITS + 1:
        return True
    # One character is the point, another may be the sign.
    characters = pc.binary_length(numbers)
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
    lengths = pc.binary_length(texts)
    some = texts.filter(_is_positive(lengths)).slice(0, _FIRST_TEXTS)
    if not len(some):
        return InferredColumn(())
    longest = pc.max(lengths).as_py()
    likely = [form for form in _forms(some[0].as_py(), decimal_point) if form.takes(some, longest)]
    for kind in dict.fromkeys(form.type for form in likely):
        found = _converted(texts, [form for form in likely if form.type == kind])
        if found is not None:
            return found[1]
    return InferredColumn(())


def _converted(texts: pa.ChunkedArray, forms: Sequence[_Form]) -> tuple[pa.ChunkedArray, InferredColumn] | None:
    lengths = pc.binary_length(texts)
    shortest, longest = pc.min_max(lengths).as_py().values()
    if shortest == 0:
        texts = pc.if_else(_is_positive(lengths), texts, pa.NULL)
    values, fitting = None, []
    for form in forms:
        if values is not None:  # what another shape of the same type makes of the texts is the same
            fits = form.takes(texts, longest or 0)
        else:
            values = form.values(texts, longest or 0)
            fits = values is not None
        if fits:
            fitting.append(form)
    return None if values is None else (values, InferredColumn(fitting))


def _is_positive(lengths: pa.ChunkedArray) -> pa.ChunkedArray:
    # Comparing with a value of Python's would make pyarrow import pandas.
    return pc.cast(lengths, pa.bool_())


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
        # As many digits after the point in every row, as in 12.50.
        yield _Form(pa.float64(), f"-?{whole}{point}[0-9]{{{min(digits, _MOST_DIGITS)}}}", point=decimal_point)
    # No more zeros at the end than there must be: 1 and 2.5, as most programs print it; 1.0 and 2.5, as Python does.
    yield _Form(pa.float64(), f"-?{whole}{short}|{_WHOLE}", point=decimal_point)
    yield _Form(pa.float64(), f"-?{whole}(?:{short}|{point}0)", point=decimal_point)
