"""Fetch several ranges of a source at once, from any thread. What the bytes mean is left to the view.

Ranges that touch are fetched as one. A source that fetches several ranges by itself is handed all of them, so that an
object store serves them side by side; one that only has a buffer of its own is locked and copied from.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence

from pipecrypt.vocabulary.ranges import DescribedSource, RangeSource

__all__ = ["Gatherer"]


class Gatherer:
    """Ranges of one source, each in memory of its own.

    Args:
        source: the file.
    """

    __slots__ = ("_lock", "_source")

    def __init__(self, source: RangeSource) -> None:
        """Fetch nothing yet."""
        self._source = source
        self._lock = threading.Lock()

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length), in the order given.

        Raises:
            FormatError: the file is shorter than that.
            StorageError: the storage failed.
        """
        windows = _merged(ranges)
        fetched = self._fetch_windows(windows)
        if len(windows) == 1 and len(ranges) == 1:
            return fetched
        starts = [start for start, _ in windows]
        found = []
        for start, length in ranges:
            index = bisect_right(starts, start) - 1
            at = start - starts[index]
            found.append(fetched[index][at : at + length])
        return found

    def _fetch_windows(self, windows: list[tuple[int, int]]) -> list[memoryview]:
        source = self._source
        if isinstance(source, DescribedSource):
            return list(source.read_many(windows))
        if isinstance(source, DescribedSource):
            return [_read_into(source, start, length) for start, length in windows]
        with self._lock:
            return [memoryview(bytes(source.read_range(start, length))) for start, length in windows]


def _read_into(source: DescribedSource, start: int, length: int) -> memoryview:
    out = memoryview(bytearray(length))
    source.read_into(start, out)
    return out


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    windows: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if windows and start <= sum(windows[-1]):
            first, known = windows[-1]
            windows[-1] = (first, max(known, start + length - first))
        else:
            windows.append((start, length))
    return windows
