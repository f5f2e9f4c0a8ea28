"""The Thrift codec: what it opens comes back the same, and hostile bytes end in our errors."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import FormatError, PipecryptError
from pipecrypt.parquet.pages.headers import read_page_header
from pipecrypt.parquet.wire.fields import COLUMN_CHUNK, FILE_META_DATA, OFFSET_INDEX
from pipecrypt.parquet.wire.thrift import BINARY, BOOL, INTEGER, ListOf, Raw, Struct, WireType, encode_struct
from pipecrypt.parquet.wire.thrift_read import read_struct

SHAPE = {1: INTEGER, 2: BINARY, 3: ListOf({1: INTEGER}), 4: {7: BOOL}, 300: INTEGER}


def sample() -> Struct:
    struct, inner, element = Struct(), Struct(), Struct()
    struct.set(1, WireType.I64, -(2**63))
    struct.set(2, WireType.BINARY, b"bytes")
    element.set(1, WireType.I32, 5)
    struct.set_list(3, WireType.STRUCT, [element] * 20)
    inner.set(7, WireType.TRUE, True)
    struct.set(4, WireType.STRUCT, inner)
    struct.set(9, WireType.DOUBLE, Raw(b"12345678"))
    struct.set(300, WireType.I32, 2**31 - 1)
    return struct


def test_a_struct_comes_back() -> None:
    encoded = encode_struct(sample())
    struct, end = read_struct(encoded, 0, SHAPE, "sample")
    assert end == len(encoded)
    assert struct.integer(1) == -(2**63)
    assert struct.binary(2) == b"bytes"
    assert [element.integer(1) for element in struct.structs(3)] == [5] * 20
    assert struct.integer(300) == 2**31 - 1
    assert encode_struct(struct) == encoded
    assert encode_struct(read_struct(encoded, 0, {}, "closed")[0]) == encoded


def test_every_truncation_is_refused() -> None:
    encoded = encode_struct(sample())
    for length in range(len(encoded)):
        for shape in (SHAPE, {}):
            with pytest.raises(FormatError):
                read_struct(encoded[:length], 0, shape, "sample")


def test_repeated_fields_and_deep_nesting_are_refused() -> None:
    with pytest.raises(FormatError):
        read_struct(bytes([0x16, 2, 0x06, 2, 4, 0]), 0, {1: INTEGER}, "repeated")
    with pytest.raises(FormatError):
        read_struct(b"\x1c" * 100_000, 0, {}, "deep")


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_hostile_bytes_end_in_our_errors(data: bytes) -> None:
    for shape in (FILE_META_DATA, COLUMN_CHUNK, OFFSET_INDEX, {}):
        try:
            struct, end = read_struct(data, 0, shape, "hostile")
        except PipecryptError:
            continue
        assert end <= len(data)
        encode_struct(struct)
    with contextlib.suppress(PipecryptError):
        read_page_header(memoryview(data), 0, "hostile")
