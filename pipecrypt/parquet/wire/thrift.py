"""Structs of Thrift's compact protocol, and their bytes.

A *shape* names the fields to open. Every other field stays as the bytes it was read from, so that a feature newer
than this code passes through unchanged.

Layout of a field (thrift/doc/specs/thrift-compact-protocol.md)::

    id delta (4 bits, 1-15) || type (4 bits)                    then the value
    0 (4 bits) || type (4 bits) || field id (zigzag varint)     then the value, where the delta does not fit

A struct ends with a zero byte. Writing uses the short form wherever it fits, as all known writers do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from pipecrypt.parquet.wire.raw import Raw

__all__ = [
    "BINARY",
    "BOOL",
    "ENCODED",
    "INTEGER",
    "LENIENT_INTEGER",
    "ListOf",
    "Raw",
    "Scalar",
    "Shape",
    "Struct",
    "Value",
    "WireType",
    "encode_in_place",
    "encode_pieces",
    "encode_struct",
    "encode_varint",
    "encode_zigzag",
    "encoded_bytes",
    "keep_encoded",
]


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


@dataclass(frozen=True, slots=True)
class Scalar:
    """Opens a field as one Python value."""

    name: str
    wire_types: frozenset[int]


INTEGER: Final = Scalar("integer", frozenset({WireType.BYTE, WireType.I16, WireType.I32, WireType.I64}))
# Stays raw where the wire type is another: for ids that old drafts of the format used for something else.
LENIENT_INTEGER: Final = Scalar("integer or raw", INTEGER.wire_types)
BINARY: Final = Scalar("binary", frozenset({WireType.BINARY}))
BOOL: Final = Scalar("bool", frozenset({WireType.TRUE, WireType.FALSE}))
# Keeps a struct as its bytes, to be opened later by itself: opened, a footer's row groups take many times their bytes.
ENCODED: Final = Scalar("encoded struct", frozenset({WireType.STRUCT}))


@dataclass(frozen=True, slots=True)
class ListOf:
    """Opens a field as a list."""

    element: Shape


Shape: TypeAlias = "Scalar | ListOf | Mapping[int, Shape]"
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
        """Return whether the field is there."""
        for entry in self.entries:  # noqa: SIM110  # a generator takes thrice the time
            if entry[0] == field:
                return True
        return False

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


_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(128))


def encode_varint(value: int) -> bytes:
    """Return an unsigned varint."""
    if value < 1 << 7:
        return _ONE_BYTE[value]
    # Lengths that sizes and offsets have, without a loop: a footer and its indexes hold tens of thousands of them.
    if value < 1 << 14:
        return bytes((value & 127 | 128, value >> 7))
    if value < 1 << 21:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    if value < 1 << 28:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128, value >> 21))
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


def encode_pieces(struct: Struct) -> Iterator[bytes]:
    """Yield the struct's bytes in pieces, so that a footer of many megabytes is never held twice."""
    out, last = bytearray(), 0
    for field, wire_type, value in struct.entries:
        _write_field_start(last, field, wire_type, out)
        last = field
        if type(value) is list:
            _write_list_start(len(value), struct.list_types.get(field, 0), out)
            for item in value:
                _write_value(item, struct.list_types.get(field, 0), 0, out)
                if len(out) >= _PIECE_BYTES:
                    yield bytes(out)
                    out.clear()
        else:
            _write_value(value, wire_type, 0, out)
    out.append(0)
    yield bytes(out)


def encode_in_place(struct: Struct) -> Struct:
    """Return a struct that holds its bytes only, for structs that take much memory opened."""
    return keep_encoded(Raw(encode_struct(struct)))


def keep_encoded(data: bytes | memoryview) -> Struct:
    """Return a struct that holds its bytes only, without a copy."""
    encoded = Struct()
    encoded.entries = [(_ENCODED, 0, cast("Raw", data))]
    return encoded


def encoded_bytes(struct: Struct) -> bytes | memoryview | None:
    """Return the bytes of a struct that holds its bytes only, else None."""
    if struct.entries and struct.entries[0][0] == _ENCODED:
        return cast("bytes", struct.entries[0][2])
    return None


_ENCODED: Final = -1
_BYTE: Final = WireType.BYTE
_PIECE_BYTES: Final = 64 * 1024


def _write_struct(struct: Struct, out: bytearray) -> None:
    encoded = encoded_bytes(struct)
    if encoded is not None:
        out += encoded
        return
    last = 0
    for field, wire_type, value in struct.entries:
        delta = field - last
        if 0 < delta <= 15:
            out.append(delta << 4 | wire_type)
        else:
            _write_field_start(last, field, wire_type, out)
        last = field
        kind = type(value)
        if kind is Raw:
            out += value  # type: ignore[arg-type]  # mypy does not narrow by type(), which is faster than isinstance
        elif kind is int and wire_type != _BYTE:
            out += encode_varint((value << 1) ^ (value >> 63))  # type: ignore[operator]
        elif kind is Struct:
            _write_struct(value, out)  # type: ignore[arg-type]
        else:
            _write_value(value, wire_type, struct.list_types.get(field, 0), out)
    out.append(0)


def _write_field_start(last: int, field: int, wire_type: int, out: bytearray) -> None:
    delta = field - last
    if 0 < delta <= 15:
        out.append(delta << 4 | wire_type)
    else:
        out.append(wire_type)
        out += encode_zigzag(field)


def _write_value(value: Value, wire_type: int, element_type: int, out: bytearray) -> None:
    """Write a field's value, or an element of a list, whose `wire_type` is then that of the list."""
    if isinstance(value, Struct):
        _write_struct(value, out)
    elif type(value) is Raw:
        out += value
    elif isinstance(value, bytes):
        out += encode_varint(len(value))
        out += value
    elif isinstance(value, list):
        _write_list_start(len(value), element_type, out)
        for item in value:
            _write_value(item, element_type, 0, out)
    elif isinstance(value, bool):
        pass  # the field's type is its value
    elif wire_type == _BYTE:
        out.append(value & 255)
    else:
        out += encode_zigzag(value)


def _write_list_start(count: int, element_type: int, out: bytearray) -> None:
    if count < 15:
        out.append(count << 4 | element_type)
    else:
        out.append(0xF0 | element_type)
        out += encode_varint(count)
