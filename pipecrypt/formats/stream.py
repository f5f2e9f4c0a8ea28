"""What every source becomes, a stream of record batches of one schema, and the threads that keep its stages busy.

Threads end with the generator that started them: when it is exhausted, closed, or left by an exception. Ending waits
for the work under way; a read of a silent pipe ends when the pipe's other side closes. The reading thread is a daemon,
so that a second interrupt leaves even then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import pyarrow as pa

from pipecrypt.errors import FormatError, StorageError, UnsupportedError

__all__ = ["BatchStream", "map_ahead", "mapped_errors", "read_ahead"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_DEPTH: Final = 2


class BatchStream:
    """Record batches of one schema; iterated once.

    Args:
        schema: of every batch, known before the first one.
        batches: raises FormatError or StorageError where the input ends them; closed with the stream.
        source: closed after them, where it is a generator or a reader.
        may_change_thread: whether another thread may iterate: not so for iterators of a caller's own.
    """

    bad_rows: int = 0
    """Rows left out so far."""
    delimiter: str | None = None
    """Of CSV, given or detected."""

    def __init__(
        self,
        schema: pa.Schema,
        batches: Generator[pa.RecordBatch],
        *,
        source: object = None,
        may_change_thread: bool = True,
    ) -> None:
        """Read nothing yet."""
        self.schema = schema
        self.may_change_thread = may_change_thread
        self._batches = batches
        self._source = source

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches."""
        return self._batches

    def close(self) -> None:
        """Stop reading and end threads. A file stays open: it is the caller's."""
        self._batches.close()
        if isinstance(self._source, Generator | pa.RecordBatchReader):
            self._source.close()


@contextmanager
def mapped_errors(name: str) -> Iterator[None]:
    """Raise errors of Arrow and Python about a file as errors of ours.

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


def read_ahead(items: Iterable[_Out], *, depth: int = _DEPTH, name: str = "read") -> Generator[_Out]:
    """Yield the items, which another thread takes from their iterator, at most `depth` ahead.

    An exception of the iterator is raised here, after the items before it.
    """
    ahead = _ReadAheadThread(iter(items), depth, name)
    try:
        yield from ahead.items()
    finally:
        ahead.close()


def map_ahead(
    function: Callable[[_In], _Out], items: Iterable[_In], *, depth: int = _DEPTH, name: str = "map"
) -> Generator[_Out]:
    """Yield `function(item)` for each item in order; another thread computes, at most `depth` ahead.

    The items are taken on the caller's thread: some iterators may not change theirs.
    """
    iterator = iter(items)
    pending: deque[Future[_Out]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"pipecrypt-{name}")
    try:
        for item in iterator:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _close(iterator)


class _ReadAheadThread(Generic[_Out]):
    """A thread that fills a short queue. One lock guards queue and flags, so that no wake-up is lost."""

    def __init__(self, iterator: Iterator[_Out], depth: int, name: str) -> None:
        self._iterator = iterator
        self._depth = depth
        self._queue: deque[_Out] = deque()
        self._error: BaseException | None = None
        self._is_done = False
        self._is_stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"pipecrypt-{name}", daemon=True)
        self._thread.start()

    def items(self) -> Iterator[_Out]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_done)
                if not self._queue:
                    break
                item = self._queue.popleft()
                self._changed.notify_all()
            yield item
            # Else the item would live in this frame until the next one is there.
            del item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join()
        _close(self._iterator)

    def _run(self) -> None:
        try:
            for item in self._iterator:
                if not self._put(item):
                    return
                del item
        except BaseException as error:  # raised again where the items are used
            self._error = error
        finally:
            with self._changed:
                self._is_done = True
                self._changed.notify_all()

    def _put(self, item: _Out) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) < self._depth or self._is_stopped)
            if not self._is_stopped:
                self._queue.append(item)
                self._changed.notify_all()
            return not self._is_stopped


def _close(iterator: Iterator[object]) -> None:
    if isinstance(iterator, Generator):
        iterator.close()
