"""Read ORC, one stripe at a time. Compressed sources are left to others: ORC is read from its end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import BinaryIO, Final

import pyarrow as pa
from pyarrow import orc

from pipecrypt.formats.stream import mapped_errors, seekable_file

__all__ = ["ORCStream", "open_orc"]

_SLICE_ROWS: Final = 65_536


class ORCStream:
    """A BatchStream that holds two stripes at most, whose size the file's writer chose."""

    may_change_thread = True
    bad_rows = 0

    def __init__(self, file: orc.ORCFile, name: str) -> None:
        """Keep what was opened."""
        self.schema: pa.Schema = file.schema
        self._batches = _stripes(file, name)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield slices of the stripes."""
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
            stripe = file.read_stripe(index)
        # In slices, so that those that wait for the next stage do not each hold a stripe: two are alive at most.
        for start in range(0, len(stripe), _SLICE_ROWS):
            yield stripe.slice(start, _SLICE_ROWS)
        del stripe
