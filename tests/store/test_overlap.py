from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipecrypt.errors import UsageError
from pipecrypt.store.listing import check_disjoint, check_outputs
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "raw/x").mkdir(parents=True)
    (tmp_path / "raw/x/a.parquet").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("raw", "raw"),
        ("raw", "raw/"),
        ("raw", "raw/out"),
        ("raw", "./raw/x/../out"),
        ("raw", "link/out"),
        ("link", "raw/out"),
        ("raw/x/a.parquet", "link/x/a.parquet"),
        ("raw/**/*.parquet", "raw/out"),
        ("raw/*/*.parquet", "raw/out"),
        ("raw/*.parquet", "raw"),
        ("raw/x/*.parquet", "raw/x/b.parquet"),
        ("s3://b/raw", "s3://b/raw/out"),
        ("s3://b/raw", "s3a://b/raw"),
        ("memory://b/raw/*/*.parquet", "memory://b/raw/out"),
    ],
)
def test_overlaps(root: Path, source: str, sink: str) -> None:
    try:
        with pytest.raises(UsageError):
            check_disjoint(Location(source), Location(sink))
    except ImportError:
        pytest.skip("s3fs is not installed")


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("raw", "out"),
        ("raw", "raw2"),
        ("raw/x", "raw"),
        ("raw/*.parquet", "raw/out"),
        ("raw", "raw/_out"),
        ("raw/x/a.parquet", "raw/x/b.parquet"),
        ("raw", "memory://raw"),
        ("memory://raw", "memory://raw2"),
    ],
)
def test_disjoint(root: Path, source: str, sink: str) -> None:
    check_disjoint(Location(source), Location(sink))


def _file(url: str) -> SourceFile:
    return SourceFile(Location(url), url.rsplit("/", 1)[-1], 1, "1")


def test_outputs_must_not_meet(root: Path) -> None:
    check_outputs([_file("raw/x/a.parquet")], [Location("out/a.parquet"), Location("out/b.parquet")])
    for outputs in (["raw/x/a.parquet"], ["link/x/a.parquet"], ["o/a", "o/./a"], ["o/a", "o/a/b"], ["o/a/b/c", "o/a"]):
        with pytest.raises(UsageError):
            check_outputs([_file("raw/x/a.parquet")], [Location(output) for output in outputs])


def test_a_link_in_the_place_of_an_output_is_where_it_leads_to(root: Path) -> None:
    (root / "o").mkdir()
    (root / "o/a.parquet").symlink_to(root / "raw/x/a.parquet")
    (root / "o/b.parquet").symlink_to(root / "nowhere")
    with pytest.raises(UsageError, match="one of the source files"):
        check_outputs([_file("raw/x/a.parquet")], [Location("o/a.parquet")])
    check_outputs([_file("raw/x/a.parquet")], [Location("o/b.parquet")])


def test_each_directory_is_resolved_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[str] = []
    monkeypatch.setattr(os.path, "realpath", lambda path, real=os.path.realpath: resolved.append(path) or real(path))
    names = [f"{number}.parquet" for number in range(10)]
    check_outputs([_file(f"raw/x/{name}") for name in names], [Location(f"o/{name}") for name in names])
    assert sorted(resolved) == ["o", "raw/x"]
