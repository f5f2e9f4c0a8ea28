"""Walk a column chunk's pages, seal and open them, without decoding any. Reading chunks is left to the walks.

Layout of a page, plain and encrypted::

    page header (Thrift)                                     || page (compressed_page_size bytes)
    module of the header, its compressed_page_size adjusted  || module of the page

A header is patched, not parsed into a tree: the bytes of two varints change, the rest stays as it was.
"""

from __future__ import annotations

import re
import zlib
from array import array
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipecrypt.crypto.aead import NONCE_BYTES, MessageCipher, random_bytes
from pipecrypt.errors import FormatError, IntegrityError, LimitError, UnsupportedError
from pipecrypt.parquet.modules import (
    CTR_OVERHEAD_BYTES,
    LENGTH_BYTES,
    MODULE_OVERHEAD_BYTES,
    FileAAD,
    ModuleType,
    module_bytes,
    open_into,
)
from pipecrypt.parquet.names import PageHeader, PageType
from pipecrypt.parquet.thrift import WireType, encode_varint, encode_zigzag
from pipecrypt.parquet.thrift_read import skip_value

__all__ = [
    "MAX_PAGES",
    "Page",
    "PageAADs",
    "PageBounds",
    "open_pages",
    "read_page_header",
    "scan_pages",
    "seal_pages",
    "sealed_bound",
]

MAX_PAGES: Final = 32_767  # page ordinals are signed 16 bits (Encryption.md 4.4.2)
_MAX_PAGE_BYTES: Final = 2**31 - 1 - MODULE_OVERHEAD_BYTES
# The varints of compressed_page_size and crc may each grow by four bytes.
_HEADER_GROWTH_BYTES: Final = 8
_NO_VALUE: Final = -1
# A data page's header as most writers write it, without checksum and statistics: type, two sizes, then values and three
# encodings. Matched at once, because a file has as many of these as it has pages; all others are walked.
_USUAL_HEADER: Final = re.compile(
    rb"\x15\x00\x15[\x80-\xff]{0,4}[\x00-\x7f]\x15([\x80-\xff]{0,4}[\x00-\x7f])"
    rb"\x2c\x15([\x80-\xff]{0,4}[\x00-\x7f])\x15[\x00-\x7f]\x15[\x00-\x7f]\x15[\x00-\x7f]\x00\x00"
)
_USUAL_HEADER_BYTES: Final = 1024


class Page(NamedTuple):
    """Where a page stands in its chunk, and what encryption must know of its header."""

    start: int
    body: int
    end: int
    kind: int
    size_start: int
    size_end: int
    crc: int | None
    crc_start: int
    crc_end: int
    values: int


class PageBounds(NamedTuple):
    """Where the pages of a chunk begin, and where the last one ends, relative to the chunk: before and after.

    Arrays of 64-bit integers, one longer than there are pages: a file may have millions of them.
    """

    old: array[int]
    new: array[int]
    has_dictionary: bool


