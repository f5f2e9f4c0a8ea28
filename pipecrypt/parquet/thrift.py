"""Read and write Thrift's compact protocol, opening only named fields. What the fields mean is left to names.

A *shape* names the fields to open. Every other field stays as the bytes it was read from, so that a feature newer
than this code passes through unchanged. The input may be hostile: depth, lengths and list sizes are bounded by the
input, and the number of opened structs by `MAX_STRUCTS`.

Layout of a field (thrift/doc/specs/thrift-compact-protocol.md)::

    id delta (4 bits, 1-15) || type (4 bits)                    then the value
    0 (4 bits) || type (4 bits) || field id (zigzag varint)     then the value, where the delta does not fit

A struct ends with a zero byte. Writing uses the short form wherever it fits, as all known writers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from pipecrypt.errors import FormatError, LimitError

__all__ = [
    "BINARY",
    "BOOL",
    "INTEGER",
    "LENIENT_INTEGER",
    "MAX_STRUCTS",
    "Entry",
    "ListOf",
    "Raw",
    "Shape",
    "Struct",
    "WireType",
    "encode_in_place",
    "encode_struct",
    "encode_varint",
    "encode_zigzag",
    "read_list_start",
    "read_struct",
    "read_zigzag",
    "skip_value",
]

MAX_STRUCTS: Final = 4_000_000
_MAX_DEPTH: Final = 64
_MAX_VARINT_BITS: Final = 64

ByteSource: TypeAlias = bytes | bytearray | memoryview


class WireType:
    """The compact protocol's type codes."""

    TRUE: Final = 1
    FALSE: Final = 2
    BYTE: Final = 3
    I16: Final = 4
    I32: Final = 5
    I64: Final = 6
    DOUBLE: Final = 7
    BINARY: Final = 8
    LIST: Final = 9
    SET: Final = 10
    MAP: Final = 11
    STRUCT: Final = 12
    UUID: Final = 13


class Raw(bytes):
    """A field's value as it was read, not opened."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Scalar:
    """Opens a field as one Python value."""

    name: str
    wire_types: frozenset[int]


INTEGER: Final = _Scalar("integer", frozenset({WireType.BYTE, WireType.I16, WireType.I32, WireType.I64}))
# Stays raw where the wire type is another: for ids that old drafts of the format used for something else.
LENIENT_INTEGER: Final = _Scalar("integer or raw", INTEGER.wire_types)
BINARY: Final = _Scalar("binary", frozenset({WireType.BINARY}))
BOOL: Final = _Scalar("bool", frozenset({WireType.TRUE, WireType.FALSE}))


@dataclass(frozen=True, slots=True)
class ListOf:
    """Opens a field as a list."""

    element: Shape


Shape: TypeAlias = "_Scalar | ListOf | Mapping[int, Shape]"
Value: TypeAlias = "int | bool | bytes | Raw | Struct | list[Value]"
Entry: TypeAlias = "tuple[int, int, Value]"


_NO_LISTS: Final[dict[int, int]] = {}


class Struct:
    """A struct's fields in the order they were read: (id, wire type, value).

    An opened list keeps its element type in `list_types`, so that it is written back the same. The typed getters
    (`integer`, `struct`, ...) do not check: the shape that the struct was read with decides a field's type.
    """

    __slots__ = ("entries", "list_types")

    def __init__(self) -> None:
        """Make an empty struct."""
        self.entries: list[Entry] = []
        self.list_types: dict[int, int] = _NO_LISTS  # replaced, never changed, when a list is opened

    def has(self, field: int) -> bool:
        """Say whether the field is there."""
        return any(entry[0] == field for entry in self.entries)

    def get(self, field: int) -> Value | None:
        """Return the field's value, or None."""
        for entry in self.entries:
            if entry[0] == field:
                return entry[2]
        return None

    def integer(self, field: int) -> int | None:
        """Return an opened integer field, or None."""
        value = self.get(field)
        return value if isinstance(value, int) else None

    def binary(self, field: int) -> bytes | None:
        """Return an opened binary field, or None."""
        return cast("bytes | None", self.get(field))

    def struct(self, field: int) -> Struct | None:
        """Return an opened struct field, or None."""
        return cast("Struct | None", self.get(field))

    def structs(self, field: int) -> list[Struct]:
        """Return an opened list of structs; empty where the field is absent."""
        return cast("list[Struct]", self.get(field) or [])

    def binaries(self, field: int) -> list[bytes]:
        """Return an opened list of binaries; empty where the field is absent."""
        return cast("list[bytes]", self.get(field) or [])

    def set(self, field: int, wire_type: int, value: Value) -> None:
        """Replace the field in its place, or insert it by id."""
        place = len(self.entries)
        for index, entry in enumerate(self.entries):
            if entry[0] == field:
                self.entries[index] = (field, wire_type, value)
                return
            if entry[0] > field:
                place = min(place, index)
        self.entries.insert(place, (field, wire_type, value))

    def set_integer(self, field: int, wire_type: int, value: int | None) -> None:
        """Set an integer field, or remove it with None."""
        if value is None:
            self.remove(field)
        else:
            self.set(field, wire_type, value)

    def set_list(self, field: int, element_type: int, items: list[Value]) -> None:
        """Set a list field."""
        self.list_types = {**self.list_types, field: element_type}
        self.set(field, WireType.LIST, items)

    def remove(self, field: int) -> None:
        """Drop the field if it is there."""
        self.entries = [entry for entry in self.entries if entry[0] != field]

    def kept(self, fields: frozenset[int]) -> Struct:
        """Return a copy with these fields only."""
        copy = Struct()
        copy.entries = [entry for entry in self.entries if entry[0] in fields]
        copy.list_types = self.list_types
        return copy


