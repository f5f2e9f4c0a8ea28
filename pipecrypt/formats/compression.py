"""Every codec that whole source files may have, and the zstd of compressed pages: a new codec is added here alone.

pyarrow is loaded when the first byte is decompressed or compressed: names of files are judged without it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Final

from pipecrypt.errors import FormatError
from pipecrypt.formats.lines import read_full

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EXTENSIONS", "Compression", "DecompressedFile", "ZstdCodec"]

_DEFAULT_LEVEL: Final = 3


class Compression(StrEnum):
    """What a whole source file is compressed with, by Arrow's name; codecs inside of a format do not count."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZ2 = "bz2"


EXTENSIONS: Final[Mapping[str, Compression]] = MappingProxyType(
    {
        "gz": Compression.GZIP,
        "gzip": Compression.GZIP,
        "zst": Compression.ZSTD,
        "zstd": Compression.ZSTD,
        "bz2": Compression.BZ2,
    }
)


class DecompressedFile(io.RawIOBase):
    """A compressed file's content, read front to back; members that follow each other are joined.

    Errors of the file and of Arrow pass through: whoever reads maps them with `stream.mapped_errors`.

    Args:
        file: open for reading, at its beginning.
        name: what errors call it.
        compression: of the file, not NONE.
    """

    def __init__(self, file: BinaryIO, name: str, compression: Compression) -> None:
        """Read nothing yet."""
        super().__init__()
        self._name = name
        self._compression = compression
        self._compressed = _CountedFile(file)
        self._stream = _decompressor(self._compressed, compression)

    def readable(self) -> bool:
        """Return True: it is for reading."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, all the rest where it is negative.

        Raises:
            FormatError: the file has no byte at all.
        """
        data: bytes = self._stream.read() if size < 0 else self._stream.read(size)
        # Arrow takes a file of no bytes for an empty one. None of the codecs writes that: an upload broke off.
        if not data and size and not self._compressed.total_bytes:
            raise FormatError(f"{self._name} is empty: not even a {self._compression} header")
        return data


def _decompressor(file: _CountedFile, compression: Compression) -> pa.NativeFile:
    import pyarrow as pa  # noqa: PLC0415  # takes long to import

    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression.value)


class _CountedFile:
    """Counts what Arrow reads. A read returns all that was asked for: Arrow takes less for the end."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.total_bytes = 0

    def read(self, size: int) -> bytes:
        data = read_full(self._file.read, size)
        self.total_bytes += len(data)
        return data

    def close(self) -> None:
        """Leave the file open: it is the caller's."""


class ZstdCodec:
    """Parquet's codec ZSTD, one frame a page: a `PageCodec` of parquet/. Both calls let other threads run meanwhile.

    Args:
        level: of compression, 1 to 22.
    """

    __slots__ = ("_level", "_loaded")

    def __init__(self, level: int = _DEFAULT_LEVEL) -> None:
        """Load nothing yet: most files have no compressed chunks."""
        self._level = level
        self._loaded: pa.Codec | None = None

    def compress(self, data: memoryview) -> memoryview:
        """Return the compressed form, in memory of pyarrow's pool: fresh memory would cost page faults."""
        return memoryview(self._codec().compress(data)).cast("B")

    def decompress(self, data: memoryview, plain_bytes: int) -> memoryview:
        """Return the plaintext, exactly `plain_bytes` long: pyarrow refuses what is longer or shorter.

        Raises:
            FormatError: malformed, or of another length.
        """
        try:
            return memoryview(self._codec().decompress(data, plain_bytes)).cast("B")
        except (OSError, ValueError) as error:
            raise FormatError(f"a page is not a zstd frame of {plain_bytes} bytes") from error

    def _codec(self) -> pa.Codec:
        if self._loaded is None:
            import pyarrow as pa  # noqa: PLC0415  # takes long to import

            self._loaded = pa.Codec("zstd", compression_level=self._level)
        return self._loaded
