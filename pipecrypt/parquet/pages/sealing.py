"""Seal and open a column chunk's pages, without decoding any, window by window.

Layout of a page, plain and encrypted::

    page header (Thrift)                                     || page (compressed_page_size bytes)
    module of the header, its compressed_page_size adjusted  || module of the page
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from array import array
from typing import Final, NamedTuple

from pipecrypt.crypto.aead import NONCE_BYTES, MessageCipher, random_bytes
from pipecrypt.errors import FormatError, IntegrityError
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import Chunk, locate_pages
from pipecrypt.parquet.pages.headers import (
    FIRST_NEEDED_BYTES,
    Page,
    PageWalk,
    check_page,
    read_page_header,
    resized_header,
    resized_usual_header,
)
from pipecrypt.parquet.wire.fields import PageType
from pipecrypt.parquet.wire.modules import (
    CTR_OVERHEAD_BYTES,
    LENGTH_BYTES,
    MAX_ORDINALS,
    MODULE_OVERHEAD_BYTES,
    PageAADs,
    not_authentic,
    open_module,
    start_module,
)
from pipecrypt.parquet.wire.thrift import encode_varint
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "PageBounds",
    "PageOpener",
    "PageSealer",
    "open_pages",
    "sealed_bound",
]

# The varints of compressed_page_size and crc may each grow by four bytes.
_HEADER_GROWTH_BYTES: Final = 8
_MOST_FIRST_HEADER_BYTES: Final = 1 << 20
_DICTIONARY: Final = PageType.DICTIONARY
_read_length: Final = struct.Struct("<I").unpack_from
_pairs_of_nonces: Final = struct.Struct(f"{NONCE_BYTES}s{NONCE_BYTES}s").iter_unpack


class PageBounds(NamedTuple):
    """Where the pages of a chunk begin, and where the last one ends, relative to the chunk: before and after.

    Arrays of 64-bit integers, one longer than there are pages: a file may have millions of them.
    """

    old: array[int]
    new: array[int]
    has_dictionary: bool


def sealed_bound(pages: list[Page]) -> int:
    """Return an upper bound of the bytes that `PageSealer.seal` writes."""
    return pages[-1].end + len(pages) * (2 * MODULE_OVERHEAD_BYTES + _HEADER_GROWTH_BYTES)


class PageSealer:
    """Seals the pages of one chunk, one window of them after another; `bounds` says where they are now.

    Args:
        cipher: of the chunk.
        aads: of the chunk.
    """

    __slots__ = ("_aads", "_encrypt_into", "_ordinal", "bounds")

    def __init__(self, cipher: MessageCipher, aads: PageAADs) -> None:
        """Begin at the chunk's first page."""
        self._encrypt_into = cipher.encrypt_into
        self._aads = aads
        self._ordinal = 0
        self.bounds = PageBounds(array("q", (0,)), array("q", (0,)), has_dictionary=False)

    def seal(self, window: memoryview, pages: list[Page], out: memoryview) -> int:
        """Seal the next pages, which lie in `window`, into `out`; return how many bytes they take.

        Nonces are drawn in one call for all of them: they are random and never used twice (SP 800-38D 8.2.2).
        """
        old, new, encrypt_into, aads = self.bounds.old, self.bounds.new, self._encrypt_into, self._aads
        old_start, new_start, position, ordinal = old[-1], new[-1], 0, self._ordinal
        nonces = _pairs_of_nonces(random_bytes(2 * NONCE_BYTES * len(pages)))
        for page, (header_nonce, page_nonce) in zip(pages, nonces, strict=True):
            body, end, kind, _, head, tail, crc, *_ = page
            if kind == _DICTIONARY:
                self.bounds = self.bounds._replace(has_dictionary=True)
                header_aad, page_aad = aads.dictionary_header, aads.dictionary
            else:
                suffix = ordinal.to_bytes(2, "little")  # without a call, since a file has very many pages
                header_aad, page_aad = aads.data_header_start + suffix, aads.data_start + suffix
                ordinal += 1
            plain, sealed_bytes = window[body:end], end - body + MODULE_OVERHEAD_BYTES
            header = head + encode_varint(sealed_bytes << 1) + tail
            module = position + len(header) + MODULE_OVERHEAD_BYTES
            start_module(out, module, sealed_bytes - LENGTH_BYTES, page_nonce)
            next_position = module + sealed_bytes
            encrypt_into(page_nonce, plain, page_aad, out[module + CTR_OVERHEAD_BYTES : next_position])
            if crc is not None:
                checksum = _moved_checksum(crc, plain, out[module:next_position])
                header = resized_header(page, sealed_bytes, checksum)
                module = _shifted(out, module, position + len(header) + MODULE_OVERHEAD_BYTES, sealed_bytes)
                next_position = module + sealed_bytes
            start_module(out, position, module - position - LENGTH_BYTES, header_nonce)
            encrypt_into(header_nonce, header, header_aad, out[position + CTR_OVERHEAD_BYTES : module])
            position = next_position
            old.append(old_start + end)
            new.append(new_start + position)
        self._ordinal = ordinal
        return position


