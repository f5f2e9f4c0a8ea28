"""Read Arrow IPC, files and streams, and Feather V2, which is an IPC file; and ORC, one stripe at a time.

Offsets and lengths of an IPC file come from the file as they are, and the encoder would follow them past the end of a
buffer: every batch is validated, on the reading thread. An IPC file is a stream between a magic of eight bytes and a
footer, so it can be read from a pipe too, front to back. ORC is read from its end.
"""

from __future__ import annotations

import io
from collections.abc import Generator
from typing import BinaryIO, Final

import pyarrow as pa
from pyarrow import ipc, orc

from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.formats.lines import read_full
from pipecrypt.formats.stream import BatchStream, mapped_errors

__all__ = ["open_ipc", "open_orc"]

_FILE_MAGIC: Final = b"ARROW1\0\0"
_TRAILING_MAGIC: Final = b"ARROW1"
_FEATHER_V1_MAGIC: Final = b"FEA1"
_SLICE_ROWS: Final = 65_536


def open_ipc(file: BinaryIO, name: str) -> BatchStream:
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
            stream = ipc.open_stream(pa.PythonFile(_Prefixed(magic, file), mode="r"))
            return BatchStream(stream.schema, _stream_batches(stream, name))
        if file.seekable():
            file.seek(0)
            opened = ipc.open_file(pa.PythonFile(_Prefixed(b"", file), mode="r"))
            return BatchStream(opened.schema, _file_batches(opened, name))
        rest = _Prefixed(b"", file)
        stream = ipc.open_stream(pa.PythonFile(rest, mode="r"))
        return BatchStream(stream.schema, _whole_file_batches(stream, rest, name))


class _Prefixed(io.RawIOBase):
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


def _whole_file_batches(stream: ipc.RecordBatchStreamReader, rest: _Prefixed, name: str) -> Generator[pa.RecordBatch]:
    yield from _stream_batches(stream, name)
    tail = b""
    with mapped_errors(name):
        while piece := rest.read(1 << 20):
            tail = (tail + piece)[-len(_TRAILING_MAGIC) :]
    if tail != _TRAILING_MAGIC:
        raise FormatError(f"{name} is truncated: its footer is missing")


def open_orc(file: BinaryIO, name: str) -> BatchStream:
    """Return the stream of an ORC file; it holds two stripes at most, whose size the file's writer chose.

    Raises:
        FormatError: it is not an ORC file, or damaged, or a pipe, which cannot be read from its end.
    """
    if not file.seekable():
        raise FormatError(f"{name}: orc cannot be read from a pipe", hint="write it to a file first")
    with mapped_errors(name):
        opened = orc.ORCFile(pa.PythonFile(file, mode="r"))
        return BatchStream(opened.schema, _stripes(opened, name))


def _stripes(file: orc.ORCFile, name: str) -> Generator[pa.RecordBatch]:
    for index in range(file.nstripes):
        with mapped_errors(name):
            stripe = file.read_stripe(index)
        # In slices, so that those that wait for the next stage do not each hold a stripe: two are alive at most.
        for start in range(0, len(stripe), _SLICE_ROWS):
            yield stripe.slice(start, _SLICE_ROWS)
        del stripe
