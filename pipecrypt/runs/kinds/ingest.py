"""The life of a file whose rows are read: parsed, written as row groups in memory, encrypted, published.

Reading, encoding and encrypting overlap, each on a thread of its own. What the rows are is left to sources.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, cast

from pipecrypt.formats.batches import BatchStream, batches_of, open_batches
from pipecrypt.formats.options import EncodeOptions, SourceFormat
from pipecrypt.formats.row_groups import encode_row_groups
from pipecrypt.formats.text_rows import TextStream
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.kinds.ingest import Ingestion
from pipecrypt.runs.output import OutputSpec, RollingOutput, WrittenFile
from pipecrypt.runs.report.events import FileDone, Part, StageClock, bytes_by_key
from pipecrypt.runs.task import Task
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.source import open_source_file
from pipecrypt.vocabulary.ranges import MemorySource

__all__ = ["Outline", "encrypt_rows", "ingest", "outline"]


def ingest(
    task: Task,
    session: KeySession,
    on_bytes: Callable[[int], None],
    *,
    before_publishing: Callable[[], None] | None = None,
) -> FileDone:
    """Carry out a task that reads rows, and return the records of all files that it published.

    Args:
        task: what to do.
        session: this process's keys.
        on_bytes: told how many bytes of the input were done; the last call comes just before publishing. It may raise,
            to stop: then nothing is published.
        before_publishing: called once, just before the first file appears. It may raise likewise.

    Raises:
        FormatError: the input is malformed; names file and line.
        PipecryptError: as the engine, the keys and the storage say; nothing of this file is left in the sink, unless
            publishing failed after the first of several outputs.
    """
    operation = task.operation
    if not isinstance(operation, Ingestion):
        raise AssertionError("a task that reads rows is an ingestion")
    started, calls_before = time.perf_counter(), session.service_calls
    meter, clock = _Meter(on_bytes), StageClock()
    with RollingOutput(_spec(task, operation), session) as output:
        with open_source_file(task.source) as file:
            stream = _open(file, task.source, operation)
            clock.opened()
            with closing(stream):
                read_seconds = encrypt_rows(
                    stream,
                    output,
                    operation.encoding,
                    name=task.source.location.display,
                    on_batch=lambda full: meter.take(file.bytes_read, full),
                )
            bad_rows = stream.bad_rows
        # The source was still the pinned one when its block ended, so what was made from it may appear.
        written = output.finish()
        meter.take(max(task.source.size_bytes, file.bytes_read), None)
        reports = [file.report for file in written]
        clock.worked(reports, read_seconds=read_seconds)
        output.publish(just_before=before_publishing)
    parts = _parts(written, meter, calls=session.service_calls - calls_before, started=started, bad_rows=bad_rows)
    signable = tuple(noted for file in written for noted in file.signable)
    clear = reports[0].clear_columns  # all files of one source have its columns
    return FileDone(task.id, parts, signable, session.take_grants(), clock.published(), bytes_by_key(reports), clear)


@dataclass(frozen=True, slots=True)
class Outline:
    """What the beginning of a source tells.

    Args:
        empty_output: the plaintext Parquet file without rows that has the columns of the source.
        types: of its columns by name, where they were inferred or given; empty for files that hold types.
        delimiter: of CSV.
    """

    empty_output: MemorySource
    types: tuple[tuple[str, str], ...] = ()
    delimiter: str | None = None


def outline(source: SourceFile, operation: Ingestion) -> Outline:
    """Return what the beginning of a source tells.

    Raises:
        FormatError: the input is malformed; names file and line.
        PipecryptError: the input cannot be read.
    """
    with open_source_file(source) as file, closing(_open(file, source, operation)) as stream:
        schema = stream.schema
        delimiter = stream.delimiter if isinstance(stream, TextStream) else None
    groups = encode_row_groups(batches_of([], schema), operation.encoding)
    is_text = operation.reading.format in {SourceFormat.CSV, SourceFormat.JSON}
    types = tuple((field.name, str(field.type)) for field in schema) if is_text else ()
    return Outline(MemorySource(next(groups).data, source.location.display), types, delimiter)


def _open(file: io.RawIOBase, source: SourceFile, operation: Ingestion) -> BatchStream:
    reading, name = operation.reading, source.location.display
    return open_batches(
        cast("BinaryIO", file), name, reading.format, compression=reading.compression, options=reading.options
    )


def encrypt_rows(
    stream: BatchStream,
    output: RollingOutput,
    encoding: EncodeOptions,
    *,
    name: str,
    on_batch: Callable[[WrittenFile | None], None],
) -> float:
    """Encrypt all batches of a stream into an output, and return how many seconds it waited for them.

    Args:
        stream: where they come from.
        output: where they go.
        encoding: the shape of row groups.
        name: what errors call the stream.
        on_batch: called after each row group, with the file that was full before it, if any.
    """
    waited, began = 0.0, time.perf_counter()
    with closing(encode_row_groups(stream, encoding)) as groups:
        for group in groups:
            waited += time.perf_counter() - began
            on_batch(output.append(MemorySource(group.data, name)))
            began = time.perf_counter()
    return waited + time.perf_counter() - began


def _spec(task: Task, operation: Ingestion) -> OutputSpec:
    return OutputSpec(
        sink=task.sink,
        path=task.path,
        policy=operation.policy,
        dataset_id=operation.dataset_id,
        overwrite=task.overwrite,
        token=task.token,
        max_file_bytes=operation.max_file_bytes,
        is_repeated=task.is_repeated,
    )


class _Meter:
    """Tells how much of the input was read, and remembers where each full file ended."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes
        self._done = 0
        self._ends: list[int] = []

    def take(self, bytes_read: int, full: WrittenFile | None) -> None:
        if full is not None:
            self._ends.append(self._done)
        self._on_bytes(bytes_read - self._done)
        self._done = bytes_read

    def sizes(self) -> list[int]:
        """Return how much of the input went into each file: about, because reading runs ahead; the sum is exact."""
        ends = [0, *self._ends, self._done]
        return [end - start for start, end in pairwise(ends)]


def _parts(
    written: Sequence[WrittenFile], meter: _Meter, *, calls: int, started: float, bad_rows: int
) -> tuple[Part, ...]:
    seconds, parts = time.perf_counter() - started, []
    for index, (file, source_bytes) in enumerate(zip(written, meter.sizes(), strict=True)):
        is_first = index == 0  # what cannot be told apart counts for the first file
        parts.append(
            Part.of(
                file.path,
                file.report,
                service_calls=calls if is_first else 0,
                seconds=seconds if is_first else 0.0,
                source_bytes=source_bytes,
                bad_rows=bad_rows if is_first else 0,
            )
        )
    return tuple(parts)
