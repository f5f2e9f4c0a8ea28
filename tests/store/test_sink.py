# ruff: noqa: PT012 - what fails is the block as a whole
from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry

from pipecrypt.errors import ConflictError, FormatError, PipecryptError, SinkNotEmptyError, StorageError
from pipecrypt.parquet.carry.writing import copies_ranges
from pipecrypt.store import beneath, publication
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.publication import new_token
from tests.doubles.faulty_store import PUBLISHING_CALLS, Faults, FaultyStore, patched_os

DATA = os.urandom(50_000)


def _publish(url: object, *, overwrite: bool = False, data: bytes = DATA) -> None:
    with open_store(Location(str(url))).write(overwrite=overwrite) as sink:
        for start in range(0, len(data), 20_000):
            sink.write(memoryview(data)[start : start + 20_000])
        sink.publish()


def _tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def umask() -> Iterator[int]:
    old = os.umask(0o027)
    yield 0o027
    os.umask(old)


# ---- local ----


@pytest.mark.parametrize("name", ["a.parquet", "x/y/a b#%20*?.parquet", "ü" * 127, "x" * 255])
@pytest.mark.parametrize("overwrite", [False, True])
def test_publishes_whole_files(tmp_path: Path, umask: int, name: str, overwrite: bool) -> None:
    _publish(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / name).read_bytes() == DATA
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [(tmp_path / name).name]
    assert (tmp_path / name).stat().st_nlink == 1


def test_relative_paths_and_file_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _publish("a.parquet")
    _publish(f"file://{tmp_path}/b.parquet")
    assert _tree(tmp_path) == {"a.parquet": DATA, "b.parquet": DATA}


def test_empty_file(tmp_path: Path) -> None:
    _publish(tmp_path / "a", data=b"")
    assert _tree(tmp_path) == {"a": b""}


def test_nothing_is_made_before_the_first_write_nor_seen_before_the_end(tmp_path: Path) -> None:
    with open_store(Location(str(tmp_path / "x/a"))).write(overwrite=False) as sink:
        assert _tree(tmp_path) == {}
        sink.write(DATA)
        (name,) = (path.name for path in (tmp_path / "x").iterdir())
        assert name.startswith(".a.pipecrypt-")
        assert name.endswith(".tmp")
        sink.publish()
    assert _tree(tmp_path) == {"x": None, "x/a": DATA}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), open_store(Location(str(tmp_path / "x/y/a"))).write(overwrite=False) as sink:
        sink.write(DATA)
        raise error
    assert _tree(tmp_path) == {}


def test_discarding_spares_the_work_of_others(tmp_path: Path) -> None:
    with open_store(Location(str(tmp_path / "x/a"))).write(overwrite=False) as first:
        first.write(DATA)
        _publish(tmp_path / "x/b")
    assert _tree(tmp_path) == {"x": None, "x/b": DATA}


def test_a_directory_that_vanishes_is_made_again(tmp_path: Path) -> None:
    with open_store(Location(str(tmp_path / "x/a"))).write(overwrite=False) as sink:
        (tmp_path / "x").mkdir()
        (tmp_path / "x").rmdir()
        sink.write(DATA)
        sink.publish()
    assert _tree(tmp_path) == {"x": None, "x/a": DATA}


def test_existing_file_is_refused_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(SinkNotEmptyError):
        _publish(tmp_path / "a")
    assert _tree(tmp_path) == {"a": b"old"}
    _publish(tmp_path / "a", overwrite=True)
    assert _tree(tmp_path) == {"a": DATA}


