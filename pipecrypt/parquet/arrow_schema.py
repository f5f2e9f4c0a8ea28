"""Take notes out of an Arrow schema as Parquet files keep it, in place. Which notes go is left to clear_notes.

pyarrow stores the schema of a table, notes of fields and of the whole included, under the key `ARROW:schema`: base64 of
an encapsulated IPC message (Arrow Columnar Format, "Encapsulated message format")::

    0xFFFFFFFF || length (4) || Message as FlatBuffers             before Arrow 0.15 without the first four bytes

In FlatBuffers a table begins with the distance back to its vtable, which holds a distance for each of its fields.
Texts, vectors and tables within are named by distances forward, so what stays need not move when something goes.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Collection, Iterator
from typing import Final, TypeAlias

__all__ = ["ARROW_SCHEMA_KEY", "strip_arrow_schema"]

ARROW_SCHEMA_KEY: Final = b"ARROW:schema"
_CONTINUATION: Final = b"\xff\xff\xff\xff"
_SCHEMA: Final = 1  # of the union MessageHeader
# Numbers of fields in their tables (format/Message.fbs, format/Schema.fbs).
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_NOTES = 1, 2, 4
_SCHEMA_FIELDS, _SCHEMA_NOTES = 1, 2
_FIELD_NAME, _FIELD_CHILDREN, _FIELD_NOTES = 0, 5, 6
_MAX_DEPTH: Final = 64
_MAX_PARTS: Final = 1_000_000
# What makes a column's type, as Parquet's logical types do, and its number.
_OF_TYPES: Final = frozenset({b"ARROW:extension:name", b"ARROW:extension:metadata", b"PARQUET:field_id"})

# From a note of the whole schema to what stays of it; None for nothing.
StripNote: TypeAlias = Callable[[bytes, bytes], bytes | None]


def strip_arrow_schema(value: bytes, plain: Collection[str], strip: StripNote) -> bytes | None:
    """Return the schema with notes of these columns only: `value` itself if it has no others, None if it is not one.

    Args:
        value: of the key-value entry.
        plain: the columns; what lies in one of them counts as a part of it.
        strip: what stays of a note of the whole schema.
    """
    try:
        stored = base64.b64decode(value, validate=True)
        message = _Message(stored)
        before = [message.text(name) for name in message.names()]
        message.strip(frozenset(name.encode() for name in plain), strip)
        if message.data == stored:
            return value
        if [message.text(name) for name in message.names()] != before:
            return None  # texts were shared in a way that no writer shares them
    except (binascii.Error, struct.error, _MalformedError):
        return None
    return base64.b64encode(message.data)


class _MalformedError(Exception):
    """A message is not what its kind must be."""


class _Message:
    """A message whose notes can be removed; all places are offsets into `data`."""

    def __init__(self, stored: bytes) -> None:
        self.data = bytearray(stored)
        self._parts = 0
        root = 8 if stored[:4] == _CONTINUATION else 4
        self._root = self._follow(root)
        kind = self._slot(self._root, _MESSAGE_HEADER_TYPE)
        header = self._slot(self._root, _MESSAGE_HEADER)
        if kind is None or header is None or self.data[kind] != _SCHEMA:
            raise _MalformedError
        self._schema = self._follow(header)

    def strip(self, plain: frozenset[bytes], strip: StripNote) -> None:
        for table, slot in ((self._root, _MESSAGE_NOTES), (self._schema, _SCHEMA_NOTES)):
            self._strip_notes(self._slot(table, slot), strip)
        for field in self._elements(self._slot(self._schema, _SCHEMA_FIELDS)):
            name = self._slot(field, _FIELD_NAME)
            if name is None or self.text(self._follow(name)) not in plain:
                self._strip_field(field, 0)

    def names(self) -> Iterator[int]:
        """Yield where the names of all fields are."""
        waiting = [(field, 0) for field in self._elements(self._slot(self._schema, _SCHEMA_FIELDS))]
        while waiting:
            field, depth = waiting.pop()
            name = self._slot(field, _FIELD_NAME)
            if name is not None:
                yield self._follow(name)
            if depth > _MAX_DEPTH:
                raise _MalformedError
            waiting += [(child, depth + 1) for child in self._elements(self._slot(field, _FIELD_CHILDREN))]

    def text(self, place: int) -> bytes:
        length = self._u32(place)
        if length > len(self.data) - place - 4:
            raise _MalformedError
        return bytes(self.data[place + 4 : place + 4 + length])

    def _strip_field(self, field: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise _MalformedError
        self._strip_notes(self._slot(field, _FIELD_NOTES), lambda key, value: value if key in _OF_TYPES else None)
        for child in self._elements(self._slot(field, _FIELD_CHILDREN)):
            self._strip_field(child, depth + 1)

    def _strip_notes(self, place: int | None, strip: StripNote) -> None:
        kept: list[int] = []
        pairs = list(self._elements(place))
        for pair in pairs:
            texts = [
                None if slot is None else self._follow(slot) for slot in (self._slot(pair, 0), self._slot(pair, 1))
            ]
            key, value = (b"" if text is None else self.text(text) for text in texts)
            left = strip(key, value)
            if left is None or len(left) > len(value):
                for text in filter(None, texts):
                    self._wipe(text, 0)
                continue
            kept.append(pair)
            if left != value and texts[1] is not None:
                self._wipe(texts[1], len(left))
                self.data[texts[1] + 4 : texts[1] + 4 + len(left)] = left
        if place is not None and len(kept) < len(pairs):
            self._keep(self._follow(place), kept, len(pairs))

    def _keep(self, vector: int, tables: list[int], count: int) -> None:
        """Leave only these tables in a vector; each stays where it is, behind the vector."""
        struct.pack_into("<I", self.data, vector, len(tables))
        for number in range(count):
            at = vector + 4 + 4 * number
            distance = tables[number] - at if number < len(tables) else 0
            if distance < 0:
                raise _MalformedError
            struct.pack_into("<I", self.data, at, distance)

    def _wipe(self, text: int, length: int) -> None:
        """Overwrite a text with zeros, and let it have another length."""
        old = self._u32(text)
        self.text(text)
        self.data[text + 4 : text + 4 + old] = bytes(old)
        struct.pack_into("<I", self.data, text, length)

    def _u32(self, at: int) -> int:
        self._count()
        if at < 0:
            raise _MalformedError
        return int(struct.unpack_from("<I", self.data, at)[0])

    def _follow(self, at: int) -> int:
        distance = self._u32(at)
        if distance == 0:
            raise _MalformedError
        return at + distance

    def _slot(self, table: int, number: int) -> int | None:
        """Return where a field of a table is; None where it is absent."""
        self._count()
        vtable = table - int(struct.unpack_from("<i", self.data, table)[0])
        if vtable < 0:
            raise _MalformedError
        (size,) = struct.unpack_from("<H", self.data, vtable)
        if 4 + 2 * number + 2 > size:
            return None
        (distance,) = struct.unpack_from("<H", self.data, vtable + 4 + 2 * number)
        if distance and table + distance >= len(self.data):
            raise _MalformedError
        return table + distance if distance else None

    def _elements(self, place: int | None) -> Iterator[int]:
        if place is None:
            return
        vector = self._follow(place)
        count = self._u32(vector)
        if count * 4 > len(self.data) - vector:
            raise _MalformedError
        for number in range(count):
            yield self._follow(vector + 4 + 4 * number)

    def _count(self) -> None:
        # Places may name each other in circles, or one thing a million times.
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _MalformedError
