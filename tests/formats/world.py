"""Sources in memory, and the tables that they become."""

from __future__ import annotations

import bz2
import gzip
import io
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipecrypt.formats.batches import BatchStream, open_batches
from pipecrypt.formats.compression import Compression
from pipecrypt.formats.options import BadRows, CSVOptions, EncodeOptions, JSONOptions, ReadOptions, SourceFormat
from pipecrypt.formats.row_groups import encode_row_groups


class Pipe(io.RawIOBase):
    """Gives its bytes in small pieces, and cannot seek, as a pipe."""

    def __init__(self, data: bytes, piece_bytes: int = 1000) -> None:
        super().__init__()
        self._file = io.BytesIO(data)
        self._piece_bytes = piece_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(self._piece_bytes if size < 0 else min(size, self._piece_bytes))


def pipe(data: bytes) -> BinaryIO:
    return cast("BinaryIO", Pipe(data))


def compress(data: bytes, compression: Compression) -> bytes:
    """Compress with another implementation than the one that reads, where there is one."""
    match compression:
        case Compression.NONE:
            return data
        case Compression.GZIP:
            return gzip.compress(data)
        case Compression.BZ2:
            return bz2.compress(data)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression.value) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def csv_stream(data: bytes, *, skip: bool = False, block_bytes: int = 1 << 20, **dialect: object) -> BatchStream:
    on_bad_rows = BadRows.SKIP if skip else BadRows.FAIL
    options = ReadOptions(csv=CSVOptions(**dialect), on_bad_rows=on_bad_rows, block_bytes=block_bytes)  # type: ignore[arg-type]
    return open_batches(io.BytesIO(data), "x.csv", SourceFormat.CSV, options=options)


def json_stream(data: bytes, *, skip: bool = False, block_bytes: int = 1 << 20, **types: str) -> BatchStream:
    on_bad_rows = BadRows.SKIP if skip else BadRows.FAIL
    options = ReadOptions(json=JSONOptions(types), on_bad_rows=on_bad_rows, block_bytes=block_bytes)
    return open_batches(io.BytesIO(data), "x.json", SourceFormat.JSON, options=options)


def table_of(stream: BatchStream) -> pa.Table:
    try:
        return pa.Table.from_batches(list(stream), stream.schema)
    finally:
        stream.close()


def written(stream: BatchStream, batch_rows: int = 1000) -> pa.Table:
    """Return what the encoded row groups hold, read back."""
    groups = encode_row_groups(stream, EncodeOptions(batch_rows=batch_rows))
    return pa.concat_tables([pq.read_table(pa.BufferReader(group)) for group in groups])
