"""Which staged files reach their places, which are removed, and what is refused."""

from __future__ import annotations

import errno
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.dataset.staged import finish_version, set_aside
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.errors import IntegrityError, LockLostError, StorageError
from pipecrypt.store.local import LocalStore
from pipecrypt.store.location import Location
from tests.dataset.world import NAMES, SignedWorld, data_files, entry_of, tree
from tests.doubles.faulty_store import Faults, FaultyStore, register_faulty_store

RUN = "20990101T000000Z-00000000"
A, B, C = NAMES


@dataclass(frozen=True)
class Staging:
    """A dataset of three files, and three other attempts at them."""

    root: Path
    right: dict[str, bytes]
    wrong: dict[str, bytes]

    @property
    def entries(self) -> list[FileEntry]:
        return [entry_of(path, data) for path, data in self.right.items()]

    @property
    def staged(self) -> dict[str, bytes]:
        return tree(self.root / "_pipecrypt" / "runs" / RUN / "staged")

    def place(self, path: str, data: bytes | None) -> None:
        (self.root / path).unlink()
        if data is not None:
            (self.root / path).write_bytes(data)

    def stage(self, path: str, data: bytes) -> None:
        place = self.root / "_pipecrypt" / "runs" / RUN / "staged" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def finish(self) -> None:
        finish_version(Location(str(self.root)), RUN, self.entries)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    world = SignedWorld.at(tmp_path_factory.mktemp("attempts"))
    right, wrong = (data_files(world.encrypt(name)) for name in ("right", "wrong"))
    assert [len(data) for data in right.values()] == [len(data) for data in wrong.values()]  # only footers tell
    return right, wrong


@pytest.fixture
def staging(dataset: Path, attempts: tuple[dict[str, bytes], dict[str, bytes]]) -> Staging:
    made = Staging(dataset, *attempts)
    for path, data in made.right.items():
        made.place(path, data)
    return made


def test_what_is_listed_is_moved_over_what_is_there(staging: Staging) -> None:
    for path, there in ((A, staging.wrong[A]), (B, None), (C, staging.right[C])):
        staging.place(path, there)
        staging.stage(path, staging.right[path])
    staging.finish()
    assert data_files(staging.root) == staging.right
    assert staging.staged == {}
    staging.finish()
    assert data_files(staging.root) == staging.right


