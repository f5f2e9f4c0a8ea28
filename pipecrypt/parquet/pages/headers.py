"""Find a plaintext chunk's pages by their headers, window by window, within the limits of the encryption format.

Layout of a page::

    page header (Thrift) || page (compressed_page_size bytes)

A header is patched, not parsed into a tree: the bytes of two varints change, the rest stays as it was.

Ordinals are signed 16 bits: at most 32,767 row groups, columns, and data pages of a chunk (Encryption.md 4.4.2).
A key serves at most 2^32 invocations with random nonces (SP 800-38D 8.3). Both are checked before the first byte is
written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple, cast

from pipecrypt.crypto.aead import MAX_INVOCATIONS
from pipecrypt.errors import FormatError, LimitError, UnsupportedError
from pipecrypt.parquet.footer.row_groups import Chunk, locate_pages
from pipecrypt.parquet.wire.fields import ColumnChunk, PageHeader, PageType
from pipecrypt.parquet.wire.modules import MAX_ORDINALS, MODULE_OVERHEAD_BYTES
from pipecrypt.parquet.wire.thrift import WireType, encode_varint, encode_zigzag
from pipecrypt.parquet.wire.thrift_read import read_list_start, skip_value
from pipecrypt.vocabulary.ranges import RangeSource, traits_of

__all__ = [
    "FIRST_NEEDED_BYTES",
    "MAX_HEADER_BYTES",
    "Page",
    "PageScan",
    "PageWalk",
    "check_invocations",
    "check_page",
    "check_page_count",
    "most_modules",
    "read_page_header",
    "resized_header",
    "resized_usual_header",
]

# Statistics in a page header can be long. parquet-cpp reads no longer headers either.
MAX_HEADER_BYTES: Final = 16 << 20
_MAX_PAGE_BYTES: Final = 2**31 - 1 - MODULE_OVERHEAD_BYTES
_NO_VALUE: Final = -1
_DATA: Final = PageType.DATA
_DICTIONARY: Final = PageType.DICTIONARY
FIRST_NEEDED_BYTES: Final = 64
_I32_BYTES: Final = rb"[\x80-\xff]{0,4}[\x00-\x7f]"
_I64_BYTES: Final = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
# Bytes of a length below 128, after the length. A pattern cannot count, so each length is a choice of its own: first
# those of numbers, which most statistics are of.
_SHORT_LENGTHS: Final = sorted(range(128), key=lambda length: (length not in {4, 8}, length))
_SHORT_BINARY: Final = b"|".join(rb"\x%02x.{%d}" % (length, length) for length in _SHORT_LENGTHS)
# The fields of statistics, one way on: bytes, numbers, bools. What has more or others is not matched.
_STATISTICS: Final = rb"\x1c(?:[\x18\x28](?:%b)|[\x16\x26]%b|[\x11\x12\x21\x22]){0,8}\x00" % (
    _SHORT_BINARY,
    _I64_BYTES,
)
# A data page's header as most writers write it, without checksum: type and uncompressed size, the size itself, then
# values, three encodings and perhaps statistics. Matched at once, because a file has as many of these as it has pages.
_DATA_HEADER: Final = re.compile(
    rb"(\x15\x00\x15%b\x15)(%b)(\x2c\x15(%b)(?:\x15[\x00-\x7f]){3}(?:%b)?\x00\x00)"
    % (_I32_BYTES, _I32_BYTES, _I32_BYTES, _STATISTICS),
    re.DOTALL,
)
# Likewise of a dictionary page: values, one encoding, and perhaps whether it is sorted.
_DICTIONARY_HEADER: Final = re.compile(
    rb"(\x15\x04\x15%b\x15)(%b)(\x4c\x15(%b)\x15[\x00-\x7f][\x11\x12]?\x00\x00)" % (_I32_BYTES, _I32_BYTES, _I32_BYTES)
)


class Page(NamedTuple):
    """Where a page stands, and its header, cut where its compressed_page_size is.

    Args:
        body: where the header ends.
        end: where the page ends.
        kind: its PageType.
        values: how many it has; of a dictionary page, nothing that counts.
        head: the header before its compressed_page_size.
        tail: the header behind it.
        crc: its checksum, where it has one.
        crc_start: where in `tail` the checksum is; negative where it comes before the size.
        crc_end: where in `tail` the checksum ends.
    """

    body: int
    end: int
    kind: int
    values: int
    head: bytes
    tail: bytes
    crc: int | None
    crc_start: int
    crc_end: int


# The tuple's own constructor, because that of the class takes twice the time.
_new_page: Final = partial(cast("Callable[[type[Page], Iterable[object]], Page]", tuple.__new__), Page)


def read_page_header(data: memoryview | bytes, start: int, what: str) -> Page:
    """Return the page whose header stands at `start`.

    Raises:
        FormatError: truncated or malformed; a page may still end behind the end of `data`.
    """
    try:
        if match := _DATA_HEADER.match(data, start):
            page = _usual_page(match, PageType.DATA)
        elif match := _DICTIONARY_HEADER.match(data, start):
            page = _usual_page(match, PageType.DICTIONARY)
        else:
            page = _walk_header(data, start)
    except IndexError:
        raise FormatError(f"{what} has a truncated or malformed page header") from None
    if page.kind < 0 or not page.head or page.end < page.body:
        raise FormatError(f"{what} has a malformed page header")
    return page


def _usual_page(match: re.Match[bytes], kind: int) -> Page:
    head, size, tail, values = match.groups()
    body = match.end()
    return _new_page((body, body + _integer(size), kind, _integer(values), head, tail, None, 0, 0))


def _integer(varint: bytes) -> int:
    """Return the 32-bit integer that up to five bytes hold."""
    length = len(varint)
    if length == _SIZE_BYTES:  # the length of most sizes and counts
        first, second, third = varint
        value = first & 127 | (second & 127) << 7 | third << 14
    elif length == _COUNT_BYTES:  # and of most others
        first, second = varint
        value = first & 127 | second << 7
    else:
        return _read_i32(varint, 0)[0]
    return (value >> 1) ^ -(value & 1)


_SIZE_BYTES: Final = 3
_COUNT_BYTES: Final = 2


def _walk_header(data: memoryview | bytes, start: int) -> Page:
    position, field_id = start, 0
    kind = size = size_start = size_end = crc_start = crc_end = values = _NO_VALUE
    crc: int | None = None
    while header := data[position]:
        position += 1
        if header <= 15:
            raise IndexError  # ids of page headers are small and ascending, so the long form is not a writer's
        field_id += header >> 4
        wire_type = header & 15
        value_start = position
        if wire_type == WireType.I32:
            value, position = _read_i32(data, position)
            if field_id == PageHeader.TYPE:
                kind = value
            elif field_id == PageHeader.COMPRESSED_PAGE_SIZE:
                size, size_start, size_end = value, value_start, position
            elif field_id == PageHeader.CRC:
                crc, crc_start, crc_end = value, value_start, position
            continue
        if wire_type == WireType.STRUCT and field_id in (PageHeader.DATA_PAGE_HEADER, PageHeader.DATA_PAGE_HEADER_V2):
            if data[position] != (PageHeader.NUM_VALUES << 4 | WireType.I32):
                raise IndexError
            values, _ = _read_i32(data, position + 1)
        position = skip_value(data, position, wire_type, 0)
    body = position + 1
    head, tail = bytes(data[start : max(size_start, start)]), bytes(data[size_end:body])
    return Page(body, body + size, kind, values, head, tail, crc, crc_start - size_end, crc_end - size_end)


def _read_i32(data: memoryview | bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value >> 1) ^ -(value & 1), position
        shift += 7
        if shift > 28:
            raise IndexError


class PageWalk:
    """How far a chunk's pages were walked, in windows of its bytes, so that memory holds a window or a page of them.

    The caller reads on at `position`, at least `needed_bytes` and at most `room_bytes`, until `is_done`.

    Args:
        declared_bytes: total_compressed_size.
        num_values: of the whole chunk.
        room_bytes: the declared bytes, and more where a gap follows: writers before parquet-mr 1.2.9 left the
            dictionary page's header out of the declared size (PARQUET-816).
        what: what errors call the chunk.
    """

    def __init__(self, declared_bytes: int, num_values: int, *, room_bytes: int, what: str) -> None:
        """Begin at the chunk's first page."""
        self._declared_bytes = declared_bytes
        self._missing_values = num_values
        self._end = room_bytes
        self._what = what
        self._data_pages = 0
        self.position = 0
        self.needed_bytes = min(FIRST_NEEDED_BYTES, room_bytes)

    @property
    def is_done(self) -> bool:
        """Whether no page is left."""
        position = self.position
        return position >= self._declared_bytes and (self._missing_values <= 0 or position >= self._end)

    @property
    def room_bytes(self) -> int:
        """How many bytes of the chunk are left at most."""
        return self._end - self.position


