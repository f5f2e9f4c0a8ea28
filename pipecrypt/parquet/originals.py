"""Remember what encryption must change although offsets alone do not tell it back. Offsets are left to layout.

Some writers leave fields out that an encrypted file needs, or write offsets that are no page's. What stood there is
kept in the footer, which is encrypted or signed, so that decrypting gives back the original byte for byte.

Layout of the value of the key-value entry `pipecrypt.layout` (JSON)::

    {"v": 1, "data_keys": "batch" | "file", "source_bytes": size of the plaintext file,
     "kv": "absent",                                 where the file had no key-value metadata
     "originals": [[row group, column, field, value], ...]}     column -1: the row group itself; null: absent
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.errors import FormatError
from pipecrypt.parquet.policy import KeyScope
from pipecrypt.parquet.wire.fields import FileMetaData, KeyValue
from pipecrypt.parquet.wire.thrift import Struct, WireType

__all__ = ["LAYOUT_KEY", "ROW_GROUP", "Originals", "pop_originals", "push_originals", "read_originals"]

LAYOUT_KEY: Final = b"pipecrypt.layout"
ROW_GROUP: Final = -1
_VERSION: Final = 1
# What parsing the entry may take, for each of its bytes and in all. An honest one holds little but short numbers.
_COST_FACTOR: Final = 26
_MOST_COST: Final = 192 << 20


@dataclass(slots=True)
class Originals:
    """What stood in the plaintext footer.

    Args:
        data_keys: how far one data key reaches; bound into each key's commitment.
        source_bytes: size of the plaintext file, or of all that became one.
        has_key_values: the file had key-value metadata.
        values: by (row group, column or ROW_GROUP, field id); None where the field was absent.
    """

    data_keys: KeyScope
    source_bytes: int
    has_key_values: bool = True
    values: dict[tuple[int, int, int], int | None] = field(default_factory=dict)


def push_originals(footer: Struct, originals: Originals) -> None:
    """Append the entry to the footer's key-value metadata.

    Raises:
        FormatError: the file has such an entry although it is not encrypted.
    """
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    if any(pair.binary(KeyValue.KEY) == LAYOUT_KEY for pair in pairs):
        raise FormatError(f"a plaintext file has the key-value entry {LAYOUT_KEY.decode()!r}")
    originals.has_key_values = footer.has(FileMetaData.KEY_VALUE_METADATA)
    pair = Struct()
    pair.set(KeyValue.KEY, WireType.BINARY, LAYOUT_KEY)
    pair.set(KeyValue.VALUE, WireType.BINARY, _encode(originals))
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, [*pairs, pair])


def _encode(originals: Originals) -> bytes:
    document: dict[str, object] = {"v": _VERSION, "data_keys": originals.data_keys.value}
    document["source_bytes"] = originals.source_bytes
    if not originals.has_key_values:
        document["kv"] = "absent"
    if originals.values:
        document["originals"] = [[*place, value] for place, value in originals.values.items()]
    return json.dumps(document, separators=(",", ":")).encode()


def pop_originals(footer: Struct) -> Originals | None:
    """Take the entry out of an authenticated footer; None where another writer made the file."""
    originals = read_originals(footer)
    if originals is None:
        return None
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    kept = [pair for pair in pairs if pair.binary(KeyValue.KEY) != LAYOUT_KEY]
    if originals.has_key_values:
        footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, [*kept])
    else:
        footer.remove(FileMetaData.KEY_VALUE_METADATA)
    return originals


def read_originals(footer: Struct) -> Originals | None:
    """Return the entry's content, or None.

    Raises:
        FormatError: malformed, or there twice.
    """
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    found = [pair.binary(KeyValue.VALUE) for pair in pairs if pair.binary(KeyValue.KEY) == LAYOUT_KEY]
    if not found:
        return None
    try:
        if len(found) != 1 or found[0] is None:
            raise ValueError
        return _decode(found[0])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(f"the key-value entry {LAYOUT_KEY.decode()!r} is malformed") from None


def _decode(value: bytes) -> Originals:
    # A number for each chunk may have to be given back; an empty list, of which three bytes are one, is not a number.
    parts = value.count(b"[") * 96 + (value.count(b",") + value.count(b":")) * 40 + value.count(b"{") * 288
    if parts > min(max(1 << 20, _COST_FACTOR * len(value)), _MOST_COST):
        raise ValueError
    document = json.loads(value)
    if document["v"] != _VERSION:
        raise FormatError(
            f"the key-value entry {LAYOUT_KEY.decode()!r} has version {document['v']!r}; this release reads {_VERSION}",
            hint="upgrade pipecrypt",
        )
    source_bytes = document["source_bytes"]
    if type(source_bytes) is not int or not 0 <= source_bytes < 2**63:
        raise ValueError
    originals = Originals(KeyScope(document["data_keys"]), source_bytes, has_key_values=document.get("kv") != "absent")
    for row_group, column, field_id, original in document.get("originals", ()):
        place = (row_group, column, field_id)
        numbers = place if original is None else (*place, original)
        if not all(type(number) is int and abs(number) < 2**63 for number in numbers):
            raise ValueError
        originals.values[place] = original
    return originals
