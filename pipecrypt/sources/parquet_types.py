"""Make columns fit for Parquet, or say which one cannot be. Writing them is left to row_groups.

pyarrow's writer is the judge: a type that it writes stays what it is. Views and run-end encoded columns have an equal,
which older writers need, and views inside of other types. Unions and intervals of months, days and nanoseconds have
none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from pipecrypt.errors import UnsupportedError

__all__ = ["ParquetFit"]

_SHOWN_CHARACTERS: Final = 200


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
