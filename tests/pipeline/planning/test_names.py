"""Names of outputs: whatever encrypting writes into a directory, every command that takes the directory finds."""

from __future__ import annotations

import shutil

import pytest

import pipecrypt as pc
from pipecrypt.errors import UsageError
from pipecrypt.keys.services.keystore.making import create_key
from pipecrypt.pipeline.calls.key_inventory import key_usage
from pipecrypt.pipeline.request.policy import Policy
from tests.pipeline.conftest import World, write_table

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