class PageScan(PageWalk):
    """Finds the pages of one plaintext chunk; `scan` is called with each window."""

    def scan(self, window: memoryview) -> list[Page]:
        """Return the whole pages in `window`, which begins at `position`; places are relative to it.

        Where there is none, a window of `needed_bytes` brings the scan forward.

        Raises:
            FormatError: truncated or malformed.
            LimitError: more pages than an encrypted chunk can number.
            UnsupportedError: an index page, which has no module type.
        """
        pages: list[Page] = []
        at, room, declared, window_bytes = 0, self.room_bytes, self._declared_bytes - self.position, len(window)
        needed, missing_values, find = FIRST_NEEDED_BYTES, self._missing_values, _DATA_HEADER.match
        while at < declared or (missing_values > 0 and at < room):
            match = find(window, at)
            page = (
                self._header(window, at, is_last=window_bytes >= room) if match is None else _usual_page(match, _DATA)
            )
            if page is None:
                needed = max(2 * (window_bytes - at), FIRST_NEEDED_BYTES)
                break
            body, end, kind, values, *_ = page
            if end > room:
                raise FormatError(f"{self._what} has a page that ends behind the chunk")
            if end < body:
                raise FormatError(f"{self._what} has a malformed page header")
            if match is None or values < 0 or end - body > _MAX_PAGE_BYTES:
                check_page(page, is_first=not at and not self.position, what=self._what)
            if end > window_bytes:
                needed = end - at
                break
            if kind != _DICTIONARY:
                missing_values -= values
                self._data_pages += 1
            pages.append(page)
            at = end
        if self._data_pages > MAX_ORDINALS:
            raise LimitError(f"{self._what} has more than {MAX_ORDINALS} pages, which an encrypted file cannot number")
        self._missing_values = missing_values
        self.position += at
        self.needed_bytes = min(needed, self.room_bytes)
        return pages

    def _header(self, window: memoryview, at: int, *, is_last: bool) -> Page | None:
        """Return the page at `at`, or None where its header seems to end behind the window."""
        try:
            return read_page_header(window, at, self._what)
        except FormatError:
            if is_last or len(window) - at > MAX_HEADER_BYTES:
                raise
            return None


