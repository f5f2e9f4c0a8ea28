"""Read a signed file that moves meanwhile: a run moves what it staged to its place. Which bytes count: file_check.

Whoever reads a file keeps reading that one version of it. So when it is no longer where it was, one more look is taken
at the two places where it may lie, and only a file of the signed size and footer is read on. All that is read is
authenticated by that footer, or compared with digests of the first look, as before: a move changes nothing about that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

from pipecrypt.errors import ConflictError, ContentError, StorageError
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.parquet.files import Gatherer
from pipecrypt.parquet.footer.stored import read_footer_bytes
from pipecrypt.vocabulary.ranges import RangeSource, SourceTraits, read_into

__all__ = ["SignedRanges", "first_signed", "is_signed"]

_T = TypeVar("_T")

_Source = TypeVar("_Source", bound=RangeSource)

# Opens what lies at the places where a file may be now, one after another; what is not there is left out.
Places: TypeAlias = Callable[[], Iterable[_Source]]


def is_signed(source: RangeSource, entry: FileEntry) -> bool:
    """Say whether a file has the size and the footer of an entry; one that changes or goes meanwhile does not.

    Raises:
        StorageError: the storage refused or failed.
    """
    try:
        return source.size_bytes == entry.size_bytes and read_footer_bytes(source).sha256 == entry.footer_sha256
    except (ContentError, ConflictError):
        return False


def first_signed(places: Places[_Source], entry: FileEntry) -> _Source | None:
    """Return the first file that is the signed one, or None if there is none; raises as `is_signed`."""
    return next((source for source in places() if is_signed(source, entry)), None)


class SignedRanges:
    """A RangeSource over a signed file, wherever it lies; as safe to use from several threads as what it reads.

    Args:
        source: the file, where it was found. The caller compares it with what was signed.
        entry: what was signed.
        places: looks where it may be now. Closing what that opens is left to whoever made it.
    """

    traits = SourceTraits(reads_in_flight=1)

    __slots__ = ("_entry", "_lock", "_places", "_source", "name", "size_bytes")

    def __init__(self, source: RangeSource, entry: FileEntry, places: Places[RangeSource]) -> None:
        """Read nothing yet."""
        self._source = source
        self._entry = entry
        self._places = places
        self._lock = threading.Lock()
        self.name = source.name
        self.size_bytes = source.size_bytes

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`.

        Raises:
            FormatError: the file is shorter than that.
            ConflictError: it is not where it was, and nowhere else.
            StorageError: the storage failed.
        """
        return self._reading(lambda source: source.read_range(start, length))

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""
        self._reading(lambda source: read_into(source, start, out))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length), which stay valid; raises what `read_range` raises."""
        return self._reading(lambda source: Gatherer(source).fetch(ranges))

    def _reading(self, read: Callable[[RangeSource], _T]) -> _T:
        source = self._source
        try:
            return read(source)
        except (ConflictError, StorageError):
            moved = self._moved(source)
            if moved is None:
                raise
        return read(moved)

    def _moved(self, lost: RangeSource) -> RangeSource | None:
        with self._lock:
            if self._source is lost:
                found = first_signed(self._places, self._entry)
                if found is None:
                    return None
                self._source = found
            return self._source
