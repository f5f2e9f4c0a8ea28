"""The codec of compressed chunks, loaded when the first page needs it. Compressing is left to sources."""

from __future__ import annotations

from pipecrypt.parquet.protocols import PageCodec

__all__ = ["LazyCodec"]


class LazyCodec:
    """A PageCodec that loads zstd with pyarrow on first use: most files are not compressed in chunks."""

    __slots__ = ("_codec",)

    def __init__(self) -> None:
        """Load nothing yet."""
        self._codec: PageCodec | None = None

    def compress(self, data: memoryview) -> bytes | memoryview:
        """Return the compressed form."""
        return self._loaded().compress(data)

    def decompress(self, data: memoryview, plain_bytes: int) -> bytes | memoryview:
        """Return the plaintext of authenticated bytes.

        Raises:
            FormatError: malformed, or not exactly `plain_bytes` long.
        """
        return self._loaded().decompress(data, plain_bytes)

    def _loaded(self) -> PageCodec:
        if self._codec is None:
            from pipecrypt.formats.compression import ZstdCodec  # noqa: PLC0415  # pyarrow takes long to import

            self._codec = ZstdCodec()
        return self._codec
