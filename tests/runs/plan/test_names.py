"""Names of outputs: whatever encrypting writes into a directory, every command that takes the directory finds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

import pipecrypt as pc
from pipecrypt.errors import UsageError
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.key_inventory import key_usage
from pipecrypt.runs.plan import output_checks
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import World, write_table

ODD = ("UPPER.PARQUET", "short.pq", "x/Mixed.Pq", "without", "other.dat")


@pytest.fixture
def odd(world: World) -> World:
    shutil.rmtree(world.raw)
    for name in ODD:
        write_table(world.raw / name, 20)
    create_key(world.reference("next"), "aes256", world.credentials)
    create_key(world.reference("signing"), "ed25519", world.credentials)
    return world


@pytest.mark.parametrize("is_signed", [False, True])
def test_odd_names_are_found_again(odd: World, is_signed: bool) -> None:
    signing = odd.reference("signing") if is_signed else None
    pc.encrypt(f"{odd.raw}/**/*", odd.out, Policy(default=odd.key, sign=signing), credentials=odd.credentials)
    written = {*ODD[:3], "without.parquet", "other.dat.parquet"}
    data = {name for name in odd.tree() if not name.startswith("_pipecrypt/")}
    assert data == written

    trust = [signing] if signing is not None else None
    given = {"credentials": odd.credentials, "trust": trust}
    pc.decrypt(odd.out, odd.root / "back", [odd.key], verify="read" if is_signed else "off", **given)
    assert set(odd.tree(odd.root / "back")) == written
    with pc.open(odd.out, keys=[odd.key], verify="read" if is_signed else "off", **given) as opened:
        assert opened.to_table(["id"]).num_rows == 20 * len(ODD)
    assert key_usage(odd.out).files == len(ODD)
    done = pc.rotate(odd.out, odd.key, odd.reference("next"), deep=True, sign=[signing] if signing else [], **given)
    assert done.files == len(ODD)


def test_a_table_that_would_be_taken_for_chunks_is_refused(world: World) -> None:
    write_table(world.raw / "x.chunks.parquet", 20)
    with pytest.raises(UsageError, match="chunks"):
        pc.encrypt(world.raw, world.out, Policy(default=world.key), credentials=world.credentials)
    assert not world.out.exists()


def test_all_names_that_cannot_be_signed_are_counted(world: World) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    for name in ("a::b.parquet", "C:x.parquet"):
        write_table(world.raw / name, 20)
    policy = Policy(default=world.key, sign=world.reference("signing"))
    with pytest.raises(UsageError, match=r"letter and a colon.*1 more"):
        pc.encrypt(world.raw, world.out, policy, credentials=world.credentials)


@pytest.mark.parametrize(
    ("mode", "source"),
    [
        ("chunks", "x" * 241),  # and .chunks.parquet
        ("chunks", "d/" + "ü" * 121),  # bytes count, not characters
        ("columns", "x" * 251 + ".csv"),
        ("columns", "x" * 248),  # which tells no format; and .parquet
    ],
)
@pytest.mark.parametrize("signs", [False, True])
def test_names_that_are_too_long_are_found_before_anything_is_written(
    world: World, mode: str, source: str, signs: bool
) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    write_table(world.raw / "0.parquet")
    if source.endswith(".csv"):
        (world.raw / source).write_text("id,email\n1,a\n")
    else:
        write_table(world.raw / source)
    policy = Policy(
        {"email": world.key} if mode == "columns" else None,
        default=None if mode == "columns" else world.key,
        mode=mode,
        unlisted="plaintext" if mode == "columns" else None,
        sign=world.reference("signing") if signs else None,
    )
    request = EncryptSpec(
        source=Location(f"{world.raw}/**/*"),
        sink=Location(str(world.out)),
        policy=policy,
        run=RunOptions(keeps_journal=True),
    )
    for look in (lambda: report_plan(request), lambda: run(request, credentials=world.credentials)):
        with pytest.raises(UsageError, match=r"25[6-9] bytes"):
            look()
    assert not world.out.exists()


def _encrypt_over_it(world: World, sink: str) -> None:
    policy = Policy(default=world.key, mode="chunks")
    pc.encrypt(world.raw / "keys.json", world.root / sink, policy, overwrite=True, credentials=world.credentials)


def _decrypt_over_it(world: World, source: str) -> None:
    sink = world.root / "keys.json" if source else world.root
    pc.decrypt(world.out / source, sink, [world.key], overwrite=True, credentials=world.credentials)


@pytest.mark.parametrize(
    ("write", "argument"),
    [
        (_encrypt_over_it, "keys.json"),
        (_encrypt_over_it, "link/keys.json"),
        (_decrypt_over_it, "keys.json.chunks.parquet"),
        (_decrypt_over_it, ""),  # a directory, in which a file has that name
    ],
)
def test_no_output_takes_the_place_of_a_keystore(
    world: World, write: Callable[[World, str], None], argument: str
) -> None:
    (world.root / "link").symlink_to(world.root)
    (world.raw / "keys.json").write_text("a document of the same name")
    pc.encrypt(world.raw, world.out, Policy(default=world.key, mode="chunks"), credentials=world.credentials)
    before = (world.root / "keys.json").read_bytes()
    with pytest.raises(UsageError, match="the file of a key"):
        write(world, argument)
    assert (world.root / "keys.json").read_bytes() == before


def test_files_that_roll_over_have_longer_names(world: World) -> None:
    (world.raw / ("x" * 244 + ".csv")).write_text("id,email\n1,a\n")
    request = EncryptSpec(
        source=Location(f"{world.raw}/*.csv"), sink=Location(str(world.out)), policy=Policy({"email": world.key})
    )
    with pytest.raises(UsageError, match="258 bytes"):
        report_plan(replace(request, max_file_bytes=1000))
    assert report_plan(request).to_do == 1


def test_names_as_long_as_they_may_be(world: World) -> None:
    shutil.rmtree(world.raw)
    write_table(world.raw / ("x" * 240))
    policy = Policy(default=world.key, mode="chunks")
    pc.encrypt(world.raw, world.out, policy, credentials=world.credentials)
    pc.decrypt(world.out, world.root / "back", [world.key], credentials=world.credentials, verify="off")
    assert world.tree(world.root / "back") == world.tree(world.raw)


@pytest.mark.parametrize("ignores", [False, True])
def test_names_that_differ_in_case_only(world: World, ignores: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(world.raw / "A.parquet")
    monkeypatch.setattr(output_checks, "_ignores_case", lambda path: ignores)
    request = EncryptSpec(
        source=Location(str(world.raw)), sink=Location(str(world.out)), policy=Policy({"email": world.key})
    )
    if not ignores:
        assert report_plan(request).to_do == 4
        return
    with pytest.raises(UsageError, match="ignores case"):
        report_plan(request)