def check_page(page: Page, *, is_first: bool, what: str) -> None:
    """Check a page's type and size.

    Raises:
        FormatError: an unknown type, or a dictionary page that is not the first.
        LimitError: too large to be encrypted.
        UnsupportedError: an index page.
    """
    if page.kind == PageType.DICTIONARY:
        if not is_first:
            raise FormatError(f"{what} has a dictionary page that is not its first page")
    elif page.kind == PageType.INDEX:
        raise UnsupportedError(f"{what} has an index page, which cannot be encrypted")
    elif page.kind not in (PageType.DATA, PageType.DATA_V2) or page.values < 0:
        raise FormatError(f"{what} has a page of unknown type {page.kind}")
    if page.end - page.body > _MAX_PAGE_BYTES:
        raise LimitError(f"{what} has a page of more than {_MAX_PAGE_BYTES} bytes")


def resized_usual_header(header: bytes, overhead_bytes: int) -> tuple[bytes, int, int] | None:
    """Return a usual header of an encrypted page, made that of the plaintext page, the latter's bytes and values.

    Args:
        header: opened, with no byte behind it.
        overhead_bytes: by how much the encrypted page is longer.

    Returns:
        None where the header is not usual, or says what cannot be.
    """
    match = _DATA_HEADER.fullmatch(header)
    if match is None:
        return None
    head, size, tail, value_bytes = match.groups()
    plain_bytes, values = _integer(size) - overhead_bytes, _integer(value_bytes)
    if not 0 <= plain_bytes <= _MAX_PAGE_BYTES - overhead_bytes or values < 0:
        return None
    return head + encode_varint(plain_bytes << 1) + tail, plain_bytes, values


def resized_header(page: Page, new_bytes: int, checksum: int | None = None) -> bytes:
    """Return a page's header with another compressed_page_size, and with another checksum where one is given.

    Raises:
        FormatError: the fields are in no ascending order.
    """
    tail = page.tail
    if checksum is not None:
        if page.crc_start < 0:
            raise FormatError("a page header has its fields in no ascending order")
        tail = tail[: page.crc_start] + encode_zigzag(checksum) + tail[page.crc_end :]
    return page.head + encode_varint(new_bytes << 1) + tail


