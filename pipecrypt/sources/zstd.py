"""Compress and decompress pages with zstd, through pyarrow. Which pages are compressed is left to parquet/.

Fits `parquet.protocols.PageCodec`. Both calls let other threads run meanwhile.
"""

from __future__ import annotations

import pyarrow as pa

from pipecrypt.errors import FormatError

__all__ = ["DEFAULT_LEVEL", "ZstdCodec"]

DEFAULT_LEVEL = 3


class ZstdCodec:
    """Parquet's codec ZSTD: one frame a page.

    Args:
        level: of compression, 1 to 22.
    """

    __slots__ = ("_codec",)

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        """Hold no memory yet."""
        self._codec = pa.Codec("zstd", compression_level=level)

    def compress(self, data: memoryview) -> memoryview:
        """Return the compressed form, in memory of pyarrow's pool: fresh memory would cost page faults."""
        return memoryview(self._codec.compress(data)).cast("B")

    def decompress(self, data: memoryview, plain_bytes: int) -> memoryview:
        """Return the plaintext, exactly `plain_bytes` long: pyarrow refuses what is longer or shorter.

        Raises:
            FormatError: malformed, or of another length.
        """
        try:
            return memoryview(self._codec.decompress(data, plain_bytes)).cast("B")
        except (OSError, ValueError) as error:
            raise FormatError(f"a page is not a zstd frame of {plain_bytes} bytes") from error