def test_of_two_writers_one_fails(tmp_path: Path) -> None:
    with pytest.raises(SinkNotEmptyError), open_store(Location(str(tmp_path / "a"))).write(overwrite=False) as sink:
        sink.write(DATA)
        (tmp_path / "a").write_bytes(b"first")
        sink.publish()
    assert _tree(tmp_path) == {"a": b"first"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_directories_and_devices_are_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("dir", "pipe", "/dev/null"):
        with pytest.raises(StorageError):
            open_store(Location(str(tmp_path / name))).write(overwrite=overwrite)


def test_a_file_in_the_way_of_a_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x").write_bytes(b"file")
    with pytest.raises(StorageError) as caught:
        _publish(tmp_path / "x/a")
    assert "x/a" in caught.value.message
    assert not caplog.records  # of a temporary file that was never made


def test_too_long_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        _publish(tmp_path / ("x" * 256))
    assert _tree(tmp_path) == {}


def _count_calls(tmp_path: Path, *, overwrite: bool) -> dict[str, int]:
    (tmp_path / "count").mkdir()
    with patched_os(Faults(), beneath, publication) as faults:
        _publish(tmp_path / "count" / "x" / "a", overwrite=overwrite)
    return dict(faults.calls)


@pytest.mark.parametrize("overwrite", [False, True])
def test_every_call_fails_once(tmp_path: Path, overwrite: bool) -> None:
    """The sink holds the whole file or what it held before, and no temporary name."""
    counted = _count_calls(tmp_path, overwrite=overwrite)
    assert set(counted) == set(PUBLISHING_CALLS) - {"link" if overwrite else "rename"}
    published = 0
    for call, times in counted.items():
        for at in range(1, times + 1):
            root = tmp_path / f"{call}{at}"
            root.mkdir()
            with patched_os(Faults(call, at), beneath, publication):
                try:
                    _publish(root / "x" / "a", overwrite=overwrite)
                except StorageError as error:
                    failed = error.message
                else:
                    failed = None
            if failed is None:
                assert call == "close"  # of a directory: nothing was written through it
                assert _tree(root) != {}
            else:
                assert str(root / "x" / "a") in failed
                published += _tree(root) != {}
            assert _tree(root) in ({}, {"x": None, "x/a": DATA}), (call, at)
    # Only what comes after the file appeared may fail and leave it: opening, syncing and closing its directories.
    assert published == 7


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "close", "open"])
def test_failing_to_replace_keeps_the_old_file(tmp_path: Path, call: str) -> None:
    (tmp_path / "a").write_bytes(b"old")
    modules = (publication,) if call == "close" else (beneath, publication)
    with patched_os(Faults(call), *modules), pytest.raises(StorageError):
        _publish(tmp_path / "a", overwrite=True)
    assert _tree(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize(
    ("call", "at"), [("write", 1), ("fsync", 1), ("link", 1), *(("open", at) for at in range(4, 8))]
)
def test_interrupts_inside_calls_leave_nothing(tmp_path: Path, call: str, at: int) -> None:
    for after in (False, True):
        faults = Faults(call, at, error=KeyboardInterrupt(), after=after)
        with (
            patched_os(faults, beneath, publication),
            pytest.raises(KeyboardInterrupt),
        ):
            _publish(tmp_path / "x/a")
        is_published = call == "link" and after
        assert _tree(tmp_path) == ({"x": None, "x/a": DATA} if is_published else {}), (call, after)


def test_the_fault_suite_notices_when_faults_are_off(tmp_path: Path) -> None:
    with patched_os(Faults("", 1), publication):
        _publish(tmp_path / "a")
    assert _tree(tmp_path) == {"a": DATA}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes this as advice to write")
@pytest.mark.parametrize("failure", [None, OSError(errno.ENOSYS, "no advice")])
def test_large_files_are_on_their_way_to_the_disk_before_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: OSError | None
) -> None:
    ranges = []

    def advise(descriptor: int, start: int, length: int, advice: int) -> None:
        ranges.append((start, length))
        if failure is not None:
            raise failure

    monkeypatch.setattr(os, "posix_fadvise", advise)
    block = os.urandom(3 << 20)
    with open_store(Location(str(tmp_path / "out"))).write(overwrite=False) as sink:
        for _ in range(6):
            sink.write(memoryview(block))
        sink.publish()

    assert (tmp_path / "out").read_bytes() == 6 * block
    assert ranges == [(0, 9 << 20), (9 << 20, 9 << 20)]


def test_short_writes_are_continued(tmp_path: Path) -> None:
    with patched_os(Faults("write", at=0, short_bytes=777), publication):
        _publish(tmp_path / "a")
    assert _tree(tmp_path) == {"a": DATA}


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "space"), (errno.EACCES, "permission"), (errno.EROFS, "read-only"), (errno.EIO, "error")],
)
def test_errors_name_path_and_reason(tmp_path: Path, number: int, word: str) -> None:
    faults = Faults("write", error=number)
    with (
        patched_os(faults, beneath, publication),
        pytest.raises(StorageError) as caught,
    ):
        _publish(tmp_path / "a")
    assert str(tmp_path / "a") in caught.value.message
    assert word in caught.value.message
    assert caught.value.exit_code == (4 if number == errno.EACCES else 1)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_file_systems_without_hard_links(tmp_path: Path, number: int) -> None:
    with patched_os(Faults("link", at=0, error=number), publication):
        _publish(tmp_path / "a")
        assert _tree(tmp_path) == {"a": DATA}
        with pytest.raises(SinkNotEmptyError), open_store(Location(str(tmp_path / "b"))).write(overwrite=False) as sink:
            (tmp_path / "b").write_bytes(b"first")
            sink.publish()
    assert _tree(tmp_path) == {"a": DATA, "b": b"first"}


