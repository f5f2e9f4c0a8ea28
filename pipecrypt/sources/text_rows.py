"""Read blocks of text rows as batches, and deal with bad rows. Parsing is left to the formats.

The types of the first block hold for the whole file. A column without a value in it becomes text, which takes
whatever a CSV file brings later. Blocks are read, and decompressed, on a thread of their own while others are parsed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import Final, Protocol, runtime_checkable

import pyarrow as pa

from pipecrypt.errors import BadRowError
from pipecrypt.formats.lines import Block
from pipecrypt.formats.options import BadRows
from pipecrypt.formats.stream import read_ahead
from pipecrypt.formats.text_rows import bisect_rows

__all__ = ["FindsMisshapen", "RowParser", "TextStream", "with_first", "without_null_types"]

_LOG: Final = logging.getLogger(__name__)


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


@runtime_checkable
class FindsMisshapen(Protocol):
    """A second power of a RowParser: all rows with a wrong number of fields at once, however many there are."""

    def misshapen(self, data: bytes, rows: Sequence[tuple[int, int]]) -> set[int] | None:
        """Return the indexes of these rows, or None where it cannot be told so."""


class TextStream:
    """A BatchStream of parsed blocks.

    Args:
        blocks: the file's rows.
        parser: of the format, its schema known already.
        name: what errors call the file.
        on_bad_rows: fail or skip.
        delimiter: between fields, for who asks what was found; None where there is none.
    """

    may_change_thread = True

    def __init__(
        self,
        blocks: Iterator[Block],
        parser: RowParser,
        name: str,
        on_bad_rows: BadRows,
        *,
        delimiter: str | None = None,
    ) -> None:
        """Read nothing yet."""
        self._blocks = blocks
        self._parser = parser
        self._name = name
        self._on_bad_rows = on_bad_rows
        self._batches = self._read()
        self.bad_rows = 0
        self.delimiter = delimiter

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch."""
        return self._parser.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches of each block."""
        return self._batches

    def close(self) -> None:
        """Stop reading."""
        self._batches.close()
        if isinstance(self._blocks, Generator):
            self._blocks.close()

    def _read(self) -> Generator[pa.RecordBatch]:
        with closing(read_ahead(self._blocks, depth=1, name="blocks")) as blocks:
            for block in blocks:
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
        bad = self._misshapen(data, rows)
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

    def _misshapen(self, data: bytes, rows: list[tuple[int, int]]) -> set[int]:
        # Where a bad row fails the file, halving finds the first one faster.
        if self._on_bad_rows is BadRows.FAIL or not isinstance(self._parser, FindsMisshapen):
            return set()
        return self._parser.misshapen(data, rows) or set()


def _check(view: memoryview, fits: Callable[[memoryview], bool]) -> Callable[[int, int], bool | None]:
    return lambda start, end: fits(view[start:end]) or None


def _joined(data: bytes, rows: list[tuple[int, int]], without: set[int]) -> bytes:
    return b"".join(data[start:end] for index, (start, end) in enumerate(rows) if index not in without)


def with_first(first: Block | None, blocks: Iterator[Block]) -> Generator[Block]:
    """Yield a block that was looked at already, then the others; closing closes them."""
    try:
        yield from chain([first] if first else [], blocks)
    finally:
        if isinstance(blocks, Generator):
            blocks.close()


def without_null_types(found: pa.DataType) -> pa.DataType:
    """Return a type with text wherever nothing but null was seen, also inside of lists and structs."""
    if pa.types.is_null(found):
        return pa.string()
    if pa.types.is_list(found):
        return pa.list_(found.value_field.with_type(without_null_types(found.value_type)))
    if pa.types.is_struct(found):
        return pa.struct([field.with_type(without_null_types(field.type)) for field in found])
    return found
