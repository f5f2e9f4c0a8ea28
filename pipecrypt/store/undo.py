"""Replace the end of a file in place, and keep the old end so that it can be put back.

The old end lies beside the file in `.<name>.pipecrypt-undo.tmp`, hidden from readers, until the caller drops it. Where
that name would be longer than file systems take, the end of `<name>` gives way to a digest of it::

    "pcundo2" || NUL || body end (8) || digest of the rest (32) || kept, compressed by zlib      numbers little endian
    rest: last 4 KiB of the body (fewer where it is shorter) || old end
    kept: length of the old end (8) || ranges of it, each: start from the body end (4) || length (4) || bytes

Of an end that gives way to one of the same length, the ranges are those that differ: all others stay in the file. Any
other end is kept whole, as one range. Undo files of earlier releases, "pcundo1", hold the old end as it is.

So at any moment either the old file is there or it can be had back: a crash leaves an undo file, and putting back is
safe to repeat. Anybody who can write there can write an undo file, and its digest, too: before one is put back, the
caller makes sure of the whole file as it would be then (`as_before`).

Local files change in place, unless the file has another name elsewhere, which would show the change: then this one gets
a file of its own. Other storages replace whole objects: some copy the body themselves, see s3; with all others
it is read and written here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.digest import digest
from pipecrypt.errors import FormatError, IntegrityError, LimitError
from pipecrypt.store.location import NAME_BYTES, Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import EntryKind, SourceFile
from pipecrypt.vocabulary.ranges import RangeSource, differing_ranges

__all__ = [
    "MAX_END_BYTES",
    "RestoredRanges",
    "Undo",
    "as_before",
    "drop_undo",
    "has_undo",
    "is_undo",
    "put_back",
    "read_undo",
    "replace_tail",
    "undo_place",
    "write_undo",
]

_MAGIC: Final = b"pcundo2\0"
_MAGIC_AS_IT_IS: Final = b"pcundo1\0"
_PLACE_BYTES: Final = 8
_DIGEST_BYTES: Final = 32
_HEAD_BYTES: Final = len(_MAGIC) + _PLACE_BYTES + _DIGEST_BYTES
_RANGE_HEAD: Final = struct.Struct("<II")
_MOST_GROWTH: Final = 1 << 16  # of MAX_END_BYTES that zlib cannot compress, with the heads of ranges
_SEEN_BYTES: Final = 4096
MAX_END_BYTES: Final = 128 << 20  # what stands at the end of a file is opened as a whole
_RUN: Final = "undo"
_UNDO_SUFFIX: Final = ".pipecrypt-undo.tmp"  # is_temporary: verifying ignores it
_NAME_DIGITS: Final = 16
_HINT: Final = "remove it if the file beside it can be read, or is to be replaced"


@dataclass(frozen=True, slots=True)
class Undo:
    """How a file ended before, as its undo file says. Whoever can write there may have written it.

    Args:
        body_end: where the end began.
        tail: the end.
        sha256: of what `_seen` returns and the end, as hex.
    """

    body_end: int
    tail: bytes
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Size of the file before."""
        return self.body_end + len(self.tail)


def is_undo(name: str) -> bool:
    """Return whether a file of this name keeps the old end of another."""
    return name.endswith(_UNDO_SUFFIX)


def has_undo(file: Location) -> bool:
    """Return whether an old end of a file is kept: a change of it was stopped, or is going on.

    Raises:
        StorageError: the storage refused or failed.
    """
    return open_store(undo_place(file)).stat().kind is EntryKind.FILE


