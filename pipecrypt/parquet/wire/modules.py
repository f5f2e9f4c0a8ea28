"""Parquet's encrypted modules: their AADs, sealing and opening.

Layout of a module (Encryption.md 5.2.1 and 5.2.2; lengths in bytes)::

    AES_GCM_V1             length (4, little endian) || nonce (12) || ciphertext || tag (16)
    AES_GCM_CTR_V1, pages  length (4, little endian) || nonce (12) || ciphertext

`length` counts what follows it. AAD of a module (Encryption.md 4.4)::

    AAD prefix || file unique id || module type (1) || row group (2) || column (2) || page (2)

with ordinals little endian, each left out where the module has none: the footer has none, only data pages and their
headers have a page.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from pipecrypt.crypto.aead import NONCE_BYTES, TAG_BYTES, MessageCipher, random_bytes
from pipecrypt.errors import FormatError, IntegrityError

__all__ = [
    "CTR_OVERHEAD_BYTES",
    "FOOTER_SIGNATURE_BYTES",
    "LENGTH_BYTES",
    "MAX_ORDINALS",
    "MODULE_OVERHEAD_BYTES",
    "FileAAD",
    "ModuleType",
    "PageAADs",
    "check_footer_signature",
    "check_module",
    "module_bytes",
    "not_authentic",
    "open_into",
    "open_module",
    "seal_module",
    "seal_pieces",
    "sign_pieces",
    "start_module",
]

LENGTH_BYTES: Final = 4
CTR_OVERHEAD_BYTES: Final = LENGTH_BYTES + NONCE_BYTES
MODULE_OVERHEAD_BYTES: Final = CTR_OVERHEAD_BYTES + TAG_BYTES
FOOTER_SIGNATURE_BYTES: Final = NONCE_BYTES + TAG_BYTES
# Row groups, columns and the data pages of a chunk are numbered in signed 16 bits (Encryption.md 4.4.2).
MAX_ORDINALS: Final = 32_767
_PIECE_BYTES: Final = 64 * 1024


class ModuleType(IntEnum):
    """Module types (Encryption.md 4.4.2)."""

    FOOTER = 0
    COLUMN_META_DATA = 1
    DATA_PAGE = 2
    DICTIONARY_PAGE = 3
    DATA_PAGE_HEADER = 4
    DICTIONARY_PAGE_HEADER = 5
    COLUMN_INDEX = 6
    OFFSET_INDEX = 7
    BLOOM_FILTER_HEADER = 8
    BLOOM_FILTER_BITSET = 9


_NOTES_TYPE: Final = b"\x7f"
_TYPE_BYTES: Final = tuple(bytes((module_type,)) for module_type in ModuleType)


class PageAADs(NamedTuple):
    """The AADs of one column chunk's pages; of data pages and their headers, what comes before the page's ordinal."""

    dictionary_header: bytes
    dictionary: bytes
    data_header_start: bytes
    data_start: bytes

    def data_page(self, ordinal: int) -> tuple[bytes, bytes]:
        """Return the AADs of a data page's header and of the page."""
        suffix = ordinal.to_bytes(2, "little")
        return self.data_header_start + suffix, self.data_start + suffix


class FileAAD:
    """Makes the AADs of one file.

    Args:
        prefix: the AAD prefix, stored or supplied; b"" where the file has none.
        file_unique: the file's random id.
    """

    __slots__ = ("_start",)

    def __init__(self, prefix: bytes, file_unique: bytes) -> None:
        """Keep the part that all modules share."""
        self._start = prefix + file_unique

    def footer(self) -> bytes:
        """Return the footer's AAD."""
        return self._start + bytes((ModuleType.FOOTER,))

    def notes(self) -> bytes:
        """Return the AAD of the sealed key-value metadata: of a type of our own, far from those of the format."""
        return self._start + _NOTES_TYPE

    def module(self, module_type: ModuleType, row_group: int, column: int) -> bytes:
        """Return the AAD of a module without page ordinal, or what comes before the page ordinal of one with it."""
        ordinals = row_group.to_bytes(2, "little", signed=True) + column.to_bytes(2, "little", signed=True)
        return self._start + _TYPE_BYTES[module_type] + ordinals

    def pages(self, row_group: int, column: int) -> PageAADs:
        """Return the AADs of a chunk's pages."""
        return PageAADs(
            self.module(ModuleType.DICTIONARY_PAGE_HEADER, row_group, column),
            self.module(ModuleType.DICTIONARY_PAGE, row_group, column),
            self.module(ModuleType.DATA_PAGE_HEADER, row_group, column),
            self.module(ModuleType.DATA_PAGE, row_group, column),
        )


