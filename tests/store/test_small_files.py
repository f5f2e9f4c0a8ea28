from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from pipecrypt.errors import FormatError, StorageError
from pipecrypt.store.location import Location
from pipecrypt.store.small_files import FilesystemFiles, LocatedFiles, SmallFiles, directories_above, locate


@pytest.fixture(params=["local", "memory", "filesystem"])
def files(request: pytest.FixtureRequest, tmp_path: Path, memory: fsspec.AbstractFileSystem) -> tuple[SmallFiles, str]:
    """Storages with a file `a/b` of three bytes."""
    if request.param == "local":
        (tmp_path / "a").mkdir()
        (tmp_path / "a/b").write_bytes(b"abc")
        return LocatedFiles({}), str(tmp_path)
    memory.pipe_file("/a/b", b"abc")
    return (LocatedFiles({}), "memory://") if request.param == "memory" else (FilesystemFiles(memory), "")


def test_a_small_file(files: tuple[SmallFiles, str]) -> None:
    reader, root = files

    assert reader.read(f"{root}/a/b", 3) == b"abc"
    assert reader.read(f"{root}/a/c", 3) is None
    assert reader.read(f"{root}/x/b", 3) is None
    with pytest.raises(FormatError):
        reader.read(f"{root}/a/b", 2)


@pytest.mark.parametrize("files", [LocatedFiles({}), FilesystemFiles(fsspec.filesystem("file"))])
def test_a_directory_in_the_place_of_a_file_and_the_reverse(tmp_path: Path, files: SmallFiles) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(FormatError):
        files.read(str(tmp_path), 10)
    assert files.read(str(tmp_path / "file/below"), 10) is None


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"abc")

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StorageError):
        LocatedFiles({}).read(str(tmp_path / "file"), 10)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_does_not_block(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    with pytest.raises(FormatError):
        LocatedFiles({}).read(str(tmp_path / "a"), 10)


def test_how_paths_are_shown() -> None:
    files = LocatedFiles({})

    assert files.display("/a/b") == "file:///a/b"
    assert files.display("s3://user:secret@bucket/a") == "s3://***@bucket/a"
    assert FilesystemFiles(fsspec.filesystem("memory")).display("/a") == "memory:///a"


def test_the_name_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/a").symlink_to("b")
    files = LocatedFiles({})

    assert files.place(f"{tmp_path}/link/a", follows_name=False) == f"file://{tmp_path}/real/a"
    assert files.place(f"{tmp_path}/link/a") == f"file://{tmp_path}/real/b"
    assert files.place("/a", follows_name=False) == "file:///a"


def test_where_a_location_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert locate(Location("a/")) == (LocatedFiles({}), f"{tmp_path}/a")
    assert locate(Location(f"file://{tmp_path}/./a")) == (LocatedFiles({}), f"{tmp_path}/a")
    assert locate(Location("/")) == (LocatedFiles({}), "")
    files, path = locate(Location("s3://bucket/a/", {"anon": True}))
    assert (files.options, path) == ({"anon": True}, "s3://bucket/a")
    assert files.location("").local_path == "/"


@pytest.mark.parametrize(
    ("path", "above"),
    [
        ("/a/b/c", ["/a/b", "/a", ""]),
        ("/a", [""]),
        ("", []),
        ("s3://bucket/a/b", ["s3://bucket/a", "s3://bucket"]),
        ("s3://bucket", []),
        ("bucket/a", ["bucket"]),
        ("simplecache::s3://bucket/a", ["simplecache::s3://bucket"]),
    ],
)
def test_the_directories_above(path: str, above: list[str]) -> None:
    assert list(directories_above(path)) == above


def test_climbing_ends() -> None:
    assert len(list(directories_above("/a" * 1000))) == 64
