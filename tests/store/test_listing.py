from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from pipecrypt.errors import SourceNotFoundError, StorageError, UsageError
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location

AWKWARD = ["grün €.parquet", "a b#c%20?.parquet", "we*rd[1].parquet", "new\nline.parquet", "back\\slash.parquet"]


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))


def _paths(url: object) -> list[str]:
    return [file.relative_path for file in list_sources(Location(str(url)))]


def test_directory_gives_all_parquet_files_in_order(tmp_path: Path) -> None:
    _touch(
        tmp_path, "b.parquet", "a/z.parquet", "a.txt", "_SUCCESS", ".x.parquet", "_tmp/a.parquet", "d=1/_e=2/p.parquet"
    )
    assert _paths(tmp_path) == ["a/z.parquet", "b.parquet", "d=1/_e=2/p.parquet"]
    assert _paths(f"file://{tmp_path}/") == _paths(tmp_path)


@pytest.mark.parametrize("name", [*AWKWARD, "_named.parquet", ".named", "no-suffix"])
def test_exact_names_come_before_globs(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, name, "other.parquet")
    (file,) = list_sources(Location(str(tmp_path / name)))
    assert (file.relative_path, file.size_bytes) == (name, len(name))


def test_awkward_names_are_found_in_directories(tmp_path: Path) -> None:
    _touch(tmp_path, *AWKWARD)
    found = list_sources(Location(str(tmp_path)))
    assert sorted(file.relative_path for file in found) == sorted(AWKWARD)
    assert all(os.path.isfile(file.location.local_path) for file in found)


def test_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "x/1.parquet", "x/2.parquet", "x/y/3.parquet", "x/4.txt", "x/_5.parquet")
    assert _paths(tmp_path / "x/*.parquet") == ["1.parquet", "2.parquet"]
    assert _paths(tmp_path / "**/*.parquet") == ["x/1.parquet", "x/2.parquet", "x/y/3.parquet"]
    assert _paths(tmp_path / "?/y/*") == ["x/y/3.parquet"]
    assert _paths(tmp_path / "x/_*") == ["_5.parquet"]
    monkeypatch.chdir(tmp_path)
    assert _paths("*/1.parquet") == ["x/1.parquet"]


def test_glob_below_a_directory_with_glob_characters(tmp_path: Path) -> None:
    _touch(tmp_path, "we*rd/1.parquet", "we-rd/2.parquet")
    assert _paths(tmp_path / "we*rd/*.parquet") == ["1.parquet"]


@pytest.mark.parametrize("tail", ["nothing.parquet", "*.csv", "missing/*.parquet", "empty", "x/1.parquet/*"])
def test_nothing_there(tmp_path: Path, tail: str) -> None:
    _touch(tmp_path, "x/1.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceNotFoundError) as caught:
        list_sources(Location(str(tmp_path / tail)))
    assert tail.split("/", maxsplit=1)[0] in caught.value.message
    assert caught.value.exit_code == 2


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    _touch(tmp_path, "real/1.parquet", "source/2.parquet")
    (tmp_path / "source/link").symlink_to(tmp_path / "real")
    (tmp_path / "source/circle").symlink_to(tmp_path / "source")
    (tmp_path / "source/file.parquet").symlink_to(tmp_path / "real/1.parquet")
    assert _paths(tmp_path / "source") == ["2.parquet", "file.parquet", "link/1.parquet"]


def test_broken_link_is_no_silent_gap(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").symlink_to(tmp_path / "gone")
    for url in (tmp_path, tmp_path / "a.parquet"):
        with pytest.raises(SourceNotFoundError):
            list_sources(Location(str(url)))


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_unreadable_directory_is_no_silent_gap(tmp_path: Path) -> None:
    _touch(tmp_path, "a.parquet", "locked/b.parquet")
    (tmp_path / "locked").chmod(0)
    with pytest.raises(StorageError):
        list_sources(Location(str(tmp_path)))
    (tmp_path / "locked").chmod(0o700)


def test_named_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(StorageError):
        list_sources(Location(str(tmp_path / "a.parquet")))


def test_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.parquet")).write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        list_sources(Location(str(tmp_path)))
    assert caught.value.message.isascii()


def test_remote_file_directory_and_glob(memory: fsspec.AbstractFileSystem) -> None:
    for path in ("/b/x/1.parquet", "/b/x/y/2.parquet", "/b/x/_3.parquet", "/b/x/4.txt", "/b/x/s*r.parquet"):
        memory.pipe_file(path, b"12345")
    assert _paths("memory://b/x") == ["1.parquet", "s*r.parquet", "y/2.parquet"]
    assert _paths("memory://b/x/") == ["1.parquet", "s*r.parquet", "y/2.parquet"]
    assert _paths("memory://b/**/*.parquet") == ["x/1.parquet", "x/s*r.parquet", "x/y/2.parquet"]
    assert _paths("memory://b/x/s*r.parquet") == ["s*r.parquet"]
    (file,) = list_sources(Location("memory://b/x/_3.parquet"))
    assert (file.relative_path, file.size_bytes) == ("_3.parquet", 5)
    (listed,) = list_sources(Location("memory://b/x/y"))
    assert listed == list_sources(Location("memory://b/x/y/2.parquet"))[0]


@pytest.mark.parametrize("url", ["memory://nothing", "memory://b/*.csv", "memory://c/*/x"])
def test_nothing_there_remotely(memory: fsspec.AbstractFileSystem, url: str) -> None:
    memory.pipe_file("/b/1.parquet", b"1")
    with pytest.raises(SourceNotFoundError):
        list_sources(Location(url))


@pytest.mark.parametrize("key", ["/b/../../etc/passwd.parquet", "/b//x.parquet", "/b/./x.parquet"])
def test_object_names_cannot_escape_the_sink(memory: fsspec.AbstractFileSystem, key: str) -> None:
    memory.pipe_file("/b/ok.parquet", b"1")
    memory.store[key] = memory.store["/b/ok.parquet"]
    with pytest.raises(UsageError):
        list_sources(Location("memory://b"))


@pytest.mark.parametrize("url", ["nosuchscheme://a/b", "nosuch::s3x://a"])
def test_unknown_scheme(url: str) -> None:
    with pytest.raises(UsageError):
        list_sources(Location(url))


def test_missing_package_names_the_extra() -> None:
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401, PLC0415
    except ImportError:
        with pytest.raises(UsageError) as caught:
            list_sources(Location("s3://bucket/x"))
        assert "pipecrypt[s3]" in caught.value.hint


def test_failing_storage(faulty: type) -> None:
    from tests.doubles.faulty_store import Faults  # noqa: PLC0415

    faulty.plan(Faults("info", error=PermissionError(13, "Permission denied")))  # type: ignore[attr-defined]
    with pytest.raises(StorageError) as caught:
        list_sources(Location("faulty://a/b"))
    assert "faulty://a/b" in caught.value.message


def test_a_link_to_itself_is_named_where_it_counts(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"1")
    (tmp_path / "loop").symlink_to("loop")
    assert [file.relative_path for file in list_sources(Location(str(tmp_path)))] == ["a.parquet"]

    (tmp_path / "self.parquet").symlink_to("self.parquet")
    (tmp_path / "to.parquet").symlink_to("fro.parquet")
    (tmp_path / "fro.parquet").symlink_to("to.parquet")
    for place, named in ((tmp_path, "fro.parquet"), (tmp_path / "self.parquet", "self.parquet")):
        with pytest.raises(SourceNotFoundError) as caught:
            list_sources(Location(str(place)))
        assert f"{tmp_path}/{named}" in caught.value.message
