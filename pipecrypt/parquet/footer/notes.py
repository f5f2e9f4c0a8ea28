"""What writers note about columns in a footer's key-value metadata, and what stays of it beside a readable footer.

A footer that stays readable shows what its writer noted, and programs note what tells values: GeoParquet the bounds of
a geometry, Hudi the first and the last record key, Spark, Iceberg and Avro comments and defaults, pandas and R the
attributes of a frame, Hugging Face the labels of a class. What stays of an encrypted column in these entries is what
its type is made of, as far as it is listed here.

pyarrow stores the schema of a table, notes of fields and of the whole included, under the key `ARROW:schema`: base64 of
an encapsulated IPC message (Arrow Columnar Format, "Encapsulated message format")::

    0xFFFFFFFF || length (4) || Message as FlatBuffers             before Arrow 0.15 without the first four bytes

In FlatBuffers a table begins with the distance back to its vtable, which holds a distance for each of its fields.
Texts, vectors and tables within are named by distances forward, so what stays need not move when something goes.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from pipecrypt.parquet.wire.fields import BLOB_KEY, INTEGRITY_KEY, LAYOUT_KEY
from pipecrypt.vocabulary.documents import DocumentError, load_json

__all__ = ["strip_arrow_schema", "strip_note"]

# Files of one dataset have the same entries for the most part: these many small ones are looked at once.
_REMEMBERED: Final = 16
_MOST_REMEMBERED_BYTES: Final = 256 << 10
_OURS: Final = frozenset({BLOB_KEY, INTEGRITY_KEY, LAYOUT_KEY})
_GEO_KEPT: Final = frozenset({"encoding", "crs", "edges", "orientation", "epoch", "covering"})
_GEO_OF_FILES: Final = frozenset({"version", "schema_version", "primary_column", "columns", "creator"})
_PANDAS_KEPT: Final = frozenset({"timezone", "encoding", "ordered", "unit", "precision", "scale"})
_SPARK_KEPT: Final = frozenset({"__CHAR_VARCHAR_TYPE_STRING"})
_NOTES_OF_FIELDS: Final = frozenset({"doc", "default", "initial-default", "write-default", "comment"})
_AVRO_FIELD_KEPT: Final = frozenset({"name", "type", "default", "aliases", "order", "field-id"})


def strip_note(key: bytes, value: bytes, plain: Collection[str], *, drops_unknown: bool = False) -> bytes | None:
    """Return what stays of an entry where some columns are encrypted: `value` itself if it tells nothing of them.

    Args:
        key: of the entry.
        value: of the entry.
        plain: names of the columns at the root of which nothing is encrypted. All that is noted under another name is
            taken to be about an encrypted column: some programs note names in another spelling.
        drops_unknown: nothing stays of an entry of which this release does not know what it tells.

    Returns:
        None where nothing stays, as of a known entry that cannot be read.
    """
    if key in _OF_ONE_COLUMN:
        return value if _OF_ONE_COLUMN[key] in plain else None
    if key != ARROW_SCHEMA_KEY and key not in _STRIPPERS:
        return None if drops_unknown and key not in _OURS else value
    strip = _strip if len(value) > _MOST_REMEMBERED_BYTES else _strip_once
    return strip(key, value, frozenset(plain), drops_unknown=drops_unknown)


def _strip(key: bytes, value: bytes, plain: frozenset[str], *, drops_unknown: bool) -> bytes | None:
    if key == ARROW_SCHEMA_KEY:

        def strip_inner(inner: bytes, told: bytes) -> bytes | None:
            return strip_note(inner, told, plain, drops_unknown=drops_unknown)

        return strip_arrow_schema(value, plain, strip_inner)
    try:
        document = load_json(value)
        left = _STRIPPERS[key](_object(document), plain)
        if left is None or left == document:
            return None if left is None else value
        return json.dumps(left, separators=(",", ":")).encode("ascii")
    except (DocumentError, RecursionError, _MalformedError):
        return None


_strip_once: Final = lru_cache(_REMEMBERED)(_strip)
_Document = dict[str, Any]


class _MalformedError(Exception):
    """An entry, or the message in it, is not what its writers write: nobody can tell of which column it speaks."""


def _object(value: object) -> _Document:
    if not isinstance(value, dict):
        raise _MalformedError
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _MalformedError
    return value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise _MalformedError
    return value


def _strip_geo(document: _Document, plain: frozenset[str]) -> _Document:
    def strip(column: _Document) -> _Document:
        return _kept(column, _GEO_KEPT) | ({"geometry_types": []} if "geometry_types" in column else {})

    left = _kept(document, _GEO_OF_FILES)
    if "columns" in document:
        columns = {name: _object(column) for name, column in _object(document["columns"]).items()}
        left["columns"] = {name: column if name in plain else strip(column) for name, column in columns.items()}
    return left


def _strip_pandas(document: _Document, plain: frozenset[str]) -> _Document:
    def strip(column: _Document) -> _Document:
        # Of the two names an index without one has a single one, and old files have no `field_name`.
        names = {each for each in (column.get("field_name"), column.get("name")) if isinstance(each, str)}
        if not names:
            raise _MalformedError
        notes = column.get("metadata")
        if notes is None or plain.issuperset(names):
            return column
        return column | {"metadata": _kept(_object(notes), _PANDAS_KEPT)}

    columns = [strip(_object(each)) for each in _list(document.get("columns", []))]
    left = document | ({"columns": columns} if "columns" in document else {})
    # Attributes of a frame are whatever its owner noted, of whichever column.
    return left | ({"attributes": {}} if document.get("attributes") else {})


def _changed(node: object, change: Callable[[_Document], _Document]) -> object:
    """Return a part of a document with each object in it changed, the outer ones before those in them."""
    if isinstance(node, list):
        return [_changed(each, change) for each in node]
    if not isinstance(node, dict):
        return node
    return {name: _changed(each, change) for name, each in change(node).items()}


def _strip_spark(document: _Document, plain: frozenset[str]) -> _Document:
    def strip(node: _Document) -> _Document:
        notes = node.get("metadata")
        return node if notes is None else node | {"metadata": _kept(_object(notes), _SPARK_KEPT)}

    return _with_fields(document, plain, lambda each: _changed(each, strip))


def _strip_notes_of_fields(document: _Document, plain: frozenset[str]) -> _Document:
    return _with_fields(document, plain, lambda each: _changed(each, _without_notes))


def _without_notes(node: _Document) -> _Document:
    return {name: each for name, each in node.items() if name not in _NOTES_OF_FIELDS}


def _strip_avro(document: _Document, plain: frozenset[str]) -> _Document:
    def strip_field(field: object) -> object:
        if not isinstance(field, dict):
            return field
        kept = _kept(field, _AVRO_FIELD_KEPT)
        if kept.get("default") is not None:  # null is what an optional field has, and tells nothing
            del kept["default"]
        return {name: strip_type(each) if name == "type" else each for name, each in kept.items()}

    def strip_type(node: object) -> object:
        if isinstance(node, list):
            return [strip_type(each) for each in node]
        if not isinstance(node, dict):
            return node
        left = _without_notes(node)
        for name in ("type", "items", "values"):
            if name in left:
                left[name] = strip_type(left[name])
        if isinstance(left.get("fields"), list):
            left["fields"] = [strip_field(each) for each in left["fields"]]
        return left

    return _with_fields(document, plain, strip_field)


def _strip_hugging_face(document: _Document, plain: frozenset[str]) -> _Document:
    def strip(node: _Document) -> _Document:
        left = {name: each for name, each in node.items() if name not in ("names", "description")}
        names = node.get("names")
        return left | ({"num_classes": len(names)} if isinstance(names, list) else {})

    info = _object(document.get("info", {}))
    features = info.get("features")
    if features is None:
        return document
    stripped = {name: each if name in plain else _changed(each, strip) for name, each in _object(features).items()}
    return document | {"info": info | {"features": stripped}}


def _with_fields(document: _Document, plain: frozenset[str], strip: Callable[[object], object]) -> _Document:
    fields = [_object(each) for each in _list(document.get("fields"))]
    return document | {"fields": [each if _name(each.get("name")) in plain else strip(each) for each in fields]}


def _kept(members: Mapping[str, Any], names: frozenset[str]) -> _Document:
    return {name: each for name, each in members.items() if name in names}


_STRIPPERS: Final[Mapping[bytes, Callable[[_Document, frozenset[str]], _Document | None]]] = {
    b"geo": _strip_geo,
    b"pandas": _strip_pandas,
    b"PANDAS_ATTRS": lambda document, _: None if document else document,
    b"org.apache.spark.sql.parquet.row.metadata": _strip_spark,
    b"iceberg.schema": _strip_notes_of_fields,
    b"parquet.avro.schema": _strip_avro,
    b"avro.schema": _strip_avro,
    b"huggingface": _strip_hugging_face,
}

# Each of these entries is about one column, or nobody can tell which (None): none of them is read here.
_HUDI_RECORD_KEY: Final = "_hoodie_record_key"
_OF_ONE_COLUMN: Final[Mapping[bytes, str | None]] = {
    b"hoodie_min_record_key": _HUDI_RECORD_KEY,
    b"hoodie_max_record_key": _HUDI_RECORD_KEY,
    b"org.apache.hudi.bloomfilter": _HUDI_RECORD_KEY,
    b"com.uber.hoodie.bloomfilter": _HUDI_RECORD_KEY,
    b"parquet.proto.descriptor": None,
    b"r": None,
    b"spatialpandas": None,
}


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
