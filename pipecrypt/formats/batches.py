"""Open a file as a stream of record batches, or make one of tables, iterables and frames of other libraries.

Text formats have files of their own; Arrow IPC (files and streams, and Feather V2, which is an IPC file) and ORC, one
stripe at a time, are read here. Offsets and lengths of an IPC file come from the file as they are, and the encoder
would follow them past the end of a buffer: every batch is validated, on the reading thread. An IPC file is a stream
between a magic of eight bytes and a footer, so it can be read from a pipe too, front to back. ORC is read from its end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import BinaryIO, Final, cast

import pyarrow as pa
from pyarrow import ipc, orc

from pipecrypt.errors import FormatError, UnsupportedError, UsageError
from pipecrypt.formats.compression import Compression, DecompressedFile
from pipecrypt.formats.csv import open_csv
from pipecrypt.formats.json import open_json
from pipecrypt.formats.lines import read_full
from pipecrypt.formats.options import ReadOptions, SourceFormat
from pipecrypt.formats.stream import BatchStream, mapped_errors

__all__ = ["BatchStream", "batches_of", "open_batches"]

_HINT: Final = "pass a RecordBatchReader, a Table, batches, or a frame of pandas, Polars or DuckDB"
_BATCH_HINT: Final = "give every batch the same names, order and types of columns; batch.cast(schema) may help"
_DEFAULTS: Final = ReadOptions()
_FILE_MAGIC: Final = b"ARROW1\0\0"
_TRAILING_MAGIC: Final = b"ARROW1"
_FEATHER_V1_MAGIC: Final = b"FEA1"
_SLICE_ROWS: Final = 65_536


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
            return open_csv(_reading(file, name), name, options)
        case SourceFormat.JSON:
            return open_json(_reading(file, name), name, options)
        case SourceFormat.ARROW:
            return _open_ipc(file, name)
        case SourceFormat.ORC:
            return _open_orc(file, name)
        case _:
            raise AssertionError(f"{source_format} is not decoded")


def _reading(file: BinaryIO, name: str) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        with mapped_errors(name):
            return file.read(size)

    return read


def _open_ipc(file: BinaryIO, name: str) -> BatchStream:
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


def _open_orc(file: BinaryIO, name: str) -> BatchStream:
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


def batches_of(value: object, schema: pa.Schema | None = None) -> BatchStream:
    """Return the record batches of an object, without copying its data where its library does not.

    Args:
        value: a RecordBatchReader, Table or RecordBatch; an iterable of those, a generator perhaps; or anything with
            `__arrow_c_stream__` or `__arrow_c_array__`.
        schema: of every batch; by default the first one's. An object with `__arrow_c_stream__` is asked for it.

    Raises:
        UsageError: the object is something else, or an iterable without items and without schema.
    """
    if _is_tabular(value):
        reader = _reader(value, schema, "the object")
        batches = _read(reader, "the object")
        return _of_caller(schema or reader.schema, batches, reader)
    if isinstance(value, str | bytes | bytearray | dict) or not isinstance(value, Iterable):
        raise UsageError(f"{type(value).__name__} is not a table", hint=_HINT)
    batches = _flat(iter(value))
    if schema is None:
        first = next(batches, None)
        if first is None:
            hint = "pass the schema too: there is no batch to take it from"
            raise UsageError("there are no batches, and no schema is given", hint=hint)
        return _of_caller(first.schema, chain([first], batches), batches)
    return _of_caller(schema, batches, batches)


def _of_caller(schema: pa.Schema, batches: Iterator[pa.RecordBatch], source: object) -> BatchStream:
    """Return a stream over a caller's object, which is iterated on the thread that uses it, as generators may expect.

    It raises UsageError at a batch of another schema, by its number from 1.
    """
    return BatchStream(schema, _checked(batches, schema), source=source, may_change_thread=False)


def _is_tabular(value: object) -> bool:
    kinds = pa.RecordBatchReader | pa.Table | pa.RecordBatch
    return isinstance(value, kinds) or hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")


def _reader(value: object, schema: pa.Schema | None, what: str) -> pa.RecordBatchReader:
    if isinstance(value, pa.RecordBatchReader):
        return value
    if isinstance(value, pa.Table):
        return value.to_reader()
    try:
        if not isinstance(value, pa.RecordBatch) and hasattr(value, "__arrow_c_stream__"):
            reader = pa.RecordBatchReader.from_stream(value, schema)
            # A library may take the asked schema for a wish, and give views where plain text was asked for.
            return reader if schema is None or reader.schema.names != schema.names else reader.cast(schema)
        batch = value if isinstance(value, pa.RecordBatch) else pa.record_batch(value)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UsageError(f"{what}, a {type(value).__name__}, is not a table: {error}", hint=_HINT) from error
    return pa.RecordBatchReader.from_batches(batch.schema, [batch])


def _flat(items: Iterator[object]) -> Generator[pa.RecordBatch]:
    try:
        for number, item in enumerate(items, start=1):
            if not _is_tabular(item):
                raise UsageError(f"item {number}, a {type(item).__name__}, is not a record batch", hint=_HINT)
            yield from _read(_reader(item, None, f"item {number}"), f"item {number}")
    finally:
        if isinstance(items, Generator):
            items.close()


def _read(reader: pa.RecordBatchReader, what: str) -> Generator[pa.RecordBatch]:
    """Yield the reader's batches; a generator that feeds it raises its own errors, Arrow's become ours."""
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except pa.ArrowException as error:
            raise UsageError(f"{what} cannot be read: {error}", hint=_HINT) from error
        yield batch


def _checked(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Generator[pa.RecordBatch]:
    for number, given in enumerate(batches, start=1):
        batch = given if given.schema.equals(schema) else _same_content(given, schema)
        if batch is None:
            raise UsageError(
                f"batch {number} has another schema: {_difference(given.schema, schema)}", hint=_BATCH_HINT
            )
        yield batch


def _same_content(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch | None:
    """Return the batch in the schema's types where these only store the same values in another way, else None."""
    if batch.schema.names != schema.names:
        return None
    for found, wanted in zip(batch.schema.types, schema.types, strict=True):
        kinds = [kind for kind in _SAME_CONTENT if kind(found) and kind(wanted)]
        if found != wanted and not kinds:
            return None
    try:
        return batch.cast(schema)
    except pa.ArrowException:
        return None  # too much for the smaller type, or null where none may be


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


# Polars gives views, pandas large texts, whatever schema it is asked for.
_SAME_CONTENT: Final = (_is_text, _is_binary)


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    if found.names != expected.names:
        return f"its columns are {', '.join(found.names)}, not {', '.join(expected.names)}"
    for one, other in zip(found, expected, strict=True):
        if not one.equals(other):
            return f"column {one.name} is {_field_text(one)}, not {_field_text(other)}"
    return "it differs"


def _field_text(field: pa.Field) -> str:
    return f"{field.type}" if field.nullable else f"{field.type} not null"