def _moved_checksum(old: int, old_bytes: memoryview, new_bytes: memoryview) -> int:
    # A checksum that was wrong stays wrong by the same bits, so that a damaged page is still seen, and decrypting
    # gives back the very bytes that were encrypted.
    moved = (old & 0xFFFFFFFF) ^ zlib.crc32(old_bytes) ^ zlib.crc32(new_bytes)
    return moved - 2**32 if moved >= 2**31 else moved


def _shifted(out: memoryview, start: int, new_start: int, length: int) -> int:
    if new_start != start:  # the new checksum's varint has another length
        out[new_start : new_start + length] = bytes(out[start : start + length])
    return new_start


class PageOpener(PageWalk):
    """Opens the pages of one encrypted chunk, one window of them after another; `bounds` says where they are now.

    Args:
        declared_bytes: as for `PageWalk`.
        num_values: likewise.
        room_bytes: likewise.
        cipher: of the chunk.
        aads: of the chunk.
        ctr: pages are AES-CTR modules.
        what: what errors call the chunk.
    """

    def __init__(
        self,
        declared_bytes: int,
        num_values: int,
        *,
        room_bytes: int,
        cipher: MessageCipher,
        aads: PageAADs,
        ctr: bool,
        what: str,
    ) -> None:
        """Begin at the chunk's first page."""
        super().__init__(declared_bytes, num_values, room_bytes=room_bytes, what=what)
        self._cipher = cipher
        self._aads = aads
        self._is_ctr = ctr
        self.bounds = PageBounds(array("q", (0,)), array("q", (0,)), has_dictionary=False)

    def open(self, window: memoryview, out: memoryview) -> int:
        """Open the whole pages in `window`, which begins at `position`; return how many bytes they take in `out`.

        `out` is as long as `window`. Where that holds no whole page, one of `needed_bytes` brings the opening forward.

        Raises:
            FormatError: truncated or malformed.
            IntegrityError: a module was not written with this key at this place.
        """
        first, written, at, room, needed = self.position, 0, 0, self.room_bytes, FIRST_NEEDED_BYTES
        window_bytes, old, declared = len(window), self.bounds.old, self._declared_bytes - first
        while at < declared or (self._missing_values > 0 and at < room):
            body = self._module_end(window, at, room)
            end = self._module_end(window, body, room) if body <= window_bytes else body + CTR_OVERHEAD_BYTES
            if end > window_bytes:
                needed = end - at
                break
            header, page_aad = self._open_header(window[at:body])
            sealed, rest = window[body:end], out[written:]
            written += self._open_usual(header, page_aad, sealed, rest) or self._open_page(
                header, page_aad, sealed, rest
            )
            at = end
            self.position = first + end
            old.append(first + end)
        self.needed_bytes = min(needed, self.room_bytes)
        return written

    def _open_usual(self, header: bytes, page_aad: bytes, sealed: memoryview, out: memoryview) -> int:
        """Open a data page with a usual header into `out`, as most are; return its bytes, or 0 for any other page."""
        usual = None if self._is_ctr else resized_usual_header(header, MODULE_OVERHEAD_BYTES)
        if usual is None:
            return 0
        plain_header, plain_bytes, values = usual
        body = len(plain_header)
        if len(sealed) != plain_bytes + MODULE_OVERHEAD_BYTES:
            return 0
        end = body + plain_bytes
        self._open_body(sealed, page_aad, out[body:end])
        out[:body] = plain_header
        self._data_pages += 1
        self._missing_values -= values
        new = self.bounds.new
        new.append(new[-1] + end)
        return end

    def _module_end(self, window: memoryview, start: int, room: int) -> int:
        """Return where the module at `start` ends, or a place behind a window that its length field is not in."""
        end = start + CTR_OVERHEAD_BYTES
        if end <= len(window):
            end = start + LENGTH_BYTES + _read_length(window, start)[0]
        if end > room or start + CTR_OVERHEAD_BYTES > room:
            raise FormatError(f"{self._name} is truncated or malformed")
        return end

    def _open_page(self, header: bytes, page_aad: bytes, sealed: memoryview, out: memoryview) -> int:
        """Open any page into `out`; return its bytes, header included."""
        page = read_page_header(header, 0, self._what)
        check_page(page, is_first=not self.position, what=self._what)
        overhead = CTR_OVERHEAD_BYTES if self._is_ctr else MODULE_OVERHEAD_BYTES
        if len(sealed) != page.end - page.body or len(sealed) < overhead:
            raise FormatError(f"{self._name} has a module length that its header contradicts")
        plain_bytes = len(sealed) - overhead
        plain_header = resized_header(page, plain_bytes)
        body = len(plain_header)
        end = body + plain_bytes
        self._open_body(sealed, page_aad, out[body:end])
        if page.crc is not None:
            checksum = _moved_checksum(page.crc, sealed, out[body:end])
            plain_header = resized_header(page, plain_bytes, checksum)
            body = _shifted(out, body, len(plain_header), plain_bytes)
            end = body + plain_bytes
        out[:body] = plain_header
        self._count(page)
        self.bounds.new.append(self.bounds.new[-1] + end)
        return end

    @property
    def _name(self) -> str:
        return f"{self._what} page {self._data_pages}"

    def _open_header(self, module: memoryview) -> tuple[bytes, bytes]:
        """Return a page's header, and the AAD of the page itself."""
        aads, ordinal = self._aads, self._data_pages
        if ordinal > MAX_ORDINALS:
            raise FormatError(f"{self._name} has more than {MAX_ORDINALS} pages")
        if len(module) < MODULE_OVERHEAD_BYTES:
            raise FormatError(f"{self._name} has a wrong module length")
        nonce, sealed = module[LENGTH_BYTES:CTR_OVERHEAD_BYTES], module[CTR_OVERHEAD_BYTES:]
        if not self.position:
            # Offsets say unreliably whether a dictionary page comes first; the AAD of its header says it for certain.
            with contextlib.suppress(IntegrityError):
                return self._cipher.open(nonce, sealed, aads.dictionary_header), aads.dictionary
        suffix = ordinal.to_bytes(2, "little")
        try:
            return self._cipher.open(nonce, sealed, aads.data_header_start + suffix), aads.data_start + suffix
        except IntegrityError:
            raise not_authentic(self._name) from None

    def _open_body(self, module: memoryview, aad: bytes, out: memoryview) -> None:
        nonce, sealed = module[LENGTH_BYTES:CTR_OVERHEAD_BYTES], module[CTR_OVERHEAD_BYTES:]
        if self._is_ctr:
            out[:] = self._cipher.decrypt_ctr(bytes(nonce), sealed)
            return
        try:
            self._cipher.decrypt_into(nonce, sealed, aad, out)
        except IntegrityError:
            raise not_authentic(self._name) from None

    def _count(self, page: Page) -> None:
        if page.kind == PageType.DICTIONARY:
            self.bounds = self.bounds._replace(has_dictionary=True)
        else:
            self._data_pages += 1
            self._missing_values -= page.values


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
    opener = PageOpener(declared_bytes, num_values, room_bytes=len(chunk), cipher=cipher, aads=aads, ctr=ctr, what=what)
    opener.open(chunk, out)
    return opener.bounds


def check_first_page(source: RangeSource, opened: OpenedFile) -> None:
    """Check that the first page that these keys open was written in this file; a file without such a page passes.

    Raises:
        FormatError: truncated or malformed.
        IntegrityError: it was not written with its key at its place.
    """
    for chunk in opened.each_chunk():
        is_open = chunk.is_sealed and chunk.ordinals not in opened.locked
        if is_open and locate_pages(chunk).declared_bytes > 0:
            _open_first_header(source, opened, chunk)
            return


def _open_first_header(source: RangeSource, opened: OpenedFile, chunk: Chunk) -> None:
    start, what = locate_pages(chunk).start, f"first page of {chunk.what}"
    length = LENGTH_BYTES + int.from_bytes(source.read_range(start, LENGTH_BYTES), "little")
    if length > _MOST_FIRST_HEADER_BYTES:
        raise IntegrityError(f"the {what} has a header of {length} bytes")
    module, aads = memoryview(bytes(source.read_range(start, length))), opened.aad.pages(*chunk.ordinals)
    cipher = opened.cipher(chunk)
    try:
        open_module(cipher, module, aads.dictionary_header, what)
    except IntegrityError:  # it has no dictionary
        open_module(cipher, module, aads.data_page(0)[0], what)