def read_struct(data: ByteSource, position: int, shape: Mapping[int, Shape], what: str) -> tuple[Struct, int]:
    """Return the struct at `position`, and the position behind it.

    Args:
        data: the bytes that bound the struct.
        position: where it begins.
        shape: the fields to open.
        what: what errors call it, with the file.

    Raises:
        FormatError: truncated or malformed.
        LimitError: more opened structs than `MAX_STRUCTS`.
    """
    reader = _Reader(data, what)
    try:
        struct = reader.struct(position, shape)
    except IndexError:
        raise FormatError(f"{what} is truncated or malformed") from None
    return struct, reader.position


class _Reader:
    """One pass over one struct; `position` is where the next byte is."""

    __slots__ = ("_budget", "_data", "_what", "position")

    def __init__(self, data: ByteSource, what: str) -> None:
        self._data = data
        self._what = what
        self._budget = MAX_STRUCTS
        self.position = 0

    def struct(self, position: int, shape: Mapping[int, Shape]) -> Struct:
        self._budget -= 1
        if self._budget < 0:
            raise LimitError(f"{self._what} has more than {MAX_STRUCTS} parts")
        data, struct, field, last, is_ascending = self._data, Struct(), 0, 0, True
        entries = struct.entries
        while header := data[position]:
            position += 1
            wire_type = header & 15
            if header > 15:
                field += header >> 4
            else:
                field, position = read_zigzag(data, position)
            is_ascending = is_ascending and field > last
            last = field
            opened = shape.get(field)
            is_integer = WireType.I16 <= wire_type <= WireType.I64
            value: Value
            if opened is None or (opened is LENIENT_INTEGER and not is_integer):
                start = position
                position = skip_value(data, position, wire_type, 0)
                value = Raw(data[start:position])
            elif is_integer and (opened is INTEGER or opened is LENIENT_INTEGER):
                value, position = read_zigzag(data, position)
            else:
                value = self._value(position, wire_type, opened, struct, field)
                position = self.position
            entries.append((field, wire_type, value))
        self.position = position + 1
        # Two readers may choose differently between two fields of one id, so such a file means two things.
        if not is_ascending and len({entry[0] for entry in entries}) != len(entries):
            raise FormatError(f"{self._what} repeats a field")
        return struct

    def _value(self, position: int, wire_type: int, shape: Shape, struct: Struct, field: int) -> Value:
        if isinstance(shape, ListOf):
            if wire_type != WireType.LIST:
                raise self._mismatch(field)
            return self._list(position, shape.element, struct, field)
        if isinstance(shape, _Scalar):
            return self._scalar(position, wire_type, shape, field)
        if wire_type != WireType.STRUCT:
            raise self._mismatch(field)
        return self.struct(position, shape)

    def _scalar(self, position: int, wire_type: int, shape: _Scalar, field: int) -> Value:
        if wire_type not in shape.wire_types:
            raise self._mismatch(field)
        if shape is BOOL:
            self.position = position
            return wire_type == WireType.TRUE
        if shape is BINARY:
            length, position = _read_varint(self._data, position)
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
        items: list[Value] = []
        self.position = position
        for _ in range(count):
            items.append(self._value(self.position, wire_type, element, struct, field))
        return items

    def _mismatch(self, field: int) -> FormatError:
        return FormatError(f"{self._what} is malformed at field {field}")


