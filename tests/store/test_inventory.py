from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipecrypt.errors import LinkError, NoRegularFileError, StorageError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import Admits, EntryKind


def _everything(_: tuple[str, ...]) -> bool:
    return True


def _names(place: Path | str, admits: Admits = _everything) -> dict[str, int | None]:
    found = open_store(Location(str(place))).list(admits=admits)
    return {entry.path: None if entry.source is None else entry.source.size_bytes for entry in found}


def test_every_name_is_found(tmp_path: Path) -> None:
    for name in ("a", ".hidden", "_under/b", "x/y/c*d", "x/.t.pipecrypt-00000001-00000002.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "empty").mkdir()
    with open(os.fsencode(tmp_path) + b"/\xff\n", "wb"):
        pass

    names = dict.fromkeys(("a", ".hidden", "_under/b", "x/y/c*d", "x/.t.pipecrypt-00000001-00000002.tmp"), 2)
    assert _names(tmp_path) == {**names, "\udcff\n": 0}
    assert set(_names(tmp_path, lambda below: below == ("x",))) == {
        "a",
        ".hidden",
        "\udcff\n",
        "x/.t.pipecrypt-00000001-00000002.tmp",
    }


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")

    assert _names(tmp_path) == {"fifo": None, "broken": None, "self": None, "loop": None, "file": 1, "link": None}


def test_links_are_named_where_they_are_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b"1")
    (tmp_path / "a/b/up").symlink_to("..")
    (tmp_path / "aside").symlink_to("a")
    root = Location(str(tmp_path))

    assert _names(tmp_path) == {"a/file": 1, "a/b/up": None, "aside": None}
    assert _names(tmp_path / "aside") == {"file": 1, "b/up": None}  # named by the caller
    assert open_store(root.child("aside")).stat().kind is EntryKind.LINK
    assert open_store(root.child("aside/file")).stat().kind is EntryKind.LINK
    assert open_store(root.child("a/b/up")).stat().kind is EntryKind.LINK
    for below in (root.child("aside"), root.child("aside/b")):
        with pytest.raises(LinkError):
            list(open_store(below).list())
        entry = open_store(below).stat("file")
        assert entry.is_behind_link
        for refused in (entry.exists, entry.file, entry.is_directory):
            with pytest.raises(LinkError):
                refused()


@pytest.mark.parametrize("place", ["nothing", "file", "file/below"])
def test_nothing_to_list(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert _names(tmp_path / place) == {}


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StorageError):
        _names(tmp_path)


def test_other_storages(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe_file("/root/a", b"1")
    memory.pipe_file("/root/x/.b", b"12")
    memory.pipe_file("/rootless", b"")

    assert _names("memory://root") == {"a": 1, "x/.b": 2}
    assert _names("memory://nothing") == {}


@pytest.mark.parametrize(
    "told",
    [
        {"LastModified": datetime(2026, 1, 2, tzinfo=UTC)},
        {"created": datetime(2026, 1, 2)},
        {"updated": "2026-01-02T00:00:00.000Z"},
        {"created": datetime(2026, 1, 2, tzinfo=UTC).timestamp()},
        {"updated": "soon", "mtime": datetime(2026, 1, 2, tzinfo=UTC)},
        {"updated": "soon"},
        {},
    ],
)
def test_times_of_objects(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, told: dict[str, object]
) -> None:
    answer = {"/root/a": {"name": "/root/a", "size": 1, "type": "file"} | told}
    monkeypatch.setattr(type(memory), "find", lambda *args, **kwargs: answer)
    (entry,) = open_store(Location("memory://root")).list()
    assert entry.source is not None
    expected = None if told in ({}, {"updated": "soon"}) else int(datetime(2026, 1, 2, tzinfo=UTC).timestamp()) * 10**9
    assert entry.source.mtime_ns == expected


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_at_a_place(tmp_path: Path, memory: fsspec.AbstractFileSystem, remote: bool) -> None:
    if remote:
        memory.pipe_file("/root/d/f", b"123")
        root = "memory://root"
    else:
        (tmp_path / "d").mkdir()
        (tmp_path / "d/f").write_bytes(b"123")
        root = str(tmp_path)

    assert open_store(Location(f"{root}/d")).stat().kind is EntryKind.DIRECTORY
    assert open_store(Location(f"{root}/d/f")).stat().kind is EntryKind.FILE
    assert open_store(Location(f"{root}/d/g")).stat().kind is EntryKind.NOTHING
    store = open_store(Location(root))
    assert [store.stat(path).file() for path in ("d", "d/g", "d/f/g")] == [None] * 3
    found = store.stat("d/f").file()
    assert found is not None
    with open_range_source(found) as opened:
        assert bytes(opened.read_range(0, 3)) == b"123"


def test_a_pinned_name_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")

    (tmp_path / "self").symlink_to("self")

    for name in ("broken", "fifo", "self"):
        entry = open_store(Location(str(tmp_path / name))).stat()
        assert (entry.kind, entry.source, entry.exists()) == (EntryKind.FILE, None, True)
        assert entry.follows_link is (name != "fifo")
        with pytest.raises(NoRegularFileError):
            entry.file()


def test_an_object_store_tells_when(s3_server: Any) -> None:
    pytest.importorskip("s3fs")
    place = Location(f"s3://{s3_server.new_bucket()}", s3_server.options)
    fs = fsspec.filesystem("s3", **s3_server.options)
    fs.pipe_file(f"{place.url}/x/a", b"1")
    (entry,) = open_store(place).list()
    assert entry.path == "x/a"
    assert entry.source is not None
    assert entry.source.mtime_ns is not None
    assert abs(entry.source.mtime_ns / 1e9 - datetime.now(UTC).timestamp()) < 600
