"""Below what the caller named, no link is followed: each operation, each part of the path, and at any moment."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipecrypt.errors import IntegrityError, LinkError, PipecryptError, StorageError
from pipecrypt.store import beneath, undo
from pipecrypt.store.beneath import open_to_read, own_status, remove_empty, walk
from pipecrypt.store.lease import Lease
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import EntryKind
from pipecrypt.store.small_files import locate

PATH = "one/two/file"


def write(place: Location, data: bytes = b"new") -> None:
    with open_store(place).write(overwrite=True) as sink:
        sink.write(data)
        sink.publish()


def create(place: Location) -> None:
    with open_store(place).write(overwrite=False) as sink:
        sink.write(b"new")
        sink.publish()


def change_end(place: Location) -> None:
    found = open_store(place).stat().file()
    assert found is not None
    undo.write_undo(found, 1)
    undo.replace_tail(found, 1, b"new")


def lock(place: Location) -> None:
    Lease(place, "me").release()


OPERATIONS: dict[str, Callable[[Location], object]] = {
    "write": write,
    "remove": lambda place: open_store(place).remove(),
    "change the end": change_end,
    "replace": lambda place: open_store(place).replace_exclusively(lambda _: b"new", max_bytes=100),
    "move away": lambda place: open_store(place).move(place.sibling("moved")),
    "move onto": lambda place: open_store(place.above.above.above.child("spare")).move(place),
    "read": lambda place: open_store(place).read_small(max_bytes=100),
    "read the start": lambda place: open_store(place).read_start(3),
    "hold": lambda place: open_store(place).holding(place).__enter__(),
}
# What is done to a directory: it must not be reached behind a link.
DIRECTORY_OPERATIONS: dict[str, Callable[[Location], object]] = {
    "create": lambda place: create(place.child("new")),
    "list": lambda place: list(open_store(place).list()),
    "remove empty ones": lambda place: open_store(place).remove_empty_directories(),
    "remove leftovers": lambda place: open_store(place.child("a")).remove_leftovers("deadbeef"),
    "remove leftovers of a run": lambda place: open_store(place).remove_leftovers("deadbeef", "a", of_any_name=True),
    "look whether it is empty": lambda place: open_store(place).is_empty(),
    "lock": lock,
}


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory outside of the sink, which must not change in any way."""
    outside = tmp_path / "victim"
    (outside / "two/empty").mkdir(parents=True)
    for name in ("file", "two/file", ".a.pipecrypt-deadbeef-00000001.tmp", "two/.a.pipecrypt-deadbeef-00000001.tmp"):
        (outside / name).write_bytes(b"mine")
    before = state(outside)
    yield outside
    assert state(outside) == before


def state(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mtime_ns, status.st_nlink if path.is_file() else 0, data)
    return found


def plant(tmp_path: Path, part: str, victim: Path) -> Location:
    """A sink in which one part of `PATH` is a link to what would be there in the victim."""
    sink = tmp_path / "sink"
    (sink / "one/two").mkdir(parents=True)
    (sink / PATH).write_bytes(b"1234")
    (sink / "spare").write_bytes(b"spare")
    parts = PATH.split("/")
    depth = parts.index(part)
    target = sink.joinpath(*parts[: depth + 1])
    target.rename(tmp_path / "away")
    target.symlink_to(victim.joinpath(*parts[1 : depth + 1]))
    return Location(str(sink)).child(PATH)


@pytest.mark.parametrize("part", ["one", "two", "file"])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
def test_no_operation_follows_a_link(
    tmp_path: Path, victim: Path, part: str, operation: Callable[[Location], object]
) -> None:
    place = plant(tmp_path, part, victim)
    with pytest.raises(LinkError):
        operation(place)


@pytest.mark.parametrize("part", ["one", "two"])
@pytest.mark.parametrize("operation", DIRECTORY_OPERATIONS.values(), ids=list(DIRECTORY_OPERATIONS))
def test_no_operation_on_a_directory_follows_a_link(
    tmp_path: Path, victim: Path, part: str, operation: Callable[[Location], object]
) -> None:
    place = plant(tmp_path, part, victim).above
    with pytest.raises(LinkError):
        operation(place)


@pytest.mark.parametrize("operation", [*OPERATIONS.values(), *DIRECTORY_OPERATIONS.values()])
def test_what_the_caller_named_may_be_a_link(tmp_path: Path, operation: Callable[[Location], object]) -> None:
    (tmp_path / "real/one/two").mkdir(parents=True)
    (tmp_path / "real" / PATH).write_bytes(b"1234")
    (tmp_path / "real/spare").write_bytes(b"spare")
    (tmp_path / "link").symlink_to("real")
    place = Location(str(tmp_path / "link")).child(PATH)
    operation(place if operation in OPERATIONS.values() else place.above)


def test_a_link_put_in_place_after_the_directory_was_opened_changes_nothing(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sink/one/two").mkdir(parents=True)
    place = Location(str(tmp_path / "sink")).child(PATH)
    real = beneath.HeldDirectory.create

    def swap(self: beneath.HeldDirectory, name: str, mode: int) -> int:
        (tmp_path / "sink/one").rename(tmp_path / "sink/aside")
        (tmp_path / "sink/one").symlink_to(victim)
        return real(self, name, mode)

    monkeypatch.setattr(beneath.HeldDirectory, "create", swap)
    write(place)
    assert (tmp_path / "sink/aside/two/file").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["unlink", "rename", "link"])
