"""Find the chunks of a readable footer in one pass over its bytes, without opening what is sealed in it.

A view of a file with a thousand chunks is mostly opened for a few of them. Opening all takes a key, its commitment and
two structs for each chunk; here only places are taken from the clear metadata, and what a reader touches is opened
then: `LazyChunks.open` authenticates the sealed metadata and compares all that was shown with it. Readers decode what
they fetch by the clear metadata (type, codec, encodings, sizes), and where the footer's key is missing, nothing
else authenticates that.

Only what pipecrypt and other usual writers write is understood: a chunk is recognized by a regular expression, made
for each column from its path, and everything else is left to the whole parser by returning None. So is a chunk that a
reader could take to lie elsewhere, or to have no values: that one would be shown without ever being opened.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from itertools import chain, islice
from typing import Final, NamedTuple

from pipecrypt.errors import ContentError, IntegrityError, KeyNotFoundError
from pipecrypt.parquet.footer.columns import LeafColumn
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import PagePlace
from pipecrypt.parquet.footer.segments import MAX_INDEX_BYTES, UNDECLARED_BYTES
from pipecrypt.parquet.footer.stored import MAGIC_BYTES
from pipecrypt.parquet.table.keys import encoded_path
from pipecrypt.parquet.wire.fields import ROW_GROUP, FileMetaData, RowGroup
from pipecrypt.parquet.wire.thrift import Raw, Struct, encoded_bytes, keep_encoded
from pipecrypt.parquet.wire.thrift_read import read_list_start, read_struct, read_varint, read_zigzag, skip_value

__all__ = ["LazyChunks", "ScannedFooter", "scan_footer"]

_MOST_CHUNKS: Final = 1 << 16  # of more, numbers would take much memory

# parquet.thrift in the compact protocol. A header is the distance to the field before (4 bits) and a type (4 bits).
_V: Final = rb"[\x80-\xff]{0,9}[\x00-\x7f]"  # a varint
_LISTS: Final = b"|".join(re.escape(bytes((n << 4 | 5,))) + rb"[\x00-\x7f]{%d}" % n for n in range(1, 9))
# ColumnChunk: file_offset, meta_data: type, encodings; the path follows
_HEAD: Final = re.compile(rb"\x26%b\x1c()\x15[\x00-\x7f]\x19(?:%b)\x19" % (_V, _LISTS), re.DOTALL)
# codec, num_values, total_uncompressed_size, total_compressed_size, data_page_offset, dictionary_page_offset
_PLACE: Final = re.compile(
    rb"\x15[\x00-\x7f]\x16(%b)\x16%b\x16(%b)\x26(%b)(?:\x26(%b))?" % (_V, _V, _V, _V, _V), re.DOTALL
)
_DATA_PAGE_FIELD: Final = 9
_DICTIONARY_FIELD: Final = 11
_BLOOM_FIELDS: Final = (14, 15)
# Behind meta_data: offset_index_offset, its length, column_index_offset, its length; all, none, or the first two. Then
# of an encrypted chunk crypto_metadata: ENCRYPTION_WITH_COLUMN_KEY; its path follows. A chunk in plaintext ends.
_INDEXES: Final = rb"\x16(%b)\x15(%b)(?:\x16(%b)\x15(%b)" % (_V, _V, _V, _V)
_SEALED_TAIL: Final = re.compile(rb"\x00(?:%b\x1c|\x3c)|\x5c)\x2c\x19" % _INDEXES, re.DOTALL)
_PLAIN_TAIL: Final = re.compile(rb"(?:%b)?)?\x00" % _INDEXES, re.DOTALL)
_BYTES: Final = 0x18  # the header of key_metadata and encrypted_column_metadata
_NO_COLUMNS: Final = b"\x19\x0c"  # the list of a row group without any
_WRAPPED_KEY: Final = b'"wrappedDEK":"'


class _Found(NamedTuple):
    """One chunk: where its pages lie, and its bytes.

    Args:
        start: as `PagePlace`.
        declared_bytes: likewise.
        num_values: likewise.
        entry: its ColumnChunk, up to the end of the clear metadata.
        metadata_at: where that begins.
        place_end: where the fields end that tell its place.
        last_field: the last of them.
        key_metadata: of its data key; None of a chunk in plaintext, as the next one.
        sealed: its encrypted metadata.
    """

    start: int
    declared_bytes: int
    num_values: int
    entry: bytes
    metadata_at: int
    place_end: int
    last_field: int
    key_metadata: bytes | None = None
    sealed: bytes = b""


class ScannedFooter(NamedTuple):
    """What was found.

    Args:
        chunks: sealed chunks by row group and column, in the order of their pages: place, and bytes to fetch.
        row_groups: each in plaintext, encoded.
        lazy: opens them.
    """

    chunks: list[tuple[int, int, int, int]]  # start, room, row group, column
    row_groups: list[Struct]
    lazy: LazyChunks


class LazyChunks:
    """Opens the chunks that are read. Safe to use from several threads.

    Args:
        opened: the file; its keys are opened through it, and wiped with it.
        found: by row group, and column.
    """

    def __init__(self, opened: OpenedFile, found: list[list[_Found]]) -> None:
        """Open nothing yet."""
        self._opened = opened
        self._found = found
        self._lock = threading.Lock()
        self._places: dict[tuple[int, int], PagePlace] = {}

    def open(self, row_group: int, column: int) -> PagePlace:
        """Return where the pages of a chunk lie, after its key was opened and its metadata authenticated.

        Raises:
            AccessError: its key is missing or was refused.
            IntegrityError: metadata was not written with its key at this place, or the footer shows something else.
        """
        with self._lock:
            place = self._places.get((row_group, column))
            if place is None:
                place = self._places[row_group, column] = self._open(row_group, column)
            return place

    def _open(self, row_group: int, column: int) -> PagePlace:
        found = self._found[row_group][column]
        if found.key_metadata is None:
            raise AssertionError("a chunk in plaintext is not opened")
        what = f"metadata of {self._opened.row_groups.what(row_group, column)}"
        data = self._opened.open_sealed_metadata(row_group, column, found.key_metadata, found.sealed)
        if not _is_what_shows(found, data):
            raise IntegrityError(f"{what} is not what the footer shows")
        return PagePlace(*found[:3])


def scan_footer(opened: OpenedFile, *, statistics: bool) -> ScannedFooter | None:
    """Return what a readable footer shows, if all chunks are encrypted under keys of their own, or in plaintext.

    With statistics, the sealed metadata of each chunk is opened, and shown in the place of the clear one. The file
    stays as it is. None where the whole parser is to look at it: the footer is encrypted, written in another way, or
    malformed; or a key is missing.

    Args:
        opened: the file.
        statistics: show those of encrypted columns.

    Raises:
        AccessError: a key service refused or failed.
        IntegrityError: a key does not match its commitment.
    """
    row_groups, leaves = opened.row_groups, opened.row_groups.leaves
    encoded = [encoded_bytes(each) for each in opened.footer.structs(FileMetaData.ROW_GROUPS)]
    if not opened.hides_column_metadata or None in encoded or not 0 < len(encoded) * len(leaves) <= _MOST_CHUNKS:
        return None
    scanner = _Scanner(opened, leaves)
    if not all(
        scanner.scan(index, bytes(data or b"")) for index, data in zip(row_groups.ordinals, encoded, strict=True)
    ):
        return None
    places = scanner.placed(opened.body_end)
    shown = None if places is None else scanner.shown(statistics=statistics)
    if places is None or shown is None:
        return None
    return ScannedFooter(places, shown, LazyChunks(opened, scanner.found))


class _Scanner:
    """Collects what is found in one row group after the other."""

    def __init__(self, opened: OpenedFile, leaves: Sequence[LeafColumn]) -> None:
        self._opened = opened
        self._paths = [encoded_path(leaf.path)[1:] for leaf in leaves]  # `_HEAD` has the field's header
        self._heads: set[bytes] = set()
        self.found: list[list[_Found]] = []
        self._frames: list[tuple[bytes, bytes]] = []  # of each row group, before and behind its chunks
        # start, bytes, row group, column; the last two -1 of what is not an encrypted chunk
        self._parts: list[tuple[int, int, int, int]] = []

    def scan(self, index: int, data: bytes) -> bool:
        """Take a row group in; False where it is left to the whole parser."""
        try:
            return self._scan(index, data)
        except IndexError:  # an integer or a struct does not end, or is too large
            return False

    def _scan(self, index: int, data: bytes) -> bool:
        count, at = read_list_start(data)
        begin, found = data[:at], list[_Found]()
        if count != len(self._paths):
            return False
        for column, path in enumerate(self._paths):
            chunk = self._chunk(index, column, data, at, path)
            if chunk is None:
                return False
            found.append(chunk[0])
            at = chunk[1]
        rows = _rows(data[at:])
        # Of a chunk with fewer values than rows, a reader may fetch nothing, so that nothing would be compared.
        if rows is None or any(each.num_values < rows for each in found):
            return False
        self.found.append(found)
        self._frames.append((begin, data[at:]))
        return True

    def shown(self, *, statistics: bool) -> list[Struct] | None:
        """Return the row groups in plaintext; None where the sealed metadata is left to the whole parser."""
        made = []
        for index, (found, (begin, end)) in enumerate(zip(self.found, self._frames, strict=True)):
            pieces = [begin]
            for column, each in enumerate(found):
                entry = self._with_statistics(index, column, each) if statistics else each.entry
                if entry is None:
                    return None
                pieces += (entry, b"\x00")
            made.append(keep_encoded(Raw(b"".join([*pieces, end]))))
        return made

    def _with_statistics(self, index: int, column: int, found: _Found) -> bytes | None:
        if found.key_metadata is None:
            return found.entry
        try:
            data = self._opened.open_sealed_metadata(index, column, found.key_metadata, found.sealed)
        except KeyNotFoundError:
            return None
        if not _is_what_shows(found, data):
            return None
        if not self._opened.is_authenticated:  # else the footer would show the Bloom filter, if there were one
            size = found.place_end - found.metadata_at
            if _skip_rest(data, size, found.last_field) != len(data):
                return None
        return found.entry[: found.metadata_at] + data

    def _chunk(self, index: int, column: int, data: bytes, at: int, path: bytes) -> tuple[_Found, int] | None:
        """Return a chunk and where the next one begins; None where it is left to the whole parser."""
        head = _HEAD.match(data, at)
        place = None if head is None else _PLACE.match(data, head.end() + len(path))
        if head is None or place is None or not data.startswith(path, head.end()):
            return None
        values, stored, data_page, dictionary = place.groups()
        first = _signed(data_page)
        start, size = first if dictionary is None else _signed(dictionary), _signed(stored)
        # Readers differ in where they begin if the two offsets are not in this order, and in one chunk.
        if dictionary is not None and not 0 < start < first < start + size:
            return None
        found = _Found(
            start,
            size,
            _signed(values),
            data[at : place.end() + 1],
            head.start(1) - at,
            place.end() - at,
            _DATA_PAGE_FIELD if dictionary is None else _DICTIONARY_FIELD,
        )
        tail = _SEALED_TAIL.match(data, place.end())
        if tail is None:
            return self._plain(found, column, data, at)
        return self._sealed(found, index, column, data, tail) if data.startswith(path, tail.end()) else None

    def _sealed(
        self, found: _Found, index: int, column: int, data: bytes, tail: re.Match[bytes]
    ) -> tuple[_Found, int] | None:
        path = self._paths[column]
        key_end, key_metadata = _binary(data, tail.end() + len(path))
        end, sealed = _binary(data, key_end + 2)
        if key_metadata is None or sealed is None or data[key_end : key_end + 2] != b"\x00\x00":
            return None
        if data[end : end + 1] != b"\x00" or not self._is_at_hand(index, column, key_metadata):
            return None
        found = found._replace(key_metadata=key_metadata, sealed=sealed)
        return (found, end + 1) if self._add_parts(found, tail.groups(), index, column) else None

    def _plain(self, found: _Found, column: int, data: bytes, at: int) -> tuple[_Found, int] | None:
        end = _skip_rest(data, at + found.place_end, found.last_field)
        tail = None if end is None else _PLAIN_TAIL.match(data, end)
        if end is None or tail is None or self._opened.digests_entry is not None:
            return None
        self._opened.note_clear_column(column)
        found = found._replace(entry=data[at:end])
        return (found, tail.end()) if self._add_parts(found, tail.groups(), -1, -1) else None

    def _add_parts(self, found: _Found, indexes: Sequence[bytes | None], index: int, column: int) -> bool:
        """Note the parts of a chunk, as `segments.chunk_parts` does; False where it would refuse them."""
        if min(found[:3]) < 0 or found.start < MAGIC_BYTES or found.declared_bytes == 0:
            return False
        self._parts.append((found.start, found.declared_bytes, index, column))
        for offset, length in ((indexes[0], indexes[1]), (indexes[2], indexes[3])):
            if offset is not None and length is not None:
                start, size = _signed(offset), _signed(length)
                if start < found.start or not 0 < size <= MAX_INDEX_BYTES:
                    return False
                self._parts.append((start, size, -1, -1))
        return True

    def _is_at_hand(self, index: int, column: int, key_metadata: bytes) -> bool:
        """Return whether a key can be opened; one of those under the same KEK tells for all."""
        self._opened.key_metadata_of_columns.setdefault(column, key_metadata)
        head = key_metadata.partition(_WRAPPED_KEY)[0]
        if head not in self._heads:
            try:
                self._opened.open_key_at(index, column, key_metadata)
            except KeyNotFoundError:
                return False
            self._heads.add(head)
        return True

    def placed(self, body_end: int) -> list[tuple[int, int, int, int]] | None:
        """Return the chunks by place, with the bytes to fetch; None where parts lie over each other or outside."""
        self._parts.sort()
        ends = chain((part[0] for part in islice(self._parts, 1, None)), (body_end,))
        chunks = []
        for (start, declared, index, column), end in zip(self._parts, ends, strict=True):
            room = end - start
            if room < declared:
                return None
            if index >= 0:
                chunks.append((start, min(room, declared + UNDECLARED_BYTES), index, column))
        return chunks


def _skip_rest(data: bytes, at: int, field: int) -> int | None:
    """Return where a ColumnMetaData ends, of which all up to a field was read.

    None where it is malformed, names its place again, or a Bloom filter, which a view hides.
    """
    try:
        while header := data[at]:
            distance = header >> 4
            field += distance
            if not distance or field <= _DICTIONARY_FIELD or field in _BLOOM_FIELDS:
                return None
            at = skip_value(data, at + 1, header & 15, 0)
    except IndexError:
        return None
    return at + 1


def _rows(end: bytes) -> int | None:
    """Return the rows of a row group, given what stands behind its columns; None where that is malformed."""
    try:
        # The columns once more, behind them, would be what readers see: so a repeated field is malformed.
        group, size = read_struct(_NO_COLUMNS + end, 0, ROW_GROUP, "row group")
    except ContentError:
        return None
    return group.integer(RowGroup.NUM_ROWS) if size == len(_NO_COLUMNS) + len(end) else None


def _is_what_shows(found: _Found, sealed: bytes) -> bool:
    """Return whether sealed metadata begins with all that the footer shows, and names no other place behind it."""
    shown = found.entry[found.metadata_at : found.place_end]
    if not sealed.startswith(shown) or len(sealed) == len(shown):
        return False
    header = sealed[len(shown)]
    return not header or (header > 15 and found.last_field + (header >> 4) > _DICTIONARY_FIELD)


def _binary(data: bytes, at: int) -> tuple[int, bytes | None]:
    """Return where a binary field ends, and its value; None where there is none."""
    if data[at] != _BYTES:
        return at, None
    length, start = read_varint(data, at + 1)
    return start + length, data[start : start + length]


def _signed(data: bytes) -> int:
    return read_zigzag(data, 0)[0]
