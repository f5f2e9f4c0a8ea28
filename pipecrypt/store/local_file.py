"""Read files of an fsspec file system, local ones without waiting for anybody. Decrypting them is left to reading.

fsspec opens a local file by its name, however long that takes: where a named pipe was put since the name was looked up,
until somebody writes to it. So local files are opened here, as a regular file or not at all.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipecrypt.store.held_directory import open_regular

__all__ = ["LocalFile", "is_local", "read_stored"]


def is_local(fs: Any) -> bool:
    """Say whether a file system is fsspec's own of local files."""
    return isinstance(fs, LocalFileSystem)


def read_stored(fs: Any, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of each range (start, length) of a file, fewer where it ends before.

    Args:
        fs: an fsspec file system.
        path: as the file system spells it.
        ranges: one request each, several side by side where the file system can.

    Raises:
        NoRegularFileError: a directory, a named pipe, a socket or a device is there, and the file system is local.
    """
    if is_local(fs):
        with LocalFile(path) as file:
            return [_read_at(file, start, length) for start, length in ranges]
    if len(ranges) == 1:
        start, length = ranges[0]
        return [bytes(fs.cat_file(path, start=start, end=start + length))]
    starts, ends = [start for start, _ in ranges], [start + length for start, length in ranges]
    return list(fs.cat_ranges([path] * len(ranges), starts, ends, on_error="raise"))


def _read_at(file: LocalFile, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


class LocalFile(io.BufferedReader):
    """A local file, with what fsspec's files have besides.

    Args:
        path: of the file.
        details: what `info()` returns.

    Raises:
        NoRegularFileError: it is a directory, a named pipe, a socket or a device.
        OSError: it is not there, or the system refused.
    """

    def __init__(self, path: str, details: Mapping[str, Any] | None = None) -> None:
        """Open it."""
        descriptor = open_regular(path, os.O_RDONLY, place=path)
        super().__init__(io.FileIO(descriptor, "rb"))
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self._details = dict(details or {})

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def info(self) -> dict[str, Any]:
        """Return what the file system says about the file."""
        return dict(self._details)
