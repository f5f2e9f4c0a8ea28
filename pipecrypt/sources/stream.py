"""What every source becomes: a schema and record batches. Making them is left to one file a format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

import pyarrow as pa

from pipecrypt.errors import FormatError, StorageError, UnsupportedError

__all__ = ["BatchStream", "mapped_errors", "seekable_file"]


class BatchStream(Protocol):
    """Record batches of one schema; iterated once."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch, known before the first one."""

    @property
    def bad_rows(self) -> int:
        """Rows left out so far."""

    @property
    def may_change_thread(self) -> bool:
        """Whether another thread may iterate: not so for iterators of a caller's own."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches; raises FormatError or StorageError where the input ends them."""

    def close(self) -> None:
        """Stop reading and end threads. The file stays open: it is the caller's."""


@contextmanager
def mapped_errors(name: str) -> Iterator[None]:
    """Raise what Arrow and Python say about a file as errors of ours.

    Arrow's text is not passed on, it may quote values.

    Raises:
        FormatError: the bytes are not what they should be.
        StorageError: reading failed.
        UnsupportedError: pyarrow does not know a part of the format.
    """
    try:
        yield
    except OSError as error:
        # An error of the system has a number; Arrow reports damaged bytes as OSError without one.
        if error.errno is not None:
            raise StorageError(f"{name} cannot be read: {error.strerror or type(error).__name__}") from error
        raise FormatError(f"{name} is truncated or damaged") from error
    except pa.ArrowNotImplementedError as error:
        raise UnsupportedError(f"{name} uses what pyarrow cannot read", hint="write it with other types") from error
    except MemoryError as error:
        raise FormatError(f"{name} needs more memory than there is, or is malformed") from error
    except (pa.ArrowException, UnicodeError, EOFError) as error:
        raise FormatError(f"{name} is truncated or malformed") from error


def seekable_file(file: BinaryIO, name: str, what: str) -> pa.PythonFile:
    """Return Arrow's view of a file that it will seek in.

    Raises:
        FormatError: the file is a pipe.
    """
    if not file.seekable():
        raise FormatError(f"{name}: {what} cannot be read from a pipe", hint="write it to a file first")
    return pa.PythonFile(file, mode="r")
