"""What every store does alike: each test runs on local files, two S3 servers, fsspec's memory, GCS and Azure."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipecrypt.errors import ConflictError, FormatError, IntegrityError, PipecryptError, SinkNotEmptyError
from pipecrypt.store.location import ALL_PARQUET, EVERY_FILE, Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import EntryKind, SourceFile, Store

_SERVERS = {
    "moto": "moto_s3_server",
    "seaweedfs": "seaweedfs_server",
    "gcs": "fake_gcs_store",
    "azure": "azurite_store",
}
_PACKAGES = {"moto": "s3fs", "seaweedfs": "s3fs", "gcs": "gcsfs", "azure": "adlfs"}
MOST = 1000


@pytest.fixture(params=["local", "memory", *_SERVERS])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location(str(tmp_path / "sink"))
    if request.param == "memory":
        return Location(f"memory://{uuid.uuid4().hex}/sink")
    server = request.getfixturevalue(_SERVERS[request.param])  # first: it sets what gcsfs reads when it is imported
    pytest.importorskip(_PACKAGES[request.param])
    bucket = server.new_bucket()
    return Location(f"{bucket if '://' in bucket else f's3://{bucket}'}/sink", server.options)


@pytest.fixture
def store(root: Location) -> Store:
    return open_store(root)


def put(store: Store, path: str, data: bytes = b"data", *, overwrite: bool = False) -> None:
    with store.write(path, overwrite=overwrite) as sink:
        sink.write(data)
        sink.publish()


def get(store: Store, path: str) -> bytes | None:
    return store.read_small(path, max_bytes=MOST)


def pinned(store: Store, path: str) -> SourceFile:
    found = store.stat(path).file()
    assert found is not None
    return found


def names(store: Store) -> list[str]:
    return sorted(entry.path for entry in store.list())


def _never(seconds: float) -> None:
    raise AssertionError(f"nobody waits for {seconds} s")


def test_nothing_is_there(store: Store) -> None:
    for path in ("", "a", "a/b"):
        entry = store.stat(path)
        assert entry.kind is EntryKind.NOTHING
        assert not entry.exists()
        assert not entry.is_directory()
        assert entry.file() is None
    assert get(store, "a/b") is None
    assert store.read_revision("a/b", max_bytes=MOST) is None
    assert list(store.list()) == []
    assert store.is_empty()
    store.remove("a/b")
    store.remove_leftovers("0a1b2c3d", "a/b")
    store.remove_empty_directories()
    store.remove_directory()


def test_a_file_appears_when_it_is_published(store: Store) -> None:
    with store.write("a/b.parquet", overwrite=False) as sink:
        sink.write(b"da")
        sink.write(b"ta")
        assert get(store, "a/b.parquet") is None
        sink.publish()
    assert get(store, "a/b.parquet") == b"data"
    assert names(store) == ["a/b.parquet"]


def test_what_is_not_published_is_gone(store: Store) -> None:
    with store.write("a", overwrite=False) as sink:
        sink.write(b"data")
    assert names(store) == []


def test_a_file_is_replaced_only_where_it_may_be(store: Store) -> None:
    put(store, "a", b"1")
    with pytest.raises(SinkNotEmptyError):
        put(store, "a", b"2")
    assert get(store, "a") == b"1"
    put(store, "a", b"3", overwrite=True)
    assert get(store, "a") == b"3"


def test_of_two_that_create_a_file_one_does(store: Store) -> None:
    with store.write("a", overwrite=False) as first, store.write("a", overwrite=False) as second:
        first.write(b"1")
        second.write(b"2")
        first.publish()
        with pytest.raises(PipecryptError):
            second.publish()
    assert get(store, "a") == b"1"


def test_one_look_tells_what_is_there(store: Store) -> None:
    put(store, "day=1/_hidden.parquet", b"12345")
    entry = store.stat("day=1/_hidden.parquet")
    assert entry.kind is EntryKind.FILE
    assert entry.exists()
    assert not entry.is_directory()
    assert pinned(store, "day=1/_hidden.parquet").size_bytes == 5
    assert entry.location.url == store.root.url + "/day=1/_hidden.parquet"
    assert store.stat("day=1").is_directory()
    assert store.stat("day=1").file() is None
    assert store.stat().is_directory()
    assert open_store(entry.location).stat().file() is not None


def test_all_ways_to_find_a_file_pin_the_same(store: Store) -> None:
    put(store, "x/a.parquet", b"12345")
    (listed,) = store.list()
    (found,) = store.find_sources(ALL_PARQUET)
    assert listed.source is not None
    for each in (listed.source, found):
        assert each.relative_path == "x/a.parquet"
        assert (each.size_bytes, each.fingerprint) == (5, pinned(store, "x/a.parquet").fingerprint)


def test_a_listing_leaves_nothing_out(store: Store) -> None:
    paths = ["_pipecrypt/runs/1/a.json", ".hidden", "a b/ü.parquet", "plain.parquet", "x/[y].txt"]
    for path in paths:
        put(store, path)
    assert names(store) == sorted(paths)
    assert sorted(entry.path for entry in store.list("_pipecrypt")) == ["runs/1/a.json"]
    assert [entry.location.url for entry in store.list("x")] == [store.root.url + "/x/[y].txt"]
    assert sorted(file.relative_path for file in store.find_sources(ALL_PARQUET)) == ["a b/ü.parquet", "plain.parquet"]
    assert len(list(store.find_sources(EVERY_FILE))) == len(paths)


def test_emptiness(store: Store) -> None:
    put(store, "_pipecrypt/lock/1.json")
    assert not store.is_empty()
    assert not store.is_empty(besides="_pipecrypt/runs")
    assert store.is_empty(besides="_pipecrypt/lock")
    assert not open_store(store.root.child("_pipecrypt/lock/1.json")).is_empty()


def test_ranges(store: Store) -> None:
    data = bytes(range(256)) * 10
    put(store, "a", data)
    with store.opened(pinned(store, "a")) as ranges:
        assert ranges.size_bytes == len(data)
        assert bytes(ranges.read_range(0, len(data))) == data
        assert bytes(ranges.read_range(300, 7)) == data[300:307]
        assert bytes(ranges.read_range(len(data), 0)) == b""
        for start, length in ((len(data) - 1, 2), (-1, 1), (0, -1)):
            with pytest.raises(FormatError):
                ranges.read_range(start, length)


def test_a_file_that_is_replaced_is_not_read(store: Store) -> None:
    put(store, "a", b"12345")
    before = pinned(store, "a")
    with pytest.raises(ConflictError), store.opened(before):
        put(store, "a", b"54321", overwrite=True)
    with pytest.raises(ConflictError), store.opened(before):
        pass
    store.remove("a")
    with pytest.raises(ConflictError), store.opened(before):
        pass


def test_small_files_are_bounded(store: Store) -> None:
    put(store, "a", b"x" * 10)
    assert store.read_small("a", max_bytes=10) == b"x" * 10
    for read in (store.read_small, store.read_revision):
        with pytest.raises(FormatError):
            read("a", max_bytes=9)
    assert store.read_start(4, "a") == b"xxxx"
    assert store.read_start(40, "a") == b"x" * 10


def test_of_two_that_read_the_same_one_publishes(store: Store) -> None:
    store.replace(b"1", "a", expected=None)
    with pytest.raises(ConflictError):
        store.replace(b"another", "a", expected=None)
    first = store.read_revision("a", max_bytes=MOST)
    assert first is not None
    assert first.data == b"1"
    store.replace(b"2", "a", expected=first)
    for late in (b"3", b"2"):
        with pytest.raises(ConflictError):
            store.replace(late, "a", expected=first)
    assert get(store, "a") == b"2"
    second = store.read_revision("a", max_bytes=MOST)
    store.remove("a")
    with pytest.raises(ConflictError):
        store.replace(b"3", "a", expected=second)
    assert names(store) == []


def test_an_end_is_replaced(store: Store) -> None:
    put(store, "a", b"body and end")
    file = open_store(store.root.child("a"))
    before = pinned(file, "")
    assert file.replace_end(before, 9, b"tail, longer") > 0
    assert get(store, "a") == b"body and tail, longer"
    with pytest.raises(ConflictError):
        file.replace_end(before, 9, b"late")
    assert file.replace_end(pinned(file, ""), 4, b".") > 0
    assert get(store, "a") == b"body."
    assert names(store) == ["a"]


@pytest.mark.parametrize("there", [False, True])
def test_a_file_is_moved(store: Store, there: bool) -> None:
    put(store, "staged/a", b"new")
    if there:
        put(store, "day=1/a", b"old")
    store.move(store.root.child("day=1/a"), "staged/a", fingerprint=pinned(store, "staged/a").fingerprint)
    assert names(store) == ["day=1/a"]
    assert get(store, "day=1/a") == b"new"
    with pytest.raises(PipecryptError):
        store.move(store.root.child("day=1/a"), "staged/a")
    assert get(store, "day=1/a") == b"new"


def test_a_file_is_removed(store: Store) -> None:
    put(store, "x/a")
    put(store, "x/b")
    store.remove("x/a")
    assert names(store) == ["x/b"]


@pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "a//b", ".", "a\0b"])
def test_no_path_leads_out(store: Store, path: str) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.stat(path),
        lambda: get(store, path),
        lambda: store.write(path, overwrite=True),
        lambda: store.remove(path),
        lambda: list(store.list(path)),
    )
    for call in calls:
        with pytest.raises(IntegrityError):
            call()


def test_a_small_file_is_changed_by_one_at_a_time(store: Store) -> None:
    file = open_store(store.root.child("grants.json"))

    def change(before: bytes | None) -> bytes:
        return (before or b"") + b"+"

    threads = [
        threading.Thread(target=file.replace_exclusively, args=(change,), kwargs={"max_bytes": MOST}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert get(store, "grants.json") == b"+++"
    file.replace_exclusively(lambda before: None, max_bytes=MOST)
    assert names(store) == ["grants.json"]


def test_what_is_held_is_refused_to_others(store: Store) -> None:
    put(store, "a")
    file, lock = open_store(store.root.child("a")), store.root.child("a.rotation.lock")
    with file.holding(lock, _never), pytest.raises(ConflictError), file.holding(lock, lambda _: None):
        pass
    with file.holding(lock, _never):
        pass
    assert names(store) == ["a"]


def test_two_writers_are_kept_apart(store: Store) -> None:
    assert store.guarantees().keeps_writers_apart
    assert store.is_empty()


def test_many_files_are_in_flight_at_once(store: Store) -> None:
    def pass_through(number: int) -> bytes | None:
        put(store, f"{number % 4}/{number}", b"%d" % number)
        with store.opened(pinned(store, f"{number % 4}/{number}")) as ranges:
            data = bytes(ranges.read_range(0, ranges.size_bytes))
        store.move(store.root.child(f"done/{number}"), f"{number % 4}/{number}")
        return data if get(store, f"done/{number}") == data else None

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(pass_through, range(40))) == [b"%d" % number for number in range(40)]
    assert names(store) == sorted(f"done/{number}" for number in range(40))