def read_undo(file: Location, *, max_end_bytes: int) -> Undo | None:
    """Return how a file ended before its end was replaced, as its undo file says; None where nothing was kept.

    Args:
        file: whose end was replaced.
        max_end_bytes: how long its old end can have been; nothing longer is read.

    Raises:
        IntegrityError: what is there is not an undo file, or keeps more than that.
        StorageError: the storage refused or failed.
    """
    place = undo_place(file)
    entry = open_store(place).stat()
    if not entry.exists() or entry.kind is EntryKind.DIRECTORY:
        return None
    kept, most = entry.source, min(max_end_bytes, MAX_END_BYTES)
    if kept is None or not _HEAD_BYTES < kept.size_bytes <= _HEAD_BYTES + most + _MOST_GROWTH:
        raise IntegrityError(f"{place.display} cannot be the old end of the file beside it", hint=_HINT)
    with open_range_source(kept) as opened:
        head = bytes(opened.read_range(0, _HEAD_BYTES))
        if not head.startswith((_MAGIC, _MAGIC_AS_IT_IS)):
            raise IntegrityError(f"{place.display} is malformed", hint=_HINT)
        stored = bytes(opened.read_range(_HEAD_BYTES, kept.size_bytes - _HEAD_BYTES))
    place_end = len(_MAGIC) + _PLACE_BYTES
    body_end = int.from_bytes(head[len(_MAGIC) : place_end], "little")
    tail = _joined(stored, file, body_end, most) if head.startswith(_MAGIC) else stored
    if not tail or len(tail) > most:
        raise IntegrityError(f"{place.display} cannot be the old end of the file beside it", hint=_HINT)
    return Undo(body_end, tail, head[place_end:].hex())


def _joined(stored: bytes, file: Location, body_end: int, most: int) -> bytes | None:
    """Return an old end, of what was kept of it and what stands in the file; None where these do not fit together."""
    kept = _decompressed(stored, 2 * most + _PLACE_BYTES)  # a range that is worth one is longer than its head
    if kept is None or len(kept) < _PLACE_BYTES:
        return None
    length, at = int.from_bytes(kept[:_PLACE_BYTES], "little"), _PLACE_BYTES
    ranges: list[tuple[int, bytes]] = []
    least = 0
    while at < len(kept):
        start, count = _RANGE_HEAD.unpack(kept[at : at + _RANGE_HEAD.size].ljust(_RANGE_HEAD.size, b"\0"))
        at += _RANGE_HEAD.size + count
        least, before = start + count, least
        if not count or start < before or least > min(length, most) or at > len(kept):
            return None
        ranges.append((start, kept[at - count : at]))
    if len(ranges) == 1 and len(ranges[0][1]) == length:
        return ranges[0][1]
    source = open_store(file).stat().file()
    if source is None or length > most or source.size_bytes < body_end + length:
        return None
    with open_range_source(source) as opened:
        tail = bytearray(opened.read_range(body_end, length))
    for start, data in ranges:
        tail[start : start + len(data)] = data
    return bytes(tail)


def _decompressed(data: bytes, most: int) -> bytes | None:
    """Return an old end; None where it is malformed, or longer than `most`, of which no more is decompressed."""
    decompressor = zlib.decompressobj()
    try:
        tail = decompressor.decompress(data, max(most, 1))  # 0 would be no limit
        # Of an end that is just so long, what ends the stream may be left, which brings no byte.
        more = b"" if decompressor.eof else decompressor.decompress(decompressor.unconsumed_tail, 1)
    except zlib.error:
        return None
    return tail if decompressor.eof and not more and not decompressor.unused_data else None


