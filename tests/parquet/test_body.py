"""The output as it grows: what the system copies and what is sealed stay in order, and nothing follows a failure."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from pipecrypt.errors import FormatError, StorageError
from pipecrypt.parquet.body import Body
from tests.parquet.world import MemorySink, MemorySource


class _CopyingSink(MemorySink):
    """A sink that copies from files, slowly, and may fail."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.copied: list[tuple[int, int]] = []
        self._fail_at = fail_at

    def copy_range(self, descriptor: int, start: int, length: int) -> None:
        if len(self.copied) == self._fail_at:
            raise StorageError("disk full")
        time.sleep(0.001)
        self.copied.append((start, length))
        self.data += os.pread(descriptor, length, start)


class _FileSource(MemorySource):
    def __init__(self, path: Path) -> None:
        super().__init__(path.read_bytes())
        self._file = path.open("rb")

    @property
    def descriptor(self) -> int:
        return self._file.fileno()


def test_copies_by_the_system_stay_in_order_between_what_is_sealed(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "x").write_bytes(data)
    sink = _CopyingSink()
    expected = bytearray()
    with Body(sink, lambda _: None) as body:
        body.open_input(_FileSource(tmp_path / "x"))
        for number in range(200):
            start, length = number * 5000, 3000
            body.copy(start, length)
            expected += data[start : start + length]
            piece = os.urandom(30_000 if number % 7 else 0)
            body.write(piece)
            expected += piece
        body.copy(0, len(data))
        expected += data
        assert body.position == len(expected)
    assert bytes(sink.data) == bytes(expected)
    assert len(sink.copied) > 100


def test_nothing_follows_a_copy_that_failed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(1 << 20))
    sink = _CopyingSink(fail_at=3)

    def copy_much() -> None:
        with Body(sink, lambda _: None) as body:
            body.open_input(_FileSource(tmp_path / "x"))
            for _ in range(100):
                body.copy(0, 1 << 20)
                body.write(b"between")

    with pytest.raises(StorageError):
        copy_much()
    assert len(sink.copied) == 3
    assert len(sink.data) <= 3 * ((1 << 20) + 7)


def test_an_error_of_the_walk_is_not_hidden_by_copies_that_wait(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(1 << 20))
    sink = _CopyingSink(fail_at=0)

    def fail_between_copies() -> None:
        with Body(sink, lambda _: None) as body:
            body.open_input(_FileSource(tmp_path / "x"))
            body.copy(0, 1 << 20)
            raise FormatError("the walk failed")

    with pytest.raises(FormatError):
        fail_between_copies()
    assert not sink.data
    assert "pipecrypt-write" not in " ".join(thread.name for thread in threading.enumerate())
