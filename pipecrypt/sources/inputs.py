"""Give the plain bytes of a source: decompress, recode. Opening the file is left to storage, cutting it to lines."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from typing import BinaryIO, Final, cast

import pyarrow as pa

from pipecrypt.errors import FormatError
from pipecrypt.formats.compression import Compression
from pipecrypt.formats.lines import read_full
from pipecrypt.formats.stream import mapped_errors

__all__ = ["DecompressedFile", "recoded"]

_CODECS: Final = {Compression.GZIP: "gzip", Compression.ZSTD: "zstd", Compression.BZ2: "bz2"}


class DecompressedFile(io.RawIOBase):
    """A compressed file's content, read front to back; members that follow each other are joined.

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
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._compressed, mode="r"), _CODECS[compression])

    def readable(self) -> bool:
        """Return True: it is for reading."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, all the rest where it is negative.

        Raises:
            FormatError: the file ends in the middle of a member, or is damaged, or has no byte at all.
            StorageError: reading failed.
        """
        with mapped_errors(self._name):
            data = cast("bytes", self._stream.read() if size < 0 else self._stream.read(size))
        # Arrow takes a file of no bytes for an empty one. None of the codecs writes that: an upload broke off.
        if not data and size and not self._compressed.total_bytes:
            raise FormatError(f"{self._name} is empty: not even a {self._compression} header")
        return data


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


def recoded(read: Callable[[int], bytes], encoding: str, name: str) -> Callable[[int], bytes]:
    """Return a `read` that gives UTF-8, whatever the file's encoding.

    Raises:
        FormatError: when reading, at bytes that are not of that encoding; names the place.
    """
    codec = codecs.lookup(encoding)
    if codec.name == "utf-8":
        return read
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    decoded_bytes = 0

    def read_recoded(size: int) -> bytes:
        nonlocal decoded_bytes
        while True:
            data = read(size)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data).encode()
            except UnicodeError as error:
                start = error.start if isinstance(error, UnicodeDecodeError) else 0
                where = max(decoded_bytes - pending, 0) + start
                hint = "check the encoding of the file"
                raise FormatError(f"{name}: byte {where:,} is not of {encoding}", hint=hint) from None
            decoded_bytes += len(data)
            if text or not data:
                return text

    return read_recoded