def test_leftovers_of_one_run_are_removed(tmp_path: Path) -> None:
    mine, other = new_token(), new_token()
    made = []
    for token in (mine, other):
        sink = open_store(Location(str(tmp_path / "a"))).write(overwrite=False, token=token)
        sink.write(DATA)
        made.append(sink)
    (tmp_path / "a.pipecrypt-notes.tmp").write_bytes(b"mine")
    open_store(Location(str(tmp_path / "a"))).remove_leftovers(mine)
    names = sorted(_tree(tmp_path))
    assert len(names) == 2
    assert other in names[0]
    for sink in made:
        sink.discard()
    assert sorted(_tree(tmp_path)) == ["a.pipecrypt-notes.tmp"]
    open_store(Location(str(tmp_path / "missing" / "a"))).remove_leftovers(mine)


def test_a_publication_is_used_once(tmp_path: Path) -> None:
    with open_store(Location(str(tmp_path / "a"))).write(overwrite=False) as sink:
        sink.publish()
        for misuse in (sink.publish, lambda: sink.write(b"x")):
            with pytest.raises(RuntimeError):
                misuse()
        sink.discard()
    assert (tmp_path / "a").exists()


def test_emptiness(tmp_path: Path) -> None:
    assert open_store(Location(str(tmp_path / "none"))).is_empty()
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "x/.a.pipecrypt-0011aabb-0011aabb.tmp").write_bytes(b"")
    assert open_store(Location(str(tmp_path))).is_empty()
    assert open_store(Location(str(tmp_path))).stat().is_directory()
    for put in (os.mkfifo, lambda path: path.symlink_to("..")):
        put(place := tmp_path / "x/.a.parquet.pipecrypt-undo.tmp")
        assert not open_store(Location(str(tmp_path))).is_empty()
        place.unlink()
    (tmp_path / "x/y/.hidden").write_bytes(b"")
    assert not open_store(Location(str(tmp_path))).is_empty()
    assert not open_store(Location(str(tmp_path / "x/y/.hidden"))).is_empty()


# ---- any other storage ----


def _faulty_files(store: type[FaultyStore]) -> dict[str, bytes]:
    return {path: bytes(file.getvalue()) for path, file in store.store.items()}


@pytest.mark.parametrize("name", ["a.parquet", "x/y/ü a#%20*[1]?.parquet"])
def test_publishes_whole_objects(memory: fsspec.AbstractFileSystem, name: str) -> None:
    _publish(f"memory://b/{name}")
    assert memory.cat_file(f"/b/{name}") == DATA
    assert len(memory.store) == 1
    with pytest.raises(SinkNotEmptyError):
        _publish(f"memory://b/{name}", data=b"new")
    _publish(f"memory://b/{name}", data=b"new", overwrite=True)
    assert memory.cat_file(f"/b/{name}") == b"new"
    assert len(memory.store) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_object_after_an_error(memory: fsspec.AbstractFileSystem, error: type[BaseException]) -> None:
    with pytest.raises(error), open_store(Location("memory://b/a")).write(overwrite=False) as sink:
        sink.write(DATA)
        raise error
    assert not memory.store


@pytest.mark.parametrize("call", ["put_file", "cp_file", "info"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "planned"), RuntimeError("planned"), KeyboardInterrupt()])
def test_failing_stores_without_atomic_uploads(faulty: type[FaultyStore], call: str, error: BaseException) -> None:
    for at in range(1, 4):
        faults = faulty.reset(Faults(call, at=at, error=error))
        try:
            _publish("faulty://b/a")
        except (StorageError, KeyboardInterrupt):
            assert faults.calls[call] >= at
            assert _faulty_files(faulty) == {}
        else:
            assert faults.calls[call] < at
            assert _faulty_files(faulty) == {"/b/a": DATA}


def test_a_store_that_loses_bytes_is_noticed(faulty: type[FaultyStore]) -> None:
    faulty.plan(Faults("put_file", short_bytes=100))
    with pytest.raises(StorageError):
        _publish("faulty://b/a")
    assert _faulty_files(faulty) == {}


@pytest.fixture
def s3(faulty: type[FaultyStore], monkeypatch: pytest.MonkeyPatch) -> type[FaultyStore]:
    """The faulty store under the name of one that has atomic uploads."""
    monkeypatch.setitem(_registry, "s3", faulty)
    monkeypatch.setattr(faulty, "atomic_uploads", True)
    faulty.clear_instance_cache()
    return faulty


def test_object_stores_get_one_upload_under_the_final_name(s3: type[FaultyStore]) -> None:
    faults = s3.plan()
    _publish("s3://b/a")
    assert _faulty_files(s3) == {"/b/a": DATA}
    assert (faults.calls["put_file"], faults.calls["cp_file"], faults.calls["rm_file"]) == (1, 0, 0)