# Writes a module's length field and nonce: (buffer, place, length that follows the field, nonce).
start_module: Final = struct.Struct(f"<I{NONCE_BYTES}s").pack_into


def seal_module(cipher: MessageCipher, plaintext: bytes | memoryview, aad: bytes) -> bytes:
    """Return the GCM module of a small piece: a header, an index, metadata."""
    length = len(plaintext) + MODULE_OVERHEAD_BYTES - LENGTH_BYTES
    return length.to_bytes(LENGTH_BYTES, "little") + cipher.seal(plaintext, aad)


def open_module(cipher: MessageCipher, module: memoryview, aad: bytes, what: str) -> bytes:
    """Return the plaintext of a GCM module that fills `module`.

    Raises:
        FormatError: the length does not fit.
        IntegrityError: not written with this key at this place.
    """
    check_module(module, what)
    try:
        return cipher.open(module[LENGTH_BYTES:CTR_OVERHEAD_BYTES], module[CTR_OVERHEAD_BYTES:], aad)
    except IntegrityError:
        raise not_authentic(what) from None


def open_into(cipher: MessageCipher, module: memoryview, aad: bytes, out: memoryview, what: str) -> None:
    """Open a GCM module of checked length into `out`, which is as long as the plaintext.

    Raises:
        IntegrityError: not written with this key at this place.
    """
    try:
        cipher.decrypt_into(module[LENGTH_BYTES:CTR_OVERHEAD_BYTES], module[CTR_OVERHEAD_BYTES:], aad, out)
    except IntegrityError:
        raise not_authentic(what) from None


def not_authentic(what: str) -> IntegrityError:
    """Return the error for a module that was not written with this key at this place."""
    return IntegrityError(f"{what} does not authenticate: wrong key, or changed after it was written")


def check_module(module: memoryview, what: str) -> None:
    """Check that a GCM module fills `module`.

    Raises:
        FormatError: the length does not fit.
    """
    if module_bytes(module, 0, what) != len(module) or len(module) < MODULE_OVERHEAD_BYTES:
        raise FormatError(f"{what} has a wrong module length")


def module_bytes(data: memoryview, position: int, what: str) -> int:
    """Return how many bytes the module at `position` takes, its length field included.

    Raises:
        FormatError: the module ends behind the end of `data`.
    """
    length = int.from_bytes(data[position : position + LENGTH_BYTES], "little") + LENGTH_BYTES
    if position + length > len(data) or position + CTR_OVERHEAD_BYTES > len(data):
        raise FormatError(f"{what} is truncated or malformed")
    return length


def seal_pieces(cipher: MessageCipher, pieces: Callable[[], Iterator[bytes]], aad: bytes) -> Iterator[bytes]:
    """Yield the GCM module of a large piece. `pieces` is called twice, because the length comes first."""
    nonce = random_bytes(NONCE_BYTES)
    encryptor, length = cipher.encrypt_pieces(nonce, aad), sum(map(len, pieces()))
    yield (length + MODULE_OVERHEAD_BYTES - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little") + nonce
    yield from map(encryptor.update, pieces())
    yield encryptor.tag()


def sign_pieces(cipher: MessageCipher, pieces: Iterable[bytes], aad: bytes) -> Iterator[bytes]:
    """Yield the pieces of a plaintext footer, then its signature nonce || tag (Encryption.md 5.4.2).

    Only holders of the footer key can check it.
    """
    nonce = random_bytes(NONCE_BYTES)
    encryptor = cipher.encrypt_pieces(nonce, aad)
    for piece in pieces:
        encryptor.update(piece)  # the ciphertext is thrown away: the footer itself is stored
        yield piece
    yield nonce + encryptor.tag()


def check_footer_signature(
    cipher: MessageCipher, footer: memoryview, signature: memoryview, aad: bytes, name: str
) -> None:
    """Check nonce || tag over a plaintext footer.

    Raises:
        IntegrityError: footer, AAD or key differ from those that signed.
    """
    encryptor = cipher.encrypt_pieces(bytes(signature[:NONCE_BYTES]), aad)
    for start in range(0, len(footer), _PIECE_BYTES):
        encryptor.update(footer[start : start + _PIECE_BYTES])
    if not hmac.compare_digest(encryptor.tag(), bytes(signature[NONCE_BYTES:])):
        raise IntegrityError(
            f"footer of {name} does not match its signature: wrong key, or changed after it was written"
        )
