"""Policies with further master keys: runs here and in workers, files rolled over, writers; and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import KeyReferenceError, PipecryptError, PolicyError, UsageError
from pipecrypt.keys.grants import Grant, parse_grants
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs import output
from pipecrypt.store.location import Location
from tests.runs.conftest import World


@pytest.fixture(autouse=True)
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)


def policy(world: World, **changes: object) -> pc.Policy:
    return pc.Policy(**{"default": world.key, "also": [world.reference("other")], **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dataset_opens_with_each_of_them(world: World, workers: int) -> None:
    summary = pc.encrypt(world.raw, world.out, policy(world), workers=workers)

    # A worker that got no file makes no KEK.
    assert summary.service_calls in range(2, 2 * workers + 1, 2)
    grants = parse_grants((world.out / "_pipecrypt" / "grants.json").read_bytes())
    assert len(grants.all) == summary.service_calls // 2
    for name in ("pii", "other"):
        pc.decrypt(world.out, world.root / name, [world.reference(name)])
        assert world.tree(world.root / name) == world.tree(world.raw)


def test_grants_of_a_directory_are_stored_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, stored = output.add_grants, list[int]()

    def add(place: Location, grants: Sequence[Grant]) -> None:
        stored.append(len(grants))
        real(place, grants)

    monkeypatch.setattr(output, "add_grants", add)
    summary = pc.encrypt(world.raw, world.out, policy(world), workers=1)

    assert len(summary.parts) > 1
    assert stored == [1]


def test_a_signed_dataset_verifies_with_grants_beside_its_manifest(world: World) -> None:
    signing = world.reference("signing")
    create_key(signing, "ed25519", world.credentials)

    pc.encrypt(world.raw, world.out, policy(world, sign=signing))

    pc.verify(world.out, trust=[signing], keys=[world.reference("other")])


def test_a_single_file_and_its_parts(world: World) -> None:
    other = [world.reference("other")]
    pc.encrypt(world.raw / "a.parquet", world.root / "one.parquet", policy(world))
    pc.decrypt(world.root / "one.parquet", world.root / "back.parquet", other)
    assert (world.root / "back.parquet").read_bytes() == (world.raw / "a.parquet").read_bytes()

    table = pq.read_table(world.raw / "a.parquet", partitioning=None)
    parts = world.root / "parts"
    pc.encrypt_batches(table, parts / "p.parquet", policy(world, batch_rows=250), max_file_bytes=1)
    assert len(list(parts.glob("*.parquet"))) == len(list(parts.glob("*.grants.json"))) == 4
    pc.decrypt(parts, world.root / "together", other)


def test_a_writer(world: World) -> None:
    table = pa.table({"a": [1, 2, 3]})
    place = world.root / "written.parquet"
    with pc.ParquetWriter(place, table.schema, policy(world)) as writer:
        writer.write_batch(table)

    with pc.open(str(place), keys=[world.reference("other")], verify="off") as opened:
        assert opened.to_table().equals(table)


def test_recipients_share_and_are_not_mixed(world: World) -> None:
    for kind in ("x25519", "mlkem768x25519"):
        create_key(world.reference(kind), kind, world.credentials)
    strong, weak = world.reference("mlkem768x25519"), world.reference("x25519")

    with pytest.raises(PolicyError):
        pc.encrypt(world.raw, world.out, policy(world, also=[strong, weak]))
    with pytest.raises(PolicyError):
        pc.encrypt(world.raw, world.out, policy(world, default=strong, also=[weak]))
    pc.encrypt(world.raw, world.out, policy(world, also=[strong]))
    pc.decrypt(world.out, world.root / "back", [strong])


def test_what_cannot_be_shared(world: World, tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        policy(world, also=world.key)
    with pytest.raises(KeyReferenceError):
        policy(world, also=["nothing://at-all"])
    with pytest.raises(UsageError):
        pc.encrypt(world.raw / "a.parquet", "-", policy(world))
    with pytest.raises(UsageError):
        pc.encrypt_bytes(pa.table({"a": [1]}), policy(world))
    with pytest.raises(PipecryptError):
        pc.encrypt(world.raw, world.out, policy(world, also=[world.reference("missing")]))
    assert not world.out.exists()
