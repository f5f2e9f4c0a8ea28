"""The output as it grows: what the system copies and what is sealed stay in order, and nothing follows a failure."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm, digest
from pipecrypt.errors import FormatError, IntegrityError, StorageError
from pipecrypt.parquet.carry.writing import Body
from pipecrypt.parquet.files import decrypt_file, encrypt_file
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.ranges import SourceTraits
from tests.parquet.world import FillingSource, MemorySink, MemorySource, RandomKeys, only, parquet_bytes, sample_table


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
        self.traits = SourceTraits(seeks_cheaply=True, descriptor=self._file.fileno())


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


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of threads that were started."""
    names: list[str] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    return names


@pytest.mark.parametrize("rows", [10, 40_000])
def test_only_files_that_are_not_short_take_threads(started: list[str], rows: int) -> None:
    """Thousands of small files would otherwise cost two threads each, which take longer than their encryption."""
    keys, sealed, back, original = RandomKeys(), MemorySink(), MemorySink(), parquet_bytes(sample_table(rows))
    context = Context(new_dataset_id(), "a")
    encrypt_file(FillingSource(original), sealed, only("email"), keys=keys, context=context)
    decrypt_file(FillingSource(bytes(sealed.data)), back, keys=keys)
    assert back.data == original
    assert bool(started) == (len(original) > 256 << 10)


@pytest.mark.parametrize("ends", ["settled", "closed", "left"])
def test_a_short_file_that_cannot_be_written_ends_with_its_error(started: list[str], tmp_path: Path, ends: str) -> None:
    (tmp_path / "x").write_bytes(bytes(5000))
    sink = _CopyingSink(fail_at=1)

    def write() -> None:
        with Body(sink, lambda _: None) as body:
            body.open_input(_FileSource(tmp_path / "x"))
            body.copy(0, 1000)
            body.write(b"between")
            body.copy(2000, 1000)
            body.write(b"behind")
            if ends == "settled":
                body.settle()
            elif ends == "closed":
                body.close_input()

    with pytest.raises(StorageError):
        write()
    assert bytes(sink.data) == bytes(1000) + b"between"
    assert not started


class _Digests:
    """Takes digests, and notes on which threads; may refuse one."""

    def __init__(self, refused: int = -1) -> None:
        self.algorithm = DigestAlgorithm.SHA256
        self.taken: list[tuple[tuple[int, int, int], str]] = []
        self.threads: set[str] = set()
        self._refused = refused

    def put(self, place: tuple[int, int, int], hex_digest: str) -> None:
        self.threads.add(threading.current_thread().name)
        if place[0] == self._refused:
            raise IntegrityError("another digest")
        self.taken.append((place, hex_digest))


def _mixed(body: Body, data: bytes, count: int) -> list[tuple[tuple[int, int, int], str]]:
    """Append digested and other bytes of many lengths in turn; return the digests that are due."""
    due = []
    for number in range(count):
        length = (0, 1, 5000, 300_000, 5 << 20)[number % 5]
        body.write(os.urandom(number * 100))
        body.begin_digest()
        body.copy(number, length)
        body.write(b"behind it")
        body.end_digest((number, 0, 0))
        due.append(((number, 0, 0), digest(data[number : number + length] + b"behind it")))
        body.commit(len(body.reserve(10)))
    return due


@pytest.mark.parametrize("source_type", [FillingSource, MemorySource])
def test_what_is_marked_is_digested_in_one_piece(source_type: type[MemorySource]) -> None:
    data, digests, sink = os.urandom(6 << 20), _Digests(), MemorySink()
    with Body(sink, lambda _: None, digests) as body:
        body.open_input(source_type(data))
        body.read_ahead((number, number + (6 << 20) - 40) for number in range(1))
        due = _mixed(body, data, 40)
        body.settle()
        assert digests.taken == due
    assert len(sink.data) == body.position
    assert all(name.startswith("pipecrypt-write") for name in digests.threads)


def test_what_is_digested_is_not_copied_by_the_system(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "x").write_bytes(data)
    for digests, copies in ((_Digests(), 0), (None, 1)):
        sink = _CopyingSink()
        with Body(sink, lambda _: None, digests) as body:
            body.open_input(_FileSource(tmp_path / "x"))
            assert body.copies_files == (digests is None)
            body.begin_digest()
            body.copy(0, len(data))
            body.end_digest((0, 0, 0))
        assert bytes(sink.data) == data
        assert len(sink.copied) == copies
    assert digests is None


def test_nothing_follows_a_digest_that_is_another() -> None:
    data, digests, sink = os.urandom(6 << 20), _Digests(refused=4), MemorySink()

    def append() -> None:
        with Body(sink, lambda _: None, digests) as body:
            body.open_input(MemorySource(data))
            _mixed(body, data, 40)

    with pytest.raises(IntegrityError):
        append()
    assert len(digests.taken) == 4
    assert len(sink.data) < 7 << 20


class _FileSink(MemorySink):
    copied = 0

    def copy_range(self, descriptor: int, start: int, length: int) -> None:
        self.copied += length
        self.data += os.pread(descriptor, length, start)


def test_files_with_digests_are_seen_whole_on_both_ways(tmp_path: Path) -> None:
    original, keys = parquet_bytes(sample_table(3000), row_group_size=1000), RandomKeys()
    for digest_algorithm in (None, DigestAlgorithm.SHA256):
        sealed, opened = _FileSink(), _FileSink()
        for name, content in (("plain", original), ("sealed", None)):
            (tmp_path / name).write_bytes(content if content is not None else bytes(sealed.data))
            source = _FileSource(tmp_path / name)
            if name == "plain":
                policy, context = only("email", digest=digest_algorithm), Context(new_dataset_id(), "x")
                encrypt_file(source, sealed, policy, keys=keys, context=context)
            else:
                decrypt_file(source, opened, keys=keys)
        assert bytes(opened.data) == original
        assert (sealed.copied > 0, opened.copied > 0) == (digest_algorithm is None,) * 2
