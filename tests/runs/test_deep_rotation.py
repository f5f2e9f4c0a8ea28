"""rotate(deep=True): who reads afterwards, what stays, and what a death at any step leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import (
    AccessError,
    ConflictError,
    IntegrityError,
    KeyNotFoundError,
    NotEncryptedError,
    NotTrustedError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.keystores import create_key
from pipecrypt.parquet.footer.keys import column_key_uses
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.runs.deep_rotation import DeepSummary
from pipecrypt.runs.journal.sink_locking import locked_sink
from pipecrypt.store import undo
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import MemorySource
from tests.runs.conftest import NAMES, World


@pytest.fixture(autouse=True)
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", "")  # tests go back to earlier states
    create_key(world.reference("third"), "aes256", world.credentials)
    create_key(world.reference("signing"), "ed25519", world.credentials)


def encrypt(world: World, **changes: object) -> None:
    policy = {"columns": {"email": world.key}, **changes}
    pc.encrypt(world.raw, world.out, pc.Policy(**policy))  # type: ignore[arg-type]


def rotate(world: World, place: Path | str | None = None, **options: object) -> DeepSummary:
    old, new = world.key, world.reference("other")
    summary = pc.rotate(place or world.out, old, new, deep=True, **options)  # type: ignore[arg-type]
    assert isinstance(summary, DeepSummary)
    return summary


def pinned(place: Location) -> SourceFile:
    """The file as the rotation sees it."""
    found = open_store(place).stat().file()
    assert found is not None
    return found


def check_rotated(world: World) -> None:
    """The new key opens everything, byte for byte; the old one nothing."""
    back = world.root / "back"
    shutil.rmtree(back, ignore_errors=True)
    pc.decrypt(world.out, back, [world.reference("other")])
    assert {name: (back / name).read_bytes() for name in NAMES} == {
        name: (world.raw / name).read_bytes() for name in NAMES
    }
    with pytest.raises(AccessError):
        pc.decrypt(world.out, world.root / "no", [world.key])
    assert world.leftovers() == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"footer": "encrypted"},
        {"data_keys": "file"},
        {"data_keys": "file", "footer": "encrypted"},
        {"uniform": True, "columns": None, "default": True},
        {"mode": "chunks", "columns": None, "default": True},
        {"bind_path": False},
        {"sign": True},
        {"sign": True, "footer": "encrypted"},
    ],
    ids=str,
)
def test_only_footers_change_and_the_new_key_opens_them(world: World, changes: dict[str, Any]) -> None:
    signs = bool(changes.get("sign"))
    real = {"default": world.key, "sign": world.reference("signing")}
    encrypt(world, **{name: real[name] if value is True and name in real else value for name, value in changes.items()})
    before = {path: data for path, data in world.tree().items() if path.endswith(".parquet")}
    ends = {path: read_stored_footer(MemorySource(data, path)).body_end for path, data in before.items()}

    sign = [world.reference("signing")] if signs else []
    summary = rotate(world, sign=sign)

    assert (summary.files, summary.changed) == (3, 3)
    after = world.tree()
    assert all(after[path][:end] == before[path][:end] for path, end in ends.items())
    assert all(after[path] != before[path] for path in ends)
    check_rotated(world)
    if signs:
        pc.verify(world.out, trust=sign, keys=[world.reference("other")])
        assert [each.version for each in summary.signed] == [2]
    again = rotate(world, sign=sign)
    assert (again.changed, again.bytes_moved, again.signed) == (0, 0, ())


@pytest.mark.parametrize("data_keys", ["batch", "file"])
@pytest.mark.parametrize("footer", ["plaintext", "encrypted"])
def test_plain_pyarrow_reads_on(world: World, data_keys: str, footer: str) -> None:
    encrypt(world, data_keys=data_keys, footer=footer)
    rotate(world)

    properties = pc.decryption_properties([world.reference("other")])
    for name in NAMES:
        table = pq.read_table(world.out / name, decryption_properties=properties, partitioning=None)
        assert table.equals(pq.read_table(world.raw / name, partitioning=None))


def test_one_data_key_for_a_column_keeps_one_spelling(world: World) -> None:
    encrypt(world, data_keys="file")
    rotate(world)

    stored = read_stored_footer(MemorySource((world.out / "a.parquet").read_bytes(), "a"))
    assert stored.sealed is not None
    assert stored.metadata is not None
    uses = list(column_key_uses(stored.sealed, stored.metadata))
    assert len(uses) == 4
    assert len({use.key_metadata for use in uses}) == 1
    assert {use.context.batch for use in uses} == {None}
    assert uses[0].context != Context("", "")


def test_columns_under_other_keys_stay_as_they_are(world: World) -> None:
    third = world.reference("third")
    encrypt(world, columns={"email": world.key, "id": third}, footer_key=third)

    with pytest.raises(AccessError):
        rotate(world)
    assert world.leftovers() == []
    summary = rotate(world, keys=[third])

    assert (summary.changed, summary.data_keys) == (3, 12)
    pc.decrypt(world.out, world.root / "back", [third, world.reference("other")])
    assert (world.root / "back" / "a.parquet").read_bytes() == (world.raw / "a.parquet").read_bytes()


def test_what_is_signed_needs_a_signing_key(world: World) -> None:
    signing = world.reference("signing")
    encrypt(world, sign=signing)
    before = world.tree()

    with pytest.raises(UsageError):
        rotate(world)
    with pytest.raises(UsageError):
        rotate(world, world.out / "day=2", sign=[signing])
    create_key(world.reference("stranger"), "ed25519", world.credentials)
    with pytest.raises(IntegrityError):
        rotate(world, sign=[world.reference("stranger")])
    assert world.tree() == before
    shutil.rmtree(world.out / "_pipecrypt")
    with pytest.raises(UsageError):
        rotate(world, sign=[signing])


@pytest.mark.parametrize("place", ["", "day=2", "a.parquet"])
def test_what_is_not_signed_any_more_is_not_rotated(
    world: World, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path / "state"))
    signing = world.reference("signing")
    encrypt(world, sign=signing)
    pc.verify(world.out, trust=[signing])
    shutil.rmtree(world.out / "_pipecrypt")
    before = world.tree()
    with pytest.raises(NotTrustedError):
        rotate(world, world.out / place)
    assert world.tree() == before


def test_nothing_that_was_changed_is_signed_again(world: World) -> None:
    signing = world.reference("signing")
    encrypt(world, sign=signing)
    changed = world.out / NAMES[-1]
    data = bytearray(changed.read_bytes())
    data[100] ^= 1
    changed.write_bytes(data)
    before = world.tree()

    with pytest.raises(IntegrityError):
        rotate(world, sign=[signing])

    assert world.tree() == before  # those before it were put back


def test_a_forged_footer_is_not_signed_again(world: World) -> None:
    encrypt(world)
    path = world.out / "a.parquet"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"parquet-cpp-arrow", b"parquet-cpp-Arrow"))
    assert path.read_bytes() != data

    with pytest.raises(IntegrityError):
        rotate(world)
    assert world.leftovers() == []


def test_a_single_signed_file(world: World) -> None:
    signing = world.reference("signing")
    place = world.root / "one.parquet"
    pc.encrypt(world.raw / "a.parquet", place, pc.Policy(default=world.key, sign=signing))

    with pytest.raises(UsageError):
        rotate(world, place)
    assert [each.version for each in rotate(world, place, sign=[signing]).signed] == [2]

    pc.verify(place, trust=[signing])
    pc.decrypt(place, world.root / "back.parquet", [world.reference("other")], trust=[signing])
    assert (world.root / "back.parquet").read_bytes() == (world.raw / "a.parquet").read_bytes()


def test_grants_end_with_their_keks_unless_they_are_renewed(world: World) -> None:
    third = world.reference("third")
    encrypt(world)
    pc.grant(world.out, third, [world.key])
    assert [each.startswith("keystore/third/") for each in rotate(world).lost_grants] == [True]
    with pytest.raises(AccessError):
        pc.decrypt(world.out, world.root / "no", [third])

    summary = pc.rotate(world.out, world.reference("other"), world.key, deep=True, also=[third])

    assert isinstance(summary, DeepSummary)
    assert summary.lost_grants == ()
    pc.decrypt(world.out, world.root / "back", [third])


def test_a_file_of_another_dataset_is_not_given_away(world: World) -> None:
    encrypt(world)
    pc.encrypt(world.raw, world.root / "secret", pc.Policy(default=world.key))
    shutil.copy(world.root / "secret" / "a.parquet", world.out / "a.parquet")
    before = world.tree()

    with pytest.raises(UsageError):
        rotate(world)
    assert world.tree() == before


def test_other_storages_replace_whole_objects_and_say_so(world: World) -> None:
    place = f"memory://{world.root.name}-deep"
    pc.encrypt(world.raw, place, pc.Policy(columns={"email": world.key}))

    summary = rotate(world, place)

    assert summary.bytes_moved > summary.total_bytes
    pc.decrypt(place, world.root / "back", [world.reference("other")])
    assert (world.root / "back" / "a.parquet").read_bytes() == (world.raw / "a.parquet").read_bytes()


def test_an_undo_file_of_another_file_is_refused(world: World) -> None:
    encrypt(world)
    one, two = Location(str(world.out / "a.parquet")), Location(str(world.out / NAMES[-1]))
    body_end = read_stored_footer(MemorySource((world.out / "a.parquet").read_bytes(), "a")).body_end
    undo.write_undo(pinned(one), body_end)
    kept = undo.undo_place(one).local_path
    shutil.copy(kept, undo.undo_place(two).local_path)

    whole = Path(two.local_path).read_bytes()
    Path(two.local_path).write_bytes(whole[:-20])  # as after a crash, so that nothing tells whose it is but its body
    with pytest.raises(IntegrityError):
        rotate(world)
    Path(two.local_path).write_bytes(whole)
    Path(undo.undo_place(two).local_path).write_bytes(b"no undo file")
    with pytest.raises(IntegrityError):
        rotate(world)
    os.unlink(undo.undo_place(two).local_path)
    assert rotate(world).changed == 3


def test_a_file_that_was_encrypted_again_since_a_rotation_died_stays_as_it_is(world: World) -> None:
    policy = pc.Policy(columns={"id": world.key})  # so the body ends with what is plaintext
    pc.encrypt(world.raw, world.out, policy)
    place = Location(str(world.out / "a.parquet"))
    body_end = read_stored_footer(MemorySource((world.out / "a.parquet").read_bytes(), "a")).body_end
    undo.write_undo(pinned(place), body_end)
    pc.encrypt(
        world.raw, world.out, pc.Policy(columns={"id": world.key}), overwrite=True
    )  # what ends the body is plain

    rotate(world)

    assert not Path(undo.undo_place(place).local_path).exists()
    pc.decrypt(world.out, world.root / "back", [world.reference("other")])
    assert (world.root / "back" / "a.parquet").read_bytes() == (world.raw / "a.parquet").read_bytes()


@pytest.mark.parametrize("part", ["", "a.parquet"], ids=["dataset", "file"])
def test_two_rotations_at_once_are_refused(world: World, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    encrypt(world)
    place = world.out / part
    before = world.tree()
    refused = []
    real = undo.write_undo

    def meet_another(*arguments: Any) -> int:
        kept = real(*arguments)
        if not refused:
            refused.append(True)
            with pytest.raises(ConflictError):
                pc.rotate(place, world.key, world.reference("third"), deep=True)
        return kept

    monkeypatch.setattr("pipecrypt.dataset.share.rekeying.write_undo", meet_another)

    rotate(world, place)

    assert refused
    assert world.tree() != before
    pc.decrypt(place, world.root / "back", [world.reference("other")])
    assert rotate(world, place).changed == 0  # the lock is gone


def test_on_other_storages_too_a_rotation_and_a_run_exclude_each_other(world: World) -> None:
    place = f"memory://{world.root.name}-held"
    pc.encrypt(world.raw, place, pc.Policy(columns={"email": world.key}))

    with locked_sink(Location(place), "a run"), pytest.raises(ConflictError):
        rotate(world, place)
    assert rotate(world, place).changed == 3
    assert rotate(world, place).changed == 0


def _die_at(step: int) -> Callable[[], None]:
    """Let this process die before its step-th change of the file system; every other write is torn first."""
    count = 0

    def tick() -> bool:
        nonlocal count
        count += 1
        return count == step

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if tick():
                os._exit(9)
            return real(*arguments, **options)

        return call

    real_write = os.write

    def torn(descriptor: int, data: bytes) -> int:
        if tick():
            real_write(descriptor, bytes(data)[: len(data) // 2])
            os._exit(9)
        return real_write(descriptor, data)

    def install() -> None:
        for name in ("ftruncate", "fsync", "unlink", "rename", "link"):
            setattr(os, name, dying(getattr(os, name)))
        os.write = torn  # type: ignore[assignment]

    return install


def _in_a_child(action: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("signs", [False, True], ids=["unsigned", "signed"])
def test_a_death_at_any_step_is_mended_by_running_again(world: World, signs: bool) -> None:
    sign = [world.reference("signing")] if signs else []
    encrypt(world, sign=sign[0] if signs else None)
    pristine = world.root / "pristine"
    shutil.copytree(world.out, pristine)
    step, died = 0, 0
    while True:
        step += 1
        shutil.rmtree(world.out)
        shutil.copytree(pristine, world.out)
        install = _die_at(step)

        def attempt(install: Callable[[], None] = install) -> None:
            install()
            rotate(world, sign=sign)

        code = _in_a_child(attempt)
        assert code in (0, 9)
        if code == 0:
            break
        died += 1
        _check_no_wrong_data(world, sign)
        rotate(world, sign=sign)
        check_rotated_files(world, sign)
    assert died >= 20
    check_rotated(world)


def _check_no_wrong_data(world: World, sign: list[str]) -> None:
    """Whoever reads in between gets what is right, or an error."""
    for name in NAMES:
        for key in (world.key, world.reference("other")):
            target = world.root / "between.parquet"
            target.unlink(missing_ok=True)
            try:
                pc.decrypt(world.out / name, target, [key])
            except PipecryptError:
                continue
            assert target.read_bytes() == (world.raw / name).read_bytes()


def check_rotated_files(world: World, sign: list[str]) -> None:
    assert not [name for name in world.tree() if "pipecrypt-undo" in name]
    target = world.root / "after"
    shutil.rmtree(target, ignore_errors=True)
    pc.decrypt(world.out, target, [world.reference("other")], **({"trust": sign} if sign else {}))  # type: ignore[arg-type]
    assert all((target / name).read_bytes() == (world.raw / name).read_bytes() for name in NAMES)
    if sign:
        pc.verify(world.out, trust=sign)


def test_a_wrong_old_key_is_no_success(world: World) -> None:
    encrypt(world)
    with pytest.raises(KeyNotFoundError):
        pc.rotate(world.out, world.reference("third"), world.reference("other"), keys=[world.key], deep=True)
    assert rotate(world).changed == 3
    assert rotate(world).changed == 0  # done before is success


def test_nothing_to_share_is_told(world: World) -> None:
    with pytest.raises(NotEncryptedError):
        pc.grant(world.raw / NAMES[0], to=world.reference("other"), keys=[world.key])
