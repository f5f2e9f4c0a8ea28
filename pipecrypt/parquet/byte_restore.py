"""Write the bytes of a file of chunks, in windows: read ahead, opened, written behind. Checking is byte_opening's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import FormatError
from pipecrypt.parquet.blob.decrypt import BlockGroup, OpenedBlob
from pipecrypt.parquet.blob.format import PREFIX_BYTES
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.stored import MAGIC_BYTES
from pipecrypt.parquet.protocols import AppendSink
from pipecrypt.parquet.report import FileReport, RestoredFile
from pipecrypt.vocabulary.ranges import DescribedSource, RangeSource

__all__ = ["ignore_restored", "restore_bytes"]

_WINDOW_BYTES: Final = 4 << 20


def ignore_restored(restored: RestoredFile) -> None:
    """Take what a file was and do nothing with it."""


def restore_bytes(
    chunks: OpenedBlob, opened: OpenedFile, source: RangeSource, sink: AppendSink, on_bytes: Callable[[int], None]
) -> FileReport:
    """Write all bytes to `sink`, each chunk checked; see `OpenedChunks` for what is checked.

    Raises:
        FormatError: something is missing, or lies where it must not.
        IntegrityError: a chunk is not this file's at its place.
        AccessError: a key is missing or was refused.
    """
    # Closed at once after an error: the caller closes the source then, and nothing may read it any more.
    with _Writing(sink, chunks.layout.chunk_bytes) as writing, closing(_sealed_windows(chunks, source)) as windows:
        for window, sealed in windows:
            writing.start()
            bounds = window.row_group.bounds
            for row in range(window.first, window.end):
                page = sealed[bounds[row] - window.start : bounds[row + 1] - window.start]
                writing.took(chunks.open_chunk(window.row_group, row, page, writing.room()))
            writing.flush()
            on_bytes(len(sealed))
    layout = chunks.layout
    return FileReport(
        rows=layout.chunks,
        batches=layout.row_groups,
        data_keys=opened.data_key_count,
        source_bytes=source.size_bytes,
        sink_bytes=layout.size_bytes,
        encrypted_columns=1,
        restored=chunks.restored,
    )


@dataclass(frozen=True, slots=True)
class _Window:
    """Pages `first` to `end` of a row group, which are read at once."""

    row_group: BlockGroup
    first: int
    end: int

    @property
    def start(self) -> int:
        return self.row_group.bounds[self.first]

    @property
    def length(self) -> int:
        return self.row_group.bounds[self.end] - self.start


def _windows(chunks: OpenedBlob, source: RangeSource) -> Iterator[_Window]:
    end, step = MAGIC_BYTES, max(1, _WINDOW_BYTES // chunks.layout.chunk_bytes)
    for index in range(chunks.layout.row_groups):
        row_group = chunks.row_group(index, source)
        if row_group.bounds[0] != end:  # (9) of OpenedChunks
            raise FormatError(f"{source.name} row group {index} does not follow the one before it")
        end = row_group.end
        for first in range(0, row_group.rows, step):
            yield _Window(row_group, first, min(first + step, row_group.rows))


def _sealed_windows(chunks: OpenedBlob, source: RangeSource) -> Generator[tuple[_Window, memoryview]]:
    """Yield windows with their bytes, valid until the next one is asked for, which is read meanwhile."""
    windows = _windows(chunks, source)
    if not isinstance(source, DescribedSource):
        for window in windows:
            yield window, source.read_range(window.start, window.length)
        return
    buffers = [bytearray(), bytearray()]
    ahead: tuple[_Window, Future[memoryview]] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipecrypt-read") as reader:
        for window in windows:
            buffers.reverse()
            if window.length > len(buffers[0]):
                buffers[0] = bytearray(window.length)
            due, out = ahead, memoryview(buffers[0])[: window.length]
            ahead = window, reader.submit(_fill, source, window.start, out)
            if due is not None:
                yield due[0], due[1].result()
        if ahead is not None:
            yield ahead[0], ahead[1].result()


def _fill(source: DescribedSource, start: int, out: memoryview) -> memoryview:
    source.read_into(start, out)
    return out


class _Writing:
    """Two buffers: one takes chunks while a thread writes the other.

    A chunk is opened together with its length prefix, which lands on the end of the chunk before. Those bytes are
    kept and put back, so that the chunks follow each other without a copy.
    """

    def __init__(self, sink: AppendSink, chunk_bytes: int) -> None:
        self._sink = sink
        room_bytes = PREFIX_BYTES + max(_WINDOW_BYTES, chunk_bytes)
        self._buffers = [bytearray(room_bytes), bytearray(room_bytes)]
        self._end = 0
        self._covered = b""
        self._pending: Future[None] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipecrypt-write")

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._writer.shutdown(wait=True)  # the sink can be discarded only then

    def start(self) -> None:
        """Begin a window, whose chunks together are no longer than the room."""
        self._end = PREFIX_BYTES

    def room(self) -> memoryview:
        """Return the room for the next chunk, its prefix first."""
        view = memoryview(self._buffers[0])
        self._covered = bytes(view[self._end - PREFIX_BYTES : self._end])
        return view[self._end - PREFIX_BYTES :]

    def took(self, length: int) -> None:
        """Keep the chunk that was opened into the room."""
        view = memoryview(self._buffers[0])
        view[self._end - PREFIX_BYTES : self._end] = self._covered
        self._end += length

    def flush(self) -> None:
        """End the window."""
        self._wait()
        filled = memoryview(self._buffers[0])[PREFIX_BYTES : self._end]
        self._pending = self._writer.submit(self._sink.write, filled)
        self._buffers.reverse()

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
