"""What writers note about columns in a footer's key-value metadata, and what stays of it beside a readable footer.

A footer that stays readable shows what its writer noted, and programs note what tells values: GeoParquet the bounds of
a geometry, Hudi the first and the last record key, Spark, Iceberg and Avro comments and defaults, pandas and R the
attributes of a frame, Hugging Face the labels of a class. What stays of an encrypted column in these entries is what
its type is made of, as far as it is listed here.
Keeping the entries as they were is left to sealed_notes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, Final

from pipecrypt.parquet.arrow_schema import ARROW_SCHEMA_KEY, strip_arrow_schema
from pipecrypt.parquet.byte_entry import CHUNKS_KEY
from pipecrypt.parquet.integrity import INTEGRITY_KEY
from pipecrypt.parquet.originals import LAYOUT_KEY
from pipecrypt.vocabulary.documents import DocumentError, load_json

__all__ = ["strip_note"]

# Files of one dataset have the same entries for the most part: these many small ones are looked at once.
_REMEMBERED: Final = 16
_MOST_REMEMBERED_BYTES: Final = 256 << 10
_OURS: Final = frozenset({CHUNKS_KEY, INTEGRITY_KEY, LAYOUT_KEY})
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
    except (DocumentError, RecursionError, _MalformedNoteError):
        return None


_strip_once: Final = lru_cache(_REMEMBERED)(_strip)
_Document = dict[str, Any]


class _MalformedNoteError(Exception):
    """An entry is not what its writers write, so nobody can tell of which column it speaks."""


def _object(value: object) -> _Document:
    if not isinstance(value, dict):
        raise _MalformedNoteError
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _MalformedNoteError
    return value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise _MalformedNoteError
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
            raise _MalformedNoteError
        notes = column.get("metadata")
        if notes is None or plain.issuperset(names):
            return column
        return column | {"metadata": _kept(_object(notes), _PANDAS_KEPT)}

    columns = [strip(_object(each)) for each in _list(document.get("columns", []))]
    left = document | ({"columns": columns} if "columns" in document else {})
    # Attributes of a frame are whatever its owner noted, of whichever column.
    return left | ({"attributes": {}} if document.get("attributes") else {})


def _strip_pandas_attributes(document: _Document, plain: frozenset[str]) -> _Document | None:
    return document if not document else None


def _strip_spark(document: _Document, plain: frozenset[str]) -> _Document:
    def strip(node: object) -> object:
        if isinstance(node, list):
            return [strip(each) for each in node]
        if not isinstance(node, dict):
            return node
        return {
            name: _kept(_object(each), _SPARK_KEPT) if name == "metadata" and each is not None else strip(each)
            for name, each in node.items()
        }

    return _with_fields(document, plain, strip)


def _strip_notes_of_fields(document: _Document, plain: frozenset[str]) -> _Document:
    def strip(node: object) -> object:
        if isinstance(node, list):
            return [strip(each) for each in node]
        if not isinstance(node, dict):
            return node
        return {name: strip(each) for name, each in node.items() if name not in _NOTES_OF_FIELDS}

    return _with_fields(document, plain, strip)


def _strip_avro(document: _Document, plain: frozenset[str]) -> _Document:
    def strip_field(field: object) -> object:
        kept = _kept(field, _AVRO_FIELD_KEPT) if isinstance(field, dict) else field
        if not isinstance(kept, dict):
            return kept
        if kept.get("default") is not None:  # null is what an optional field has, and tells nothing
            del kept["default"]
        return {name: strip_type(each) if name == "type" else each for name, each in kept.items()}

    def strip_type(node: object) -> object:
        if isinstance(node, list):
            return [strip_type(each) for each in node]
        if not isinstance(node, dict):
            return node
        left = {name: each for name, each in node.items() if name not in _NOTES_OF_FIELDS}
        for name in ("type", "items", "values"):
            if name in left:
                left[name] = strip_type(left[name])
        if isinstance(left.get("fields"), list):
            left["fields"] = [strip_field(each) for each in left["fields"]]
        return left

    return _with_fields(document, plain, strip_field)


def _strip_hugging_face(document: _Document, plain: frozenset[str]) -> _Document:
    def strip(node: object) -> object:
        if isinstance(node, list):
            return [strip(each) for each in node]
        if not isinstance(node, dict):
            return node
        left = {name: strip(each) for name, each in node.items() if name not in ("names", "description")}
        names = node.get("names")
        return left | ({"num_classes": len(names)} if isinstance(names, list) else {})

    info = _object(document.get("info", {}))
    features = info.get("features")
    if features is None:
        return document
    stripped = {name: each if name in plain else strip(each) for name, each in _object(features).items()}
    return document | {"info": info | {"features": stripped}}


def _with_fields(document: _Document, plain: frozenset[str], strip: Callable[[object], object]) -> _Document:
    fields = [_object(each) for each in _list(document.get("fields"))]
    return document | {"fields": [each if _name(each.get("name")) in plain else strip(each) for each in fields]}


def _kept(members: Mapping[str, Any], names: frozenset[str]) -> _Document:
    return {name: each for name, each in members.items() if name in names}


_STRIPPERS: Final[Mapping[bytes, Callable[[_Document, frozenset[str]], _Document | None]]] = {
    b"geo": _strip_geo,
    b"pandas": _strip_pandas,
    b"PANDAS_ATTRS": _strip_pandas_attributes,
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
