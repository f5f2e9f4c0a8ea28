"""Where the chunks of any bytes lie in a Parquet file, in arithmetic. Writing them is left to byte_chunks.

A *chunk* here is a piece of plaintext, not a column chunk. The plaintext form, which exists only in memory::

    "PAR1" || row group || row group || ... || footer        one REQUIRED column `chunk` of type BYTE_ARRAY
    row group   page || ... || page                          64 chunks, fewer in the last one: one row, one page each
                [offset index]                               where pages are compressed, and so of different lengths
    page        page header (Thrift, v1) || body
    body        length (4, little endian) || bytes           PLAIN; under zstd, both compressed together

Without compression all pages but the last are equally long, encrypted too: a page grows by 32 bytes, its header by 32
and by what the larger size takes. So a place in the plaintext tells the row group, the page and its place in the file.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import LimitError, UsageError
from pipecrypt.parquet.footer import MAGIC_BYTES
from pipecrypt.parquet.wire.modules import MAX_ORDINALS, MODULE_OVERHEAD_BYTES
from pipecrypt.parquet.wire.thrift import encode_zigzag

__all__ = [
    "DEFAULT_CHUNK_BYTES",
    "MAX_CHUNK_BYTES",
    "PREFIX_BYTES",
    "ROW_GROUP_CHUNKS",
    "ByteLayout",
    "check_chunk_bytes",
    "choose_chunk_bytes",
    "length_prefix",
    "page_header",
    "sealed_header",
]

ROW_GROUP_CHUNKS: Final = 64
DEFAULT_CHUNK_BYTES: Final = 1 << 20
# A row group is built in memory where its length is not known before, so chunks are bounded.
MAX_CHUNK_BYTES: Final = 16 << 20
PREFIX_BYTES: Final = 4
_CHUNK_STEP_BYTES: Final = 4096
# After the two sizes: one value, encoded PLAIN (0), levels RLE (3) although a required column has none.
_HEADER_END: Final = b"\x2c\x15\x02\x15\x00\x15\x06\x15\x06\x00\x00"


def check_chunk_bytes(chunk_bytes: int) -> None:
    """Check a size of chunks that a user chose.

    Raises:
        UsageError: no multiple of 4096 bytes, or more than `MAX_CHUNK_BYTES`.
    """
    if not is_chunk_size(chunk_bytes):
        raise UsageError(
            f"chunks of {chunk_bytes} bytes are not possible",
            hint=f"choose a multiple of {_CHUNK_STEP_BYTES} bytes, at most {MAX_CHUNK_BYTES}",
        )


def is_chunk_size(chunk_bytes: int) -> bool:
    """Say whether chunks can have this size."""
    return 0 < chunk_bytes <= MAX_CHUNK_BYTES and chunk_bytes % _CHUNK_STEP_BYTES == 0


def choose_chunk_bytes(size_bytes: int, wanted_bytes: int, name: str) -> int:
    """Return the wanted size of chunks, doubled until a file can number the row groups of `size_bytes`.

    Raises:
        UsageError: the wanted size is not possible.
        LimitError: the largest chunks do not suffice.
    """
    check_chunk_bytes(wanted_bytes)
    chunk_bytes = wanted_bytes
    while size_bytes > most_bytes(chunk_bytes):
        chunk_bytes = min(2 * chunk_bytes, MAX_CHUNK_BYTES)
        if chunk_bytes == MAX_CHUNK_BYTES and size_bytes > most_bytes(chunk_bytes):
            raise LimitError(
                f"{name} has {size_bytes} bytes; one file takes {most_bytes(MAX_CHUNK_BYTES)}",
                hint="split it into several files",
            )
    return chunk_bytes


def most_bytes(chunk_bytes: int) -> int:
    """Return how many bytes a file takes in chunks of this size."""
    return MAX_ORDINALS * ROW_GROUP_CHUNKS * chunk_bytes


def length_prefix(plain_bytes: int) -> bytes:
    """Return what PLAIN writes before the bytes of a value."""
    return plain_bytes.to_bytes(PREFIX_BYTES, "little")


def page_header(plain_bytes: int, stored_bytes: int) -> bytes:
    """Return the header of a page.

    Args:
        plain_bytes: of the chunk.
        stored_bytes: of the page's body as it is stored: compressed, encrypted.
    """
    sizes = (encode_zigzag(plain_bytes + PREFIX_BYTES), b"\x15", encode_zigzag(stored_bytes))
    return b"".join((b"\x15\x00\x15", *sizes, _HEADER_END))


def sealed_header(plain_bytes: int, module_bytes: int) -> tuple[bytes, int]:
    """Return the header of an encrypted page whose body is a module of so many bytes, and its own module's length."""
    header = page_header(plain_bytes, module_bytes)
    return header, len(header) + MODULE_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class ByteLayout:
    """How some bytes are cut into chunks, and these into row groups.

    Args:
        size_bytes: of the plaintext.
        chunk_bytes: of each chunk but the last.
    """

    size_bytes: int
    chunk_bytes: int

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.size_bytes // self.chunk_bytes)

    @property
    def row_groups(self) -> int:
        """How many row groups there are."""
        return -(-self.chunks // ROW_GROUP_CHUNKS)

    def rows(self, row_group: int) -> int:
        """Return how many chunks a row group has."""
        return min(ROW_GROUP_CHUNKS, self.chunks - row_group * ROW_GROUP_CHUNKS)

    def plain_bytes(self, chunk: int) -> int:
        """Return the length of a chunk."""
        return min(self.chunk_bytes, self.size_bytes - chunk * self.chunk_bytes)

    def sealed_bounds(self, row_group: int) -> array[int]:
        """Return where the encrypted, uncompressed pages of a row group begin, and where the last one ends."""
        first, rows = row_group * ROW_GROUP_CHUNKS, self.rows(row_group)
        page = _sealed_page_bytes(self.chunk_bytes)
        start = MAGIC_BYTES + first * page
        bounds = array("q", range(start, start + (rows + 1) * page, page))
        bounds[-1] = bounds[-2] + _sealed_page_bytes(self.plain_bytes(first + rows - 1))
        return bounds


def _sealed_page_bytes(plain_bytes: int) -> int:
    module_bytes = plain_bytes + PREFIX_BYTES + MODULE_OVERHEAD_BYTES
    return sealed_header(plain_bytes, module_bytes)[1] + module_bytes
