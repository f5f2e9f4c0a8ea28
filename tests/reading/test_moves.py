"""Files of a signed version that a run moves to their places while they are read: `cat`, and the file system.

A version is published from the moment its statement appears, and its files are moved to their places then. So a reader
finds a file staged, at its place, or first there and then here; each time the file that was signed, or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.dataset.checked_source import CheckedSource
from pipecrypt.dataset.requirements import Checks, Requirements
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import ConflictError, IntegrityError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.reading.rows import read_rows
from pipecrypt.reading.views import FileRanges
from pipecrypt.store.location import Location
from tests.dataset.world import ALICE, NAMES, sign, trusting
from tests.reading.attacks import FIRST, SECOND, World

RUN = "20990101T000000Z-00000000"
STAGED = f"_pipecrypt/runs/{RUN}/staged"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World.at(tmp_path_factory.mktemp("world"))
    sign(world.make_dataset(), run=RUN)
    return world


@pytest.fixture
def world(made: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made.use(monkeypatch)
    yield made
    PipecryptFileSystem.clear_instance_cache()


class Sink:
    """A copy of the signed dataset on some storage, whose files are staged and moved."""

    def __init__(self, world: World, storage: str, tmp_path: Path) -> None:
        self.fs = fsspec.filesystem(storage)
        self.root = str(tmp_path / "signed") if storage == "file" else f"/{tmp_path.name}/signed"
        self.url = self.root if storage == "file" else f"{storage}:/{self.root}"
        for path in sorted((world.root / "signed").rglob("*")):
            if path.is_file():
                self.put(path.relative_to(world.root / "signed").as_posix(), path.read_bytes())

    def put(self, path: str, data: bytes) -> None:
        place = f"{self.root}/{path}"
        self.fs.makedirs(place.rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(place, data)

    def stage(self, path: str, instead: bytes | None = None) -> None:
        """Take a file from its place to where its run staged it; perhaps an earlier file is there meanwhile."""
        self.put(f"{STAGED}/{path}", self.fs.cat_file(f"{self.root}/{path}"))
        if instead is None:
            self.fs.rm_file(f"{self.root}/{path}")
        else:
            self.put(path, instead)

    def move(self, path: str) -> None:
        if self.fs.exists(f"{self.root}/{STAGED}/{path}"):
            self.fs.makedirs(f"{self.root}/{path}".rpartition("/")[0], exist_ok=True)
            self.fs.mv(f"{self.root}/{STAGED}/{path}", f"{self.root}/{path}")


@pytest.fixture(params=["file", "memory"])
def sink(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Sink]:
    made = Sink(world, request.param, tmp_path)
    yield made
    if request.param == "memory":
        made.fs.rm(made.root, recursive=True)


def cat(sink: Sink, path: str, world: World, *, mode: VerifyMode = VerifyMode.READ, between: Any = None) -> int:
    checks = Checks(Requirements(trust=trusting()), mode)
    credentials = Credentials(world.environ)
    with read_rows(Location(f"{sink.url}/{path}"), keys=[world.key], checks=checks, credentials=credentials) as rows:
        if between is not None:
            between()
        return sum(len(batch) for batch in rows.batches())


def showing(sink: Sink, world: World, **options: object) -> PipecryptFileSystem:
    given = {"keys": [world.key], "trust": [ALICE.public_key_pem], **options}
    return PipecryptFileSystem(fs=sink.fs, skip_instance_cache=True, **given)  # type: ignore[arg-type]


def by_path(sink: Sink, path: str, world: World, *, between: Any = None) -> int:
    fs = showing(sink, world)
    with fs.open(f"{sink.root}/{path}") as file:
        if between is not None:
            between()
        return int(pq.read_table(file).num_rows)


READERS: tuple[Callable[..., int], ...] = (cat, by_path)


@pytest.mark.parametrize("is_replaced", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_waits_is_read_where_it_is_staged(
    world: World, sink: Sink, reader: Callable[..., int], is_replaced: bool
) -> None:
    earlier = sink.fs.cat_file(f"{sink.root}/{FIRST}") if is_replaced else None
    sink.stage(SECOND, earlier)
    assert reader(sink, SECOND, world) == 100


@pytest.mark.parametrize("is_replaced", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_moves_while_it_is_open_is_read_on_at_its_place(
    world: World, sink: Sink, reader: Callable[..., int], is_replaced: bool
) -> None:
    earlier = sink.fs.cat_file(f"{sink.root}/{FIRST}") if is_replaced else None
    sink.stage(SECOND, earlier)
    assert reader(sink, SECOND, world, between=lambda: sink.move(SECOND)) == 100


@pytest.mark.parametrize("waits", ["in its place", "new", "replacing"])
@pytest.mark.parametrize("path", [FIRST, SECOND])
def test_one_file_is_decrypted_to_the_name_that_was_given_wherever_it_lies(
    world: World, sink: Sink, tmp_path: Path, path: str, waits: str
) -> None:
    if waits != "in its place":
        sink.stage(path, sink.fs.cat_file(f"{sink.root}/{NAMES[-1]}") if waits == "replacing" else None)
    given: dict[str, Any] = {"keys": [world.key], "trust": [ALICE.public_key_pem], "credentials": world.credentials}
    true = (world.root / "raw" / path).read_bytes()
    pc.decrypt(f"{sink.url}/{path}", tmp_path / "back.parquet", **given)
    assert (tmp_path / "back.parquet").read_bytes() == true
    (tmp_path / "into").mkdir()
    pc.decrypt(f"{sink.url}/{path}", tmp_path / "into", **given)
    assert [each.name for each in (tmp_path / "into").rglob("*")] == [Path(path).name]


def test_a_directory_of_one_file_that_waits_is_decrypted_into_a_directory(
    world: World, sink: Sink, tmp_path: Path
) -> None:
    sink.stage(SECOND)
    trust = [ALICE.public_key_pem]
    pc.decrypt(f"{sink.url}/day=1", tmp_path / "out", [world.key], trust=trust, credentials=world.credentials)
    assert [each.name for each in (tmp_path / "out").rglob("*")] == [Path(SECOND).name]


def test_every_byte_is_compared_after_a_move_too(world: World, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sink.fs.cat_file(f"{sink.root}/{SECOND}")
    sink.stage(SECOND)

    def forge() -> None:
        sink.move(SECOND)
        sink.put(SECOND, bytes([*data[:8], data[8] ^ 1, *data[9:]]))  # a page, so that size and footer are right

    for mode in VerifyMode.READ, VerifyMode.FULL:
        # Else all of so small a file is kept.
        monkeypatch.setattr(CheckedSource, "_keep_edges", lambda *_: None)
        monkeypatch.setattr("pipecrypt.store.fsspec._SMALL_BYTES", 0)
        with pytest.raises((IntegrityError, ConflictError)):
            cat(sink, SECOND, world, mode=mode, between=forge)
        with pytest.raises(IntegrityError):
            cat(sink, SECOND, world, mode=mode)
        sink.put(f"{STAGED}/{SECOND}", data)
        sink.fs.rm_file(f"{sink.root}/{SECOND}")
    sink.fs.rm_file(f"{sink.root}/{STAGED}/{SECOND}")


@pytest.mark.parametrize("reader", READERS)
def test_nothing_else_is_read_where_a_file_was_staged(world: World, sink: Sink, reader: Callable[..., int]) -> None:
    other = sink.fs.cat_file(f"{sink.root}/{FIRST}")
    sink.fs.rm_file(f"{sink.root}/{SECOND}")
    sink.put(f"{STAGED}/{SECOND}", other)
    with pytest.raises((IntegrityError, FileNotFoundError)):
        reader(sink, SECOND, world)
    sink.put(SECOND, other)
    with pytest.raises(IntegrityError):
        reader(sink, SECOND, world)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_goes_away_is_not_taken_from_elsewhere(
    world: World, sink: Sink, reader: Callable[..., int]
) -> None:
    other = sink.fs.cat_file(f"{sink.root}/{FIRST}")

    def take() -> None:
        sink.fs.rm_file(f"{sink.root}/{SECOND}")
        sink.put(f"{STAGED}/{SECOND}", other)

    with pytest.raises(ConflictError):
        reader(sink, SECOND, world, between=take)


def test_a_file_that_moves_between_looking_and_opening(
    world: World, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FileRanges.__init__
    earlier = sink.fs.cat_file(f"{sink.root}/{FIRST}")
    for instead in (None, earlier):
        sink.stage(SECOND, instead)

        def moving(ranges: Any, file: Any) -> None:
            sink.move(SECOND)
            real(ranges, file)

        with monkeypatch.context() as patch:
            patch.setattr(FileRanges, "__init__", moving)
            assert by_path(sink, SECOND, world) == 100


def test_listings_show_what_is_staged_at_its_place(world: World, sink: Sink) -> None:
    for path in NAMES[1:]:
        sink.stage(path)
    fs, root = showing(sink, world), sink.root
    files = [f"{root}/{path}" for path in NAMES]
    assert sorted(fs.find(root)) == sorted(fs.glob(f"{root}/**/*.parquet")) == files
    assert {each["name"] for each in fs.ls(root)} == {f"{root}/a.parquet", f"{root}/day=1", f"{root}/day=2"}
    assert fs.ls(f"{root}/day=1", detail=False) == [f"{root}/{SECOND}"]
    assert all(fs.exists(file) and fs.isfile(file) and fs.info(file)["type"] == "file" for file in files)
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    found = ds.dataset(files, filesystem=arrow, format="parquet")
    for path in NAMES[1:]:
        sink.move(path)
    assert found.to_table().num_rows == 300
    sink.fs.rm_file(f"{root}/{SECOND}")
    for lists in (lambda: fs.find(root), lambda: fs.ls(f"{root}/day=1")):
        with pytest.raises(IntegrityError, match="missing"):
            lists()
    assert not fs.exists(f"{root}/{SECOND}")


def test_batches_of_an_open_dataset_go_on_where_files_move(world: World, sink: Sink) -> None:
    sink.stage(SECOND)
    with pc.open(sink.url, keys=[world.key], trust=[ALICE.public_key_pem]) as opened:
        assert any(STAGED in file for file in opened.files)
        sink.move(SECOND)
        assert sum(batch.num_rows for batch in opened.to_batches()) == 300


def test_listings_from_above_show_what_is_staged_in_each_dataset(world: World, sink: Sink) -> None:
    above, other = sink.root.rpartition("/")[0], f"{sink.root}2"
    for path in (*NAMES[1:], *sink.fs.find(f"{sink.root}/_pipecrypt")):
        name = path.removeprefix(f"{sink.root}/")
        sink.fs.makedirs(f"{other}/{name}".rpartition("/")[0], exist_ok=True)
        sink.fs.pipe_file(f"{other}/{name}", sink.fs.cat_file(f"{sink.root}/{name}"))
    sink.fs.makedirs(f"{other}/{STAGED}")
    sink.fs.pipe_file(f"{other}/{STAGED}/{NAMES[0]}", sink.fs.cat_file(f"{sink.root}/{NAMES[0]}"))
    sink.stage(NAMES[1])
    fs = showing(sink, world)
    files = [f"{root}/{path}" for root in (sink.root, other) for path in NAMES]
    assert sorted(fs.find(above)) == sorted(fs.glob(f"{above}/**/*.parquet")) == files
    assert sorted(fs.glob(f"{above}/*/*.parquet")) == [files[0], files[3]]
    sink.fs.rm_file(f"{other}/{STAGED}/{NAMES[0]}")
    with pytest.raises(IntegrityError):
        fs.find(above)
    sink.fs.rm(other, recursive=True)
