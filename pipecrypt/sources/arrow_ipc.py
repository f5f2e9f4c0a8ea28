"""Read Arrow IPC, files and streams, and Feather V2, which is an IPC file. Compressed sources are left to inputs.

Offsets and lengths come from the file as they are, and the encoder would follow them past the end of a buffer: every
batch is validated, on the reading thread. An IPC file is a stream between a magic of eight bytes and a footer, so it
can be read from a pipe too, front to back.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from typing import BinaryIO, Final

import pyarrow as pa
from pyarrow import ipc

from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.formats.lines import read_full
from pipecrypt.formats.stream import mapped_errors

__all__ = ["IPCStream", "open_ipc"]

_FILE_MAGIC: Final = b"ARROW1\0\0"
_TRAILING_MAGIC: Final = b"ARROW1"
_FEATHER_V1_MAGIC: Final = b"FEA1"


class IPCStream:
    """A BatchStream over Arrow's reader."""

    may_change_thread = True
    bad_rows = 0

    def __init__(self, schema: pa.Schema, batches: Generator[pa.RecordBatch]) -> None:
        """Keep what was opened."""
        self.schema = schema
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches as they were written."""
        return self._batches

    def close(self) -> None:
        """Stop reading."""
        self._batches.close()


def open_ipc(file: BinaryIO, name: str) -> IPCStream:
    """Return the stream of an IPC file or stream, told apart by the magic.

    Raises:
        FormatError: it is neither, or damaged.
        UnsupportedError: it is Feather V1.
    """
    with mapped_errors(name):
        magic = read_full(file.read, len(_FILE_MAGIC))
        if magic.startswith(_FEATHER_V1_MAGIC):
            hint = "write it again with pyarrow.feather.write_feather, whose default is version 2"
            raise UnsupportedError(f"{name} is Feather version 1, which nobody writes any more", hint=hint)
        if not magic:
            raise FormatError(f"{name} is empty")
        if magic != _FILE_MAGIC:
            stream = ipc.open_stream(pa.PythonFile(_Rest(magic, file), mode="r"))
            return IPCStream(stream.schema, _stream_batches(stream, name))
        if file.seekable():
            file.seek(0)
            opened = ipc.open_file(pa.PythonFile(_Rest(b"", file), mode="r"))
            return IPCStream(opened.schema, _file_batches(opened, name))
        rest = _Rest(b"", file)
        stream = ipc.open_stream(pa.PythonFile(rest, mode="r"))
        return IPCStream(stream.schema, _whole_file_batches(stream, rest, name))


class _Rest(io.RawIOBase):
    """A file whose first bytes were read already. Closing it leaves the file open: it is the caller's."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        super().__init__()
        self._start = start
        self._file = file

    def seekable(self) -> bool:
        return not self._start and self._file.seekable()

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            start, self._start = self._start, b""
            return start + self._file.read()
        start, self._start = self._start[:size], self._start[size:]
        return start + read_full(self._file.read, size - len(start)) if size > len(start) else start


def _file_batches(opened: ipc.RecordBatchFileReader, name: str) -> Generator[pa.RecordBatch]:
    for index in range(opened.num_record_batches):
        with mapped_errors(name):
            batch = opened.get_batch(index)
            batch.validate(full=True)
        yield batch


def _stream_batches(stream: ipc.RecordBatchStreamReader, name: str) -> Generator[pa.RecordBatch]:
    while True:
        with mapped_errors(name):
            try:
                batch = stream.read_next_batch()
            except StopIteration:
                return
            batch.validate(full=True)
        yield batch


def _whole_file_batches(stream: ipc.RecordBatchStreamReader, rest: _Rest, name: str) -> Generator[pa.RecordBatch]:
    yield from _stream_batches(stream, name)
    tail = b""
    with mapped_errors(name):
        while piece := rest.read(1 << 20):
            tail = (tail + piece)[-len(_TRAILING_MAGIC) :]
    if tail != _TRAILING_MAGIC:
        raise FormatError(f"{name} is truncated: its footer is missing")
