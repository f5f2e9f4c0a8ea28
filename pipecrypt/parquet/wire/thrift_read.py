"""Read Thrift's compact protocol from bytes that may be hostile.

Depth, lengths and list sizes are bounded by the input. What the result may take of memory is an allowance that the
caller gives; each struct, field and list is charged to it before more is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from pipecrypt.errors import FormatError, LimitError
from pipecrypt.parquet.wire.thrift import (
    BINARY,
    BOOL,
    ENCODED,
    INTEGER,
    LENIENT_INTEGER,
    ListOf,
    Raw,
    Scalar,
    Shape,
    Struct,
    Value,
    WireType,
    encoded_bytes,
    keep_encoded,
)

__all__ = [
    "COST_FACTOR",
    "Allowance",
    "open_encoded",
    "read_list_start",
    "read_struct",
    "read_varint",
    "read_zigzag",
    "skip_value",
]

# What opening may take of memory, in bytes: so many times the input, no less than the second, no more than the third.
COST_FACTOR: Final = 20
LEAST_ALLOWANCE: Final = 16 << 20
MOST_ALLOWANCE: Final = 192 << 20
# What CPython takes, rounded up: a struct with its list; a field's tuple, its place in the list, and its value.
_STRUCT_COST: Final = 136
_FIELD_COST: Final = 112
_ENCODED_COST: Final = 448
_ITEM_COST: Final = 9
_MAX_DEPTH: Final = 64
_MAX_FIELD: Final = 32_767
_MAX_VARINT_BITS: Final = 64
_LAST_SAFE_SHIFT: Final = _MAX_VARINT_BITS - 8
# Of their own, because looking them up in their class takes a tenth of the time of reading a footer.
_FALSE: Final = WireType.FALSE
_I16: Final = WireType.I16
_I64: Final = WireType.I64
_BINARY: Final = WireType.BINARY

ByteSource: TypeAlias = bytes | bytearray | memoryview


class Allowance:
    """Memory that opening structs may take.

    Args:
        input_bytes: the bytes that are there to be opened, all together.
        least: what even a small input may take.
        most: what no input may exceed.
    """

    __slots__ = ("left",)

    def __init__(self, input_bytes: int, *, least: int = LEAST_ALLOWANCE, most: int = MOST_ALLOWANCE) -> None:
        """Spend nothing yet."""
        self.left = min(max(least, COST_FACTOR * input_bytes), most)

    def charge(self, cost: int, what: str) -> None:
        """Take `cost` from what is left.

        Raises:
            LimitError: there is not so much; names `what`.
        """
        self.left -= cost
        if self.left < 0:
            raise LimitError(
                f"{what} has more parts than its size explains, or than memory should hold",
                hint="somebody made the file to exhaust its readers, or a writer cut it into very many tiny parts",
            )


def read_struct(
    data: ByteSource, position: int, shape: Mapping[int, Shape], what: str, *, allowance: Allowance | None = None
) -> tuple[Struct, int]:
    """Return the struct at `position`, and the position behind it.

    Args:
        data: the bytes that bound the struct.
        position: where it begins.
        shape: the fields to open.
        what: what errors call it, with the file.
        allowance: what is charged; None for that of `data` alone.

    Raises:
        FormatError: truncated or malformed.
        LimitError: it has so many parts for its bytes, or so many in all, that it would take too much memory.
    """
    reader = _Reader(data, what, allowance or Allowance(len(data)))
    try:
        struct = reader.struct(position, shape)
    except IndexError:
        raise FormatError(f"{what} is truncated or malformed") from None
    return struct, reader.position


def open_encoded(
    struct: Struct, shape: Mapping[int, Shape], what: str, *, allowance: Allowance | None = None
) -> Struct:
    """Return the struct opened by `shape`; `struct` itself where it is open already.

    Raises:
        FormatError: malformed.
        LimitError: as `read_struct`.
    """
    data = encoded_bytes(struct)
    # Of bytes, single ones are read faster than of a view.
    return struct if data is None else read_struct(bytes(data), 0, shape, what, allowance=allowance)[0]


class _Reader:
    """One pass over one struct; `position` is where the next byte is."""

    __slots__ = ("_allowance", "_data", "_what", "position")

    def __init__(self, data: ByteSource, what: str, allowance: Allowance) -> None:
        self._data = data
        self._what = what
        self._allowance = allowance
        self.position = 0

    def struct(self, position: int, shape: Mapping[int, Shape]) -> Struct:
        data, struct, field, last, is_ascending = self._data, Struct(), 0, 0, True
        entries, find = struct.entries, shape.get
        while header := data[position]:
            position += 1
            wire_type = header & 15
            if header > 15:
                field += header >> 4
            else:
                field, position = read_zigzag(data, position)
            if not 0 < field <= _MAX_FIELD:
                raise IndexError
            if field <= last:
                is_ascending = False
                if len(entries) > _MAX_FIELD:  # one of them is there twice
                    raise IndexError
            last = field
            opened = find(field)
            is_integer = _I16 <= wire_type <= _I64
            value: Value
            if opened is None or (opened is LENIENT_INTEGER and not is_integer):
                start = position
                position = skip_value(data, position, wire_type, 0)
                value = Raw(data[start:position])
            elif is_integer and (opened is INTEGER or opened is LENIENT_INTEGER):
                value = data[position]
                if value < 128:
                    value, position = (value >> 1) ^ -(value & 1), position + 1
                else:
                    value, position = read_zigzag(data, position)
            else:
                value = self._value(position, wire_type, opened, struct, field)
                position = self.position
            entries.append((field, wire_type, value))
        self.position = position + 1
        self._allowance.charge(_STRUCT_COST + len(entries) * _FIELD_COST, self._what)
        # Two readers may choose differently between two fields of one id, so such a file means two things.
        if not is_ascending and len({entry[0] for entry in entries}) != len(entries):
            raise FormatError(f"{self._what} repeats a field")
        return struct

    def _value(self, position: int, wire_type: int, shape: Shape, struct: Struct, field: int) -> Value:
        if isinstance(shape, ListOf):
            if wire_type != WireType.LIST:
                raise self._mismatch(field)
            return self._list(position, shape.element, struct, field)
        if isinstance(shape, Scalar):
            return self._scalar(position, wire_type, shape, field)
        if wire_type != WireType.STRUCT:
            raise self._mismatch(field)
        return self.struct(position, shape)

    def _scalar(self, position: int, wire_type: int, shape: Scalar, field: int) -> Value:
        if wire_type not in shape.wire_types:
            raise self._mismatch(field)
        if shape is ENCODED:
            self._allowance.charge(_ENCODED_COST, self._what)
            self.position = skip_value(self._data, position, WireType.STRUCT, 0)
            return keep_encoded(memoryview(self._data)[position : self.position])
        if shape is BOOL:
            self.position = position
            return wire_type == WireType.TRUE
        if shape is BINARY:
            length, position = read_varint(self._data, position)
            self.position = position + length
            if self.position > len(self._data):
                raise self._mismatch(field)
            return bytes(self._data[position : self.position])
        if wire_type == WireType.BYTE:
            self.position = position + 1
            return self._data[position]
        value, self.position = read_zigzag(self._data, position)
        return value

    def _list(self, position: int, element: Shape, struct: Struct, field: int) -> Value:
        count, wire_type, position = _read_list_header(self._data, position)
        struct.list_types = {**struct.list_types, field: wire_type}
        if count > len(self._data) - position:  # every element takes at least one byte
            raise self._mismatch(field)
        self._allowance.charge(count * _ITEM_COST, self._what)
        items: list[Value] = []
        self.position = position
        for _ in range(count):
            items.append(self._value(self.position, wire_type, element, struct, field))
        return items

    def _mismatch(self, field: int) -> FormatError:
        return FormatError(f"{self._what} is malformed at field {field}")


def read_varint(data: ByteSource, position: int) -> tuple[int, int]:
    """Return the unsigned integer at `position`, and the position behind it; IndexError where it does not end."""
    byte = data[position]
    if byte < 128:
        return byte, position + 1
    value, shift = byte & 127, 7
    while True:
        position += 1
        byte = data[position]
        if byte < 128:
            value |= byte << shift
            break
        value |= (byte & 127) << shift
        shift += 7
        if shift > _MAX_VARINT_BITS:
            raise IndexError
    if shift > _LAST_SAFE_SHIFT and value >> _MAX_VARINT_BITS:
        raise IndexError
    return value, position + 1


def read_zigzag(data: ByteSource, position: int) -> tuple[int, int]:
    """Return the signed integer at `position`, and the position behind it; IndexError where it does not end."""
    value, position = read_varint(data, position)
    return (value >> 1) ^ -(value & 1), position


def _read_list_header(data: ByteSource, position: int) -> tuple[int, int, int]:
    header = data[position]
    position += 1
    count = header >> 4
    if count == 15:  # the count did not fit into four bits and follows
        count, position = read_varint(data, position)
    return count, header & 15, position


def read_list_start(data: ByteSource) -> tuple[int, int]:
    """Return length and start of the list that is the first field, with id 1, of the struct at the start of `data`.

    Raises:
        IndexError: the struct does not begin with a list of structs.
    """
    count, wire_type, position = _read_list_header(data, 1)
    if data[0] != (1 << 4 | WireType.LIST) or wire_type != WireType.STRUCT:
        raise IndexError
    return count, position


def skip_value(data: ByteSource, position: int, wire_type: int, depth: int) -> int:
    """Return the position behind a value; IndexError where it cannot end inside `data`.

    The answer may lie behind the end of `data`: the struct's own end, which the caller reads next, then does too.
    """
    if _I16 <= wire_type <= _I64:
        while data[position] > 127:
            position += 1
        return position + 1
    if wire_type == _BINARY:
        length, position = read_varint(data, position)
        return position + length
    if wire_type in _FIXED_BYTES:
        return position + _FIXED_BYTES[wire_type]
    if depth > _MAX_DEPTH:
        raise IndexError
    if wire_type == WireType.STRUCT:
        return _skip_struct(data, position, depth)
    if wire_type in (WireType.LIST, WireType.SET):
        count, wire_type, position = _read_list_header(data, position)
        if count > len(data) - position:
            raise IndexError
        return _skip_elements(data, position, wire_type, count, depth)
    if wire_type == WireType.MAP:
        return _skip_map(data, position, depth)
    raise IndexError


# A bool's value stands in its field's header.
_FIXED_BYTES: Final = {
    WireType.TRUE: 0,
    WireType.FALSE: 0,
    WireType.BYTE: 1,
    WireType.DOUBLE: 8,
    WireType.UUID: 16,
}


def _skip_struct(data: ByteSource, position: int, depth: int) -> int:
    while header := data[position]:
        position += 1
        if header <= 15:
            position = skip_value(data, position, _I16, depth)
        wire_type = header & 15
        if _I16 <= wire_type <= _I64:  # by far the most frequent, so without a call
            while data[position] > 127:
                position += 1
            position += 1
        elif wire_type > _FALSE:
            position = skip_value(data, position, wire_type, depth + 1)
        elif not wire_type:
            raise IndexError
    return position + 1


def _skip_elements(data: ByteSource, position: int, wire_type: int, count: int, depth: int) -> int:
    fixed = 1 if wire_type in (WireType.TRUE, WireType.FALSE) else _FIXED_BYTES.get(wire_type)
    if fixed is not None:  # a bool element takes one byte
        return position + fixed * count
    if _I16 <= wire_type <= _I64:
        for _ in range(count):
            while data[position] > 127:
                position += 1
            position += 1
        return position
    for _ in range(count):
        position = skip_value(data, position, wire_type, depth + 1)
    return position


def _skip_map(data: ByteSource, position: int, depth: int) -> int:
    count, position = read_varint(data, position)
    if count > len(data) - position:
        raise IndexError
    if count == 0:
        return position
    types = data[position]
    position += 1
    for _ in range(count):
        position = _skip_elements(data, position, types >> 4, 1, depth)
        position = _skip_elements(data, position, types & 15, 1, depth)
    return position
