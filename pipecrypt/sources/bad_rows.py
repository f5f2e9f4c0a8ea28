"""Find exactly the rows of a block that a parser rejects. Parsing, and telling what is wrong, is left to the formats.

The parser itself is the judge: what it takes whole is good; what it rejects is halved until single rows are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["sift"]

_Out = TypeVar("_Out")


def sift(
    rows: Sequence[tuple[int, int]], parse: Callable[[int, int], _Out | None]
) -> Iterator[tuple[_Out, None] | tuple[None, int]]:
    """Yield, in order, the parsed runs of good rows, and the index of each bad row between them.

    Args:
        rows: offsets of each row, ascending.
        parse: takes a range of offsets; returns None where a row in it is bad.
    """
    ranges = [(0, len(rows))]
    while ranges:
        first, last = ranges.pop()
        if first == last:
            continue
        parsed = parse(rows[first][0], rows[last - 1][1])
        if parsed is not None:
            yield parsed, None
        elif last - first == 1:
            yield None, first
        else:
            middle = (first + last) // 2
            ranges += [(middle, last), (first, middle)]
