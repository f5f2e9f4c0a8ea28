"""What was promised for a directory holds for everything below it, whatever lies there and however it is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

import pipecrypt as pc
from pipecrypt.dataset.governing import find_governing
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_sources import find_signed_source, list_signed_sources
from pipecrypt.dataset.statement.envelope import RememberedVersion
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX
from pipecrypt.dataset.version import read_version, read_version_above
from pipecrypt.errors import IntegrityError, NotTrustedError
from pipecrypt.store.location import Location
from pipecrypt.store.small_files import FilesystemFiles, LocatedFiles
from tests.dataset.verify.test_verification import check
from tests.dataset.world import NAMES, SignedWorld, entry_of, sign, sign_file, trusting

A, B, C = NAMES
FILES = LocatedFiles({})
SEEN = RememberedVersion("0" * 32, 7, "a" * 64)


@pytest.fixture
def memory(tmp_path: Path) -> VersionMemory:
    return VersionMemory(str(tmp_path / "state"))


@pytest.fixture
def remembering(memory: VersionMemory) -> Requirements:
    return Requirements(trust=trusting(), memory=memory)


@pytest.fixture
def other(signed_world: SignedWorld, tmp_path: Path) -> Path:
    """Another dataset of the same signer."""
    root = Path(shutil.copytree(signed_world.encrypt(f"other-{tmp_path.name}"), tmp_path / "other"))
    sign(root)
    return root


def _accept(dataset: Path, requirements: Requirements) -> None:
    assert read_version(FILES, str(dataset), requirements).root == str(dataset)


def _nest(dataset: Path, other: Path) -> None:
    """Put the whole other dataset in the place of a part."""
    shutil.rmtree(dataset / "day=1")
    shutil.copytree(other, dataset / "day=1")


def _nest_and_remove(dataset: Path, other: Path) -> None:
    _nest(dataset, other)
    (dataset / MANIFEST_PATH).unlink()


def _beside(dataset: Path, other: Path) -> None:
    shutil.copy(other / B, dataset / B)
    sign_file(dataset / B)


def _beside_and_remove(dataset: Path, other: Path) -> None:
    _beside(dataset, other)
    shutil.rmtree(dataset / "_pipecrypt")


def _above(dataset: Path, other: Path) -> None:
    """Make the dataset a part of a larger one, which lists other files in its place."""
    shutil.rmtree(dataset)
    for name in NAMES:
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(other / name, dataset / name)
    sign(dataset.parent)


def _by_link(dataset: Path, other: Path) -> None:
    shutil.rmtree(dataset / "day=1")
    (dataset / "day=1").symlink_to(other)


def _whole_by_link(dataset: Path, other: Path) -> None:
    shutil.rmtree(dataset)
    dataset.symlink_to(other)


ATTACKS = [_nest, _nest_and_remove, _beside, _beside_and_remove, _by_link, _whole_by_link]


@pytest.mark.parametrize("attack", [*ATTACKS, _above])
def test_nothing_takes_over_from_what_was_accepted(
    dataset: Path, other: Path, remembering: Requirements, tmp_path: Path, attack: Callable[[Path, Path], None]
) -> None:
    if attack is _above:
        dataset = Path(shutil.move(dataset, tmp_path / "lake" / "orders"))
    _accept(dataset, remembering)
    attack(dataset, other)
    inner = next((dataset / "day=1").rglob("b *.parquet"), dataset / B)
    for place in (dataset, dataset / "day=1", inner):
        with pytest.raises(IntegrityError):
            check(place, requirements=remembering)
        with pytest.raises(IntegrityError):
            _read(place, remembering)
    assert remembering.memory is not None


@pytest.mark.parametrize("attack", [_nest, _beside])
def test_on_first_contact_the_uppermost_statement_governs(
    dataset: Path, other: Path, attack: Callable[[Path, Path], None]
) -> None:
    attack(dataset, other)
    requirements = Requirements(trust=trusting())
    inner = next((dataset / "day=1").rglob("b *.parquet"))
    for place in (dataset / "day=1", inner):
        with pytest.raises(IntegrityError):
            check(place, requirements=requirements)
        with pytest.raises(IntegrityError):
            _read(place, requirements)


def _read(place: Path, requirements: Requirements) -> None:
    """Do what readers do until the first byte is used."""
    from pipecrypt.dataset.signed_file import check_file  # noqa: PLC0415
    from pipecrypt.dataset.trust import VerifyMode  # noqa: PLC0415
    from pipecrypt.store.open import open_range_source  # noqa: PLC0415

    for each in list_signed_sources(Location(str(place)), requirements):
        with open_range_source(each.source) as opened:
            check_file(each.signed, opened, VerifyMode.READ)


def test_an_outer_statement_that_does_not_hold_lets_no_inner_one_in(dataset: Path, other: Path) -> None:
    _nest(dataset, other)
    (dataset / MANIFEST_PATH).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        read_version_above(FILES, str(dataset / "day=1" / A), Requirements(trust=trusting()))


def test_a_statement_that_was_accepted_and_is_gone_is_no_first_contact(
    dataset: Path, remembering: Requirements, tmp_path: Path
) -> None:
    _accept(dataset, remembering)
    shutil.rmtree(dataset / "_pipecrypt")
    for place in (dataset, dataset / "day=1", dataset / A):
        with pytest.raises(NotTrustedError, match="was accepted before"):
            check(place, requirements=remembering)
    shutil.rmtree(dataset)
    with pytest.raises(NotTrustedError, match="was accepted before"):
        check(dataset, requirements=remembering)


def test_a_single_file_that_was_accepted(signed_world: SignedWorld, tmp_path: Path, remembering: Requirements) -> None:
    data = shutil.copytree(signed_world.root / "signed", tmp_path / "part")
    shutil.rmtree(data / "_pipecrypt")
    file = data / A
    sign_file(file)
    assert find_signed_source(Location(str(file)), remembering).signed.entry.path == A
    (data / B).unlink()
    (data / C).unlink()
    sign(data, entries=[entry_of(A, file.read_bytes())])  # a dataset appears around it
    with pytest.raises(IntegrityError, match="has appeared"):
        find_signed_source(Location(str(file)), remembering)
    shutil.rmtree(data / "_pipecrypt")
    Path(f"{file}{SIGNATURE_SUFFIX}").unlink()
    with pytest.raises(NotTrustedError, match="was accepted before"):
        find_signed_source(Location(str(file)), remembering)


def test_starting_anew_drops_what_was_accepted_above(
    dataset: Path, other: Path, remembering: Requirements, memory: VersionMemory
) -> None:
    _accept(dataset, remembering)
    _nest_and_remove(dataset, other)
    anew = replace(remembering, memory=replace(memory, starts_anew=True))
    _accept(dataset / "day=1", anew)
    _accept(dataset / "day=1", remembering)


# ---- one place, many spellings ----


def _spellings(dataset: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "link").symlink_to(dataset)
    (tmp_path / "up").symlink_to(tmp_path)
    return [
        f"{dataset}/",
        f"file://{dataset}",
        f"local://{dataset}/",
        str(dataset).replace("/", "//"),
        f"{dataset}/day=1/..",
        f"{tmp_path}/link",
        f"{tmp_path}/up/up/link/",
        os.path.relpath(dataset),
    ]


def test_a_place_is_the_same_however_it_is_spelled(
    dataset: Path, other: Path, tmp_path: Path, remembering: Requirements
) -> None:
    spellings = _spellings(dataset, tmp_path)
    for number, spelling in enumerate(spellings):
        memory = VersionMemory(str(tmp_path / f"state-{number}"))
        check(spelling, requirements=replace(remembering, memory=memory))
        assert len(list(Path(memory.directory, "accepted").iterdir())) == 1
        for again in (*spellings, str(dataset)):
            check(again, requirements=replace(remembering, memory=memory))
        assert len(list(Path(memory.directory, "accepted").iterdir())) == 1
    _accept(dataset, remembering)
    shutil.rmtree(dataset)
    shutil.copytree(other, dataset)
    for spelling in spellings:
        with pytest.raises(IntegrityError, match="expected here"):
            check(spelling, requirements=remembering)


@pytest.mark.parametrize("spelling", ["day=1", "link/day=1", "up/signed/day=1/", "into"])
def test_a_part_that_is_reached_by_a_link(
    dataset: Path, other: Path, tmp_path: Path, remembering: Requirements, spelling: str
) -> None:
    (tmp_path / "link").symlink_to(dataset)
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "into").symlink_to(dataset / "day=1")
    _accept(dataset, remembering)
    _nest_and_remove(dataset, other)
    place = dataset / spelling if spelling == "day=1" else tmp_path / spelling
    for requirements in (remembering, replace(remembering, memory=None)):
        if requirements.memory is None:
            shutil.copytree(other / "_pipecrypt", dataset / "_pipecrypt", dirs_exist_ok=True)
        with pytest.raises(IntegrityError):
            check(place, requirements=requirements)


def test_records_of_earlier_releases_are_found(dataset: Path, tmp_path: Path, remembering: Requirements) -> None:
    (tmp_path / "link").symlink_to(dataset)
    assert remembering.memory is not None
    remembering.memory.remember(f"file://{tmp_path}/link", SEEN)
    with pytest.raises(IntegrityError, match="expected here"):
        check(tmp_path / "link", requirements=remembering)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s3://bucket/orders", "s3://bucket//orders/"),
        ("s3://bucket/orders", "s3a://bucket/./orders"),
        ("gs://bucket/orders", "gcs://bucket/orders"),
        ("s3://bucket/orders", "simplecache::s3://bucket/orders"),
        ("memory://orders", "memory:///orders"),
    ],
)
def test_urls_of_one_place(one: str, other: str) -> None:
    assert FILES.place(one) == FILES.place(other)
    assert FILES.place(one) != FILES.place(one + "2")


def test_a_file_system_of_the_caller_names_places_alike(dataset: Path) -> None:
    files = FilesystemFiles(fsspec.filesystem("file"))
    assert files.place(str(dataset)) == FILES.place(str(dataset))


# ---- what it costs, and what may not be looked at ----


class _Counting:
    def __init__(self) -> None:
        self.read_paths: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(FILES, name)

    def read(self, path: str, max_bytes: int) -> bytes | None:
        self.read_paths.append(path)
        return FILES.read(path, max_bytes)


def test_each_level_is_asked_once(dataset: Path) -> None:
    counting = _Counting()
    found = find_governing(counting, str(dataset / B), None)  # type: ignore[arg-type]
    assert found is not None
    levels = len(dataset.parts)
    assert len(counting.read_paths) == levels
    assert len(set(counting.read_paths)) == levels


def test_a_bucket_is_the_uppermost_level(memory: VersionMemory) -> None:
    counting = _Counting()
    assert find_governing(counting, "memory://bucket/a/b.parquet", memory) is None  # type: ignore[arg-type]
    assert counting.read_paths == [f"memory://bucket/{MANIFEST_PATH}", f"memory://bucket/a/{MANIFEST_PATH}"]


def test_directories_above_that_may_not_be_read(
    dataset: Path, remembering: Requirements, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipecrypt.errors import StorageAccessError  # noqa: PLC0415

    real = LocatedFiles.read

    def read(self: LocatedFiles, path: str, max_bytes: int) -> bytes | None:
        if not path.startswith(str(dataset)):
            raise StorageAccessError(f"{path} is denied")
        return real(self, path, max_bytes)

    monkeypatch.setattr(LocatedFiles, "read", read)
    _accept(dataset, remembering)
    monkeypatch.setattr(LocatedFiles, "read", lambda self, path, max_bytes: read(self, path.replace(A, B), max_bytes))
    assert remembering.memory is not None
    remembering.memory.remember(FILES.place(str(dataset.parent)), SEEN)
    with pytest.raises(StorageAccessError):
        read_version(FILES, str(dataset), remembering)


# ---- through the public face ----


def test_the_file_system_and_open(
    dataset: Path, other: Path, signed_world: SignedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", str(signed_world.root / "key"))
    options = {"keys": [signed_world.key], "trust": [str(signed_world.public_key)]}

    def read(place: Path) -> int:
        fs = fsspec.filesystem("pipecrypt", target_protocol="file", skip_instance_cache=True, **options)
        with fs.open(str(place)) as file:
            size = len(file.read())
        with pc.open(place, **options) as opened:  # type: ignore[arg-type]
            opened.to_table()
        return size

    assert read(dataset / B)
    _nest_and_remove(dataset, other)
    inner = dataset / "day=1" / "day=1" / Path(B).name
    with pytest.raises(NotTrustedError):
        read(inner)
    with pytest.raises(NotTrustedError):
        pc.open(dataset / "day=1", **options)  # type: ignore[arg-type]
