"""`pipecrypt.open` and the file system with keys to trust: what was signed is read, whatever else is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

import pipecrypt as pc
from pipecrypt.dataset import signed_sources
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.errors import (
    ExpiredError,
    IntegrityError,
    MovedError,
    NotTrustedError,
    RolledBackError,
    SourceNotFoundError,
    UsageError,
)
from pipecrypt.parquet.table import view as view_module
from pipecrypt.reading.dataset import EncryptedDataset
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.vocabulary import once
from tests.dataset.world import ALICE, BOB, MALLORY, NAMES, next_version, promise_of, sign, tree
from tests.reading.attacks import ATTACKS, FIRST, SECOND, World, swap
from tests.reading.world import opens_no_pipe

Reader = Callable[[Path, World], int]


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World.at(tmp_path_factory.mktemp("world"))
    world.make_dataset()
    return world


@pytest.fixture
def world(signed: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    signed.use(monkeypatch)
    yield signed
    PipecryptFileSystem.clear_instance_cache()


@pytest.fixture
def dataset(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.root / "signed", tmp_path / "signed"))


def options(world: World, *, verify: str = "read", **changes: object) -> dict[str, dict[str, object]]:
    trust: object = [world.signing] if verify == "read" else pc.Trust([world.signing], verify=verify)
    return {"pipecrypt": {"keys": [world.key], "trust": trust, **changes}}


def filesystem(world: World, *, verify: str = "read", **changes: object) -> PipecryptFileSystem:
    fs, _ = fsspec.url_to_fs(
        "pipecrypt::file:///", **options(world, verify=verify, skip_instance_cache=True, **changes)
    )
    assert isinstance(fs, PipecryptFileSystem)
    return fs


# ---- readers, each with the number of rows that it found ----


def by_open(dataset: Path, world: World) -> int:
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        return int(opened.to_table().num_rows)


def by_open_full(dataset: Path, world: World) -> int:
    with pc.open(dataset, keys=[world.key], trust=pc.Trust([world.signing], verify="full")) as opened:
        return int(opened.to_table().num_rows)


def by_glob(dataset: Path, world: World) -> int:
    with pc.open(f"{dataset}/**/*.parquet", keys=[world.key], trust=[world.signing]) as opened:
        return int(opened.to_table().num_rows)


def by_pandas(dataset: Path, world: World) -> int:
    return len(pd.read_parquet(f"pipecrypt::file://{dataset}", storage_options=options(world)))


def by_arrow(dataset: Path, world: World) -> int:
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(filesystem(world)))
    return int(ds.dataset(str(dataset), filesystem=arrow, partitioning="hive").to_table().num_rows)


def by_dask(dataset: Path, world: World) -> int:
    # Dask stumbles where only some of the files lie in directories named column=value.
    frame = dd.read_parquet(f"pipecrypt::file://{dataset}/day=*/*.parquet", storage_options=options(world))
    return len(frame.compute(scheduler="threads"))


def by_duckdb(dataset: Path, world: World) -> int:
    connection = duckdb.connect()
    connection.register_filesystem(filesystem(world))
    query = f"select count(id), count(email) from 'pipecrypt://{dataset}/**/*.parquet'"  # noqa: S608  # our own path
    try:
        return int(connection.execute(query).fetchall()[0][0])
    except duckdb.Error as error:
        raise IntegrityError(str(error)) from error


def by_polars(dataset: Path, world: World) -> int:
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(filesystem(world)))
    scan = pl.scan_pyarrow_dataset(ds.dataset(str(dataset), filesystem=arrow))
    return int(scan.select("id", "email").collect().height)


def by_decrypt(dataset: Path, world: World) -> int:
    back = dataset.parent / "back"
    try:
        return pc.decrypt(dataset, back, [world.key], trust=[world.signing]).rows
    finally:
        shutil.rmtree(back, ignore_errors=True)


READERS = (by_open, by_open_full, by_glob, by_pandas, by_arrow, by_dask, by_duckdb, by_polars, by_decrypt)


@pytest.mark.parametrize("reader", READERS)
def test_what_was_signed_is_read(world: World, dataset: Path, reader: Reader) -> None:
    assert reader(dataset, world) == (200 if reader is by_dask else 300)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("reader", READERS)
def test_every_attack_is_refused(world: World, dataset: Path, reader: Reader, attack: str) -> None:
    ATTACKS[attack](world, dataset)
    with pytest.raises(IntegrityError):
        reader(dataset, world)


@pytest.mark.parametrize("attack", ["drop", "add", "swap", "duplicate", "put_plaintext", "put_old_file"])
def test_without_the_checks_these_attacks_pass(world: World, dataset: Path, attack: str) -> None:
    ATTACKS[attack](world, dataset)
    with pc.open(dataset, keys=[world.key], trust=pc.Trust([world.signing], verify="off")) as opened:
        assert opened.to_table().num_rows in {200, 250, 300, 400}


@pytest.mark.parametrize("path", ["day=1", "day=1/*.parquet", "day=*/*.parquet", "day=1/b ü.parquet", "a.parquet"])
def test_parts_of_a_dataset(world: World, dataset: Path, path: str) -> None:
    with pc.open(dataset / path, keys=[world.key], trust=[world.signing]) as opened:
        assert opened.num_rows == (200 if path.startswith("day=*") else 100)
        assert opened.verified is not None
    (dataset / SECOND).unlink()
    if path == "a.parquet":
        return
    with pytest.raises(IntegrityError, match="missing"):
        pc.open(dataset / path, keys=[world.key], trust=[world.signing])


def test_what_was_never_there_is_not_found(world: World, dataset: Path) -> None:
    for path in ("none.parquet", "none/*.parquet", "none"):
        with pytest.raises(SourceNotFoundError):
            pc.open(dataset / path, keys=[world.key], trust=[world.signing])
    with pytest.raises(SourceNotFoundError):
        pc.open(world.root / "nowhere", keys=[world.key], trust=[world.signing])


def test_what_was_verified_is_told(world: World, dataset: Path) -> None:
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        assert opened.verified is not None
        assert (len(opened.verified.dataset_id), opened.verified.version) == (32, 1)
        assert len(opened.verified.key_ids) == 1
        assert f"version 1 of dataset {opened.verified.dataset_id}" in repr(opened)
        assert opened.verified.key_ids[0][:16] in opened._repr_html_()
    with pc.open(dataset, keys=[world.key], trust=pc.Trust(verify="off")) as opened:
        assert opened.verified is None
        assert "dataset_id" not in repr(opened)


@pytest.mark.parametrize("verify", ["read", "full"])
@pytest.mark.parametrize("name", ["evil.parquet", "manifest.json"])
def test_a_table_among_what_is_kept_beside_data_is_not_shown(
    world: World, dataset: Path, verify: str, name: str
) -> None:
    place = dataset / "_pipecrypt" / name
    url, given = f"pipecrypt::file://{dataset}", options(world, verify=verify)
    fs = filesystem(world, verify=verify)
    if name == "manifest.json":  # whoever has read the statement before does not read it again
        fs.cat_file(f"{dataset}/{FIRST}")
    shutil.copy(world.root / "raw" / FIRST, place)
    for read in (
        lambda: pd.read_parquet(f"{url}/_pipecrypt/{name}", storage_options=given),
        lambda: fs.cat_file(str(place)),
        lambda: fs.cat_ranges([str(place)], 0, 4, on_error="raise"),
        lambda: fs.open(str(place)),
        lambda: fs.info(str(place)),
    ):
        with pytest.raises(IntegrityError):
            read()


@pytest.mark.parametrize("reader", [by_pandas, by_arrow, by_duckdb, by_polars])
def test_readers_pass_by_a_table_that_is_kept_beside_data(world: World, dataset: Path, reader: Reader) -> None:
    shutil.copy(world.root / "raw" / FIRST, dataset / "_pipecrypt" / "evil.parquet")
    assert reader(dataset, world) == 300


def test_a_named_pipe_in_the_place_of_a_statement_is_refused(world: World, dataset: Path) -> None:
    place, real = dataset / MANIFEST_PATH, LocalFileSystem.info

    def put(fs: LocalFileSystem, path: str, **options: object) -> object:
        info = real(fs, path, **options)
        if str(path) == str(place) and info["type"] == "file":
            place.unlink()
            os.mkfifo(place)
        return info

    fs = filesystem(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFileSystem, "info", put)
        with opens_no_pipe(), pytest.raises(IntegrityError):
            fs.open(str(dataset / FIRST))


# ---- whom to trust ----


def test_other_signers_are_not_trusted(world: World, dataset: Path) -> None:
    for reader in (by_open, by_pandas, by_decrypt):
        sign(dataset, MALLORY)
        with pytest.raises(NotTrustedError):
            reader(dataset, world)


def test_a_dataset_without_a_statement(world: World, dataset: Path) -> None:
    shutil.rmtree(dataset / "_pipecrypt")
    for reader in (by_open, by_glob, by_pandas, by_decrypt):
        with pytest.raises(NotTrustedError):
            reader(dataset, world)
    with pytest.raises(NotTrustedError):
        pc.open(dataset / FIRST, keys=[world.key], trust=[world.signing])


def test_the_threshold(world: World, dataset: Path) -> None:
    pems = [ALICE.public_key_pem, BOB.public_key_pem]
    # One statement, whoever signs it: of another one of the same version, the memory of versions would warn.
    created = datetime.now(UTC).replace(microsecond=0)
    sign(dataset, ALICE, created=created)
    with pc.open(dataset, keys=[world.key], trust=pems) as opened:
        assert opened.num_rows == 300
    with pytest.raises(NotTrustedError):
        pc.open(dataset, keys=[world.key], trust=pc.Trust(pems, threshold=2))
    sign(dataset, ALICE, MALLORY, created=created)
    with pytest.raises(NotTrustedError):
        pc.open(dataset, keys=[world.key], trust=pc.Trust(pems, threshold=2))
    sign(dataset, BOB, ALICE, created=created)
    with pc.open(dataset, keys=[world.key], trust=pc.Trust(pems, threshold=2)) as opened:
        assert opened.verified is not None
        assert len(opened.verified.key_ids) == 2


def test_trust_of_the_environment(world: World, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_KEYS", world.key)
    monkeypatch.setattr(once, "_said", set())  # another test of this process may have heard it
    url = f"pipecrypt::file://{dataset}"
    with pytest.warns(pc.UncheckedWarning):
        assert len(pd.read_parquet(url)) == 300
    monkeypatch.setenv("PIPECRYPT_TRUST", f" {world.other_signing}\n")
    for read in (lambda: pd.read_parquet(url), lambda: pc.open(dataset), lambda: _decrypt(dataset, world)):
        with pytest.raises(NotTrustedError):
            read()
    monkeypatch.setenv("PIPECRYPT_TRUST", f"{world.other_signing} {world.signing}")
    assert len(pd.read_parquet(url)) == 300
    swap(world, dataset)
    for read in (lambda: pd.read_parquet(url), lambda: pc.open(dataset).to_table(), lambda: _decrypt(dataset, world)):
        with pytest.raises(IntegrityError):
            read()


def _decrypt(dataset: Path, world: World) -> object:
    return pc.decrypt(dataset, dataset.parent / "back", [world.key])


# ---- versions and time ----


def test_an_old_version_is_noticed(world: World, dataset: Path) -> None:
    first = sign(dataset, ALICE)
    old = tree(dataset)
    (dataset / FIRST).unlink()
    sign(dataset, ALICE, **next_version(first))

    def read() -> int:
        with pc.open(dataset, keys=[world.key], trust=[ALICE.public_key_pem]) as opened:
            return int(opened.num_rows)

    assert read() == 200
    for path, data in old.items():
        (dataset / path).write_bytes(data)
    with pytest.raises(RolledBackError):
        read()
    with pytest.raises(RolledBackError):
        pd.read_parquet(f"pipecrypt::file://{dataset}", storage_options=options(world, trust=[ALICE.public_key_pem]))


def test_the_lowest_version_needs_no_memory(world: World, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", "")
    with pytest.raises(RolledBackError):
        pc.open(dataset, keys=[world.key], trust=pc.Trust([world.signing], min_version=2))
    with pytest.raises(IntegrityError):
        pc.open(dataset, keys=[world.key], trust=pc.Trust([world.signing], dataset_id="0" * 32))
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        assert opened.verified is not None
        found = opened.verified.dataset_id
    with pc.open(dataset, keys=[world.key], trust=pc.Trust([world.signing], min_version=1, dataset_id=found)) as opened:
        assert opened.num_rows == 300


def test_an_expired_statement(world: World, dataset: Path) -> None:
    then = datetime.now(UTC).replace(microsecond=0) - timedelta(days=9)
    sign(dataset, ALICE, created=then, expires=then + timedelta(days=1))
    with pytest.raises(ExpiredError):
        pc.open(dataset, keys=[world.key], trust=[ALICE.public_key_pem])


def test_an_open_dataset_never_mixes_versions(world: World, dataset: Path) -> None:
    policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, sign=world.signing)
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        pc.encrypt(world.root / "raw", dataset, policy, overwrite=True, credentials=world.credentials)
        for read in (opened.to_table, lambda: list(opened.to_batches())):
            with pytest.raises(MovedError, match="changed by a run"):
                read()
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        (dataset / FIRST).write_bytes((world.root / "signed" / FIRST).read_bytes())
        with pytest.raises(IntegrityError):  # no run did that
            opened.to_table()
    pc.encrypt(world.root / "raw", dataset, policy, overwrite=True, credentials=world.credentials)
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        assert opened.to_table().num_rows == 300
        assert opened.verified is not None
        assert opened.verified.version == 3


@pytest.mark.parametrize("until", [1, 3, 1000])
def test_files_that_move_again_and_again_are_looked_for_a_few_times(
    world: World, dataset: Path, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    calls = 0
    read_table = EncryptedDataset._read_table

    def moving(opened: EncryptedDataset, *arguments: Any) -> pa.Table:
        nonlocal calls
        calls += 1
        if calls <= until:
            raise MovedError(f"moved {calls}")
        return read_table(opened, *arguments)

    monkeypatch.setattr(EncryptedDataset, "_read_table", moving)
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        if until == 1000:
            with pytest.raises(MovedError, match=r"moved 1$"):
                opened.to_table()
        else:
            assert opened.to_table(["id"]).num_rows == 300
    assert calls == min(until + 1, 4)


def test_a_statement_that_is_refused_is_not_looked_at_again(
    world: World, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s for nothing")

    monkeypatch.setattr(signed_sources.time, "sleep", wait)
    sign(dataset, MALLORY)
    with pytest.raises(NotTrustedError):
        pc.open(dataset, keys=[world.key], trust=[world.signing])


def test_a_file_system_that_lives_on_sees_the_next_version(world: World, dataset: Path) -> None:
    place, fs = str(dataset / FIRST), filesystem(world)
    assert pq.read_table(place, filesystem=fs, partitioning=None).num_rows == 100
    policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, sign=world.signing)
    pc.encrypt(world.root / "raw", dataset, policy, overwrite=True, credentials=world.credentials)
    assert pq.read_table(place, filesystem=fs, partitioning=None).num_rows == 100
    assert fs.exists(place)
    (dataset / FIRST).write_bytes((world.root / "signed" / FIRST).read_bytes())
    with pytest.raises(IntegrityError):
        fs.open(place)


# ---- single files ----


@pytest.fixture
def alone(world: World, tmp_path: Path) -> Path:
    place = tmp_path / "alone" / "x.parquet"
    policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, sign=world.signing)
    pc.encrypt(world.root / "raw" / FIRST, place, policy, credentials=world.credentials)
    return place


def test_a_single_file_beside_its_statement(world: World, alone: Path) -> None:
    for verify in ("read", "full"):
        with pc.open(alone, keys=[world.key], trust=pc.Trust([world.signing], verify=verify)) as opened:
            assert opened.to_table().num_rows == 100
            assert opened.verified is not None
    assert len(pd.read_parquet(f"pipecrypt::file://{alone}", storage_options=options(world))) == 100
    other = alone.with_name("y.parquet")
    shutil.copy(alone, other)
    shutil.copy(f"{alone}{SIGNATURE_SUFFIX}", f"{other}{SIGNATURE_SUFFIX}")
    with pytest.raises(IntegrityError):
        pc.open(other, keys=[world.key], trust=[world.signing])
    shutil.copy(world.root / "raw" / FIRST, alone)
    for read in (lambda: by_open(alone, world), lambda: filesystem(world).open(str(alone))):
        with pytest.raises(IntegrityError, match="plaintext"):
            read()
    Path(f"{alone}{SIGNATURE_SUFFIX}").unlink()
    with pytest.raises(NotTrustedError):
        pc.open(alone, keys=[world.key], trust=[world.signing])


def test_a_single_file_of_two_versions(world: World, alone: Path) -> None:
    fs, old = filesystem(world), alone.read_bytes()
    assert pq.read_table(str(alone), filesystem=fs, partitioning=None)["email"][0].as_py().startswith("a.parquet")
    policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, sign=world.signing)
    pc.encrypt(world.root / "raw" / SECOND, alone, policy, overwrite=True, credentials=world.credentials)
    assert pq.read_table(str(alone), filesystem=fs, partitioning=None)["email"][0].as_py().startswith("b ")
    alone.write_bytes(old)
    with pytest.raises(IntegrityError):
        fs.open(str(alone))


# ---- other kinds of files ----


def test_files_of_other_kinds(world: World, dataset: Path) -> None:
    fs = filesystem(world)
    (dataset / "notes.txt").write_text("not signed")
    with pytest.raises(IntegrityError):
        fs.cat_file(str(dataset / "notes.txt"))
    with pytest.raises(IntegrityError):
        fs.info(str(dataset / "notes.txt"))
    with pytest.raises(IntegrityError):
        fs.cat_file(str(dataset / MANIFEST_PATH))
    unchecked = filesystem(world, verify="off")
    assert unchecked.cat_file(str(dataset / MANIFEST_PATH)) == (dataset / MANIFEST_PATH).read_bytes()
    assert unchecked.cat_file(str(dataset / "notes.txt")) == b"not signed"


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_files_in_chunks(world: World, tmp_path: Path, compression: str) -> None:
    texts = {f"{name}.txt": name.encode() * 5000 for name in "ab"}
    (tmp_path / "texts").mkdir()
    for name, text in texts.items():
        (tmp_path / "texts" / name).write_bytes(text)
    policy = pc.Policy(default=world.key, mode="chunks", compression=compression, sign=world.signing)
    sealed = tmp_path / "sealed"
    pc.encrypt(tmp_path / "texts", sealed, policy, credentials=world.credentials)
    for verify in ("read", "full"):
        fs = filesystem(world, verify=verify)
        for name, text in texts.items():
            assert fs.cat_file(f"{sealed}/{name}.chunks.parquet") == text
        pc.decrypt(sealed, tmp_path / verify, [world.key], trust=pc.Trust([world.signing], verify=verify))
        assert tree(tmp_path / verify) == texts
    names = [sealed / f"{name}.txt.chunks.parquet" for name in "ab"]
    names[0].rename(sealed / "x")
    names[1].rename(names[0])
    (sealed / "x").rename(names[1])
    with pytest.raises(IntegrityError):
        filesystem(world).cat_file(str(names[0]))
    with pytest.raises(IntegrityError):
        pc.decrypt(sealed, tmp_path / "swapped", [world.key], trust=[world.signing])
    assert not (tmp_path / "swapped").exists()


@pytest.mark.parametrize("footer", ["plaintext", "encrypted"])
def test_a_promise_that_the_signer_broke(
    world: World, tmp_path: Path, footer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", "")
    made = world.make_dataset(f"promise-{footer}", footer=footer)
    ids = promise_of(FIRST, (made / FIRST).read_bytes()).footer_key_ids
    policy = promise_of(FIRST, (made / FIRST).read_bytes())
    changed = PromisedPolicy(policy.footer, ids, other_key_ids=ids)
    sign(made, ALICE, policy=changed)
    pems = [ALICE.public_key_pem]
    with pytest.raises(IntegrityError, match="'id' is not encrypted"):
        pc.open(made, keys=[world.key], trust=pems)
    with pytest.raises(IntegrityError, match="'id' is not encrypted"):
        pc.decrypt(made, tmp_path / "back", [world.key], trust=pems)
    assert not (tmp_path / "back").exists()


# ---- every bit, and nothing before ----


@pytest.mark.parametrize("step", [1009, pytest.param(97, marks=pytest.mark.long)])
@pytest.mark.parametrize("has_digests", [True, False])
def test_full_notices_every_flipped_bit(world: World, tmp_path: Path, has_digests: bool, step: int) -> None:
    made = tmp_path / "made"
    signer = world.signing if has_digests else None
    policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, sign=signer)
    (tmp_path / "one").mkdir()
    shutil.copy(world.root / "raw" / FIRST, tmp_path / "one")
    pc.encrypt(tmp_path / "one", made, policy, credentials=world.credentials)
    sign(made, ALICE)
    place, pems = made / FIRST, [ALICE.public_key_pem]
    data = place.read_bytes()
    for position in range(0, len(data), step):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        place.write_bytes(changed)
        with pytest.raises(IntegrityError):
            pc.open(place, keys=[world.key], trust=pc.Trust(pems, verify="full"))
        with pytest.raises(IntegrityError), pc.open(place, keys=[world.key], trust=pems) as opened:
            opened.to_table()


def test_nothing_is_decrypted_before(world: World, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decrypted: list[str] = []
    real = view_module.open_pages

    def recording(*args: object, **named: object) -> object:
        decrypted.append(str(named["what"]))
        return real(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(view_module, "open_pages", recording)
    data = bytearray((dataset / SECOND).read_bytes())
    data[60] ^= 1
    (dataset / SECOND).write_bytes(data)
    fs = filesystem(world, verify="full")
    with pytest.raises(IntegrityError):
        fs.cat_file(str(dataset / SECOND))
    swap(world, dataset)
    for changed in (filesystem(world), fs):
        with pytest.raises(IntegrityError):
            changed.cat_file(str(dataset / SECOND), 0, 4)
    assert decrypted == []
    assert len(filesystem(world).cat_file(str(dataset / FIRST))) == (dataset / FIRST).stat().st_size
    assert decrypted


# ---- other storages ----


def test_memory(world: World) -> None:
    policy = pc.Policy(columns={"email": world.key}, footer_key=world.key, sign=world.signing)
    pc.encrypt(world.root / "raw", "memory://trusted", policy, credentials=world.credentials)
    store = fsspec.filesystem("memory")
    try:
        with pc.open("memory://trusted", keys=[world.key], trust=pc.Trust([world.signing], verify="full")) as opened:
            assert opened.to_table().num_rows == 300
        frame = pd.read_parquet("pipecrypt::memory://trusted", storage_options=options(world))
        assert len(frame) == 300
        first, second = (f"/trusted/{name}" for name in NAMES[:2])
        data = store.cat_file(first)
        store.pipe_file(first, store.cat_file(second))
        for location in ("memory://trusted", "memory://trusted/*.parquet", "memory://trusted/a.parquet"):
            with pytest.raises(IntegrityError), pc.open(location, keys=[world.key], trust=[world.signing]) as opened:
                opened.to_table()
        store.pipe_file(first, data)
        store.rm_file(second)
        for location in ("memory://trusted", "memory://trusted/day=1", "memory://trusted/day=1/b ü.parquet"):
            with pytest.raises(IntegrityError, match="missing"):
                pc.open(location, keys=[world.key], trust=[world.signing])
        with pytest.raises(IntegrityError, match="missing"):
            pd.read_parquet("pipecrypt::memory://trusted", storage_options=options(world))
    finally:
        store.rm("/trusted", recursive=True)


# ---- misuse ----


def test_contradictions_are_refused_at_once(world: World, dataset: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, object]] = [
        {"trust": None, "verify": "full"},
        {"trust": None, "threshold": 2},
        {"trust": None, "min_version": 3},
        {"trust": None, "dataset_id": "0" * 32},
        {"trust": []},
        {"trust": world.signing},
        {"trust": [1]},
        {"trust": [str(tmp_path / "none.pub")]},
        {"verify": "some"},
        {"threshold": 2},
        {"threshold": 0},
        {"min_version": 0},
        {"min_version": True},
        {"dataset_id": 7},
    ]
    for changes in wrong:
        given: dict[str, object] = {"keys": [world.key], "trust": [world.signing], **changes}
        with pytest.raises(UsageError):
            pc.open(dataset, **given)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            PipecryptFileSystem(**given, skip_instance_cache=True)
        with pytest.raises(UsageError):
            pc.decrypt(dataset, tmp_path / "back", **given)  # type: ignore[arg-type]
    for name in ("trusts", "thresold", "verfy", "min_versions", "datasetid"):
        with pytest.raises(UsageError, match="has no option"):
            PipecryptFileSystem(**{name: "x"}, skip_instance_cache=True)


# ---- without trust, and in other processes ----


def test_the_warning_is_about_encrypted_files_only(
    world: World, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "_said", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error", pc.UncheckedWarning)
        with pc.open(world.root / "raw") as plain:
            assert plain.to_table().num_rows == 300
        with pc.open(dataset, keys=[world.key], trust=pc.Trust(verify="off")) as opened:
            assert opened.num_rows == 300
        with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
            assert opened.num_rows == 300
        for _ in range(2):  # as an error it stops every read, not only the first
            with pytest.raises(pc.UncheckedWarning):
                pc.open(dataset, keys=[world.key])
    with pytest.warns(pc.UncheckedWarning):
        pc.open(dataset, keys=[world.key]).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error", pc.UncheckedWarning)
        with pc.open(dataset, keys=[world.key]) as opened:
            assert opened.num_rows == 300


_SCRIPT = """
import pickle, sys
import pyarrow.parquet as pq
import pipecrypt as pc
fs = pickle.loads({pickled!r})
try:
    print(pq.read_table({path!r}, filesystem=fs, partitioning=None).num_rows)