@pytest.mark.parametrize("stray", ["another attempt", "short", "no Parquet"])
def test_a_stray_never_replaces_the_file_that_was_signed(
    staging: Staging, stray: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = staging.wrong[A]
    data = {"another attempt": wrong, "short": wrong[: len(wrong) // 2], "no Parquet": bytes(len(wrong))}[stray]
    staging.stage(A, data)
    staging.finish()
    assert data_files(staging.root) == staging.right
    assert staging.staged == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"staged/{A}" in caplog.text


@pytest.mark.parametrize("has_place", [True, False])
def test_where_neither_is_right_both_stay_and_all_others_are_moved(staging: Staging, has_place: bool) -> None:
    staging.place(B, staging.wrong[B][:-1] if has_place else None)
    staging.stage(B, staging.wrong[B])
    for path in (A, C):
        staging.place(path, staging.wrong[path])
        staging.stage(path, staging.right[path])
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            staging.finish()
        assert f"staged/{B}" in caught.value.message
        assert "--overwrite" in (caught.value.hint or "")
        assert staging.staged == {B: staging.wrong[B]}
    found = data_files(staging.root)
    assert (found[A], found[C]) == (staging.right[A], staging.right[C])
    assert found.get(B) == (staging.wrong[B][:-1] if has_place else None)


def test_what_is_not_listed_is_removed(staging: Staging) -> None:
    staging.stage("d.parquet", staging.wrong[A])
    staging.finish()
    assert data_files(staging.root) == staging.right
    assert staging.staged == {}


def test_what_was_set_aside_comes_back(staging: Staging) -> None:
    staging.stage(B, staging.wrong[B])  # of an attempt that was given up
    set_aside(Location(str(staging.root)), RUN, [B, C])
    assert staging.staged == {B: staging.right[B], C: staging.right[C]}
    staging.finish()
    assert data_files(staging.root) == staging.right


def test_only_what_runs_left_is_removed_and_only_under_the_lock(staging: Staging) -> None:
    runs = staging.root / "_pipecrypt" / "runs"
    earlier = runs / "20200101T000000Z-0123abcd" / "staged" / A
    others = [runs / name / "staged" / A for name in ("!", "2020", "20200101T000000Z", "20201399T000000Z-0123abcd")]
    for place in (earlier, *others):
        place.parent.mkdir(parents=True)
        place.write_bytes(b"table")

    def lost() -> None:
        raise LockLostError("another run writes there")

    with pytest.raises(LockLostError):
        finish_version(Location(str(staging.root)), RUN, staging.entries, before_each=lost)
    assert earlier.exists()

    staging.finish()
    assert not earlier.exists()
    assert all(place.exists() for place in others)


def test_a_storage_that_fails_decides_nothing(staging: Staging) -> None:
    staging.stage(A, staging.right[A])
    store = register_faulty_store()
    store.reset()
    fs = FaultyStore()
    for path, data in tree(staging.root).items():
        fs.pipe_file(f"/bucket/{path}", data)
    before = {path: file.getvalue() for path, file in store.store.items()}
    sink = Location("faulty://bucket", {"transfer": {"deadline_seconds": 0}})
    store.plan(Faults(call="cat_file", at=0, error=errno.EIO))
    with pytest.raises(StorageError):
        finish_version(sink, RUN, staging.entries)
    assert {path: file.getvalue() for path, file in store.store.items()} == before
    store.plan()
    finish_version(sink, RUN, staging.entries)
    assert not [path for path in store.store if "/staged/" in path]
    store.reset()
    shutil.rmtree(staging.root)


def test_of_many_each_is_moved_while_the_lock_is_held_and_the_wrong_ones_stay(staging: Staging) -> None:
    paths = [f"many/{number:02}.parquet" for number in range(40)]
    entries = [entry_of(path, staging.right[A]) for path in paths]
    wrong = {paths[3], paths[30]}
    for path in paths:
        staging.stage(path, staging.wrong[A] if path in wrong else staging.right[A])
    asked: list[int] = []

    with pytest.raises(IntegrityError):
        finish_version(Location(str(staging.root)), RUN, entries, before_each=lambda: asked.append(1))

    moved = {path for path in data_files(staging.root) if path.startswith("many/")}
    assert moved == {*paths} - wrong
    assert set(staging.staged) == wrong
    assert len(asked) == len(paths)


def test_nothing_more_is_moved_once_the_lock_is_lost(staging: Staging) -> None:
    paths = [f"many/{number:03}.parquet" for number in range(200)]
    for path in paths:
        staging.stage(path, staging.right[A])
    turns, turn = iter(range(5)), threading.Lock()

    def check() -> None:
        with turn:
            if next(turns, None) is None:
                raise LockLostError("another run holds the lock")

    with pytest.raises(LockLostError):
        finish_version(
            Location(str(staging.root)), RUN, [entry_of(path, staging.right[A]) for path in paths], before_each=check
        )
    assert len(staging.staged) == len(paths) - 5


def test_the_lock_is_asked_about_just_before_each_move(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"many/{number:03}.parquet" for number in range(100)]
    for path in paths:
        staging.stage(path, staging.right[A])
    asked, was_asked, real = threading.local(), list[bool](), LocalStore.move

    def check() -> None:
        asked.is_held = True

    def move(store: LocalStore, *arguments: Any, **options: Any) -> Any:
        was_asked.append(getattr(asked, "is_held", False))  # on this thread, and for no other file since
        asked.is_held = False
        return real(store, *arguments, **options)

    monkeypatch.setattr(LocalStore, "move", move)
    finish_version(
        Location(str(staging.root)), RUN, [entry_of(path, staging.right[A]) for path in paths], before_each=check
    )
    assert was_asked == [True] * len(paths)


def test_directories_stay_once_the_lock_is_lost(staging: Staging) -> None:
    earlier = staging.root / "_pipecrypt/runs/20980101T000000Z-00000000/staged"
    files = [earlier / name / "x.parquet" for name in ("a", "b")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")

    def check() -> None:
        if not all(file.exists() for file in files):
            raise LockLostError("another run holds the lock")

    with pytest.raises(LockLostError):
        finish_version(Location(str(staging.root)), RUN, staging.entries, before_each=check)
    assert sum(file.exists() for file in files) == 1
    assert all(file.parent.is_dir() for file in files)


def test_directories_of_an_earlier_run_are_looked_through_once(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = staging.root / "_pipecrypt/runs/20980101T000000Z-00000000/staged"
    earlier.mkdir(parents=True)
    for number in range(20):
        (earlier / f"{number}.parquet").write_bytes(b"")
    looked: list[str] = []
    real = LocalStore.remove_empty_directories

    def remove_empty_directories(store: LocalStore, path: str = "") -> None:
        looked.append(store.root.name)
        real(store, path)

    monkeypatch.setattr(LocalStore, "remove_empty_directories", remove_empty_directories)
    staging.finish()
    assert not earlier.exists()
    assert looked == ["staged", "staged"]  # of that run, and of this one
