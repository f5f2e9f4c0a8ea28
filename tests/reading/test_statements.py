"""Which statement counts for a file of a file system, when it is read again, and which listings are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.statement.paths import MANIFEST_PATH
from pipecrypt.errors import ExpiredError, IntegrityError, NotTrustedError
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.reading.statements import Statements
from pipecrypt.store import fsspec as fsspec_store
from tests.dataset.world import ALICE, NAMES, SignedWorld, next_version, sign, sign_file, trusting

LOCAL = fsspec.filesystem("file")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = SignedWorld.at(tmp_path_factory.mktemp("world"))
    sign(world.encrypt("signed"))
    return world.root / "signed"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "signed"))


class Reads:
    """Counts the small files that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        real = fsspec_store.read_stored

        def reading(fs: object, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
            self.names.append(path.rpartition("/")[2])
            return real(fs, path, ranges)

        monkeypatch.setattr(fsspec_store, "read_stored", reading)


def statements(**options: object) -> Statements:
    return Statements(LOCAL, Requirements(trust=trusting(), **options))  # type: ignore[arg-type]


def test_a_statement_is_read_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, known = Reads(monkeypatch), statements()
    for name in NAMES * 2:
        signed = known.find(f"{dataset}/{name}")
        assert signed is not None
        assert signed.entry.path == name
    assert len(reads.names) == 2  # statement and list
    assert known.generation == 0


@pytest.mark.parametrize(
    "name", [MANIFEST_PATH, "_pipecrypt/evil.parquet", "_pipecrypt/runs/r/staged/a.parquet", "_pipecrypt"]
)
def test_nothing_that_is_kept_beside_data_is_data(dataset: Path, name: str) -> None:
    known = statements()
    for _ in range(2):  # before and after the dataset is open
        with pytest.raises(IntegrityError):
            known.find(f"{dataset}/{name}")
        known.find(f"{dataset}/{NAMES[0]}")


def test_a_newer_statement_is_found(dataset: Path) -> None:
    known = statements()
    first = sign(dataset)
    path = f"{dataset}/{NAMES[0]}"
    old = known.find(path)
    assert old is not None
    assert known.find_again(path, old) is None
    shutil.copy(dataset / NAMES[0], dataset / "new.parquet")
    sign(dataset, ALICE, **next_version(first))
    found = known.find(f"{dataset}/new.parquet")  # not in the list that was read: so it is read again
    assert found is not None
    assert (found.manifest.version, known.generation) == (2, 1)
    newer = known.find_again(path, old)
    assert newer is not None
    assert newer.manifest.version == 2


def test_a_statement_that_expires_meanwhile(dataset: Path) -> None:
    now = [datetime.now(UTC)]
    sign(dataset, expires=now[0].replace(microsecond=0) + timedelta(days=1))
    known = statements(clock=lambda: now[0])
    assert known.find(f"{dataset}/{NAMES[0]}") is not None
    now[0] += timedelta(days=2)
    with pytest.raises(ExpiredError):
        known.find(f"{dataset}/{NAMES[0]}")
    with pytest.raises(ExpiredError):
        known.check_listing(str(dataset), {}, lambda path: path, tuple)


def test_files_outside_of_datasets(dataset: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.parquet"
    shutil.copy(dataset / NAMES[0], place)
    with pytest.raises(NotTrustedError):
        statements().find(str(place))
    sign_file(place)
    found = statements().find(str(place))
    assert found is not None
    assert found.entry.path == "x.parquet"
    with pytest.raises(IntegrityError):
        statements().find(f"{dataset}/none.parquet")


def test_pinned_files(dataset: Path) -> None:
    signed = statements().find(f"{dataset}/{NAMES[0]}")
    assert signed is not None
    pinned = Statements(LOCAL, Requirements(trust=trusting()), pinned={"x": signed})
    assert pinned.find("x") is signed
    assert pinned.find_again("x", signed) is None
    pinned.check_listing("", {}, lambda path: path, tuple)
    with pytest.raises(IntegrityError):
        pinned.find("y")


# ---- listings ----


@pytest.fixture
def fs() -> PipecryptFileSystem:
    return PipecryptFileSystem(keys=[], trust=[ALICE.public_key_pem], skip_instance_cache=True)


def listings(fs: PipecryptFileSystem, root: Path) -> None:
    fs.ls(str(root), detail=False)
    fs.ls(f"{root}/day=1")
    fs.find(str(root))
    fs.find(str(root), maxdepth=1, withdirs=True, detail=True)
    fs.find(f"{root}/day=1/")
    fs.glob(f"{root}/**/*.parquet")
    fs.glob(f"{root}/day=1/*", detail=True)
    list(fs.walk(str(root)))


def test_whole_listings_pass(fs: PipecryptFileSystem, dataset: Path, tmp_path: Path) -> None:
    listings(fs, dataset)
    assert fs.ls(str(tmp_path), detail=False) == [str(dataset)]  # above the dataset, nothing says what there must be
    (dataset / "extra.parquet").write_bytes(b"x")
    listings(fs, dataset)
    with pytest.raises(IntegrityError):
        fs.open(f"{dataset}/extra.parquet")


@pytest.mark.parametrize(
    "listing",
    [
        lambda fs, root: fs.ls(f"{root}/day=1"),
        lambda fs, root: fs.ls(f"{root}/day=1", detail=False),
        lambda fs, root: fs.find(str(root)),
        lambda fs, root: fs.find(f"{root}/", maxdepth=2, detail=True),
        lambda fs, root: fs.find(f"{root}/day=1"),
        lambda fs, root: fs.glob(f"{root}/**/*.parquet"),
        lambda fs, root: fs.glob(f"{root}/day=*/*"),
        lambda fs, root: list(fs.walk(str(root))),
    ],
)
def test_a_missing_file_is_noticed(fs: PipecryptFileSystem, dataset: Path, listing: object) -> None:
    assert callable(listing)
    listing(fs, dataset)
    (dataset / NAMES[1]).unlink()
    (dataset / "day=1" / "other.parquet").write_bytes(b"x")
    fs.ls(str(dataset))
    fs.find(str(dataset), maxdepth=1)
    fs.glob(f"{dataset}/*.parquet")
    fs.find(f"{dataset}/day=2")
    with pytest.raises(IntegrityError, match="missing"):
        listing(fs, dataset)


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("detail", [False, True])
def test_what_is_no_file_counts_as_missing(
    fs: PipecryptFileSystem, dataset: Path, put: Callable[[Path], None], detail: bool
) -> None:
    (dataset / NAMES[0]).unlink()
    put(dataset / NAMES[0])
    directory = str((dataset / NAMES[0]).parent)
    for listing in (
        lambda: fs.ls(directory, detail=detail),
        lambda: fs.find(str(dataset), withdirs=True, detail=detail),
        lambda: fs.glob(f"{directory}/*", detail=detail),
    ):
        with pytest.raises(IntegrityError, match="missing"):
            listing()


def test_listings_have_the_form_of_fsspec(fs: PipecryptFileSystem, dataset: Path) -> None:
    def data(paths: Iterable[str]) -> list[str]:
        return [path for path in paths if not path.startswith(f"{dataset}/_pipecrypt")]

    assert fs.ls(str(dataset), detail=False) == data(LOCAL.ls(str(dataset), detail=False))
    assert fs.find(str(dataset)) == data(LOCAL.find(str(dataset)))
    assert list(fs.find(str(dataset), detail=True)) == data(LOCAL.find(str(dataset), detail=True))
    assert fs.glob(f"{dataset}/**") == data(LOCAL.glob(f"{dataset}/**"))


@pytest.mark.parametrize("detail", [False, True])
def test_listings_leave_out_what_is_kept_beside_data(fs: PipecryptFileSystem, dataset: Path, detail: bool) -> None:
    shutil.copy(dataset / NAMES[0], dataset / "_pipecrypt" / "evil.parquet")
    for found in (
        fs.ls(str(dataset), detail=detail),
        fs.ls(f"{dataset}/_pipecrypt", detail=detail),
        fs.find(f"{dataset}/_pipecrypt/", detail=detail, withdirs=True),
        fs.find(str(dataset), detail=detail, withdirs=True),
        fs.glob(f"{dataset}/*/*.parquet", detail=detail),
        fs.glob(f"{dataset}/_pipecrypt/*", detail=detail),
    ):
        assert "_pipecrypt" not in str(found)
    assert not [directory for directory, _, _ in fs.walk(str(dataset)) if "_pipecrypt" in directory]


def test_a_missing_directory_is_noticed(fs: PipecryptFileSystem, dataset: Path) -> None:
    shutil.rmtree(dataset / "day=1")
    with pytest.raises(IntegrityError, match="missing"):
        fs.ls(str(dataset))


def test_a_newer_list_may_have_fewer_files(fs: PipecryptFileSystem, dataset: Path) -> None:
    first = sign(dataset)
    fs.find(str(dataset))
    (dataset / NAMES[1]).unlink()
    sign(dataset, ALICE, **next_version(first))
    assert len(fs.find(f"{dataset}/day=2")) == 1
    fs.glob(f"{dataset}/**/*.parquet")