def _read_varint(data: ByteSource, position: int) -> tuple[int, int]:
    byte = data[position]
    if byte < 128:
        return byte, position + 1
    value, shift = byte & 127, 7
    while True:
        position += 1
        byte = data[position]
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > _MAX_VARINT_BITS:
            raise IndexError
    if value >> _MAX_VARINT_BITS:
        raise IndexError
    return value, position + 1


def read_zigzag(data: ByteSource, position: int) -> tuple[int, int]:
    """Return the signed integer at `position`, and the position behind it; IndexError where it does not end."""
    value, position = _read_varint(data, position)
    return (value >> 1) ^ -(value & 1), position


def _read_list_header(data: ByteSource, position: int) -> tuple[int, int, int]:
    header = data[position]
    position += 1
    count = header >> 4
    if count == 15:  # the count did not fit into four bits and follows
        count, position = _read_varint(data, position)
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
    if WireType.I16 <= wire_type <= WireType.I64:
        while data[position] > 127:
            position += 1
        return position + 1
    if wire_type == WireType.BINARY:
        length, position = _read_varint(data, position)
        return position + length
    if wire_type in _FIXED_BYTES:
        return position + _FIXED_BYTES[wire_type]
    if depth > _MAX_DEPTH:
        raise IndexError
    if wire_type == WireType.STRUCT:
        return _skip_struct(data, position, depth)
    if wire_type in (WireType.LIST, WireType.SET):
        return _skip_list(data, position, depth)
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
            position = skip_value(data, position, WireType.I16, depth)
        position = skip_value(data, position, header & 15, depth + 1)
    return position + 1


def _skip_list(data: ByteSource, position: int, depth: int) -> int:
    count, wire_type, position = _read_list_header(data, position)
    if count > len(data) - position:
        raise IndexError
    return _skip_elements(data, position, wire_type, count, depth)


def _skip_elements(data: ByteSource, position: int, wire_type: int, count: int, depth: int) -> int:
    fixed = 1 if wire_type in (WireType.TRUE, WireType.FALSE) else _FIXED_BYTES.get(wire_type)
    if fixed is not None:  # a bool element takes one byte
        return position + fixed * count
    for _ in range(count):
        position = skip_value(data, position, wire_type, depth + 1)
    return position


def _skip_map(data: ByteSource, position: int, depth: int) -> int:
    count, position = _read_varint(data, position)
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


_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(128))


def encode_varint(value: int) -> bytes:
    """Return an unsigned varint."""
    if value < 128:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_zigzag(value: int) -> bytes:
    """Return a signed 64-bit integer as zigzag varint."""
    return encode_varint((value << 1) ^ (value >> 63))


def encode_struct(struct: Struct) -> bytes:
    """Return the struct's bytes."""
    out = bytearray()
    _write_struct(struct, out)
    return bytes(out)


def encode_in_place(struct: Struct) -> Struct:
    """Return a struct that holds its bytes only, for lists of structs that take much memory opened."""
    encoded = Struct()
    encoded.entries = [(_ENCODED, 0, Raw(encode_struct(struct)))]
    return encoded


_ENCODED: Final = -1


def _write_struct(struct: Struct, out: bytearray) -> None:
    if struct.entries and struct.entries[0][0] == _ENCODED:
        out += cast("bytes", struct.entries[0][2])
        return
    last = 0
    for field, wire_type, value in struct.entries:
        delta = field - last
        if 0 < delta <= 15:
            out.append(delta << 4 | wire_type)
        else:
            out.append(wire_type)
            out += encode_zigzag(field)
        last = field
        if type(value) is Raw:
            out += value
        elif not isinstance(value, bool):
            _write_value(value, wire_type, struct.list_types.get(field, 0), out)
    out.append(0)


def _write_value(value: Value, wire_type: int, element_type: int, out: bytearray) -> None:
    if isinstance(value, Struct):
        _write_struct(value, out)
    elif isinstance(value, bytes):
        out += encode_varint(len(value))
        out += value
    elif isinstance(value, list):
        _write_list(value, element_type, out)
    elif wire_type == WireType.BYTE:
        out.append(value & 255)
    else:
        out += encode_zigzag(value)


def _write_list(items: list[Value], element_type: int, out: bytearray) -> None:
    if len(items) < 15:
        out.append(len(items) << 4 | element_type)
    else:
        out.append(0xF0 | element_type)
        out += encode_varint(len(items))
    for item in items:
        _write_value(item, element_type, 0, out)