def test_a_link_put_in_place_between_check_and_use(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever was looked at: what is used is the same directory, or a refusal."""
    (tmp_path / "sink/one/two").mkdir(parents=True)
    (tmp_path / "sink" / PATH).write_bytes(b"1234")
    place = Location(str(tmp_path / "sink")).child(PATH)
    real, done = getattr(os, call), []

    def swapping(*arguments: object, **options: object) -> object:
        if not done:
            done.append(call)
            (tmp_path / "sink/one").rename(tmp_path / "sink/aside")
            (tmp_path / "sink/one").symlink_to(victim)
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, swapping)
    action = {"unlink": OPERATIONS["remove"], "rename": write, "link": lambda place: create(place.sibling("other"))}[
        call
    ]
    action(place)
    assert done


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)


@pytest.mark.parametrize("make", [os.mkfifo, make_socket, Path.mkdir], ids=["fifo", "socket", "directory"])
@pytest.mark.parametrize("name", ["read", "read the start", "change the end", "move away", "write"])
def test_what_is_no_file_is_refused_without_waiting(
    tmp_path: Path, make: Callable[[Path], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sink/one/two").mkdir(parents=True)
    (tmp_path / "sink/spare").write_bytes(b"spare")
    make(tmp_path / "sink" / PATH)
    with pytest.raises((PipecryptError, AssertionError)):
        OPERATIONS[name](Location(str(tmp_path / "sink")).child(PATH))
    assert not (tmp_path / "sink" / PATH).is_file()


def test_a_source_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    (found,) = list_sources(Location(str(tmp_path / "file")))
    (tmp_path / "file").unlink()
    os.mkfifo(tmp_path / "file")
    with pytest.raises(PipecryptError), open_range_source(found):
        pass


def test_a_file_with_another_name_elsewhere_is_not_changed_in_place(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "sink").mkdir()
    os.link(victim / "file", tmp_path / "sink/file")
    os.utime(victim, ns=(1, victim.stat().st_mtime_ns))
    change_end(Location(str(tmp_path / "sink")).child("file"))
    assert (tmp_path / "sink/file").read_bytes() == b"mnew"
    assert (victim / "file").read_bytes() == b"mine"
    undo.drop_undo(Location(str(tmp_path / "sink")).child("file"))


def test_a_hard_link_is_removed_and_replaced_by_name_only(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "sink").mkdir()
    sink = Location(str(tmp_path / "sink"))
    for name in ("removed", "replaced", "moved over"):
        os.link(victim / "file", tmp_path / "sink" / name)
    (tmp_path / "sink/spare").write_bytes(b"spare")
    open_store(sink.child("removed")).remove()
    write(sink.child("replaced"))
    open_store(sink.child("spare")).move(sink.child("moved over"))
    assert sorted(path.name for path in (tmp_path / "sink").iterdir()) == ["moved over", "replaced"]


@pytest.mark.parametrize("path", ["../file", "/file", "a/../../file", "a//file", "", ".", "a/.", "a\0b", "a/"])
@pytest.mark.parametrize("root", ["sink", "memory://bucket/sink"])
def test_no_path_leads_out(path: str, root: str) -> None:
    with pytest.raises(IntegrityError):
        Location(root).child(path)
    with pytest.raises(IntegrityError):
        Location(root).child("a").sibling(path)


def test_storage_of_a_place_keeps_to_what_was_named(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "sink").mkdir()
    (tmp_path / "sink/_pipecrypt").symlink_to(victim)
    files, path = locate(Location(str(tmp_path / "sink")))
    with pytest.raises(LinkError):
        files.read(f"{path}/_pipecrypt/file", 100)
    with pytest.raises(IntegrityError):
        files.location(f"{path}/../victim/file")
    assert files.location(path).depth == 0
    assert files.location(f"{path}.sig.json").depth == 1


def test_what_was_not_named_stays_known_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = Location("sink").child(PATH).absolute()
    assert (place.url, place.depth) == (f"{tmp_path}/sink/{PATH}", 3)


def test_links_among_sources_are_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "real.parquet").write_bytes(b"mine")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.parquet").symlink_to(tmp_path / "real.parquet")
    (found,) = list_sources(Location(str(tmp_path / "raw")))
    with open_range_source(found) as opened:
        assert bytes(opened.read_range(0, 4)) == b"mine"


def test_deep_trees_are_walked_and_emptied(tmp_path: Path) -> None:
    """Deeper than a path can be long."""
    for depth in range(40):
        with beneath.HeldDirectory.beneath(str(tmp_path), ("d" * 200,) * depth) as directory:
            directory.make("d" * 200)
    assert list(walk(Location(str(tmp_path)), lambda _: True)) == []
    remove_empty(Location(str(tmp_path)).child("d" * 200))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b"")
    open_store(Location(str(tmp_path)).child("a")).remove_empty_directories()
    open_store(Location(str(tmp_path)).child("a")).remove_directory()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_looking_tells_links_from_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    place = Location(str(tmp_path)).child("link")
    entry = open_store(place).stat()
    assert entry.kind is EntryKind.LINK
    assert entry.exists()
    for refused in (entry.file, entry.is_directory, entry.refuse_link):
        with pytest.raises(LinkError):
            refused()
    with pytest.raises(LinkError):
        open_to_read(place)
    assert own_status(place).st_size == len("nowhere")
    with pytest.raises(StorageError):
        open_store(Location(str(tmp_path))).write(overwrite=True)
