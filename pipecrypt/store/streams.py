"""Standard input as a source and standard output as a sink, both called `-`.

Neither is a file: input has no size and cannot be read twice, and what was written to output cannot be taken back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from pipecrypt.errors import StorageError, UsageError
from pipecrypt.store.filesystem import RemoteFilesystem
from pipecrypt.store.fsspec import FsspecStore
from pipecrypt.store.location import Location
from pipecrypt.store.patterns import Pattern
from pipecrypt.store.problems import map_errors
from pipecrypt.store.protocol import Admits, Entry, Kind, Ranges, SourceFile
from pipecrypt.store.publication import Publication
from pipecrypt.vocabulary.ranges import MemorySource

__all__ = ["InputInMemory", "StandardOutput", "StandardStreams", "standard_input"]

_NAME: Final = "standard input"


def standard_input() -> BinaryIO:
    """Return standard input as bytes.

    Raises:
        StorageError: this process has none.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise StorageError("there is no standard input", hint="give a file")
    return cast("BinaryIO", sys.stdin.buffer)


class StandardStreams(FsspecStore):
    """Both streams as a store that holds nothing: it can be read once and written once, and has no other file."""

    answers_late = False
    is_remote = False

    def _open_filesystem(self, place: Location) -> RemoteFilesystem:
        raise UsageError(f"{self.root.display} is not a file", hint="give a file")

    def stat(self, path: str = "") -> Entry:
        """Say that nothing is there."""
        return Entry(self.root, path, Kind.NOTHING)

    def list(self, path: str = "", admits: Admits | None = None) -> Iterator[Entry]:
        """Yield nothing."""
        return iter(())

    def is_empty(self, *, besides: str | None = None) -> bool:
        """Say yes."""
        return True

    def find_sources(self, below: Pattern) -> Iterator[SourceFile]:
        """Yield standard input."""
        yield SourceFile(self.root, self.root.name, 0, "")

    def open(self, source: SourceFile) -> Ranges:
        """Read all of standard input."""
        return InputInMemory()

    def write(
        self, path: str = "", *, overwrite: bool, token: str | None = None, expected_bytes: int | None = None
    ) -> Publication:
        """Open standard output."""
        return StandardOutput(self.root)


class InputInMemory(MemorySource):
    """All of standard input, held in memory: what is read from its end needs the end first.

    It is never spooled to a disk, where plaintext would be left after a crash.
    """

    def __init__(self) -> None:
        """Read everything."""
        with map_errors(f"cannot read {_NAME}"):
            super().__init__(standard_input().read(), _NAME)

    def check_unchanged(self) -> None:
        """Pass: nobody changes it."""

    def close(self) -> None:
        """Forget what was read."""
        self._data = memoryview(b"")


class StandardOutput(Publication):
    """Standard output. It appears as it is written; a failure in the middle shows in the exit code only."""

    def __init__(self, location: Location) -> None:
        """Look whether there is one.

        Raises:
            StorageError: this process has none.
        """
        super().__init__(location)
        if sys.stdout is None or sys.stdout.closed:
            raise StorageError("there is no standard output", hint="give a file")

    @property
    def name(self) -> str:
        """What errors call it."""
        return "standard output"

    def _append(self, data: memoryview) -> None:
        with map_errors(f"cannot write {self.name}"):
            sys.stdout.buffer.write(data)

    def _publish(self) -> None:
        with map_errors(f"cannot write {self.name}"):
            sys.stdout.buffer.flush()

    def _discard(self) -> None:
        """Do nothing: what was written is gone."""