def test_failing_upload(s3: type[FaultyStore]) -> None:
    s3.plan(Faults("put_file", error=OSError(errno.EIO, "planned")))
    with pytest.raises(StorageError):
        _publish("s3://b/a")
    assert _faulty_files(s3) == {}


def test_lost_answer_of_a_successful_upload(s3: type[FaultyStore]) -> None:
    s3.plan(Faults("put_file", error=FileExistsError("b/a"), after=True))
    _publish("s3://b/a")
    assert _faulty_files(s3) == {"/b/a": DATA}


def test_another_writer_was_first(s3: type[FaultyStore]) -> None:
    for first in (b"first", bytes(len(DATA))):
        s3.reset()
        with pytest.raises(SinkNotEmptyError), open_store(Location("s3://b/a")).write(overwrite=False) as sink:
            sink.write(DATA)
            fsspec.filesystem("s3", use_listings_cache=False).pipe_file("b/a", first)
            sink.publish()
        assert _faulty_files(s3) == {"/b/a": first}


def test_unknown_outcome(s3: type[FaultyStore]) -> None:
    class _Unreachable(Faults):
        def run(self, call: str, action: object) -> object:
            if self.calls["put_file"] and call == "info":
                raise ConnectionError("unreachable")
            return super().run(call, action)  # type: ignore[arg-type]

    s3.plan(_Unreachable("put_file", error=TimeoutError("planned"), after=True))
    once = Location("s3://b/a", {"transfer": {"deadline_seconds": 0}})
    with pytest.raises(ConflictError) as caught, open_store(once).write(overwrite=False) as sink:
        sink.write(DATA)
        sink.publish()
    assert caught.value.exit_code == 5
    assert _faulty_files(s3) == {"/b/a": DATA}


def test_remote_emptiness(memory: fsspec.AbstractFileSystem) -> None:
    assert open_store(Location("memory://b")).is_empty()
    memory.makedirs("/b/c")
    memory.pipe_file("/b/.a.pipecrypt-00aa00aa-00aa00aa.tmp", b"")
    assert open_store(Location("memory://b")).is_empty()
    assert open_store(Location("memory://b")).stat().is_directory()
    assert not open_store(Location("memory://b2")).stat().is_directory()
    memory.pipe_file("/b/c/d", b"")
    assert not open_store(Location("memory://b/")).is_empty()


def test_every_failure_is_ours(faulty: type[FaultyStore]) -> None:
    for call in ("info", "put_file", "cp_file", "rm_file"):
        faulty.reset(Faults(call, at=0, error=ZeroDivisionError("inside a client")))
        with pytest.raises(PipecryptError):
            _publish("faulty://b/a")


def test_a_complete_file_takes_no_more_and_is_published_later(tmp_path: Path) -> None:
    for name, is_published in (("a", True), ("b", False)):
        with open_store(Location(str(tmp_path / name))).write(overwrite=False) as sink:
            sink.write(DATA)
            sink.complete()
            sink.complete()
            assert not (tmp_path / name).exists()
            with pytest.raises(RuntimeError):
                sink.write(DATA)
            if is_published:
                sink.publish()
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.skipif(sys.platform != "linux", reason="sendfile between files is Linux's")
def test_ranges_of_a_file_are_copied_by_the_system(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(range(256)))
    with (
        (tmp_path / "in").open("rb") as file,
        open_store(Location(str(tmp_path / "out"))).write(overwrite=False) as sink,
    ):
        assert copies_ranges(sink)
        sink.write(b"a")
        sink.copy_range(file.fileno(), 10, 5)
        sink.write(b"z")
        with pytest.raises(FormatError):
            sink.copy_range(file.fileno(), 250, 10)
        sink.publish()
        with pytest.raises(RuntimeError):
            sink.copy_range(file.fileno(), 0, 1)
    assert (tmp_path / "out").read_bytes() == b"a" + bytes(range(10, 15)) + b"z" + bytes(range(250, 256))


@pytest.mark.skipif(sys.platform != "linux", reason="sendfile between files is Linux's")
@pytest.mark.parametrize(("number", "works"), [(errno.EINVAL, True), (errno.ENOSPC, False)])
def test_file_systems_without_sendfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, works: bool
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(publication.os, "sendfile", fail)
    data = os.urandom(3 << 20)
    (tmp_path / "in").write_bytes(data)
    with (
        (tmp_path / "in").open("rb") as file,
        open_store(Location(str(tmp_path / "out"))).write(overwrite=False) as sink,
    ):
        if works:
            sink.copy_range(file.fileno(), 5, len(data) - 5)  # type: ignore[union-attr]
            sink.publish()
            assert (tmp_path / "out").read_bytes() == data[5:]
        else:
            with pytest.raises(StorageError):
                sink.copy_range(file.fileno(), 0, 1)  # type: ignore[union-attr]