except pc.errors.IntegrityError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("from_environment", [True, False])
def test_workers_check_what_was_trusted_where_they_were_started(
    world: World, dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, from_environment: bool
) -> None:
    pem = tmp_path / "alice.pub"
    pem.write_text(ALICE.public_key_pem)
    sign(dataset, ALICE)
    if from_environment:
        monkeypatch.setenv("PIPECRYPT_TRUST", str(pem))
    trust = None if from_environment else [str(pem)]
    fs = PipecryptFileSystem(keys=[world.key], trust=trust, skip_instance_cache=True)
    pickled = pickle.dumps(fs)
    pem.unlink()  # the other process may run on another machine
    monkeypatch.delenv("PIPECRYPT_TRUST", raising=False)
    code = _SCRIPT.format(pickled=pickled, path=str(dataset / SECOND))
    root = Path(__file__).parents[2]
    for expected in ("100\n", "IntegrityError\n"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
        assert done.stdout == expected, done.stderr
        swap(world, dataset)


def test_a_file_system_without_trust_pickles_none(world: World) -> None:
    fs = PipecryptFileSystem(keys=[world.key], skip_instance_cache=True)
    again = pickle.loads(pickle.dumps(fs))  # noqa: S301  # made here
    assert "trust" not in again.storage_options


# ---- a Trust, and what may stand beside a list for one more release ----


def _version(world: World, dataset: Path) -> tuple[str, int]:
    with pc.open(dataset, keys=[world.key], trust=[world.signing]) as opened:
        assert opened.verified is not None
        return opened.verified.dataset_id, opened.verified.version


def _reads(dataset: Path, world: World, **trust: Any) -> dict[str, Callable[[], object]]:
    """Return what takes a trust: each gives something back, or refuses."""
    given = {"keys": [world.key], **trust}
    place, back = f"pipecrypt::file://{dataset}", dataset.parent / "back"
    return {
        "open": lambda: pc.open(dataset, **given).to_table(),
        "decrypt": lambda: pc.decrypt(dataset, back, overwrite=True, **given),
        "file system": lambda: PipecryptFileSystem(skip_instance_cache=True, **given).cat_file(f"{dataset}/{SECOND}"),
        "storage options": lambda: pd.read_parquet(place, storage_options={"pipecrypt": given}),
        "verify": lambda: pc.verify(dataset, **trust),
    }


def test_a_trust_is_taken_wherever_keys_are(world: World, dataset: Path) -> None:
    dataset_id, version = _version(world, dataset)
    right = pc.Trust([world.signing], threshold=1, min_version=version, dataset_id=dataset_id.upper())
    wrong = [
        (pc.Trust([world.other_signing]), NotTrustedError),
        (pc.Trust([world.signing, world.other_signing], threshold=2), NotTrustedError),
        (pc.Trust([world.signing], min_version=version + 1), RolledBackError),
        (pc.Trust([world.signing], dataset_id="0" * 32), IntegrityError),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for read in _reads(dataset, world, trust=right).values():
            read()
        for trust, error in wrong:
            for name, read in _reads(dataset, world, trust=trust).items():
                with pytest.raises(error):
                    pytest.fail(f"{name} takes {trust}: {read()}")


@pytest.mark.parametrize("verify", ["read", "full", "off"])
def test_how_much_is_compared_is_said_in_the_trust(world: World, dataset: Path, verify: str) -> None:
    swap(world, dataset)
    trust = pc.Trust([world.signing], verify=verify)
    for name, read in _reads(dataset, world, trust=trust).items():
        if verify == "off" and name != "verify":
            read()
        else:
            with pytest.raises(UsageError if verify == "off" else IntegrityError):
                pytest.fail(f"{name} reads what was exchanged: {read()}")


def test_options_in_json_say_a_trust_too(world: World, dataset: Path) -> None:
    def read(**trust: object) -> int:
        given = {"keys": [world.key], "trust": {"keys": [world.signing], **trust}}
        fs = PipecryptFileSystem(skip_instance_cache=True, **json.loads(json.dumps(given)))
        again = pickle.loads(pickle.dumps(fs))  # noqa: S301  # made here
        assert again._view_options.trust.keys == (again._views.trusted_pems() or ("",))
        return int(pq.read_table(str(dataset / FIRST), filesystem=fs, partitioning=None).num_rows)

    assert read() == read(verify="full", min_version=1) == 100
    with pytest.raises(RolledBackError):
        read(min_version=9)
    for wrong in ({"treshold": 2}, {"threshold": "2"}, {"verify": "some"}, {"keys": "alice.pub"}):
        with pytest.raises(UsageError):
            read(**wrong)
    fs = PipecryptFileSystem(keys=[world.key], trust={"keys": [world.signing]}, skip_instance_cache=True)
    assert fsspec.AbstractFileSystem.from_json(fs.to_json()).storage_options["trust"] == {"keys": [world.signing]}


def test_a_trust_is_pickled_with_what_its_keys_held(world: World, dataset: Path, tmp_path: Path) -> None:
    pem = tmp_path / "alice.pub"
    pem.write_text(ALICE.public_key_pem)
    trust = pc.Trust([str(pem)], verify="full", min_version=1)
    fs = PipecryptFileSystem(keys=[world.key], trust=trust, skip_instance_cache=True)
    pickled = pickle.dumps(fs)
    pem.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pickle.loads(pickled)  # noqa: S301  # made here

    assert again.storage_options["trust"] == replace(trust, keys=(ALICE.public_key_pem,))


def test_what_stands_beside_a_list_is_taken_with_a_warning(world: World, dataset: Path) -> None:
    for beside in ({"threshold": 1}, {"min_version": 1}, {"dataset_id": _version(world, dataset)[0]}):
        ((name, value),) = beside.items()
        for read in _reads(dataset, world, trust=[world.signing], **beside).values():
            with pytest.warns(
                DeprecationWarning, match=re.escape(f"write trust=pipecrypt.Trust([...], {name}={value!r})")
            ) as warned:
                read()
            # Python shows it by itself where it is attributed to a user's own line.
            assert {each.filename for each in warned if each.category is DeprecationWarning} == {__file__}
    with pytest.warns(DeprecationWarning, match=re.escape("write trust=pipecrypt.Trust(verify='off')")):
        pc.open(dataset, keys=[world.key], verify="off").close()
    for beside in ({"threshold": 2}, {"min_version": 9}, {"dataset_id": "0" * 32}):
        for read in _reads(dataset, world, trust=[world.signing], **beside).values():
            with pytest.warns(DeprecationWarning, match="pipecrypt.Trust"), pytest.raises((IntegrityError, UsageError)):
                read()


def test_a_trust_says_all_of_it(world: World, dataset: Path) -> None:
    for beside in ({"threshold": 1}, {"min_version": 1}, {"dataset_id": "0" * 32}):
        for read in _reads(dataset, world, trust=pc.Trust([world.signing]), **beside).values():
            with pytest.raises(UsageError, match="stands beside a Trust"):
                read()