@dataclass(slots=True)
class PageAADs:
    """The AADs of one column chunk's pages.

    Args:
        file_aad: makes the file's AADs.
        row_group: ordinal of the row group.
        column: ordinal of the column.
    """

    file_aad: FileAAD
    row_group: int
    column: int
    dictionary_header: bytes = field(init=False)
    dictionary: bytes = field(init=False)
    data_header_start: bytes = field(init=False)
    data_start: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Compute what all pages share."""
        make, place = self.file_aad.module, (self.row_group, self.column)
        self.dictionary_header = make(ModuleType.DICTIONARY_PAGE_HEADER, *place)
        self.dictionary = make(ModuleType.DICTIONARY_PAGE, *place)
        self.data_header_start = make(ModuleType.DATA_PAGE_HEADER, *place)
        self.data_start = make(ModuleType.DATA_PAGE, *place)


def read_page_header(data: memoryview, start: int, what: str) -> Page:
    """Return the page whose header stands at `start`.

    Raises:
        FormatError: truncated or malformed; a page may still end behind the end of `data`.
    """
    try:
        match = _USUAL_HEADER.match(data, start)
        page = _read_header(data, start) if match is None else _usual_page(data, start, match)
    except IndexError:
        raise FormatError(f"{what} has a truncated or malformed page header") from None
    if page.kind < 0 or page.size_start < 0 or page.end < page.body:
        raise FormatError(f"{what} has a malformed page header")
    return page


def _usual_page(data: memoryview, start: int, match: re.Match[bytes]) -> Page:
    body, (size_start, size_end) = match.end(), match.span(1)
    size, _ = _read_i32(data, size_start)
    values, _ = _read_i32(data, match.start(2))
    return Page(start, body, body + size, PageType.DATA, size_start, size_end, None, _NO_VALUE, _NO_VALUE, values)


def _read_header(data: memoryview, start: int) -> Page:  # the hot loop: one pass, no objects
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
    position += 1
    return Page(start, position, position + size, kind, size_start, size_end, crc, crc_start, crc_end, values)


def _read_i32(data: memoryview, position: int) -> tuple[int, int]:
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


def scan_pages(chunk: memoryview, declared_bytes: int, num_values: int, what: str) -> list[Page]:
    """Return the pages, at least one, of a plaintext chunk that begins at the start of `chunk`.

    Args:
        chunk: the declared bytes, and more where a gap follows: writers before parquet-mr 1.2.9 left the dictionary
            page's header out of the declared size (PARQUET-816).
        declared_bytes: total_compressed_size.
        num_values: of the whole chunk.
        what: what errors call the chunk.

    Raises:
        FormatError: truncated or malformed.
        LimitError: more pages than an encrypted chunk can number.
        UnsupportedError: an index page, which has no module type.
    """
    pages: list[Page] = []
    position = values = data_pages = 0
    while position < declared_bytes or (values < num_values and position < len(chunk)):
        page = read_page_header(chunk, position, what)
        if page.end > len(chunk):
            raise FormatError(f"{what} has a page that ends behind the chunk")
        _check_kind(page, is_first=not pages, what=what)
        if page.kind != PageType.DICTIONARY:
            data_pages += 1
            values += page.values
        pages.append(page)
        position = page.end
        if data_pages > MAX_PAGES:
            raise LimitError(f"{what} has more than {MAX_PAGES} pages, which an encrypted file cannot number")
    return pages


def _check_kind(page: Page, *, is_first: bool, what: str) -> None:
    if page.kind == PageType.DICTIONARY:
        if not is_first:
            raise FormatError(f"{what} has a dictionary page that is not its first page")
    elif page.kind == PageType.INDEX:
        raise UnsupportedError(f"{what} has an index page, which cannot be encrypted")
    elif page.kind not in (PageType.DATA, PageType.DATA_V2) or page.values < 0:
        raise FormatError(f"{what} has a page of unknown type {page.kind}")
    if page.end - page.body > _MAX_PAGE_BYTES:
        raise LimitError(f"{what} has a page of more than {_MAX_PAGE_BYTES} bytes")


def sealed_bound(pages: list[Page]) -> int:
    """Return an upper bound of the bytes that `seal_pages` writes."""
    return pages[-1].end + len(pages) * (2 * MODULE_OVERHEAD_BYTES + _HEADER_GROWTH_BYTES)


def seal_pages(
    chunk: memoryview, pages: list[Page], out: memoryview, cipher: MessageCipher, aads: PageAADs
) -> PageBounds:
    """Seal all pages of a chunk into `out`; return where they are now.

    Nonces are drawn in one call for the whole chunk: they are random and never used twice (SP 800-38D 8.2.2).
    """
    nonces = random_bytes(2 * NONCE_BYTES * len(pages))
    encrypt_into, bounds, position, ordinal, drawn = cipher.encrypt_into, array("q", (0,)), 0, 0, 0
    for page in pages:
        body, end = page.body, page.end
        if page.kind == PageType.DICTIONARY:
            header_aad, page_aad = aads.dictionary_header, aads.dictionary
        else:
            suffix = ordinal.to_bytes(2, "little")
            header_aad, page_aad = aads.data_header_start + suffix, aads.data_start + suffix
            ordinal += 1
        page_nonce = nonces[drawn : drawn + NONCE_BYTES]
        header_nonce = nonces[drawn + NONCE_BYTES : drawn + 2 * NONCE_BYTES]
        drawn += 2 * NONCE_BYTES
        sealed_bytes = end - body + MODULE_OVERHEAD_BYTES
        header = _resized(chunk, page, sealed_bytes)
        module = position + len(header) + MODULE_OVERHEAD_BYTES
        _start_module(out, module, sealed_bytes, page_nonce)
        encrypt_into(page_nonce, chunk[body:end], page_aad, out[module + CTR_OVERHEAD_BYTES : module + sealed_bytes])
        if page.crc is not None:
            checksum = _moved_checksum(page.crc, chunk[body:end], out[module : module + sealed_bytes])
            header = _with_checksum(chunk, page, sealed_bytes, checksum)
            module = _shifted(out, module, position + len(header) + MODULE_OVERHEAD_BYTES, sealed_bytes)
        _start_module(out, position, module - position, header_nonce)
        encrypt_into(header_nonce, header, header_aad, out[position + CTR_OVERHEAD_BYTES : module])
        position = module + sealed_bytes
        bounds.append(position)
    old = array("q", [page.start for page in pages])
    old.append(pages[-1].end)
    return PageBounds(old, bounds, pages[0].kind == PageType.DICTIONARY)


def _start_module(out: memoryview, start: int, total_bytes: int, nonce: bytes) -> None:
    out[start : start + CTR_OVERHEAD_BYTES] = (total_bytes - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little") + nonce


def _resized(data: memoryview, page: Page, new_bytes: int) -> bytes:
    return b"".join(
        (data[page.start : page.size_start], encode_varint(new_bytes << 1), data[page.size_end : page.body])
    )


def _with_checksum(data: memoryview, page: Page, new_bytes: int, checksum: int) -> bytes:
    if page.size_end > page.crc_start:
        raise FormatError("a page header has its fields in no ascending order")
    return b"".join(
        (
            data[page.start : page.size_start],
            encode_varint(new_bytes << 1),
            data[page.size_end : page.crc_start],
            encode_zigzag(checksum),
            data[page.crc_end : page.body],
        )
    )


def _moved_checksum(old: int, old_bytes: memoryview, new_bytes: memoryview) -> int:
    # A checksum that was wrong stays wrong by the same bits, so that a damaged page is still seen, and decrypting
    # gives back the very bytes that were encrypted.
    moved = (old & 0xFFFFFFFF) ^ zlib.crc32(old_bytes) ^ zlib.crc32(new_bytes)
    return moved - 2**32 if moved >= 2**31 else moved


def _shifted(out: memoryview, start: int, new_start: int, length: int) -> int:
    if new_start != start:  # the new checksum's varint has another length
        out[new_start : new_start + length] = bytes(out[start : start + length])
    return new_start


def open_pages(
    chunk: memoryview,
    declared_bytes: int,
    num_values: int,
    *,
    out: memoryview,
    cipher: MessageCipher,
    aads: PageAADs,
    ctr: bool,
    what: str,
) -> PageBounds:
    """Open all pages of an encrypted chunk into `out`, which is as long as `chunk`; return where they are now.

    Raises:
        FormatError: truncated or malformed.
        IntegrityError: a module was not written with this key at this place.
    """
    old, new, has_dictionary = array("q", (0,)), array("q", (0,)), False
    position = written = values = ordinal = 0
    open_body = _open_ctr if ctr else open_into
    room = memoryview(bytearray(_USUAL_HEADER_BYTES))
    overhead = CTR_OVERHEAD_BYTES if ctr else MODULE_OVERHEAD_BYTES
    while position < declared_bytes or (values < num_values and position < len(chunk)):
        name = f"{what} page {ordinal}"
        sealed_header = module_bytes(chunk, position, name)
        if sealed_header - MODULE_OVERHEAD_BYTES > len(room):
            room = memoryview(bytearray(sealed_header))
        start = position + sealed_header
        header = room[: max(0, sealed_header - MODULE_OVERHEAD_BYTES)]
        page_aad = _open_header(chunk[position:start], ordinal, cipher, aads, header, name, is_first=position == 0)
        page = read_page_header(header, 0, name)
        _check_kind(page, is_first=position == 0, what=name)
        sealed_bytes = module_bytes(chunk, start, name)
        if sealed_bytes != page.end - page.body or sealed_bytes < overhead:
            raise FormatError(f"{name} has a module length that its header contradicts")
        plain_bytes = sealed_bytes - overhead
        sealed = chunk[start : start + sealed_bytes]
        plain_header = _resized(header, page, plain_bytes)
        body = written + len(plain_header)
        open_body(cipher, sealed, page_aad, out[body : body + plain_bytes], name)
        if page.crc is not None:
            checksum = _moved_checksum(page.crc, sealed, out[body : body + plain_bytes])
            plain_header = _with_checksum(header, page, plain_bytes, checksum)
            body = _shifted(out, body, written + len(plain_header), plain_bytes)
        out[written:body] = plain_header
        position, written = start + sealed_bytes, body + plain_bytes
        old.append(position)
        new.append(written)
        if page.kind == PageType.DICTIONARY:
            has_dictionary = True
        else:
            ordinal, values = ordinal + 1, values + page.values
    return PageBounds(old, new, has_dictionary)


def _open_header(  # noqa: PLR0917  # the loop's own state
    module: memoryview,
    ordinal: int,
    cipher: MessageCipher,
    aads: PageAADs,
    out: memoryview,
    what: str,
    *,
    is_first: bool,
) -> bytes:
    """Open a page's header into `out`; return the AAD of the page itself."""
    if ordinal > MAX_PAGES:
        raise FormatError(f"{what} has more than {MAX_PAGES} pages")
    if len(module) < MODULE_OVERHEAD_BYTES:
        raise FormatError(f"{what} has a wrong module length")
    suffix = ordinal.to_bytes(2, "little")
    if is_first and _opens_as_dictionary(cipher, module, aads, out, what):
        return aads.dictionary
    open_into(cipher, module, aads.data_header_start + suffix, out, what)
    return aads.data_start + suffix


def _opens_as_dictionary(
    cipher: MessageCipher, module: memoryview, aads: PageAADs, header: memoryview, what: str
) -> bool:
    # Offsets say unreliably whether a dictionary page comes first; the AAD of its header says it for certain.
    try:
        open_into(cipher, module, aads.dictionary_header, header, what)
    except IntegrityError:
        return False
    return True


def _open_ctr(cipher: MessageCipher, module: memoryview, aad: bytes, out: memoryview, what: str) -> None:
    nonce = bytes(module[LENGTH_BYTES:CTR_OVERHEAD_BYTES])
    out[:] = cipher.decrypt_ctr(nonce, module[CTR_OVERHEAD_BYTES:])
