"""The key-value entries that pipecrypt adds to a footer, and what of a table's own entries a readable footer shows.

Some writers leave fields out that an encrypted file needs, or write offsets that are no page's. What stood there is
kept in the footer, which is encrypted or signed, so that decrypting gives back the original byte for byte.

Layout of the value of the entry `pipecrypt.layout` (JSON)::

    {"v": 1, "data_keys": "batch" | "file", "source_bytes": size of the plaintext file,
     "kv": "absent",                                 where the file had no key-value metadata
     "originals": [[row group, column, field, value], ...]}     column -1: the row group itself; null: absent

Layout of the value of the entry `pipecrypt.notes`, where a readable footer shows less than the file's entries: base64
of a module (see modules), sealed under the key of the footer, of a struct of Thrift's compact protocol whose field 5 is
the list of all entries as the file had them. That key is what would have hidden them in an encrypted footer too. A
reader with it sees the entries as they were, and decrypting gives them back; any other reader sees what the footer
shows. `pipecrypt.integrity` is drawn in pages/integrity.py, `pipecrypt.chunks` in blob/format.py.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.parquet.footer.notes import strip_note
from pipecrypt.parquet.policy import ClearNotes, KeyScope
from pipecrypt.parquet.wire.fields import (
    FILE_META_DATA,
    INTEGRITY_KEY,
    LAYOUT_KEY,
    NOTES_KEY,
    FileMetaData,
    KeyValue,
    SchemaElement,
)
from pipecrypt.parquet.wire.modules import FileAAD, open_module, seal_module
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType, encode_struct
from pipecrypt.parquet.wire.thrift_read import read_struct
from pipecrypt.vocabulary.documents import decode_base64, encode_base64

__all__ = [
    "ROW_GROUP",
    "Originals",
    "add_entries",
    "check_clear_fields",
    "check_clear_footer",
    "check_notes",
    "entry_value",
    "entry_values",
    "pop_digests",
    "pop_originals",
    "push_originals",
    "read_originals",
    "restore_notes",
    "seal_notes",
]

ROW_GROUP: Final = -1
_VERSION: Final = 1
# What parsing the entry may take, for each of its bytes and in all. An honest one holds little but short numbers.
_COST_FACTOR: Final = 26
_MOST_COST: Final = 192 << 20


def entry_values(footer: Struct, name: bytes) -> list[bytes | None]:
    """Return the values of all key-value entries of a name; a footer of ours has one or none."""
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    return [pair.binary(KeyValue.VALUE) for pair in pairs if pair.binary(KeyValue.KEY) == name]


def entry_value(footer: Struct, name: bytes, what: str) -> bytes | None:
    """Return the value of the only key-value entry of a name; None where there is none.

    Raises:
        FormatError: it is there twice, or has no value; names `what`.
    """
    found = entry_values(footer, name)
    if not found:
        return None
    if len(found) != 1 or found[0] is None:
        raise FormatError(f"{what} is malformed")
    return found[0]


def add_entries(footer: Struct, entries: Mapping[bytes, bytes]) -> None:
    """Append entries to the footer's key-value metadata."""
    pairs: list[Value] = [*footer.structs(FileMetaData.KEY_VALUE_METADATA)]
    for name, value in entries.items():
        pair = Struct()
        pair.set(KeyValue.KEY, WireType.BINARY, name)
        pair.set(KeyValue.VALUE, WireType.BINARY, value)
        pairs.append(pair)
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, pairs)


def _drop_entries(footer: Struct, name: bytes) -> None:
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    kept: list[Value] = [pair for pair in pairs if pair.binary(KeyValue.KEY) != name]
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, kept)


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
    """Append the entry to the footer's key-value metadata."""
    originals.has_key_values = footer.has(FileMetaData.KEY_VALUE_METADATA)
    add_entries(footer, {LAYOUT_KEY: _encode(originals)})


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
    if originals.has_key_values:
        _drop_entries(footer, LAYOUT_KEY)
    else:
        footer.remove(FileMetaData.KEY_VALUE_METADATA)
    return originals


def read_originals(footer: Struct) -> Originals | None:
    """Return the entry's content, or None.

    Raises:
        FormatError: malformed, or there twice.
    """
    what = f"the key-value entry {LAYOUT_KEY.decode()!r}"
    value = entry_value(footer, LAYOUT_KEY, what)
    try:
        return None if value is None else _decode(value, what)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(f"{what} is malformed") from None


