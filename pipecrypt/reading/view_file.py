"""A plaintext view as a file object, for readers that take one."""

from __future__ import annotations

import atexit
import io
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from pipecrypt.parquet.files import BlobView, TableView
from pipecrypt.store.open import RangeFile

__all__ = ["FileView", "ViewFile"]


class _LentBuffers:
    """The buffers that readers still hold.

    pyarrow's threads drop theirs a moment after the reader's own thread has what it wants, and need Python for that. Is
    Python shutting down by then, the whole process aborts: one in thirty short scripts did on a busy machine. So Python
    waits a moment at its end, unless nothing is held any more. What a program keeps, it may keep.
    """

    def __init__(self) -> None:
        self._held: dict[int, weakref.ref[memoryview]] = {}
        atexit.register(self.settle)

    def add(self, data: memoryview) -> None:
        """Watch a buffer."""
        name = id(data)
        self._held[name] = weakref.ref(data, lambda _: self._held.pop(name, None))

    def settle(self) -> None:
        """Wait until nothing is held, but not long."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self._held and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


_SETTLE_SECONDS: Final = 0.25
_POLL_SECONDS: Final = 0.001
_LENT: Final = _LentBuffers()


# What a file shows in the clear; safe to read from several threads.
FileView: TypeAlias = TableView | BlobView


def _ignore(view: FileView) -> None:
    """Do nothing about a file object that is closed."""


class ViewFile(RangeFile):
    """A binary file, read-only and seekable.

    It keeps no buffer, because Parquet readers ask for whole column chunks. `read_buffer`, which pyarrow prefers,
    hands bytes over without a copy.

    Args:
        view: what is read.
        details: what `info()` returns, as fsspec has it.
        on_close: called with the view when the file object is closed.
    """

    mode = "rb"

    def __init__(
        self,
        view: FileView,
        details: Mapping[str, Any] | None = None,
        *,
        on_close: Callable[[FileView], None] = _ignore,
    ) -> None:
        """Stand at the start."""
        super().__init__(view)
        self._view = view
        self._details = dict(details or {})
        self._on_close = on_close

    def close(self) -> None:
        """Close the file object; its view stays open for others."""
        if not self.closed:
            super().close()
            self._on_close(self._view)

    @property
    def size(self) -> int:
        """Size of the plaintext in bytes."""
        return self._view.size_bytes

    @property
    def path(self) -> str:
        """The path in its file system, or the file's name."""
        return str(self._details.get("name", self._view.name))

    @property
    def name(self) -> str:
        """The path again, as other file objects have it."""
        return self.path

    def info(self) -> dict[str, Any]:
        """Return what the file system says about the file."""
        return dict(self._details)

    def read_buffer(self, size: int | None = -1) -> memoryview:
        """Return at most `size` bytes, all that follow where it is negative or None, as a read-only view."""
        if self.closed:
            raise ValueError("the file is closed")
        left = max(0, self.size - self.tell())
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return memoryview(b"")
        data = self._view.read_range(self.tell(), length)
        self.seek(length, io.SEEK_CUR)
        _LENT.add(data)
        return data

    def read(self, size: int | None = -1) -> bytes:
        """Return at most `size` bytes, all that follow where it is negative or None."""
        return bytes(self.read_buffer(size))

    def readall(self) -> bytes:
        """Return all bytes that follow."""
        return self.read()
