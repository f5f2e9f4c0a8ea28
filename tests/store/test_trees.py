"""A directory tree must be listed whole, and files must get back what they were: permissions, time, nothing more."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipecrypt.errors import SourceNotFoundError, StorageError, UsageError
from pipecrypt.store import beneath
from pipecrypt.store.listing import check_disjoint, list_sources
from pipecrypt.store.location import EVERY_FILE, Location
from pipecrypt.store.open import open_store
from pipecrypt.store.publication import temporary_name

LONG_AGO = 1_000_000_000_123_456_789


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def _all(url: object) -> list[str]:
    return [file.relative_path for file in list_sources(Location(str(url)), EVERY_FILE)]


@pytest.fixture
def umask() -> Iterator[int]:
    old = os.umask(0o022)
    yield 0o022
    os.umask(old)


def test_a_tree_is_listed_whole(tmp_path: Path) -> None:
    names = ["a.parquet", ".hidden", "_x/.y/_z", "no-suffix", "d/e f#%.bin", ".git/objects/aa"]
    _touch(tmp_path, *names, temporary_name("a.parquet", "0000abcd"), f"d/{temporary_name('x', '0000abcd')}")
    assert _all(tmp_path) == sorted(names)
    assert [file.relative_path for file in list_sources(Location(str(tmp_path)))] == ["a.parquet"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/a", "elsewhere/b")
    (tmp_path / "raw/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/circle").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/.name").symlink_to(tmp_path / "raw/a")
    assert _all(tmp_path / "raw") == [".name", "a", "link/b"]


def test_what_is_no_file_is_not_left_out_silently(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError):
        _all(tmp_path)


def test_an_empty_tree(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        _all(tmp_path)


def test_globs_choose_as_they_do_elsewhere(tmp_path: Path) -> None:
    _touch(tmp_path, "a.bin", ".b.bin")
    assert _all(tmp_path / "*.bin") == ["a.bin"]
    assert _all(tmp_path / ".b*") == [".b.bin"]


def test_remote_trees() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("x/.hidden", "x/_y/a", "x/b.bin", f"x/{temporary_name('b.bin', '0000abcd')}"):
        memory.pipe_file(f"/trees/{name}", b"x")
    assert _all("memory://trees/x") == [".hidden", "_y/a", "b.bin"]
    (file, *_) = list_sources(Location("memory://trees/x"), EVERY_FILE)
    assert (file.mode, file.mtime_ns) == (None, None)
    memory.rm("/trees", recursive=True)


def test_a_hidden_sink_inside_of_a_tree_that_is_taken_whole(tmp_path: Path) -> None:
    source, sink = Location(str(tmp_path)), Location(str(tmp_path / "_out"))
    check_disjoint(source, sink)
    with pytest.raises(UsageError):
        check_disjoint(source, sink, EVERY_FILE)


def test_permissions_and_time_of_a_source(tmp_path: Path) -> None:
    _touch(tmp_path, "a")
    (tmp_path / "a").chmod(0o4741)
    os.utime(tmp_path / "a", ns=(0, LONG_AGO))
    (file,) = list_sources(Location(str(tmp_path / "a")))
    assert (file.mode, file.mtime_ns) == (0o741, LONG_AGO)


def _publish(path: Path, mode: int | None, mtime_ns: int | None, *, overwrite: bool = False) -> os.stat_result:
    with open_store(Location(str(path))).write(overwrite=overwrite) as sink:
        sink.restore_attributes(mode=mode, mtime_ns=mtime_ns)
        sink.write(b"abc")
        sink.publish()
    assert path.read_bytes() == b"abc"
    return path.stat()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o777, 0o755), (0o600, 0o600), (0o444, 0o444), (0o000, 0o000), (0o7755, 0o755), (0o666, 0o644), (None, 0o644)],
)
def test_permissions_are_restored_less_the_umask(
    tmp_path: Path, umask: int, mode: int | None, expected: int, overwrite: bool
) -> None:
    path = tmp_path / "x"
    with open_store(Location(str(path))).write(overwrite=overwrite) as sink:
        sink.write(b"abc")
        sink.restore_attributes(mode=mode, mtime_ns=LONG_AGO)
        sink.publish()
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (expected, LONG_AGO)


def test_a_private_file_is_never_readable_by_others(tmp_path: Path, umask: int) -> None:
    with open_store(Location(str(tmp_path / "x"))).write(overwrite=False) as sink:
        sink.restore_attributes(mode=0o640, mtime_ns=None)
        sink.write(b"abc")
        (temporary,) = tmp_path.iterdir()
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        sink.publish()
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_the_umask_where_the_system_does_not_tell_it(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beneath, "_STATUS", str(tmp_path / "missing"))
    assert stat.S_IMODE(_publish(tmp_path / "x", 0o777, None).st_mode) == 0o755
    assert os.umask(umask) == umask


@pytest.mark.parametrize("mtime_ns", [-1, -(2**63), 2**63 - 1, 2**80])
def test_impossible_times_do_not_keep_a_file_from_appearing(
    tmp_path: Path, mtime_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    _publish(tmp_path / "x", None, mtime_ns)


def test_a_file_system_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no such thing here")

    monkeypatch.setattr(os, "fchmod", refuse)
    with caplog.at_level(logging.WARNING):
        _publish(tmp_path / "x", 0o600, None)
    assert "permissions" in caplog.text


def test_remote_storages_keep_no_attributes() -> None:
    with open_store(Location("memory://attributes/x")).write(overwrite=True) as sink:
        sink.restore_attributes(mode=0o600, mtime_ns=LONG_AGO)
        sink.write(b"abc")
        sink.publish()
    assert fsspec.filesystem("memory").cat_file("/attributes/x") == b"abc"
    fsspec.filesystem("memory").rm("/attributes", recursive=True)
