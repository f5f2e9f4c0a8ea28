"""What the engine asks of the world beside sources (vocabulary/ranges.py): a place to append, data keys, a codec."""

from __future__ import annotations

from typing import Protocol

from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "AppendSink",
    "ByteStream",
    "CopiesRanges",
    "DataKeys",
    "PageCodec",
]


class ByteStream(Protocol):
    """Bytes of unknown number, read front to back; binary files of Python fit."""

    def readinto(self, out: memoryview, /) -> int | None:
        """Fill some of `out` and return how much; 0 at the end. Waits for bytes rather than return None."""


class PageCodec(Protocol):
    """Compresses pages as Parquet's codec ZSTD does, each by itself; on several threads at once."""

    def compress(self, data: memoryview) -> bytes | memoryview:
        """Return the compressed form."""

    def decompress(self, data: memoryview, plain_bytes: int) -> bytes | memoryview:
        """Return the plaintext of authenticated bytes.

        Raises:
            FormatError: malformed, or not exactly `plain_bytes` long.
        """


class AppendSink(Protocol):
    """A new file, written front to back. Whether it appears is the publisher's business."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`; the buffer may be reused after the call.

        Raises:
            StorageError: the storage failed.
        """


class CopiesRanges(AppendSink, Protocol):
    """A second power of an AppendSink: the system copies from another file, and nobody sees the bytes."""

    def copy_range(self, descriptor: int, start: int, length: int) -> None:
        """Append a range of an open file; raises what `write` raises, and FormatError where the file is shorter."""


class DataKeys(Protocol):
    """Makes data keys while writing and finds them while reading."""

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit data key and the `key_metadata` that lets a reader find it again."""

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        """Return the data key that `key_metadata` stands for; b"" where the file stores none.

        Raises:
            KeyNotFoundError: none of the configured keys fits.
            KeyServiceError: the service knew the key and refused or failed.
            IntegrityError: the key does not match its commitment.
        """
