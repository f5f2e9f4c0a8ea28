"""Encrypt a file of another format: its rows are parsed, written as row groups in memory, encrypted, published.

Reading, encoding and encrypting overlap, each on a thread of its own. pyarrow is imported where rows are read, and only
there: its import takes longer than encrypting a small Parquet file.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from pipecrypt.formats.compression import Compression
from pipecrypt.formats.options import EncodeOptions, SourceFormat, output_name
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.runs.kinds.encrypt import table_path
from pipecrypt.runs.output import RollingOutput, WrittenFile
from pipecrypt.runs.report.events import FileDone, StageClock
from pipecrypt.runs.spec.options import FileReading
from pipecrypt.runs.task import BeforePublishing, Kind, OnBytes, SourceShape, Task, chosen_columns, file_done
from pipecrypt.store.open import open_source_file
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.ranges import MemorySource

if TYPE_CHECKING:
    from pipecrypt.formats.batches import BatchStream

__all__ = ["Ingestion", "encrypt_rows"]

# What the rows of a text or table take besides the file, as they are read, parsed, encoded and encrypted; measured.
_LEAST_BYTES: Final = 16 << 20
_COPIES: Final = 16  # of text: numbers of one digit become eight bytes, and are there as batches and as a row group
_BLOCKS_BYTES: Final = 64 << 20  # of a large file: blocks and batches ahead
_ROW_BYTES: Final = 1536  # likewise, for each row of a group: a few groups, of rows that are rather wide
_TEXTS: Final = frozenset({SourceFormat.CSV, SourceFormat.JSON})


@dataclass(frozen=True, slots=True)
class Ingestion(Kind):
    """Read the rows of a file of another format and encrypt them.

    Args:
        policy: which columns under which key.
        reading: how the file is read.
        encoding: the shape of row groups.
        max_file_bytes: size at which another output file is begun; None for one file whatever its size.
    """

    policy: EncryptionPolicy = field()
    reading: FileReading
    encoding: EncodeOptions
    max_file_bytes: int | None

    @property
    def rolls_over(self) -> bool:
        """Whether the output may become several files, numbered."""
        return self.max_file_bytes is not None

    def memory_bytes(self, input_bytes: int) -> int:
        """Return about how much memory it takes: of a file that may be compressed the size tells nothing."""
        most = _BLOCKS_BYTES + _ROW_BYTES * self.encoding.batch_rows
        if self.reading.format not in _TEXTS or self.reading.compression is not Compression.NONE:
            return most
        return min(_LEAST_BYTES + _COPIES * input_bytes, most)

    def output_path(self, relative_path: str) -> str:
        """Return the path of the output: the suffixes of format and compression become Parquet's."""
        return table_path(relative_path, output_name(relative_path))

    def shape(self, source: SourceFile) -> SourceShape:
        """Return the columns of the source; as much of it is read as their types are inferred from."""
        from pipecrypt.formats.batches import batches_of  # noqa: PLC0415
        from pipecrypt.formats.row_groups import encode_row_groups  # noqa: PLC0415

        with open_source_file(source) as file, closing(self._open(file, source)) as stream:
            schema = stream.schema
            delimiter = stream.delimiter
        groups = encode_row_groups(batches_of([], schema), self.encoding)
        is_text = self.reading.format in _TEXTS
        types = tuple((field.name, str(field.type)) for field in schema) if is_text else ()
        empty = chosen_columns(MemorySource(next(groups), source.location.display), self.policy)
        return SourceShape(empty.columns, types=types, delimiter=delimiter)

    def carry_out(
        self, task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: BeforePublishing
    ) -> FileDone:
        """Read all rows and encrypt them, into one file or several."""
        meter, clock = _ReadMeter(on_bytes), StageClock()
        with RollingOutput(task.target, self.policy, session, max_file_bytes=self.max_file_bytes) as output:
            with open_source_file(task.source, reads_all=True) as file:
                stream = self._open(file, task.source)
                clock.opened()
                with closing(stream):
                    read_seconds = encrypt_rows(
                        stream,
                        output,
                        self.encoding,
                        name=task.source.location.display,
                        on_batch=lambda full: meter.add(file.bytes_read, full),
                    )
                bad_rows = stream.bad_rows
            # The source was still the pinned one when its block ended, so what was made from it may appear.
            written = output.finish()
            meter.add(max(task.source.size_bytes, file.bytes_read), None)
            clock.worked([file.report for file in written], read_seconds=read_seconds)
            output.publish(just_before=before_publishing)
        sizes = meter.sizes()
        return file_done(task, session, clock, written, source_bytes=sizes, bad_rows=bad_rows)

    def _open(self, file: io.RawIOBase, source: SourceFile) -> BatchStream:
        from pipecrypt.formats.batches import open_batches  # noqa: PLC0415

        reading, name = self.reading, source.location.display
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
    from pipecrypt.formats.row_groups import encode_row_groups  # noqa: PLC0415

    waited, began = 0.0, time.perf_counter()
    with closing(encode_row_groups(stream, encoding)) as groups:
        for group in groups:
            waited += time.perf_counter() - began
            on_batch(output.append(MemorySource(group, name)))
            began = time.perf_counter()
    return waited + time.perf_counter() - began


class _ReadMeter:
    """Tells how much of the input was read, and remembers where each full file ended."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes
        self._done = 0
        self._ends: list[int] = []

    def add(self, bytes_read: int, full: WrittenFile | None) -> None:
        if full is not None:
            self._ends.append(self._done)
        self._on_bytes(bytes_read - self._done)
        self._done = bytes_read

    def sizes(self) -> list[int]:
        """Return how much of the input went into each file: about, because reading runs ahead; the sum is exact."""
        ends = [0, *self._ends, self._done]
        return [end - start for start, end in pairwise(ends)]
