"""Encrypting, verifying, granting, revoking and rotating on S3: moto, and SeaweedFS, which checks conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import AccessError, IntegrityError
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.deep_rotation import DeepSummary
from tests.runs.conftest import NAMES, World
from tests.servers.s3_server import S3Server


@pytest.fixture
def place(world: World, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {**world.environ, **s3_server.environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()  # a file system remembers the other server
    create_key(world.reference("third"), "aes256", world.credentials)
    create_key(world.reference("signing"), "ed25519", world.credentials)
    return f"s3://{s3_server.new_bucket()}/orders"


def names(server: S3Server, place: str) -> set[str]:
    bucket, _, folder = place.removeprefix("s3://").partition("/")
    listed = server.client().list_objects_v2(Bucket=bucket).get("Contents", [])
    return {each["Key"].removeprefix(folder + "/") for each in listed}


def check_reads(world: World, place: str, key: str, trust: list[str]) -> None:
    target = world.root / f"back-{len(list(world.root.iterdir()))}"
    pc.decrypt(place, target, [key], trust=trust)
    for name in NAMES:
        assert (target / name).read_bytes() == (world.raw / name).read_bytes()


def test_what_is_encrypted_there_is_verified_and_decrypted(world: World, place: str, s3_server: S3Server) -> None:
    signing = world.reference("signing")
    pc.encrypt(world.raw, place, pc.Policy(default=world.key, sign=signing), workers=2)
    assert names(s3_server, place) == {*NAMES, "_pipecrypt/manifest.json", *_lists(names(s3_server, place))}
    assert pc.verify(place, trust=[signing], keys=[world.key]).files == len(NAMES)
    check_reads(world, place, world.key, [signing])
    client, bucket = s3_server.client(), place.split("/")[2]
    stored = client.get_object(Bucket=bucket, Key=f"orders/{NAMES[0]}")["Body"].read()
    client.put_object(Bucket=bucket, Key=f"orders/{NAMES[0]}", Body=stored[:100] + b"x" + stored[101:])
    with pytest.raises(IntegrityError):
        pc.verify(place, trust=[signing])


def _lists(found: set[str]) -> set[str]:
    return {name for name in found if name.startswith("_pipecrypt/") and name.endswith(".jsonl")}


def test_granting_revoking_and_rotating(world: World, place: str, s3_server: S3Server) -> None:
    signing, other, third = (world.reference(name) for name in ("signing", "other", "third"))
    pc.encrypt(world.raw, place, pc.Policy(default=world.key, sign=signing))
    before = names(s3_server, place)

    pc.grant(place, third, [world.key])
    check_reads(world, place, third, [signing])
    pc.revoke(place, third)
    with pytest.raises(AccessError):
        check_reads(world, place, third, [signing])

    pc.rotate(place, world.key, other)
    check_reads(world, place, other, [signing])
    check_reads(world, place, world.key, [signing])
    assert names(s3_server, place) == before | {"_pipecrypt/grants.json"}  # no lock is left

    deep = pc.rotate(place, world.key, other, deep=True, sign=[signing])
    assert isinstance(deep, DeepSummary)
    assert (deep.changed, [each.version for each in deep.signed]) == (len(NAMES), [2])
    pc.verify(place, trust=[signing], keys=[other])
    check_reads(world, place, other, [signing])
    with pytest.raises(AccessError):
        check_reads(world, place, world.key, [signing])
    assert not [name for name in names(s3_server, place) if "undo" in name or name.endswith(".lock")]


@pytest.mark.parametrize("signs", [False, True], ids=["unsigned", "signed"])
def test_bodies_stay_on_the_server(world: World, place: str, signs: bool) -> None:
    raw: Path = world.root / "large" / "a.parquet"
    raw.parent.mkdir()
    random = np.random.default_rng(1).integers(0, 1 << 62, 1_000_000)
    pq.write_table(pa.table({"id": random}), raw, compression="none", use_dictionary=False, row_group_size=250_000)
    sign = [world.reference("signing")] if signs else []
    pc.encrypt(raw.parent, place, pc.Policy(default=world.key, sign=sign[0] if sign else None))

    deep = pc.rotate(place, world.key, world.reference("other"), deep=True, sign=sign)

    assert isinstance(deep, DeepSummary)
    assert (deep.files, deep.changed) == (1, 1)
    assert deep.total_bytes > 8_000_000
    assert 0 < deep.bytes_moved < 50_000
    if signs:
        pc.verify(place, trust=sign, keys=[world.reference("other")])
    pc.decrypt(place, world.root / "back", [world.reference("other")])
    assert (world.root / "back" / "a.parquet").read_bytes() == raw.read_bytes()
