"""Encode batches as plaintext Parquet, one small file in memory for each row group. Encrypting them is left to others.

Reading, encoding and the consumer overlap: reading runs on a thread of its own, encoding on another, and at most a few
batches and row groups are in flight.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipecrypt.errors import UnsupportedError
from pipecrypt.formats.batches import BatchStream
from pipecrypt.formats.options import EncodeOptions
from pipecrypt.formats.row_groups import ParquetFit
from pipecrypt.formats.stream import map_ahead, read_ahead

__all__ = ["EncodedRowGroup", "encode_row_groups"]

_DEFAULTS: Final = EncodeOptions()


@dataclass(frozen=True, slots=True)
class EncodedRowGroup:
    """A whole Parquet file with one row group, or with none where there are no rows at all."""

    data: memoryview
    rows: int


def encode_row_groups(stream: BatchStream, options: EncodeOptions = _DEFAULTS) -> Generator[EncodedRowGroup]:
    """Yield the stream's row groups in order, each of exactly `batch_rows` rows but the last one.

    A stream without rows gives one file without row group, which keeps the schema. Closing the generator, or an
    exception in it, ends all threads and closes the stream.

    Args:
        stream: the batches; read on another thread where it allows that.
        options: rows and codec.

    Raises:
        UnsupportedError: Parquet cannot hold a column's type; raised before the first row group.
        PipecryptError: whatever reading the stream raises, after the row groups before it.
    """
    try:
        fit = ParquetFit(stream.schema)
        batches = read_ahead(stream) if stream.may_change_thread else iter(stream)
        tables = _tables(batches, fit, options.batch_rows)
        yield from map_ahead(_Encoder(options).encode, tables, name="encode")
    finally:
        stream.close()


def _tables(batches: Iterator[pa.RecordBatch], fit: ParquetFit, batch_rows: int) -> Generator[pa.Table]:
    try:
        is_empty = True
        for rows in _rechunked(batches, batch_rows):
            is_empty = False
            yield pa.Table.from_batches([fit.apply(batch) for batch in rows], fit.schema)
        if is_empty:
            yield fit.schema.empty_table()
    finally:
        if isinstance(batches, Generator):
            batches.close()


def _rechunked(batches: Iterable[pa.RecordBatch], batch_rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Yield slices that sum up to `batch_rows`: views of the batches, not copies."""
    pending: list[pa.RecordBatch] = []
    missing = batch_rows
    for batch in batches:
        start = 0
        while len(batch) - start >= missing:
            yield [*pending, batch.slice(start, missing)]
            start += missing
            pending, missing = [], batch_rows
        if start < len(batch):
            pending.append(batch.slice(start))
            missing -= len(batch) - start
    if pending:
        yield pending


class _Encoder:
    """Writes row groups, all with the dictionaries that made the first one smaller.

    pyarrow gives every column one. Columns of many different values become larger and slower by it, as most of
    TPC-H's lineitem do.
    """

    def __init__(self, options: EncodeOptions) -> None:
        self._options = options
        self._with_dictionary: list[str] | None = None

    def encode(self, table: pa.Table) -> EncodedRowGroup:
        try:
            if self._with_dictionary is None:
                self._with_dictionary = self._chosen(table)
            return EncodedRowGroup(memoryview(self._parquet(table, self._with_dictionary)), len(table))
        except pa.ArrowException as error:
            # An overflow, as of seconds that become milliseconds. Which column it is, is found by trying.
            column = next((name for name in table.column_names if not self._can_write(table.select([name]))), "?")
            message = f"column {column}: values that parquet cannot hold: {type(error).__name__}"
            raise UnsupportedError(message, hint="convert the column before it comes here") from error

    def _chosen(self, table: pa.Table) -> list[str]:
        """Return the paths of the leaf columns that are smaller with a dictionary; those that are one keep it."""
        if not len(table):
            return []
        with_all, with_none = (_columns(self._parquet(table, use)) for use in (True, False))
        names = {field.name for field in table.schema if pa.types.is_dictionary(field.type)}
        return [path for path, size in with_all.items() if size < with_none[path] or path in names]

    def _can_write(self, table: pa.Table) -> bool:
        try:
            self._parquet(table, True)
        except pa.ArrowException:
            return False
        return True

    def _parquet(self, table: pa.Table, use_dictionary: bool | list[str]) -> pa.Buffer:
        sink = pa.BufferOutputStream()
        # No page index: a row group this small has one or a few pages in each column, and each index is a module more.
        with pq.ParquetWriter(
            sink,
            table.schema,
            compression=self._options.compression.value,
            use_dictionary=use_dictionary,
            write_statistics=True,
            write_page_index=False,
        ) as writer:
            if len(table):
                writer.write_table(table, row_group_size=self._options.batch_rows)
        return sink.getvalue()


def _columns(file: pa.Buffer) -> dict[str, int]:
    """Return the size of every leaf column of the only row group, in bytes."""
    row_group = pq.read_metadata(pa.BufferReader(file)).row_group(0)
    columns = (row_group.column(index) for index in range(row_group.num_columns))
    return {column.path_in_schema: column.total_compressed_size for column in columns}
