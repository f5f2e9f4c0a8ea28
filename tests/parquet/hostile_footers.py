"""Footers that cost far more to open than their bytes, as somebody would make them who wants a reader to fall over."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipecrypt.parquet.wire.thrift import encode_varint

__all__ = ["HOSTILE", "file_of", "struct_list"]

_STRUCT = 12
_LIST = 9
_I32 = 5
_I64 = 6
_BINARY = 8


def file_of(footer: bytes, *, body: bytes = b"") -> bytes:
    """Return a plaintext file with this footer."""
    return b"PAR1" + body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def struct_list(count: int, element: bytes, *, wire_type: int = _STRUCT) -> bytes:
    """Return a list of equal elements."""
    return bytes((0xF0 | wire_type,)) + encode_varint(count) + element * count


def schema(columns: int = 1) -> bytes:
    root = b"\x48\x01r" + bytes((1 << 4 | _I32,)) + encode_varint(columns << 1) + b"\x00"
    leaf = b"\x15\x02" + b"\x38\x01c" + b"\x00"
    return bytes((0xF0 | _STRUCT,)) + encode_varint(columns + 1) + root + leaf * columns


def footer(*, schemas: bytes | None = None, row_groups: bytes = b"\x0c", more: bytes = b"", rows: int = 0) -> bytes:
    """Return a FileMetaData: version, schema, rows, row groups, perhaps more."""
    return (
        b"\x15\x02"
        + b"\x19"
        + (schemas or schema())
        + b"\x16"
        + encode_varint(rows << 1)
        + b"\x19"
        + row_groups
        + more
        + b"\x00"
    )


def many_row_groups(count: int) -> bytes:
    return footer(row_groups=struct_list(count, b"\x00"))


def many_row_groups_with_rows(count: int) -> bytes:
    return footer(row_groups=struct_list(count, b"\x36\x00\x00"))


def many_chunks(count: int) -> bytes:
    return footer(row_groups=struct_list(1, b"\x19" + struct_list(count, b"\x00") + b"\x00"))


def many_tiny_chunks_of_as_many_columns(count: int) -> bytes:
    columns = min(count // 20, 32_000)
    chunk = b"\x3c\x56\x00\x26\x00\x26\x00\x00\x00"
    row_group = b"\x19" + struct_list(columns, chunk) + b"\x36\x00\x00"
    return footer(schemas=schema(columns), row_groups=struct_list(count // (9 * columns), row_group))


def empty_schema_elements(count: int) -> bytes:
    return footer(schemas=struct_list(count, b"\x00"))


def deep_and_broad_schema(count: int) -> bytes:
    group = b"\x48\x01g\x15\x02\x00"
    leaf = b"\x15\x02\x38\x01c\x00"
    leaves = min(count // len(leaf), 3_000_000)
    last = b"\x48\x01g\x15" + encode_varint(leaves << 1) + b"\x00"
    elements = 1 + 250 + 1 + leaves
    return footer(schemas=bytes((0xF0 | _STRUCT,)) + encode_varint(elements) + group * 251 + last + leaf * leaves)


def long_names_on_the_way(count: int) -> bytes:
    name = b"n" * 60_000
    group = b"\x48" + encode_varint(len(name)) + name + b"\x15"
    leaf = b"\x15\x02\x38\x01c\x00"
    leaves = min(count // len(leaf), 30_000)
    root = group + b"\x02\x00"
    last = group + encode_varint(leaves << 1) + b"\x00"
    return footer(schemas=bytes((0xF0 | _STRUCT,)) + encode_varint(2 + leaves) + root + last + leaf * leaves)


def many_key_values(count: int) -> bytes:
    return footer(more=b"\x19" + struct_list(count, b"\x00"))


def many_named_key_values(count: int) -> bytes:
    return footer(more=b"\x19" + struct_list(count // 4, b"\x18\x01k\x00"))


def one_struct_of_many_fields(count: int) -> bytes:
    return footer(row_groups=struct_list(1, b"\x11" * count + b"\x00"))


def one_struct_of_one_field(count: int) -> bytes:
    return footer(more=b"\x01\x12" * (count // 2))


def bools_in_chunks(count: int) -> bytes:
    fields = b"\x11" * 30_000 + b"\x00"
    return footer(row_groups=struct_list(1, b"\x19" + struct_list(count // len(fields), fields) + b"\x00"))


def nested_lists(count: int) -> bytes:
    return footer(more=b"\x69" + struct_list(count // 2, b"\x09\x00"[:1] + b"", wire_type=_LIST))


def wide_file(columns: int) -> bytes:
    """Return an honest file of many columns that says as little of each as may be."""
    table = pa.table({f"c{index}": pa.array([index], pa.int64()) for index in range(columns)})
    out = io.BytesIO()
    pq.write_table(table, out, write_statistics=False, use_dictionary=False, store_schema=False)
    return out.getvalue()


HOSTILE = {
    made.__name__: made
    for made in (
        many_row_groups,
        many_row_groups_with_rows,
        many_chunks,
        many_tiny_chunks_of_as_many_columns,
        empty_schema_elements,
        deep_and_broad_schema,
        long_names_on_the_way,
        many_key_values,
        many_named_key_values,
        one_struct_of_many_fields,
        one_struct_of_one_field,
        bools_in_chunks,
        nested_lists,
    )
}
