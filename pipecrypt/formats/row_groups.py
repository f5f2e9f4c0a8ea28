"""Encode batches as plaintext Parquet, one small file in memory for each row group.

Reading, encoding and the consumer overlap: reading runs on a thread of its own, encoding on another, and at most a few
batches and row groups are in flight.

pyarrow's writer decides what fits into Parquet: a type that it writes stays what it is. Views and run-end encoded
columns have an equal, which older writers need, and views inside of other types. Unions and intervals of months, days
and nanoseconds have none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from pipecrypt.errors import UnsupportedError
from pipecrypt.formats.options import EncodeOptions
from pipecrypt.formats.stream import BatchStream, map_ahead, read_ahead

__all__ = ["ParquetFit", "encode_row_groups"]

_DEFAULTS: Final = EncodeOptions()
_SHOWN_CHARACTERS: Final = 200


def encode_row_groups(stream: BatchStream, options: EncodeOptions = _DEFAULTS) -> Generator[memoryview]:
    """Yield the stream's row groups in order, each a whole Parquet file of exactly `batch_rows` rows but the last one.

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

    def encode(self, table: pa.Table) -> memoryview:
        try:
            if self._with_dictionary is None:
                self._with_dictionary = self._chosen(table)
            return memoryview(self._parquet(table, self._with_dictionary))
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


class ParquetFit:
    """Turns batches of one schema into batches that Parquet can hold.

    Args:
        schema: of the batches.

    Raises:
        UnsupportedError: a column has a type that Parquet cannot hold, nor an equal of it; names the column.
    """

    __slots__ = ("_changed", "schema")

    def __init__(self, schema: pa.Schema) -> None:
        """Check every column before any is written."""
        fields = [_fitting(field) for field in schema]
        self._changed = [index for index, field in enumerate(fields) if field.type != schema.types[index]]
        self.schema = pa.schema(fields, schema.metadata)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch with its columns converted where their types ask for it; shares the others."""
        if not self._changed:
            return batch
        columns = list(batch.columns)
        for index in self._changed:
            columns[index] = _converted(columns[index], self.schema.field(index).type)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _fitting(field: pa.Field) -> pa.Field:
    equal = _equal_of_column(field.type)
    # Views inside of structs and lists are refused where their values do not begin at zero, as those of a slice do.
    holds_views = pa.types.is_nested(field.type) and equal != field.type
    if not holds_views and _can_be_written(field):
        return field
    if equal != field.type and _can_be_written(field.with_type(equal)) and _can_be_converted(field.type, equal):
        return field.with_type(equal)
    hint = "convert or leave out the column before it comes here"
    raise UnsupportedError(f"column {field.name}: parquet cannot hold {_shown(field.type)}", hint=hint)


def _shown(found: pa.DataType) -> str:
    text = str(found)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _can_be_written(field: pa.Field) -> bool:
    try:
        # Not the schema's own empty table: that one fails for tensors.
        empty = pa.Table.from_arrays([pa.nulls(0, field.type)], schema=pa.schema([field]))
        sink = pa.BufferOutputStream()
        pq.write_table(empty, sink)
        # The writer takes schemas so deep that no reader does; Arrow reports that, and no length, as a bare OSError.
        pq.read_metadata(pa.BufferReader(sink.getvalue()))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, OSError):
        return False
    try:
        # Some types pass as a schema and fail with the first row.
        pq.write_table(pa.table({"column": pa.nulls(1, field.type)}), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    except pa.ArrowInvalid:
        # A null where a nested field must not be null; that is not what was asked.
        return True
    return True


def _can_be_converted(found: pa.DataType, equal: pa.DataType) -> bool:
    try:
        _converted(pa.nulls(1, found), equal)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def _converted(column: pa.Array, equal: pa.DataType) -> pa.Array:
    if pa.types.is_run_end_encoded(column.type):
        column = compute.run_end_decode(column)
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        return _listed(column, equal)
    return column if column.type == equal else column.cast(equal)


def _listed(column: pa.Array, equal: pa.DataType) -> pa.Array:
    # Arrow's cast trips over views with nulls. The values of each row, one after the other, and where they end, do not.
    ends = compute.cumulative_sum(compute.fill_null(compute.list_value_length(column), 0).cast(pa.int64()))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    values = _converted(column.flatten(), equal.value_type)
    return pa.LargeListArray.from_arrays(offsets, values, type=equal, mask=column.is_null())


def _equal_of_column(found: pa.DataType) -> pa.DataType:
    if pa.types.is_list_view(found) or pa.types.is_large_list_view(found):
        return pa.large_list(_equal_field(found.value_field))
    return _equal(found)


def _equal(found: pa.DataType) -> pa.DataType:
    """Return the type of the same values without views and runs. Large ones: a view's data has no bound of 2 GiB."""
    for is_kind, equal in _EQUALS:
        if is_kind(found):
            return equal(found)
    return found


def _equal_field(field: pa.Field) -> pa.Field:
    return field.with_type(_equal(field.type))


_EQUALS: Final[list[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], pa.DataType]]]] = [
    (pa.types.is_string_view, lambda _: pa.large_string()),
    (pa.types.is_binary_view, lambda _: pa.large_binary()),
    (pa.types.is_run_end_encoded, lambda found: _equal(found.value_type)),
    (pa.types.is_dictionary, lambda found: pa.dictionary(found.index_type, _equal(found.value_type), found.ordered)),
    (pa.types.is_large_list, lambda found: pa.large_list(_equal_field(found.value_field))),
    (pa.types.is_fixed_size_list, lambda found: pa.list_(_equal_field(found.value_field), found.list_size)),
    (pa.types.is_list, lambda found: pa.list_(_equal_field(found.value_field))),
    (pa.types.is_struct, lambda found: pa.struct([_equal_field(field) for field in found])),
    (pa.types.is_map, lambda found: pa.map_(_equal_field(found.key_field), _equal_field(found.item_field))),
]
