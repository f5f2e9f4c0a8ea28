"""A file as an fsspec file system stores it: where it lies, and ranges of its bytes. What it shows: views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.errors import ConflictError, StorageError
from pipecrypt.storage.filesystem import fingerprint_of, size_of
from pipecrypt.storage.local_file import read_stored
from pipecrypt.storage.problems import map_errors

__all__ = ["FileRanges", "StoredFile", "look_at_file", "open_places"]

_END_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its storage has it.

    Args:
        fs: the fsspec file system that stores it.
        path: its path there, by which it is shown.
        size_bytes: its size.
        fingerprint: changes when the file does.
        lies_at: where it is read instead, while a run moves it from where it was staged to its place.
    """

    fs: Any
    path: str
    size_bytes: int
    fingerprint: str
    lies_at: str | None = None

    @property
    def place(self) -> str:
        """Where it is read."""
        return self.lies_at or self.path


def look_at_file(fs: Any, path: str, place: str) -> StoredFile | None:
    """Return the file that lies at a place, shown by its path; None if there is none."""
    with map_errors(f"cannot read {path}"):
        try:
            info = fs.info(place)
        except FileNotFoundError:
            return None
    if info.get("type") != "file":
        return None
    return StoredFile(fs, path, size_of(info, path), fingerprint_of(info), None if place == path else place)


def open_places(file: StoredFile, signed: SignedFile) -> Iterator[FileRanges]:
    """Open the file at its other place and at its path, as what is there now."""
    for place in (signed.other_place(file.path), file.path):
        found = None if place is None else look_at_file(file.fs, file.path, place)
        if found is not None:
            with suppress(ConflictError):
                yield FileRanges(found)


class FileRanges:
    """Ranges of a file of some fsspec file system, one request each, and several side by side where it can."""

    __slots__ = ("_ends", "_file", "name", "size_bytes")

    def __init__(self, file: StoredFile) -> None:
        """Fetch both ends, which opening a file takes, at once."""
        self._file = file
        self.name = file.path
        self.size_bytes = size = file.size_bytes
        tail = max(0, size - _END_BYTES)
        ranges = [(0, min(size, _END_BYTES))] if tail == 0 else [(0, 4), (tail, size - tail)]
        self._ends: list[tuple[int, memoryview]] = []
        if size:
            self._ends = [(start, data) for (start, _), data in zip(ranges, self.read_many(ranges), strict=True)]

    def forget_ends(self) -> None:
        """Forget what was fetched when it was opened."""
        self._ends = []

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`.

        Raises:
            ConflictError: the file went away.
            StorageError: the storage failed, or something else than a file is there.
        """
        for first, data in self._ends:
            if first <= start and start + length <= first + len(data):
                return data[start - first : start - first + length]
        return self.read_many([(start, length)])[0]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length); raises what `read_range` raises."""
        with map_errors(f"cannot read {self.name}"):
            try:
                found = read_stored(self._file.fs, self._file.place, ranges)
            except FileNotFoundError as error:
                raise ConflictError(f"{self.name} went away while it was read", hint="open it once more") from error
        for (_, length), data in zip(ranges, found, strict=True):
            if len(data) != length:
                raise StorageError(
                    f"{self.name}: the storage returned {len(data)} bytes where {length} were asked for",
                    hint="the file changed while it was read, or the storage does not serve ranges",
                )
        return [memoryview(data) for data in found]
