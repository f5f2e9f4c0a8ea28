"""Every method of fsspec that lists: where keys are trusted, none shows what pipecrypt keeps beside data.

The methods are those that fsspec's own base class has, so that one which a later release adds is asked for here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fsspec.spec import AbstractFileSystem

import pipecrypt as pc
from pipecrypt.errors import IntegrityError, MovedError, NotTrustedError, UnsupportedError
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.store.small_files import FilesystemFiles
from tests.dataset.world import write_table
from tests.reading.attacks import FIRST, SECOND, THIRD, World

Lists = Callable[[Any, str], object]

LISTS: dict[str, dict[str, Lists]] = {
    "ls": {
        "names": lambda fs, place: fs.ls(place, detail=False),
        "details": lambda fs, place: fs.ls(place),
    },
    "listdir": {"details": lambda fs, place: fs.listdir(place)},
    "find": {
        "all": lambda fs, place: fs.find(place),
        "details": lambda fs, place: fs.find(place, detail=True, withdirs=True),
        "two levels": lambda fs, place: fs.find(place, maxdepth=2, withdirs=True),
        "by prefix": lambda fs, place: fs.find(place, prefix="day=1"),
    },
    "walk": {
        "all": lambda fs, place: list(fs.walk(place)),
        "from below": lambda fs, place: list(fs.walk(place, topdown=False, detail=True)),
    },
    "glob": {
        "one level": lambda fs, place: fs.glob(f"{place}/*"),
        "by name": lambda fs, place: fs.glob(f"{place}/_pipe*"),
        "its name": lambda fs, place: fs.glob(f"{place}/_pipecrypt"),
        "all": lambda fs, place: fs.glob(f"{place}/**"),
        "tables": lambda fs, place: fs.glob(f"{place}/**/*.parquet", detail=True),
        "two levels": lambda fs, place: fs.glob(f"{place}/**", maxdepth=2),
    },
    "du": {
        "each": lambda fs, place: fs.du(place, total=False, withdirs=True),
        "two levels": lambda fs, place: fs.du(place, total=False, maxdepth=2),
    },
    "disk_usage": {"each": lambda fs, place: fs.disk_usage(place, total=False)},
    "tree": {"text": lambda fs, place: fs.tree(place, recursion_limit=9, max_display=99)},
    "expand_path": {
        "recursive": lambda fs, place: fs.expand_path(place, recursive=True),
        "glob": lambda fs, place: fs.expand_path(f"{place}/**", recursive=True),
    },
    "get_mapper": {"keys": lambda fs, place: list(fs.get_mapper(place))},
    "cat": {"names": lambda fs, place: list(fs.cat(place, recursive=True, on_error="omit"))},
    "get": {"copies": lambda fs, place: copied(fs.get, place)},
    "download": {"copies": lambda fs, place: copied(fs.download, place)},
}
# From above two datasets, and which of their files each shows.
FROM_ABOVE: dict[str, tuple[Lists, tuple[str, ...]]] = {
    "find": (lambda fs, place: fs.find(place), (FIRST, SECOND)),
    "find with directories": (lambda fs, place: fs.find(place, withdirs=True, detail=True), (FIRST, SECOND)),
    "find three levels": (lambda fs, place: fs.find(place, maxdepth=3), (FIRST, SECOND)),
    "find two levels": (lambda fs, place: fs.find(place, maxdepth=2), (FIRST,)),
    "find by prefix": (lambda fs, place: fs.find(place, prefix="one/day=1"), (SECOND,)),
    "glob": (lambda fs, place: fs.glob(f"{place}/*/*.parquet"), (FIRST,)),
    "glob part of a name": (lambda fs, place: fs.glob(f"{place}/on?/[a-c].parquet"), (FIRST,)),
    "glob partitions": (lambda fs, place: fs.glob(f"{place}/*/day=*/*", detail=True), (SECOND,)),
    "glob a partition": (lambda fs, place: fs.glob(f"{place}/*/day=1/*"), (SECOND,)),
    "glob all": (lambda fs, place: fs.glob(f"{place}/**"), (FIRST, SECOND)),
    "glob tables": (lambda fs, place: fs.glob(f"{place}/**/*.parquet"), (FIRST, SECOND)),
    "glob two levels": (lambda fs, place: fs.glob(f"{place}/**", maxdepth=2), (FIRST,)),
    "glob tables of two levels": (lambda fs, place: fs.glob(f"{place}/**/*.parquet", maxdepth=2), (FIRST,)),
    "glob below a level": (lambda fs, place: fs.glob(f"{place}/*/**/*.parquet"), (FIRST, SECOND)),
    "du": (lambda fs, place: fs.du(place, total=False), (FIRST, SECOND)),
    "disk_usage": (lambda fs, place: fs.disk_usage(place), (FIRST, SECOND)),
    "expand_path": (lambda fs, place: fs.expand_path(place, recursive=True), (FIRST, SECOND)),
    "expand_path of a glob": (lambda fs, place: fs.expand_path(f"{place}/*/*"), (FIRST,)),
    "get_mapper": (lambda fs, place: list(fs.get_mapper(place)), (FIRST, SECOND)),
    "cat": (lambda fs, place: fs.cat(place, recursive=True, on_error="omit"), (FIRST, SECOND)),
}
ANSWERS = {"exists", "lexists", "isfile", "isdir"}
ONE_FILE = {
    "cat_file", "cat_ranges", "checksum", "created", "get_file", "head", "info", "modified", "open", "read_block",
    "read_bytes", "read_text", "sign", "size", "sizes", "stat", "tail", "ukey",
}  # fmt: skip
WRITES = {
    "copy", "cp", "cp_file", "delete", "makedir", "makedirs", "mkdir", "mkdirs", "move", "mv", "pipe", "pipe_file",
    "put", "put_file", "rename", "rm", "rm_file", "rmdir", "touch", "upload", "write_bytes", "write_text",
}  # fmt: skip
NOT_ABOUT_PATHS = {
    "clear_instance_cache", "current", "end_transaction", "from_dict", "from_json", "fsid", "invalidate_cache",
    "start_transaction", "to_dict", "to_json", "transaction", "transaction_type", "unstrip_protocol",
    # attributes of the class
    "async_impl", "blocksize", "cachable", "mirror_sync_methods", "protocol", "root_marker", "sep",
}  # fmt: skip

CASES = [pytest.param(way, id=f"{name}: {title}") for name, ways in LISTS.items() for title, way in ways.items()]


def copied(get: Callable[..., object], place: str) -> list[str]:
    local = Path(f"{place}-copied")
    try:
        get(place, str(local), recursive=True)
        return [str(each.relative_to(local)) for each in local.rglob("*")]
    finally:
        shutil.rmtree(local, ignore_errors=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World.at(tmp_path_factory.mktemp("world"))
    world.make_dataset("above/one")
    world.make_dataset("above/deep/two")
    shutil.copy(world.root / "raw" / "a.parquet", world.root / "above/one/_pipecrypt/evil.parquet")
    for name in ("a.parquet", "b.parquet", "day=1/a.parquet", "day=1/b.parquet"):
        write_table(world.root / "raw-pairs" / name)
    world.make_dataset("pairs", "raw-pairs")
    return world


@pytest.fixture
def world(made: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made.use(monkeypatch)
    yield made
    PipecryptFileSystem.clear_instance_cache()


def showing(world: World, **options: object) -> PipecryptFileSystem:
    return PipecryptFileSystem(
        **{"keys": [world.key], "trust": [world.signing], "skip_instance_cache": True, **options}
    )


def test_every_method_is_one_of_these() -> None:
    known = {*LISTS, *ANSWERS, *ONE_FILE, *WRITES, *NOT_ABOUT_PATHS}
    found = {name for name in vars(AbstractFileSystem) if not name.startswith("_")}
    assert found <= known, "say what these do, and test those that list"


@pytest.mark.parametrize("lists", CASES)
@pytest.mark.parametrize("place", ["above", "above/one", "above/deep"])
def test_what_is_kept_beside_data_is_not_listed(world: World, lists: Lists, place: str) -> None:
    shown = repr(lists(showing(world), f"{world.root}/{place}"))
    assert "_pipecrypt" not in shown


@pytest.mark.parametrize("lists", CASES)
def test_all_files_are_listed_as_without_trust(world: World, lists: Lists) -> None:
    def names(text: str) -> list[str]:
        return [name for name in ("a.parquet", "day=1", "b ü.parquet", "day=2", "c.parquet") if name in text]

    place = f"{world.root}/above/deep/two"
    assert names(repr(lists(showing(world), place))) == names(
        repr(lists(showing(world, trust=pc.Trust(verify="off")), place))
    )


@pytest.mark.parametrize("lists", CASES)
def test_a_file_that_is_missing_is_told_by_whatever_would_list_it(world: World, lists: Lists, tmp_path: Path) -> None:
    place = str(shutil.copytree(world.root / "above/one", tmp_path / "one"))
    before = repr(lists(showing(world), place))
    (tmp_path / "one" / SECOND).unlink()
    if "b ü" in before:
        with pytest.raises(IntegrityError):
            lists(showing(world), place)
    else:
        assert "b ü" not in repr(lists(showing(world), place))


class Above:
    """Two datasets below a directory that is not signed, on some storage."""

    def __init__(self, world: World, storage: str, tmp_path: Path) -> None:
        self.stored = fsspec.filesystem(storage)
        self.place = str(tmp_path / "top") if storage == "file" else f"/{tmp_path.name}/top"
        for name in ("above/one", "above/deep/two"):
            self.stored.put(f"{world.root}/{name}/", f"{self.place}/{Path(name).name}/", recursive=True)
        self.world = world

    def showing(self) -> PipecryptFileSystem:
        return showing(self.world, fs=self.stored)


@pytest.fixture(params=["file", "memory"])
def top(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Above]:
    made = Above(world, request.param, tmp_path)
    yield made
    if request.param == "memory":
        made.stored.rm(made.place, recursive=True)


@pytest.mark.parametrize("gone", ["file", "all but the statement"])
@pytest.mark.parametrize("way", FROM_ABOVE)
def test_a_file_of_a_dataset_below_that_is_missing_is_told(top: Above, way: str, gone: str) -> None:
    lists, names = FROM_ABOVE[way]
    fs = top.showing()
    for name in names * 2:  # before and after the dataset is open
        if gone == "file":
            lost = [f"{top.place}/one/{name}"]
        else:
            lost = [each for each in top.stored.find(f"{top.place}/one") if "/_pipecrypt/" not in each]
        kept = {each: top.stored.cat_file(each) for each in lost}
        for each in lost:
            top.stored.rm_file(each)
        with pytest.raises(IntegrityError):
            lists(fs, top.place)
        for each, data in kept.items():
            top.stored.pipe_file(each, data)
        lists(fs, top.place)


@pytest.mark.parametrize(
    "lists",
    [
        lambda fs, place: fs.ls(place),
        lambda fs, place: fs.find(place, maxdepth=2),
        lambda fs, place: fs.glob(f"{place}/*"),
        lambda fs, place: fs.glob(f"{place}/*/*.parquet"),
        lambda fs, place: fs.glob(f"{place}/*/day=2/**"),
        lambda fs, place: fs.glob(f"{place}/two/**"),
        lambda fs, place: fs.glob(f"{place}/**", maxdepth=2),
        lambda fs, place: fs.find(place, prefix="one/day=2"),
    ],
)
def test_from_above_only_what_would_show_is_missed(top: Above, lists: Lists) -> None:
    before = lists(top.showing(), top.place)
    assert before
    top.stored.rm_file(f"{top.place}/one/{SECOND}")
    after = [each for each in before if each != f"{top.place}/one/{SECOND}"]  # not every storage heeds a prefix
    assert lists(top.showing(), top.place) == after


def test_a_listing_from_above_shows_no_directory_that_was_not_asked_for(top: Above) -> None:
    plain = showing(top.world, fs=top.stored, trust=pc.Trust(verify="off"))
    for options in ({"maxdepth": 1}, {"maxdepth": 2}, {"maxdepth": 2, "withdirs": True}, {"maxdepth": 9}, {}):
        shown = [each for each in plain.find(top.place, **options) if "/_pipecrypt" not in each]
        assert top.showing().find(top.place, **options) == shown


def test_pandas_reads_no_part_of_datasets_below_a_directory(world: World, tmp_path: Path) -> None:
    top = Above(world, "file", tmp_path)
    url = f"pipecrypt::file://{top.place}"
    options = {"pipecrypt": {"keys": [world.key], "trust": [world.signing]}}
    assert len(pd.read_parquet(url, storage_options=options)) == 600
    Path(top.place, "two", SECOND).unlink()
    with pytest.raises(IntegrityError):
        pd.read_parquet(url, storage_options=options)


@pytest.mark.parametrize("way", FROM_ABOVE)
def test_a_statement_below_that_was_removed_is_told(top: Above, way: str) -> None:
    lists, names = FROM_ABOVE[way]
    lists(top.showing(), top.place)  # from now on, versions of both are remembered
    top.stored.rm(f"{top.place}/one/_pipecrypt", recursive=True)
    if len(names) > 1:  # of the file that is left, the version that is remembered is known
        top.stored.rm_file(f"{top.place}/one/{names[1]}")
    with pytest.raises(NotTrustedError):
        lists(top.showing(), top.place)


# What a reader lists before it opens files, of a dataset below the directory.
BEFORE_OPENING: dict[str, Lists] = {
    **{way: lists for way, (lists, _) in FROM_ABOVE.items() if way not in {"du", "disk_usage", "cat"}},  # those open
    "find it": lambda fs, place: fs.find(f"{place}/one"),
    "glob it": lambda fs, place: fs.glob(f"{place}/one/**/*.parquet"),
    "ls it": lambda fs, place: fs.ls(f"{place}/one"),
    "walk": lambda fs, place: list(fs.walk(place)),
    "find, and then a partition": lambda fs, place: (fs.find(place), fs.find(f"{place}/one/day=2")),
}


def taken(top: Above, names: list[str]) -> dict[str, bytes]:
    """Take files of a dataset away, and return what was in them, by their paths."""
    files = {path: top.stored.cat_file(path) for name in names for path in top.stored.find(f"{top.place}/one/{name}")}
    for name in names:
        top.stored.rm(f"{top.place}/one/{name}", recursive=True)
    return files


def put(top: Above, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        top.stored.makedirs(path.rpartition("/")[0], exist_ok=True)
        top.stored.pipe_file(path, data)


@pytest.mark.parametrize("way", BEFORE_OPENING)
def test_a_part_that_was_listed_before_the_statement_came_is_not_read_as_all(top: Above, way: str) -> None:
    """As a first run publishes: files one by one, then the statement."""
    lists, fs = BEFORE_OPENING[way], top.showing()
    top.stored.rm(f"{top.place}/one", recursive=True)
    top.stored.put(f"{top.world.root}/pairs/", f"{top.place}/one/", recursive=True)
    shows_partitions_only = FROM_ABOVE.get(way, (None, ()))[1] == (SECOND,)
    one, other = ("day=1/a.parquet", "day=1/b.parquet") if shows_partitions_only else ("a.parquet", "b.parquet")
    later = taken(top, [one, "_pipecrypt"])
    lists(fs, top.place)
    put(top, later)
    for _ in range(2):
        with pytest.raises(MovedError):
            fs.open(f"{top.place}/one/{other}")
    lists(fs, top.place)
    with fs.open(f"{top.place}/one/{other}") as file:
        assert pq.read_table(file).num_rows == 100


@pytest.mark.parametrize("way", BEFORE_OPENING)
def test_all_that_was_listed_before_the_statement_came_is_read(top: Above, way: str) -> None:
    fs, later = top.showing(), taken(top, ["_pipecrypt"])
    BEFORE_OPENING[way](fs, top.place)
    put(top, later)
    for name in (FIRST, SECOND, THIRD):
        with fs.open(f"{top.place}/one/{name}") as file:
            assert pq.read_table(file).num_rows == 100


def test_what_was_signed_below_by_nobody_who_is_trusted_is_not_listed_as_if_it_were(top: Above) -> None:
    fs = showing(top.world, fs=top.stored, trust=[top.world.other_signing])
    with pytest.raises(NotTrustedError):
        fs.find(top.place)


def test_plain_directories_cost_no_request_and_each_dataset_is_read_once(
    top: Above, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    real = FilesystemFiles.read

    def reading(files: FilesystemFiles, path: str, max_bytes: int) -> bytes | None:
        reads.append(path.removeprefix(top.place))
        return real(files, path, max_bytes)

    for number in range(20):
        top.stored.makedirs(f"{top.place}/plain/{number}")
        top.stored.pipe_file(f"{top.place}/plain/{number}/x.csv", b"id")
    monkeypatch.setattr(FilesystemFiles, "read", reading)
    fs = top.showing()
    for _ in range(3):
        assert len(fs.find(top.place)) == 26
        assert len(fs.glob(f"{top.place}/**/*.parquet")) == 6
    below = [each for each in reads if each.startswith(("/one/", "/two/", "/plain/"))]
    assert not [each for each in below if each.startswith("/plain/")]
    assert len(below) == len(set(below)) == 4  # of each dataset the statement and its list


@pytest.mark.parametrize("plant", ["file", "pipe", "link"])
@pytest.mark.parametrize("lists", CASES)
def test_what_is_not_a_directory_in_the_place_of_one_is_told(
    world: World, lists: Lists, tmp_path: Path, plant: str
) -> None:
    """Otherwise a reader who looks for tables in what is listed passes by, as if nothing had been signed below it."""
    place = shutil.copytree(world.root / "above/one", tmp_path / "one")
    before = repr(lists(showing(world), str(place)))
    (place / "day=1").rename(tmp_path / "day=1")
    if plant == "file":
        shutil.copy(place / "a.parquet", place / "day=1")
    elif plant == "pipe":
        os.mkfifo(place / "day=1")
    else:
        (place / "day=1").symlink_to(tmp_path / "day=1")
    if "day=1" in before and lists is not LISTS["glob"]["one level"]:
        with pytest.raises(IntegrityError):
            lists(showing(world), str(place))


@pytest.mark.parametrize("single", [False, True])
def test_a_directory_in_the_place_of_a_signed_file_is_no_empty_table(
    world: World, tmp_path: Path, *, single: bool
) -> None:
    if single:
        policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, sign=world.signing)
        file = tmp_path / "x.parquet"
        pc.encrypt(world.root / "raw" / "a.parquet", file, policy, credentials=world.credentials)
    else:
        file = shutil.copytree(world.root / "above/one", tmp_path / "one") / "a.parquet"
    assert pq.read_table(str(file), filesystem=showing(world)).num_rows
    file.unlink()
    file.mkdir()
    with pytest.raises(IntegrityError):
        pq.read_table(str(file), filesystem=showing(world))
    with pytest.raises(IntegrityError):
        showing(world).ls(str(file))


@pytest.mark.parametrize("name", ["", "/manifest.json", "/evil.parquet", "/files", "/none"])
def test_questions_about_it_have_the_answer_of_the_listings(world: World, name: str) -> None:
    fs, path = showing(world), f"{world.root}/above/one/_pipecrypt{name}"
    assert [getattr(fs, each)(path) for each in sorted(ANSWERS)] == [False] * len(ANSWERS)
    with pytest.raises((IntegrityError, FileNotFoundError)):
        fs.info(path)
    assert fs.find(path) == fs.glob(f"{path}/**") == []
    shown = showing(world, trust=pc.Trust(verify="off"))
    assert shown.exists(path) == (name != "/none")


def test_data_below_a_directory_of_that_name_is_data(world: World, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(world.root / "raw" / "day=1", raw / "sub" / "_pipecrypt")
    fs = showing(world)
    shutil.copytree(raw, tmp_path / "above" / "plain")
    (tmp_path / "above" / "plain" / "_pipecrypt").mkdir()
    (tmp_path / "above" / "plain" / "_pipecrypt" / "journal").touch()
    found = fs.find(str(tmp_path / "above"))
    assert found == [str(tmp_path / "above/plain/sub/_pipecrypt/b ü.parquet")]


def test_writing_is_refused_by_every_method_that_writes(world: World) -> None:
    fs, place = showing(world), f"{world.root}/above/one/a.parquet"
    for name in WRITES - {"makedir", "mkdirs", "delete", "cp"}:  # those call the others
        with pytest.raises(UnsupportedError):
            getattr(fs, name)(place, place)
