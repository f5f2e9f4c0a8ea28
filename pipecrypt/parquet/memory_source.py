"""A Parquet file in memory as a range source. Writing it is left to sources."""

from __future__ import annotations

from pipecrypt.errors import FormatError

__all__ = ["MemorySource"]


class MemorySource:
    """A whole file in a buffer, which is not copied.

    Args:
        data: the file.
        name: what errors call it.
    """

    __slots__ = ("_data", "name", "size_bytes")

    seeks_cheaply = True

    def __init__(self, data: bytes | bytearray | memoryview, name: str) -> None:
        """Look at the buffer."""
        self._data = memoryview(data).cast("B")
        self.name = name
        self.size_bytes = len(self._data)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`.

        Raises:
            FormatError: the file is shorter than that.
        """
        if start < 0 or length < 0 or start + length > self.size_bytes:
            raise FormatError(f"{self.name} has {self.size_bytes} bytes, but bytes {start} to {start + length} are due")
        return self._data[start : start + length]
