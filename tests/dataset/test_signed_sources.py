"""Which files a location names, and whether they are those that were signed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipecrypt.dataset import staged as staged_files
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_sources import find_signed_source, list_signed_sources
from pipecrypt.errors import IntegrityError, NotTrustedError, SourceNotFoundError, UsageError
from pipecrypt.store.location import Location
from tests.dataset.world import NAMES, sign, sign_file, trusting

REQUIRED = Requirements(trust=trusting())


def found(*parts: object) -> list[str]:
    location = Location("/".join(str(part) for part in parts))
    return [each.signed.entry.path for each in list_signed_sources(location, REQUIRED)]


def test_directories_globs_and_files(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(dataset) == found(f"{dataset}/") == found(f"file://{dataset}") == list(NAMES)
    assert found(dataset, "day=1") == found(dataset, "day=1/*") == found(dataset, "**/b*.parquet") == [NAMES[1]]
    assert found(dataset, "*.parquet") == found(dataset, "a.parquet") == ["a.parquet"]
    monkeypatch.chdir(dataset / "day=1")
    assert found(".") == found("*.parquet") == found("b ü.parquet") == [NAMES[1]]
    assert found("..") == list(NAMES)


def test_an_exact_name_comes_before_a_glob(dataset: Path) -> None:
    os.rename(dataset / "a.parquet", dataset / "[x].parquet")
    sign(dataset)
    assert found(dataset, "[x].parquet") == ["[x].parquet"]
    (dataset / "[x].parquet").unlink()
    shutil.copytree(dataset / "day=1", dataset / "d[1]")
    sign(dataset)
    assert found(dataset, "d[1]") == ["d[1]/b ü.parquet"]


def test_what_is_missing_or_added(dataset: Path) -> None:
    shutil.copy(dataset / "a.parquet", dataset / "day=1" / "z.parquet")
    for place in (dataset, f"{dataset}/day=1", f"{dataset}/**/z.parquet", f"{dataset}/day=1/z.parquet"):
        with pytest.raises(IntegrityError, match="extra"):
            found(place)
    assert found(dataset, "day=2") == [NAMES[2]]
    shutil.rmtree(dataset / "day=2")
    for place in ("day=2", "day=2/", "day=2/*.parquet", "day=2/c.parquet", "day=*/c.parquet"):
        with pytest.raises(IntegrityError, match="missing"):
            found(dataset, place)
    for place in ("day=3", "day=3/*.parquet", "day=1/none.parquet"):
        with pytest.raises(SourceNotFoundError):
            found(dataset, place)


def test_what_is_no_file_was_not_signed(dataset: Path) -> None:
    os.mkfifo(dataset / "day=1" / "pipe.parquet")
    for place in (dataset, f"{dataset}/day=1/*"):
        with pytest.raises(IntegrityError):
            found(place)
    assert found(dataset, "day=2") == [NAMES[2]]


def test_a_single_file_removed_from_beside_its_statement(tmp_path: Path, dataset: Path) -> None:
    alone = tmp_path / "alone" / "a.parquet"
    alone.parent.mkdir()
    shutil.copy(dataset / "a.parquet", alone)
    sign_file(alone)
    alone.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        found(alone)
    for place in (alone.parent / "b.parquet", alone.parent / "*.parquet"):
        with pytest.raises(SourceNotFoundError):
            found(place)


def test_everything_removed_but_the_statement(dataset: Path) -> None:
    for name in NAMES:
        (dataset / name).unlink()
    with pytest.raises(IntegrityError, match="missing"):
        found(dataset)


def test_without_a_statement(dataset: Path) -> None:
    shutil.rmtree(dataset / "_pipecrypt")
    for place in (dataset, f"{dataset}/*.parquet", f"{dataset}/a.parquet"):
        with pytest.raises(NotTrustedError):
            found(place)
    sign_file(dataset / "a.parquet")
    assert found(dataset, "a.parquet") == ["a.parquet"]
    # A statement about one file says nothing about which others there should be.
    with pytest.raises(NotTrustedError):
        found(dataset, "*.parquet")
    with pytest.raises(SourceNotFoundError):
        found(dataset, "none")


def test_the_dataset_counts_where_there_are_both(dataset: Path) -> None:
    extra = dataset / "extra.parquet"
    shutil.copy(dataset / "a.parquet", extra)
    sign_file(extra)
    with pytest.raises(IntegrityError, match="extra"):
        find_signed_source(Location(str(extra)), REQUIRED)


def test_standard_input_has_no_statement() -> None:
    for read in (list_signed_sources, find_signed_source):
        with pytest.raises(UsageError):
            read(Location("-"), REQUIRED)


@pytest.mark.parametrize("is_same_size", [True, False])
def test_footers_of_staged_files_are_read_only_where_two_files_have_the_signed_size(
    dataset: Path, is_same_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(dataset, run="20990101T000000Z-00000000")
    staged = dataset / "_pipecrypt" / "runs" / "20990101T000000Z-00000000" / "staged"
    for name in NAMES:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(dataset / name, staged / name)
        if is_same_size:
            (dataset / name).write_bytes(bytes((staged / name).stat().st_size))
    read: list[str] = []
    real = staged_files.is_signed
    monkeypatch.setattr(staged_files, "is_signed", lambda source, entry: read.append(entry.path) or real(source, entry))
    sources = list_signed_sources(Location(str(dataset)), REQUIRED)
    assert [each.source.location for each in sources] == [Location(str(staged / name)) for name in NAMES]
    assert len(read) == (len(NAMES) if is_same_size else 0)