def write_undo(source: SourceFile, body_end: int, new_end: bytes = b"") -> int:
    """Keep the end of a file, durably, and return how many bytes that took.

    Args:
        source: the file.
        body_end: where its end begins.
        new_end: what will be there; nothing else of the file may change until the old end is dropped or put back.

    Raises:
        LimitError: the end is too long to be read back.
        StorageError: the storage refused or failed.
    """
    if source.size_bytes - body_end > MAX_END_BYTES:
        raise LimitError(f"the footer of {source.location.display} is longer than {MAX_END_BYTES} bytes")
    with open_range_source(source) as opened:
        tail = bytes(opened.read_range(body_end, source.size_bytes - body_end))
        seen = bytes.fromhex(digest(_seen(opened, body_end) + tail))
    ranges = differing_ranges(tail, new_end) if len(new_end) == len(tail) else [(0, len(tail))]
    kept = len(tail).to_bytes(_PLACE_BYTES, "little")
    kept += b"".join(_RANGE_HEAD.pack(start, end - start) + tail[start:end] for start, end in ranges)
    kept = _MAGIC + body_end.to_bytes(_PLACE_BYTES, "little") + seen + zlib.compress(kept)
    with open_store(undo_place(source.location)).write(overwrite=True, token=_RUN) as sink:
        sink.write(kept)
        sink.publish()
    return len(kept)


class RestoredRanges:
    """A file as it would be once its old end is put back; nothing of it is written yet.

    Args:
        opened: the file as it is.
        undo: how it ended before.
    """

    def __init__(self, opened: RangeSource, undo: Undo) -> None:
        """Join the two."""
        self._opened = opened
        self._undo = undo
        self.name = opened.name
        self.size_bytes = undo.size_bytes

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`.

        Raises:
            FormatError: the file is shorter than that.
            StorageError: the storage failed.
        """
        end, body_end = start + length, self._undo.body_end
        if start < 0 or length < 0 or end > self.size_bytes:
            raise FormatError(f"{self.name} would have {self.size_bytes} bytes, but bytes {start} to {end} are due")
        if end <= body_end:
            return self._opened.read_range(start, length)
        tail = memoryview(self._undo.tail)[max(0, start - body_end) : end - body_end]
        if start >= body_end:
            return tail
        return memoryview(bytes(self._opened.read_range(start, body_end - start)) + bytes(tail))


@contextmanager
def as_before(source: SourceFile, undo: Undo) -> Iterator[RestoredRanges]:
    """Open a file as it would be once its old end is put back.

    Raises:
        IntegrityError: the undo file is of another file: the body of this one ends elsewhere, or otherwise.
        StorageError: the storage refused or failed.
    """
    with open_range_source(source) as opened:
        if undo.body_end > source.size_bytes or digest(_seen(opened, undo.body_end) + undo.tail) != undo.sha256:
            raise IntegrityError(
                f"{undo_place(source.location).display} belongs to another file than {source.location.display}",
                hint="remove it if that file was replaced meanwhile",
            )
        yield RestoredRanges(opened, undo)


def put_back(source: SourceFile, undo: Undo) -> None:
    """Let a file end as it did before, which the caller has made sure of. Safe to repeat.

    Raises:
        ConflictError: the file is not the one that was pinned.
        StorageError: the storage refused or failed.
    """
    replace_tail(source, undo.body_end, undo.tail)


def drop_undo(file: Location) -> None:
    """Forget how a file ended before."""
    store = open_store(undo_place(file))
    store.remove()
    store.remove_leftovers(_RUN)  # of calls that died before the undo file was whole


def replace_tail(source: SourceFile, body_end: int, tail: bytes) -> int:
    """Replace everything from `body_end` on; see `Store.replace_end`."""
    return open_store(source.location).replace_end(source, body_end, tail)


def _seen(opened: RangeSource, body_end: int) -> bytes:
    start = max(0, body_end - _SEEN_BYTES)
    return bytes(opened.read_range(start, body_end - start))


def undo_place(file: Location) -> Location:
    """Return where the old end of a file is kept."""
    name = file.name
    room = NAME_BYTES - len(_UNDO_SUFFIX) - 1
    raw = name.encode(errors="surrogateescape")
    if len(raw) > room:
        kept = raw[: room - _NAME_DIGITS - 1].decode(errors="ignore")
        name = f"{kept}~{digest(raw)[:_NAME_DIGITS]}"
    return file.sibling(f".{name}{_UNDO_SUFFIX}")
