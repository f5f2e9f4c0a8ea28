"""What the engine asks of the world: byte ranges, a place to append, data keys.

Providing them is left to storage/ and keys/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "AppendSink",
    "ByteStream",
    "CheapSeeks",
    "CopiesRanges",
    "DataKeys",
    "FetchesSeveral",
    "HasDescriptor",
    "PageCodec",
    "RangeSource",
    "ReadsInto",
    "ReadsMany",
    "ShowsPart",
]


class RangeSource(Protocol):
    """A file of known size, read by byte range."""

    @property
    def name(self) -> str:
        """What errors call this file."""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`; the view is valid until the next call.

        Raises:
            FormatError: the file is shorter than that.
            StorageError: the storage failed.
        """


@runtime_checkable
class CheapSeeks(Protocol):
    """A second power of a RangeSource: small reads cost little, as on a local disk."""

    @property
    def seeks_cheaply(self) -> bool:
        """Whether thousands of small reads are fine."""


@runtime_checkable
class ReadsInto(Protocol):
    """A third power of a RangeSource: it fills a caller's buffer, and may do so on another thread."""

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""


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


@runtime_checkable
class ReadsMany(Protocol):
    """A fourth power of a RangeSource: it fetches several ranges side by side, asked from any thread."""

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        """Return the bytes of each range (start, length), which stay valid; raises what `read_range` raises."""


@runtime_checkable
class FetchesSeveral(Protocol):
    """A further power of a source that fills buffers: several reads at once are faster than one after another."""

    @property
    def ranges_in_flight(self) -> int:
        """How many are useful."""


@runtime_checkable
class HasDescriptor(Protocol):
    """A fifth power of a RangeSource: the system can copy from its file."""

    @property
    def descriptor(self) -> int:
        """The open file."""


@runtime_checkable
class ShowsPart(Protocol):
    """A sixth power of a RangeSource: it shows a part of a larger file, in its place, with gaps around it."""

    @property
    def part_bytes(self) -> int:
        """Size of the file that the part alone would be."""


class AppendSink(Protocol):
    """A new file, written front to back. Whether it appears is the publisher's business."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`; the buffer may be reused after the call.

        Raises:
            StorageError: the storage failed.
        """


@runtime_checkable
class CopiesRanges(Protocol):
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
