"""The entry that makes a Parquet file one of chunks, and says what it was. Laying chunks out is left to byte_layout.

Layout of the value of the key-value entry `pipecrypt.chunks` (JSON), which stands in an encrypted footer only::

    {"v": 1, "chunk_bytes": of each chunk but the last, "size": bytes of the plaintext,
     "compression": "none" | "zstd",
     "name": the file's own name, "mode": permission bits, "mtime_ns": since 1970}    each absent where unknown

What is in the entry was written by whoever had the key, and may still be hostile: a name is no path here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipecrypt.errors import FormatError, UsageError
from pipecrypt.parquet.byte_layout import ByteLayout, is_chunk_size
from pipecrypt.parquet.wire.fields import FileMetaData, KeyValue
from pipecrypt.parquet.wire.thrift import Struct

__all__ = ["CHUNKS_KEY", "ChunkCompression", "ChunkEntry", "FileInfo", "encode_entry", "find_entry", "is_reserved"]

CHUNKS_KEY: Final = b"pipecrypt.chunks"
_VERSION: Final = 1
_MOST_ENTRY_BYTES: Final = 16 * 1024
_MOST_NAME_BYTES: Final = 1024
_PERMISSION_BITS: Final = 0o777
_MOST_SIZE_BYTES: Final = 2**63 - 1


class ChunkCompression(StrEnum):
    """How pages are compressed before they are encrypted."""

    NONE = "none"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is kept about a file beside its bytes; None where unknown, as of a stream.

    Args:
        name: its own name, without directories.
        mode: permission bits (0o777); others are not kept.
        mtime_ns: time of the last change, in nanoseconds since 1970.
    """

    name: str | None = None
    mode: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ChunkEntry:
    """What the entry says.

    Args:
        layout: sizes of the file and of its chunks.
        compression: of its pages.
        info: about the file.
    """

    layout: ByteLayout
    compression: ChunkCompression
    info: FileInfo


def is_reserved(footer: Struct) -> bool:
    """Say whether a footer has the entry."""
    return any(pair.binary(KeyValue.KEY) == CHUNKS_KEY for pair in footer.structs(FileMetaData.KEY_VALUE_METADATA))


def encode_entry(entry: ChunkEntry) -> bytes:
    """Return the entry's value.

    Raises:
        UsageError: the name is a path, or too long.
    """
    layout, info = entry.layout, entry.info
    document: dict[str, object] = {"v": _VERSION, "chunk_bytes": layout.chunk_bytes, "size": layout.size_bytes}
    document["compression"] = entry.compression.value
    if info.name is not None:
        if not _is_name(info.name):
            raise UsageError(f"{info.name!a} cannot be kept as the name of a file", hint="rename it")
        document["name"] = info.name
    if info.mode is not None:
        document["mode"] = info.mode & _PERMISSION_BITS
    if info.mtime_ns is not None:
        document["mtime_ns"] = info.mtime_ns
    return json.dumps(document, separators=(",", ":")).encode()


def find_entry(footer: Struct, name: str) -> ChunkEntry | None:
    """Return what the entry of an authenticated footer says, or None where there is none.

    Raises:
        FormatError: malformed, or there twice.
    """
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    found = [pair.binary(KeyValue.VALUE) for pair in pairs if pair.binary(KeyValue.KEY) == CHUNKS_KEY]
    if not found:
        return None
    try:
        if len(found) != 1 or found[0] is None or len(found[0]) > _MOST_ENTRY_BYTES:
            raise ValueError
        return _decode(json.loads(found[0]), name)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(f"the key-value entry {CHUNKS_KEY.decode()!r} of {name} is malformed") from None


def _decode(document: object, name: str) -> ChunkEntry:
    if not isinstance(document, dict):
        raise TypeError
    if document["v"] != _VERSION:
        raise FormatError(
            f"the key-value entry {CHUNKS_KEY.decode()!r} of {name} has another version than {_VERSION}",
            hint="upgrade pipecrypt",
        )
    size_bytes = _integer(document["size"], 0, _MOST_SIZE_BYTES)
    chunk_bytes = document["chunk_bytes"]
    if type(chunk_bytes) is not int or not is_chunk_size(chunk_bytes):
        raise ValueError
    info = FileInfo(_name(document.get("name")), _mode(document.get("mode")), _time(document.get("mtime_ns")))
    return ChunkEntry(ByteLayout(size_bytes, chunk_bytes), ChunkCompression(document["compression"]), info)


def _integer(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError
    return value


def _mode(value: object) -> int | None:
    return None if value is None else _integer(value, 0, _PERMISSION_BITS)


def _time(value: object) -> int | None:
    return None if value is None else _integer(value, -(2**63), 2**63 - 1)


def _name(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _is_name(value):
        raise ValueError
    return value


def _is_name(name: str) -> bool:
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= _MOST_NAME_BYTES
    except UnicodeEncodeError:
        return False
