# ruff: noqa: PT012 - what fails is the block as a whole
from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from pipecrypt.errors import ConflictError, FormatError, IntegrityError, StorageError
from pipecrypt.store import local
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.ranges import traits_of
from tests.doubles.faulty_store import Faults, FaultyOS, FaultyStore

DATA = bytes(range(256)) * 40


def _pin(url: object) -> SourceFile:
    (file,) = list_sources(Location(str(url)))
    return file


@pytest.fixture(params=["local", "memory"])
def pinned(request: pytest.FixtureRequest, tmp_path: Path, memory: fsspec.AbstractFileSystem) -> SourceFile:
    if request.param == "local":
        (tmp_path / "a.parquet").write_bytes(DATA)
        return _pin(tmp_path / "a.parquet")
    memory.pipe_file("/b/a.parquet", DATA)
    return _pin("memory://b/a.parquet")


def _replace(file: SourceFile, data: bytes) -> None:
    if file.location.is_local:
        path = Path(file.location.local_path)
        path.with_name("new").write_bytes(data)
        path.with_name("new").rename(path)
    else:
        fsspec.filesystem("memory").pipe_file("/b/a.parquet", data)


def test_ranges(pinned: SourceFile) -> None:
    with open_range_source(pinned) as source:
        assert source.size_bytes == len(DATA)
        assert source.name == pinned.location.display
        for start, length in [(0, 4), (100, 5000), (len(DATA) - 8, 8), (7, 0), (0, len(DATA)), (5, 10)]:
            assert bytes(source.read_range(start, length)) == DATA[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(0, len(DATA) + 1), (len(DATA), 1), (-1, 2), (0, -1), (2**62, 2**62)])
def test_ranges_outside_the_file(pinned: SourceFile, start: int, length: int) -> None:
    with pytest.raises(FormatError), open_range_source(pinned) as source:
        source.read_range(start, length)


def test_local_reads_share_one_buffer_and_are_cheap(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(DATA)
    with open_range_source(_pin(tmp_path / "a.parquet")) as source:
        first, second = source.read_range(0, 100), source.read_range(200, 50)
        assert first.obj is second.obj
        kept = source.read_range(0, 4000)
        source.read_range(0, 9000)  # the buffer grows; a view of the old one does not stop it
        assert bytes(kept) == DATA[:4000]
        assert traits_of(source).seeks_cheaply


@pytest.mark.parametrize("data", [DATA, DATA[:-1], DATA + b"x"])
def test_replaced_between_plan_and_open(pinned: SourceFile, data: bytes) -> None:
    _replace(pinned, data)
    with pytest.raises(ConflictError), open_range_source(pinned):
        pytest.fail("opened")


@pytest.mark.parametrize("data", [DATA, DATA[:-1]])
def test_replaced_while_read(pinned: SourceFile, data: bytes) -> None:
    done = False
    with pytest.raises(ConflictError) as caught, open_range_source(pinned) as source:
        source.read_range(0, 10)
        _replace(pinned, data)
        done = True
    assert done
    assert pinned.location.display in caught.value.message


def test_written_in_place_while_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(DATA)
    os.utime(path, (1, 1))
    pinned = _pin(path)
    with pytest.raises(ConflictError), open_range_source(pinned), path.open("r+b") as file:
        file.write(b"x")


def test_truncated_while_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(DATA)
    pinned = _pin(path)
    with pytest.raises(ConflictError), open_range_source(pinned) as source:
        os.truncate(path, 10)
        source.read_range(0, 100)


@pytest.mark.parametrize("kind", [FormatError, IntegrityError])
def test_an_error_in_a_changing_file_is_about_the_change(pinned: SourceFile, kind: type[FormatError]) -> None:
    with pytest.raises(ConflictError), open_range_source(pinned):
        _replace(pinned, DATA + b"x")
        raise kind("garbled")


def test_an_error_in_a_steady_file_stays(pinned: SourceFile) -> None:
    with pytest.raises(IntegrityError), open_range_source(pinned):
        raise IntegrityError("tampered")


def test_deleted(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    (tmp_path / "a.parquet").write_bytes(DATA)
    pinned = _pin(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ConflictError), open_range_source(pinned):
        pytest.fail("opened")
    memory.pipe_file("/a.parquet", DATA)
    remote = _pin("memory://a.parquet")
    with pytest.raises(ConflictError), open_range_source(remote):
        memory.rm_file("/a.parquet")


def test_local_descriptor_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(DATA)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), open_range_source(_pin(tmp_path / "a.parquet")):
            raise KeyboardInterrupt
    assert len(os.listdir("/proc/self/fd")) == before


def test_failing_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: type[FaultyStore]) -> None:
    (tmp_path / "a.parquet").write_bytes(DATA)
    monkeypatch.setattr(local, "os", FaultyOS(Faults("preadv", at=2), counted=("preadv",)))
    with pytest.raises(StorageError), open_range_source(_pin(tmp_path / "a.parquet")) as source:
        source.read_range(0, 10)
        source.read_range(10, 10)
    with fsspec.open("faulty://a.parquet", "wb") as file:
        file.write(DATA)
    faulty.plan(Faults("cat_file", at=1, error=RuntimeError("Throttled https://x/?sig=hunter2")))
    with pytest.raises(StorageError) as caught, open_range_source(_pin("faulty://a.parquet")) as source:
        source.read_range(0, 10)
    assert "hunter2" not in caught.value.message


def test_short_answer_of_a_store(faulty: type[FaultyStore]) -> None:
    with fsspec.open("faulty://a.parquet", "wb") as file:
        file.write(DATA)
    faulty.plan(Faults("cat_file", short_bytes=3))
    with open_range_source(_pin("faulty://a.parquet")) as source:
        assert source.read_range(0, 10) == DATA[:10]  # the second attempt brings all
    faulty.plan(Faults("cat_file", at=0, short_bytes=3))
    (pinned,) = list_sources(Location("faulty://a.parquet", {"transfer": {"deadline_seconds": 0.5}}))
    with pytest.raises(StorageError), open_range_source(pinned) as source:
        source.read_range(0, 10)


def test_small_files(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    (tmp_path / "k.json").write_bytes(b"{}")
    memory.pipe_file("/k.json", b"{}")
    memory.pipe_file("/empty.json", b"")
    for url in (f"{tmp_path}/k.json", "memory://k.json"):
        assert open_store(Location(url)).read_small(max_bytes=2) == b"{}"
        assert open_store(Location(url + ".none")).read_small(max_bytes=2) is None
        with pytest.raises(FormatError):
            open_store(Location(url)).read_small(max_bytes=1)
    assert open_store(Location("memory://empty.json")).read_small(max_bytes=1) == b""
    with pytest.raises(FormatError):
        open_store(Location(str(tmp_path))).read_small(max_bytes=10)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs Linux")
def test_a_file_with_more_bytes_than_its_size_is_refused() -> None:
    pinned = _pin("/proc/version")
    assert pinned.size_bytes == 0
    with pytest.raises(StorageError), open_range_source(pinned):
        pass


def test_a_file_that_grows_right_behind_the_look_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(DATA)
    pinned = _pin(tmp_path / "a.parquet")
    real = os.pread

    def grow(*arguments: int) -> bytes:
        with (tmp_path / "a.parquet").open("ab") as file:
            file.write(b"more")
        return real(*arguments)

    monkeypatch.setattr(local.os, "pread", grow)
    with pytest.raises(ConflictError), open_range_source(pinned):
        pass
