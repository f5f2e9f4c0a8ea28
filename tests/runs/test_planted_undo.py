"""Undo files of deep rotations that somebody else wrote: nothing is written before they are shown to be genuine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.crypto.digest import digest
from pipecrypt.dataset.share import rekeying
from pipecrypt.errors import IntegrityError, LinkError
from pipecrypt.keys.keystores import create_key
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.store import undo
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.ranges import MemorySource
from tests.runs.conftest import NAMES, World

NAME = "a.parquet"
CHOSEN = b"chosen by somebody else"


@pytest.fixture(autouse=True)
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", "")
    create_key(world.reference("signing"), "ed25519", world.credentials)


@pytest.fixture(params=[False, True], ids=["unsigned", "signed"])
def sign(request: pytest.FixtureRequest, world: World) -> list[str]:
    made = [world.reference("signing")] if request.param else []
    pc.encrypt(world.raw, world.out, pc.Policy(columns={"email": world.key}, sign=made[0] if made else None))
    return made


def rotate(world: World, sign: list[str], place: Path | None = None) -> None:
    pc.rotate(place or world.out, world.key, world.reference("other"), deep=True, sign=sign)


def check_readable(world: World, key: str) -> None:
    back = world.root / "back"
    shutil.rmtree(back, ignore_errors=True)
    pc.decrypt(world.out, back, [key])
    assert world.tree(back) == world.tree(world.raw)


def undo_of(path: Path) -> Path:
    return Path(undo.undo_place(Location(str(path))).local_path)


def forged(body: bytes, body_end: int, end: bytes) -> bytes:
    """An undo file whose own digest is right, as anybody can make it."""
    seen = body[max(0, body_end - 4096) : body_end]
    return b"pcundo1\0" + body_end.to_bytes(8, "little") + bytes.fromhex(digest(seen + end)) + end


def end_of(data: bytes) -> int:
    return read_stored_footer(MemorySource(data, "x")).body_end


def nothing_of_the_file(data: bytes) -> bytes:
    return forged(data, 0, CHOSEN)


def own_end(data: bytes) -> bytes:
    return forged(data, end_of(data), CHOSEN)


def bytes_before_the_footer(data: bytes) -> bytes:
    return forged(data, end_of(data) - 100, CHOSEN + data[end_of(data) :])


def shorter_body(data: bytes) -> bytes:
    return forged(data, end_of(data) // 2, data[end_of(data) :])


def no_body(data: bytes) -> bytes:
    return forged(data, 4, data[end_of(data) :])


def changed_footer(data: bytes) -> bytes:
    return forged(data, end_of(data), data[end_of(data) :].replace(b"parquet-cpp-arrow", b"parquet-cpp-Arrow"))


def plaintext_footer(data: bytes) -> bytes:
    return forged(data, end_of(data), b"\x15\x02\x19\x00" * 10 + (40).to_bytes(4, "little") + b"PAR1")


def beyond_the_file(data: bytes) -> bytes:
    return forged(data, 1 << 62, CHOSEN)


def not_an_undo_file(data: bytes) -> bytes:
    return CHOSEN * 10


def empty(data: bytes) -> bytes:
    return b""


FORGERIES = [
    nothing_of_the_file,
    own_end,
    bytes_before_the_footer,
    shorter_body,
    no_body,
    changed_footer,
    plaintext_footer,
    beyond_the_file,
    not_an_undo_file,
    empty,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
@pytest.mark.parametrize("is_torn", [False, True], ids=["whole", "torn"])
def test_a_forged_undo_file_writes_nothing(
    world: World, sign: list[str], forge: Callable[[bytes], bytes], is_torn: bool
) -> None:
    """The file is whole, or torn so that only an undo file could mend it."""
    path = world.out / NAME
    data = path.read_bytes()
    undo_of(path).write_bytes(forge(data))
    if is_torn:
        path.write_bytes(data[:-30])
    before = world.tree()
    try:
        rotate(world, sign)
    except IntegrityError:
        assert world.tree() == before
    else:
        assert not is_torn  # a file that is whole needs no undo file, and so believes none
        check_readable(world, world.reference("other"))
    assert not any(CHOSEN in data for name, data in world.tree().items() if "undo" not in name)


@pytest.mark.parametrize("place", ["the file", "its undo file", "its directory"])
def test_links_where_a_rotation_writes(world: World, sign: list[str], place: str) -> None:
    """What they lead to stays as it is, whatever the undo file says."""
    path = world.out / NAMES[1]
    victim = world.root / "victim"
    victim.mkdir()
    data = path.read_bytes()
    shutil.copy(path, victim / path.name)
    shutil.copy(path, victim / undo_of(path).name)
    (victim / undo_of(path).name).write_bytes(nothing_of_the_file(data))
    if place == "its directory":
        shutil.move(path.parent, world.root / "away")
        path.parent.symlink_to(victim)
    elif place == "the file":
        path.unlink()
        path.symlink_to(victim / path.name)
    else:
        undo_of(path).symlink_to(victim / undo_of(path).name)
    before = {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in victim.iterdir()}
    with pytest.raises(IntegrityError):
        rotate(world, sign)
    assert {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in victim.iterdir()} == before


def test_a_hard_link_to_a_file_elsewhere_is_not_written_through(world: World, sign: list[str]) -> None:
    path, victim = world.out / NAME, world.root / "victim.parquet"
    os.link(path, victim)
    before = victim.read_bytes()

    rotate(world, sign)

    assert victim.read_bytes() == before
    assert path.read_bytes() != before
    check_readable(world, world.reference("other"))


def test_an_undo_file_of_another_file_of_the_dataset_is_refused(world: World, sign: list[str]) -> None:
    """Its footer is genuine, and so is its digest; the body of this file is not its own."""
    one, two = world.out / NAME, world.out / NAMES[2]
    data, other = one.read_bytes(), two.read_bytes()
    undo_of(two).write_bytes(forged(other, end_of(data), data[end_of(data) :]))
    two.write_bytes(other[: end_of(data)] + b"torn" * 10)
    before = world.tree()

    with pytest.raises(IntegrityError):
        rotate(world, sign)

    assert world.tree() == before


@pytest.mark.parametrize("footer", ["plaintext", "encrypted"])
def test_a_genuine_undo_file_mends_a_torn_file(world: World, footer: str) -> None:
    pc.encrypt(world.raw, world.out, pc.Policy(columns={"email": world.key}, footer=footer))
    path = world.out / NAME
    data = path.read_bytes()
    undo_of(path).write_bytes(forged(data, end_of(data), data[end_of(data) :]))  # as a rotation writes it
    path.write_bytes(data[: end_of(data)] + b"half of a new footer")

    rotate(world, [])

    check_readable(world, world.reference("other"))
    assert world.leftovers() == []


def test_a_sparse_undo_file_is_not_read(world: World, sign: list[str]) -> None:
    path = world.out / NAME
    with open(undo_of(path), "wb") as file:
        file.write(nothing_of_the_file(path.read_bytes()))
        file.truncate(8 << 30)
    with pytest.raises(IntegrityError):
        rotate(world, sign)


def test_an_undo_file_that_was_exchanged_before_rolling_back(
    world: World, monkeypatch: pytest.MonkeyPatch, sign: list[str]
) -> None:
    """A rotation that fails puts back what it changed, and believes its own undo files no more than others."""
    path = world.out / NAME

    def fail(*_: object) -> int:
        undo_of(path).write_bytes(own_end(path.read_bytes()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rekeying, "replace_tail", fail)
    before = path.read_bytes()
    with pytest.raises((IntegrityError, OSError)):
        rotate(world, sign)
    assert path.read_bytes() == before


@pytest.mark.parametrize("is_changed", [True, False])
def test_undo_files_that_are_gone_before_rolling_back(
    world: World, monkeypatch: pytest.MonkeyPatch, is_changed: bool
) -> None:
    """What can be put back is, and what cannot is named; with nothing changed, nothing is lost."""
    sign = [world.reference("signing")]
    pc.encrypt(world.raw, world.out, pc.Policy(columns={"email": world.key}, sign=sign[0]))
    before = {name: (world.out / name).read_bytes() for name in NAMES}
    first, *others = sorted(NAMES)
    changed: list[str] = []

    def fail(source: SourceFile, body_end: int, end: bytes) -> int:
        name = source.location.local_path
        if len(changed) == len(NAMES) - 1:
            undo_of(world.out / first).unlink()
            if not is_changed:
                (world.out / first).write_bytes(before[first])
            raise OSError(28, "No space left on device")
        changed.append(name)
        return undo.replace_tail(source, body_end, end)

    monkeypatch.setattr(rekeying, "replace_tail", fail)
    if is_changed:
        with pytest.raises(IntegrityError, match="not to be put back") as caught:
            rotate(world, sign)
        assert first in caught.value.message
        assert not any(name in caught.value.message for name in others)
    else:
        with pytest.raises(OSError, match="No space left"):
            rotate(world, sign)
    assert {name: (world.out / name).read_bytes() == data for name, data in before.items()} == {
        name: not is_changed or name != first for name in NAMES
    }
    assert not any("undo" in name for name in world.tree())


@pytest.mark.parametrize("length", [235, 236, 247])
@pytest.mark.parametrize("letter", ["x", "ü"])
def test_long_names_are_rotated(world: World, length: int, letter: str) -> None:
    name = "a" + letter * ((length - 9) // len(letter.encode())) + ".parquet"
    (world.raw / NAME).rename(world.raw / name)
    pc.encrypt(world.raw, world.out, pc.Policy(columns={"email": world.key}))

    undo = undo_of(world.out / name).name
    assert len(undo.encode()) <= 255
    if len(name.encode()) <= 235:
        assert undo == f".{name}.pipecrypt-undo.tmp"
    rotate(world, [])

    check_readable(world, world.reference("other"))


def test_long_names_that_begin_alike_have_undo_files_of_their_own(world: World) -> None:
    one, two = (undo_of(world.out / ("x" * 240 + end)).name for end in ("1.parquet", "2.parquet"))
    assert one != two


def test_sharing_follows_no_link(world: World, tmp_path: Path) -> None:
    pc.encrypt(world.raw, world.out, pc.Policy(columns={"email": world.key}))
    (tmp_path / "victim").mkdir()
    (world.out / "_pipecrypt").symlink_to(tmp_path / "victim")
    for action in (
        lambda: pc.grant(world.out, world.reference("other"), [world.key]),
        lambda: pc.revoke(world.out, world.reference("other")),
        lambda: rotate(world, []),
    ):
        with pytest.raises(LinkError):
            action()
    assert list((tmp_path / "victim").iterdir()) == []