def _decode(value: bytes, what: str) -> Originals:
    # A number for each chunk may have to be given back; an empty list, of which three bytes are one, is not a number.
    parts = value.count(b"[") * 96 + (value.count(b",") + value.count(b":")) * 40 + value.count(b"{") * 288
    if parts > min(max(1 << 20, _COST_FACTOR * len(value)), _MOST_COST):
        raise ValueError
    document = json.loads(value)
    if document["v"] != _VERSION:
        raise FormatError(
            f"{what} has version {document['v']!r}; this release reads {_VERSION}", hint="upgrade pipecrypt"
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


def pop_digests(footer: Struct) -> bytes | None:
    """Take the entry's value out of a footer, unread; None where it has none.

    Raises:
        FormatError: it is there twice, or has no value.
    """
    value = entry_value(footer, INTEGRITY_KEY, f"the key-value entry {INTEGRITY_KEY.decode()!r}")
    if value is not None:
        _drop_entries(footer, INTEGRITY_KEY)
    return value


_STRIP_HINT: Final = "encrypt the footer too (--footer encrypted), or let what it tells be stripped"


def check_notes(footer: Struct, plain: Collection[str], name: str) -> None:
    """Pass if no entry tells of encrypted columns what a readable footer would show.

    Args:
        footer: of the plaintext file.
        plain: the columns at the root of which nothing is encrypted.
        name: what errors call the file.

    Raises:
        UnsupportedError: an entry does; names it.
    """
    for pair in footer.structs(FileMetaData.KEY_VALUE_METADATA):
        key, value = pair.binary(KeyValue.KEY) or b"", pair.binary(KeyValue.VALUE)
        if value is not None and strip_note(key, value, plain) != value:
            raise UnsupportedError(
                f"{name} tells in its key-value metadata {key.decode(errors='replace')!a} of columns that are "
                "encrypted, and the footer stays readable",
                hint=_STRIP_HINT,
            )


def seal_notes(footer: Struct, plain: Collection[str], mode: ClearNotes, cipher: MessageCipher, aad: FileAAD) -> None:
    """Take out of the key-value metadata of a readable footer what tells of encrypted columns, and keep it sealed."""
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    shown: list[Value] = []
    for pair in pairs:
        left = _shown(pair, plain, mode)
        if left is not None:
            shown.append(left)
    if len(shown) == len(pairs) and all(each is pair for each, pair in zip(shown, pairs, strict=True)):
        return
    module = seal_module(cipher, encode_struct(footer.kept(frozenset(_NOTES))), aad.notes())
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, shown)
    add_entries(footer, {NOTES_KEY: encode_base64(module).encode("ascii")})


def _shown(pair: Struct, plain: Collection[str], mode: ClearNotes) -> Struct | None:
    key, value = pair.binary(KeyValue.KEY) or b"", pair.binary(KeyValue.VALUE)
    left = strip_note(key, value or b"", plain, drops_unknown=mode is ClearNotes.DROP)
    if left is None:
        return None
    if left == (value or b""):
        return pair
    stripped = pair.kept(frozenset({KeyValue.KEY}))
    stripped.set(KeyValue.VALUE, WireType.BINARY, left)
    return stripped


def restore_notes(footer: Struct, cipher: MessageCipher | None, aad: FileAAD, name: str) -> None:
    """Put the entries back as they were; without the footer's key, only the sealed one is taken out.

    Raises:
        FormatError: the entry is there twice, or malformed.
        IntegrityError: it was not written with this key for this file.
    """
    what = f"the key-value entry {NOTES_KEY.decode()!r} of {name}"
    if cipher is None:
        if entry_values(footer, NOTES_KEY):
            _drop_entries(footer, NOTES_KEY)
        return
    value = entry_value(footer, NOTES_KEY, what)
    if value is None:
        return
    try:
        module = decode_base64(value.decode("ascii"))
    except ValueError:
        raise FormatError(f"{what} is malformed") from None
    plaintext = open_module(cipher, memoryview(module), aad.notes(), what)
    kept = read_struct(plaintext, 0, _NOTES, what)[0].structs(FileMetaData.KEY_VALUE_METADATA)
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, [*kept])


_NOTES: Final = {FileMetaData.KEY_VALUE_METADATA: FILE_META_DATA[FileMetaData.KEY_VALUE_METADATA]}


_HINT: Final = "encrypt the footer too: --footer encrypted"


def check_clear_fields(struct: Struct, known: frozenset[int], what: str) -> None:
    """Check that a struct of a plaintext footer has no field that may tell values and would stay readable.

    Raises:
        UnsupportedError: it has a field that is not in `known`.
    """
    unknown = sorted({entry[0] for entry in struct.entries} - known)
    if unknown:
        raise UnsupportedError(
            f"{what} has fields {unknown} that this release does not know, and the footer stays readable", hint=_HINT
        )


def check_clear_footer(footer: Struct, name: str) -> None:
    """Check that a plaintext footer would not tell values of the columns that are encrypted.

    Raises:
        UnsupportedError: it has fields unknown to this release.
    """
    check_clear_fields(footer, FileMetaData.KNOWN, f"footer of {name}")
    for element in footer.structs(FileMetaData.SCHEMA):
        check_clear_fields(element, SchemaElement.KNOWN, f"schema of {name}")
