"""Open a source as a stream of record batches. The formats are left to one file each, Python objects to objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Final, cast

from pipecrypt.errors import FormatError
from pipecrypt.formats.batches import BatchStream
from pipecrypt.formats.columnar import open_ipc, open_orc
from pipecrypt.formats.compression import Compression, DecompressedFile
from pipecrypt.formats.csv import open_csv
from pipecrypt.formats.json import open_json
from pipecrypt.formats.options import ReadOptions, SourceFormat
from pipecrypt.formats.stream import mapped_errors

__all__ = ["open_batches"]

_DEFAULTS: Final = ReadOptions()


def open_batches(
    file: BinaryIO,
    name: str,
    source_format: SourceFormat,
    *,
    compression: Compression = Compression.NONE,
    options: ReadOptions = _DEFAULTS,
) -> BatchStream:
    """Return the record batches of a file. Reads what it needs to know the schema; starts no thread yet.

    Args:
        file: open for reading bytes, at its beginning; stays the caller's to close, after the stream. ORC must be
            able to seek.
        name: what errors call the file.
        source_format: csv, json, arrow or orc; Parquet and bytes are never decoded.
        compression: of the whole file.
        options: dialect, types, limits.

    Raises:
        FormatError: the file is empty, truncated or malformed.
        StorageError: reading failed.
        UsageError: the options do not fit the file.
        UnsupportedError: the file is valid, and yet cannot be read.
    """
    if compression is not Compression.NONE:
        if source_format is SourceFormat.ORC:
            hint = "decompress it first; ORC compresses its stripes itself"
            raise FormatError(f"{name}: orc is read from its end, so not through {compression}", hint=hint)
        # Arrow and the text formats need no more of a file than `read`.
        file = cast("BinaryIO", DecompressedFile(file, name, compression))
    match source_format:
        case SourceFormat.CSV:
            return open_csv(_reader(file, name), name, options)
        case SourceFormat.JSON:
            return open_json(_reader(file, name), name, options)
        case SourceFormat.ARROW:
            return open_ipc(file, name)
        case SourceFormat.ORC:
            return open_orc(file, name)
        case _:
            raise AssertionError(f"{source_format} is not decoded")


def _reader(file: BinaryIO, name: str) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        with mapped_errors(name):
            return file.read(size)

    return read
