"""Read ORC, one stripe at a time. Compressed sources are left to others: ORC is read from its end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import BinaryIO

import pyarrow as pa
from pyarrow import orc

from pipecrypt.sources.stream import mapped_errors, seekable_file

__all__ = ["ORCStream", "open_orc"]


class ORCStream:
    """A BatchStream with one batch for each stripe, whose size the file's writer chose."""

    may_change_thread = True
    bad_rows = 0

    def __init__(self, file: orc.ORCFile, name: str) -> None:
        """Keep what was opened."""
        self.schema: pa.Schema = file.schema
        self._batches = _stripes(file, name)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the stripes."""
        return self._batches

    def close(self) -> None:
        """Stop reading."""
        self._batches.close()


def open_orc(file: BinaryIO, name: str) -> ORCStream:
    """Return the stream of an ORC file.

    Raises:
        FormatError: it is none, or damaged, or cannot be seeked in.
    """
    source = seekable_file(file, name, "orc")
    with mapped_errors(name):
        return ORCStream(orc.ORCFile(source), name)


def _stripes(file: orc.ORCFile, name: str) -> Generator[pa.RecordBatch]:
    for index in range(file.nstripes):
        with mapped_errors(name):
            batch = file.read_stripe(index)
        yield batch
