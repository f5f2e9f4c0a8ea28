"""Replace the end of a file in place, and keep the old end so that it can be put back. What it says is left to others.

The old end lies beside the file in `.<name>.pipecrypt-undo.tmp`, hidden from readers, until the caller drops it::

    "pcundo1" || NUL || body end (8) || digest of the rest (32) || old end        numbers little endian
    rest: last 4 KiB of the body (fewer where it is shorter) || old end

So at any moment either the old file is there or it can be had back: a crash leaves an undo file, and putting back is
safe to repeat. Local files change in place. Other storages replace whole objects: some copy the body themselves, see
server_copy; with all others it is read and written here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.digest import digest
from pipecrypt.errors import ConflictError, FormatError
from pipecrypt.storage.exclusive import remove_file
from pipecrypt.storage.inventory import Kind, look_at, pin
from pipecrypt.storage.listing import SourceFile
from pipecrypt.storage.location import Location
from pipecrypt.storage.problems import map_errors
from pipecrypt.storage.publication import write_fully
from pipecrypt.storage.server_copy import MIN_BODY_BYTES, ends_replaced_by
from pipecrypt.storage.sink import open_sink, remove_leftovers
from pipecrypt.storage.source import open_range_source, read_small_file

__all__ = ["Undo", "drop_undo", "has_undo", "is_undo", "put_back", "read_undo", "replace_tail", "write_undo"]

_MAGIC: Final = b"pcundo1\0"
_PLACE_BYTES: Final = 8
_DIGEST_BYTES: Final = 32
_HEAD_BYTES: Final = len(_MAGIC) + _PLACE_BYTES + _DIGEST_BYTES
_SEEN_BYTES: Final = 4096
_MAX_UNDO_BYTES: Final = 1 << 31
_PIECE_BYTES: Final = 8 << 20
_RUN: Final = "undo"
_UNDO_SUFFIX: Final = ".pipecrypt-undo.tmp"  # is_temporary: verifying ignores it


@dataclass(frozen=True, slots=True)
class Undo:
    """How a file ended before.

    Args:
        body_end: where the end began.
        tail: the end.
        sha256: of what `_seen` returns, as hex.
    """

    body_end: int
    tail: bytes
    sha256: str


def is_undo(name: str) -> bool:
    """Say whether a file of this name keeps the old end of another."""
    return name.endswith(_UNDO_SUFFIX)


def has_undo(file: Location) -> bool:
    """Say whether an old end of a file is kept: a change of it was stopped, or is going on.

    Raises:
        StorageError: the storage refused or failed.
    """
    return look_at(_undo_place(file)) is Kind.FILE


def read_undo(file: Location) -> Undo | None:
    """Return how a file ended before its end was replaced; None where nothing was kept.

    Raises:
        FormatError: what is there is none.
        StorageError: the storage refused or failed.
    """
    place = _undo_place(file)
    data = read_small_file(place, _MAX_UNDO_BYTES)
    if data is None:
        return None
    if len(data) <= _HEAD_BYTES or not data.startswith(_MAGIC):
        raise FormatError(f"{place.display} is malformed", hint="remove it if the file beside it can be read")
    at = len(_MAGIC)
    body_end = int.from_bytes(data[at : at + _PLACE_BYTES], "little")
    return Undo(body_end, data[_HEAD_BYTES:], data[at + _PLACE_BYTES : _HEAD_BYTES].hex())


def write_undo(source: SourceFile, body_end: int) -> int:
    """Keep the end of a file, durably, and return how many bytes that took.

    Raises:
        StorageError: the storage refused or failed.
    """
    with open_range_source(source) as opened:
        tail = bytes(opened.read_range(body_end, source.size_bytes - body_end))
    seen = bytes.fromhex(digest(_seen(source, body_end) + tail))
    with open_sink(_undo_place(source.location), overwrite=True, token=_RUN) as sink:
        sink.write(_MAGIC + body_end.to_bytes(_PLACE_BYTES, "little") + seen + tail)
        sink.publish()
    return _HEAD_BYTES + len(tail)


def put_back(file: Location, undo: Undo) -> None:
    """Let a file end as it did before. Safe to repeat.

    Raises:
        ConflictError: it is another file than the one that was changed.
        StorageError: the storage refused or failed.
    """
    found = _pinned(file)
    if found.size_bytes < undo.body_end or digest(_seen(found, undo.body_end) + undo.tail) != undo.sha256:
        raise ConflictError(
            f"{_undo_place(file).display} belongs to another file than {file.display}",
            hint="remove it if that file was replaced meanwhile",
        )
    replace_tail(found, undo.body_end, undo.tail)


def drop_undo(file: Location) -> None:
    """Forget how a file ended before."""
    remove_file(_undo_place(file))
    remove_leftovers(_undo_place(file), _RUN)  # of calls that died before the undo file was whole


def replace_tail(source: SourceFile, body_end: int, tail: bytes) -> int:
    """Replace everything from `body_end` on, durably, and return how many bytes were sent from here.

    Raises:
        ConflictError: the file is not the one that was pinned.
        StorageError: the storage refused or failed.
    """
    if not source.location.is_local:
        return _replace_object(source, body_end, tail)
    with open_range_source(source):
        pass  # still the pinned one
    with map_errors(f"cannot write {source.location.display}"):
        descriptor = os.open(source.location.local_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.lseek(descriptor, body_end, os.SEEK_SET)
            write_fully(descriptor, memoryview(tail))
            os.ftruncate(descriptor, body_end + len(tail))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return len(tail)


def _replace_object(source: SourceFile, body_end: int, tail: bytes) -> int:
    server = ends_replaced_by(source.location) if body_end >= MIN_BODY_BYTES else None
    if server is not None and server.replace_end(source, body_end, tail):
        return len(tail)
    return _rewrite(source, body_end, tail)


def _rewrite(source: SourceFile, body_end: int, tail: bytes) -> int:
    with open_sink(source.location, overwrite=True) as sink:
        with open_range_source(source) as opened:
            for start in range(0, body_end, _PIECE_BYTES):
                sink.write(opened.read_range(start, min(_PIECE_BYTES, body_end - start)))
        sink.write(tail)
        sink.publish()
    return body_end + len(tail)


def _seen(source: SourceFile, body_end: int) -> bytes:
    start = max(0, body_end - _SEEN_BYTES)
    with open_range_source(source) as opened:
        return bytes(opened.read_range(start, body_end - start))


def _pinned(file: Location) -> SourceFile:
    found = pin(file, file.name)
    if found is None or found[1] is None:
        raise ConflictError(f"{file.display} is gone, though its undo file is there", hint="remove the undo file")
    return found[1]


def _undo_place(file: Location) -> Location:
    return file.sibling(f".{file.name}{_UNDO_SUFFIX}")
