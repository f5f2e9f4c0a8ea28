"""Read blocks of text rows as batches, and find exactly the rows that a parser rejects.

The types of the first block hold for the whole file. A column without a value in it becomes text, which takes
whatever a CSV file brings later. Blocks are read, and decompressed, on a thread of their own while others are parsed.
The parser itself decides about rows: what it takes whole is good; what it rejects is halved until single rows are left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import Final, Protocol, TypeVar

import pyarrow as pa

from pipecrypt.errors import BadRowError
from pipecrypt.formats.lines import Block
from pipecrypt.formats.options import BadRows
from pipecrypt.formats.stream import BatchStream, read_ahead

__all__ = ["RowParser", "TextStream", "bisect_rows"]

_LOG: Final = logging.getLogger(__name__)
_Out = TypeVar("_Out")


class RowParser(Protocol):
    """What a text format knows."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch."""

    def parse(self, data: memoryview) -> pa.Table | None:
        """Return the rows, or None where one of them does not fit."""

    def checks(self) -> Iterable[Callable[[memoryview], bool]]:
        """Return cheaper questions to rows: what all of them take, `parse` takes too."""

    def split(self, data: bytes) -> list[tuple[int, int]]:
        """Return the offsets of every row."""

    def explain(self, row: bytes) -> tuple[str, str]:
        """Return what is wrong with a row that `parse` rejects, and a hint; never its values."""

    def ragged_rows(self, data: bytes, rows: Sequence[tuple[int, int]]) -> set[int]:
        """Return the rows with a wrong number of fields, all in one parse; none where that is not possible."""


class TextStream(BatchStream):
    """A stream of parsed blocks.

    Args:
        first: the first block, which was read already; None where there are no rows.
        blocks: the others.
        parser: of the format, its schema known already.
        name: what errors call the file.
        on_bad_rows: fail or skip.
        delimiter: between fields; None where there is none.
    """

    def __init__(
        self,
        first: Block | None,
        blocks: Iterator[Block],
        parser: RowParser,
        name: str,
        on_bad_rows: BadRows,
        *,
        delimiter: str | None = None,
    ) -> None:
        """Read nothing yet."""
        all_blocks = chain([] if first is None else [first], blocks)
        super().__init__(parser.schema, self._read(all_blocks), source=blocks)
        self._parser = parser
        self._name = name
        self._on_bad_rows = on_bad_rows
        self.delimiter = delimiter

    def _read(self, blocks: Iterator[Block]) -> Generator[pa.RecordBatch]:
        with closing(read_ahead(blocks, depth=1, name="blocks")) as ahead:
            for block in ahead:
                table = self._parser.parse(memoryview(block.data))
                yield from (self._good_rows(block) if table is None else table).to_batches()

    def _good_rows(self, block: Block) -> pa.Table:
        rows = self._parser.split(block.data)
        bad = self._bad_rows(block.data, rows)
        line, counted = block.line, 0
        for index in sorted(bad):
            start, end = rows[index]
            line, counted = line + block.data.count(b"\n", counted, start), start
            if self._on_bad_rows is BadRows.FAIL:
                reason, hint = self._parser.explain(block.data[start:end])
                raise BadRowError(f"{self._name}:{line}: {reason}", hint=hint)
            _LOG.info("%s:%d: row left out", self._name, line)
        self.bad_rows += len(bad)
        if len(bad) == len(rows):
            return self.schema.empty_table()
        good = self._parser.parse(memoryview(_joined(block.data, rows, bad)))
        if good is None:
            raise RuntimeError("rows that fit one by one do not fit together")
        return good

    def _bad_rows(self, data: bytes, rows: list[tuple[int, int]]) -> set[int]:
        """Return the rows that any check refuses; where a bad row fails the file, at least the first one."""
        left, offsets = list(range(len(rows))), rows
        # Where a bad row fails the file, halving finds the first one faster.
        bad = set() if self._on_bad_rows is BadRows.FAIL else self._parser.ragged_rows(data, rows)
        if bad:
            left, data = [index for index in left if index not in bad], _joined(data, rows, bad)
            offsets = self._parser.split(data)
        for fits in self._parser.checks():
            view = memoryview(data)
            found = (index for _, index in bisect_rows(offsets, _check(view, fits)) if index is not None)
            wrong = set(islice(found, 1 if self._on_bad_rows is BadRows.FAIL else None))
            if wrong:
                # The next check sees neither the bad row nor, where the file fails, what comes after it.
                bad |= {left[index] for index in wrong}
                end = min(wrong) if self._on_bad_rows is BadRows.FAIL else len(left)
                left = [each for index, each in enumerate(left[:end]) if index not in wrong]
                data = _joined(data, offsets[:end], wrong)
                offsets = self._parser.split(data)
        return bad


def _check(view: memoryview, fits: Callable[[memoryview], bool]) -> Callable[[int, int], bool | None]:
    return lambda start, end: fits(view[start:end]) or None


def _joined(data: bytes, rows: list[tuple[int, int]], without: set[int]) -> bytes:
    return b"".join(data[start:end] for index, (start, end) in enumerate(rows) if index not in without)


def bisect_rows(
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