_SMALLEST_PAGE_BYTES: Final = 8  # type, two sizes and a page type's own header, with their field headers
_MODULES_PER_PAGE: Final = 2
_OTHER_MODULES: Final = 8  # metadata, indexes, Bloom filter, dictionary page, with room to spare
_HEADER_WINDOWS: Final = (512, 1 << 16, 1 << 20)  # statistics in a page header can be long
_SMALL_PAGE_BYTES: Final = 1 << 15
_LIST_START_BYTES: Final = 16


def most_modules(chunk: Chunk) -> int:
    """Return an upper bound of the modules that encrypting the chunk makes."""
    most_pages = min(MAX_ORDINALS, locate_pages(chunk).declared_bytes // _SMALLEST_PAGE_BYTES) + 1
    return most_pages * _MODULES_PER_PAGE + _OTHER_MODULES


def check_invocations(modules_by_key: Mapping[object, int], name: str) -> None:
    """Check that no data key can be used more often than GCM allows; `modules_by_key` holds upper bounds.

    Raises:
        LimitError: a key would serve too many modules.
    """
    for modules in modules_by_key.values():
        if modules > MAX_INVOCATIONS:
            raise LimitError(
                f"{name} would need {modules} encryptions under one data key; the limit is {MAX_INVOCATIONS}",
                hint="use data_keys: batch, and no uniform encryption",
            )


def check_page_count(source: RangeSource, chunk: Chunk, body_end: int) -> None:
    """Check that page ordinals can number the pages of a chunk that will be encrypted.

    Most chunks are too small, or have too few values, to exceed the limit. The others are counted by their offset
    index, or by walking their page headers where seeking is cheap. A remote chunk without an offset index is counted
    when it is encrypted, before anything is published.

    Raises:
        LimitError: too many pages in a chunk.
    """
    place = locate_pages(chunk)
    if place.num_values <= MAX_ORDINALS or place.declared_bytes // _SMALLEST_PAGE_BYTES <= MAX_ORDINALS:
        return
    if _count_pages(source, chunk, body_end) > MAX_ORDINALS:
        raise LimitError(f"{chunk.what} has more than {MAX_ORDINALS} pages; an encrypted file cannot number them")


def _count_pages(source: RangeSource, chunk: Chunk, body_end: int) -> int:
    entry = chunk.entry
    offset = entry.integer(ColumnChunk.OFFSET_INDEX_OFFSET)
    length = entry.integer(ColumnChunk.OFFSET_INDEX_LENGTH)
    if offset is not None and length:
        start = bytes(source.read_range(offset, min(length, _LIST_START_BYTES)))
        try:
            return read_list_start(start)[0]
        except IndexError:
            raise FormatError(f"offset index of {chunk.what} is malformed") from None
    if traits_of(source).seeks_cheaply:
        return _walk_headers(source, chunk, body_end)
    return 0


def _walk_headers(source: RangeSource, chunk: Chunk, body_end: int) -> int:
    """Return how many data pages there are, or fewer where what is left cannot hold too many."""
    place = locate_pages(chunk)
    count, position, end, window_bytes = 0, place.start, place.start + place.declared_bytes, _HEADER_WINDOWS[0]
    while count <= MAX_ORDINALS < count + (end - position) // _SMALLEST_PAGE_BYTES:
        kinds, walked_bytes = _walk_window(source, position, (end, body_end), window_bytes, chunk.what)
        count += len(kinds) - kinds.count(PageType.DICTIONARY)
        position += walked_bytes
        # One read serves several small pages. Of large ones, no more than a header is read.
        window_bytes = _HEADER_WINDOWS[walked_bytes <= len(kinds) * _SMALL_PAGE_BYTES]
    return count


def _walk_window(
    source: RangeSource, position: int, ends: tuple[int, int], window_bytes: int, what: str
) -> tuple[list[int], int]:
    """Return the kinds of the pages whose headers lie in a window, one at least, and the bytes of these pages.

    Args:
        source: the file.
        position: where a page begins.
        ends: where the chunk ends as declared, and where a page may end.
        window_bytes: how many bytes to read first.
        what: what errors call the chunk.
    """
    end, room = ends[0] - position, ends[1] - position
    for length in (window_bytes, _HEADER_WINDOWS[-1]):
        window, at = source.read_range(position, min(length, room)), 0
        kinds: list[int] = []
        while not at or at < min(end, len(window)):
            try:
                page = read_page_header(window, at, what)
            except FormatError:
                if not at and length >= min(room, _HEADER_WINDOWS[-1]):
                    raise
                break
            kinds.append(page.kind)
            at = page.end
        if at:
            return kinds, at
    raise AssertionError("the last window returns or raises")
