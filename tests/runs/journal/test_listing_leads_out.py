"""A server that lists names with `..`: nothing is removed, moved or written there, and the names are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipecrypt.dataset.listing import ENCRYPTED_FILES, check_nothing_unsigned, sizes_below
from pipecrypt.dataset.staged import finish_version, staged_files
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.errors import ConflictError, UsageError, VerificationError
from pipecrypt.runs.journal.cleaning import clean
from pipecrypt.store.listing import list_in_place
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from tests.dataset.verify.test_verification import check
from tests.dataset.world import SignedWorld, entry_of, sign, tree

EARLIER, RUN = "20250101T000000Z-00000000", "20990101T000000Z-00000000"
VICTIMS = ("precious.parquet", ".a.parquet.pipecrypt-0011aabb-0011aabb.tmp")
WAYS = {
    "data": "day=1/../../victim",
    "reserved": "_pipecrypt/../../victim",
    "staged": f"_pipecrypt/runs/{RUN}/staged/../../../../../victim",
    "staged before": f"_pipecrypt/runs/{EARLIER}/staged/../../../../../victim",
    "attempts before": f"_pipecrypt/runs/{EARLIER}/attempts/../../../../../victim",
}


class _LeadingOut(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Local files, and in listings of a directory of the sink whatever the server adds."""

    protocol: ClassVar[str] = "leading"
    cachable = False
    adds: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(path).removeprefix("leading://").rstrip("/") or "/"

    def find(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        found = {}
        for directory, _, names in os.walk(path):
            for name in names:
                found[f"{directory}/{name}"] = self.info(f"{directory}/{name}")
        for added in self.adds:
            if added.startswith(f"{path}/"):
                found[added] = {**self.info(os.path.normpath(added)), "name": added}
        return found if options.get("detail") else list(found)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "world").mkdir()
    world = SignedWorld.at(tmp_path / "world")
    sign(world.encrypt("sink"))
    victim = world.root / "victim"
    victim.mkdir()
    for name in VICTIMS:
        (victim / name).write_bytes(b"mine")
        os.utime(victim / name, (0, 0))
    before = tree(victim)
    fsspec.register_implementation("leading", _LeadingOut, clobber=True)
    yield world.root / "sink"
    _LeadingOut.adds = []
    assert tree(victim) == before


def _add(root: Path, way: str) -> list[str]:
    names = [f"{WAYS[way]}/{name}" for name in VICTIMS]
    _LeadingOut.adds = [f"{root}/{name}" for name in names]
    return names


def _entries(root: Path) -> list[FileEntry]:
    return [entry_of(path, data) for path, data in tree(root).items() if not path.startswith("_pipecrypt")]


@pytest.mark.parametrize("way", WAYS)
def test_it_is_named_without_a_place(root: Path, way: str) -> None:
    names = _add(root, way)
    found = {entry.path: entry.source for entry in open_store(Location(f"leading://{root}")).list()}
    assert [found[name] for name in names] == [None, None]
    assert all(file.location.depth for path, file in found.items() if file is not None and path not in names)


@pytest.mark.parametrize("way", WAYS)
def test_finishing_a_version_touches_nothing_elsewhere(root: Path, way: str) -> None:
    _add(root, way)
    sink = Location(f"leading://{root}")
    finish_version(sink, RUN, _entries(root))
    assert staged_files(sink, RUN) == {}


@pytest.mark.parametrize("way", WAYS)
def test_cleaning_touches_nothing_elsewhere(root: Path, way: str) -> None:
    _add(root, way)
    assert clean(Location(f"leading://{root}"), grace=timedelta()).removed == ()  # and nobody stops it with a name


@pytest.mark.parametrize("way", WAYS)
def test_verifying_tells_it(root: Path, way: str) -> None:
    names = _add(root, way)
    with pytest.raises(VerificationError) as caught:
        check(f"leading://{root}")
    kind = FindingKind.EXTRA if way == "data" else FindingKind.UNEXPECTED
    assert {(each.kind, each.path) for each in caught.value.report.findings} == {(kind, name) for name in names}


def test_verifying_a_part_passes_it_by(root: Path) -> None:
    _add(root, "data")
    assert check(f"leading://{root}", "*.parquet").findings == ()


def test_signed_writers_refuse_it(root: Path) -> None:
    names = _add(root, "data")
    sink = Location(f"leading://{root}")
    found = sizes_below(sink)
    assert [found[name] for name in names] == [None, None]
    with pytest.raises(ConflictError):
        check_nothing_unsigned(sink, _entries(root), found)


def test_nothing_of_it_changes_in_place(root: Path) -> None:
    _add(root, "data")
    with pytest.raises(UsageError):
        list_in_place(Location(f"leading://{root}"), ENCRYPTED_FILES)
