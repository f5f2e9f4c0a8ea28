"""The file system over an object store: s3fs against moto's server. Skipped where those are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.dataset.requirements import Checks, Requirements
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import IntegrityError
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.reading.rows import read_rows
from pipecrypt.store.location import Location
from tests.dataset.world import ALICE, sign, trusting
from tests.parquet.world import parquet_bytes, sample_table
from tests.reading.attacks import FIRST, SECOND, THIRD, World
from tests.reading.test_listing_methods import FROM_ABOVE
from tests.reading.world import Keys, seal

s3fs = pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield {"endpoint_url": f"http://{host}:{port}"}
    running.stop()


def test_an_object_store(keys: Keys, options: dict[str, object]) -> None:
    table = sample_table()
    store = s3fs.S3FileSystem(**options)
    store.mkdir("bucket")
    sealed = seal(parquet_bytes(table, row_group_size=300), keys.policy("email"), "a.parquet")
    store.pipe_file("bucket/orders/a.parquet", sealed)
    chained = {"pipecrypt": {"keys": [keys.open], "on_missing_key": "null"}, "s3": options}
    frame = pd.read_parquet("pipecrypt::s3://bucket/orders/a.parquet", storage_options=chained)
    assert frame["id"].tolist() == table["id"].to_pylist()
    assert frame["email"].isna().all()
    with pc.open("s3://bucket/orders/", keys=[keys.open, keys.secret], storage_options=options) as orders:
        assert orders.files == ("s3://bucket/orders/a.parquet",)
        assert orders.to_table().equals(table)


def test_what_a_run_stages_moves_and_keeps_beside_data(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, run = World.at(tmp_path), "20990101T000000Z-00000000"
    world.use(monkeypatch)
    sign(world.make_dataset(), run=run)
    store, root = s3fs.S3FileSystem(**options), "another/above/signed"
    store.mkdir("another")
    store.put(f"{world.root}/signed/", f"{root}/", recursive=True)
    store.mv(f"{root}/{SECOND}", f"{root}/_pipecrypt/runs/{run}/staged/{SECOND}")

    def move() -> None:
        store.mv(f"{root}/_pipecrypt/runs/{run}/staged/{SECOND}", f"{root}/{SECOND}")

    fs = PipecryptFileSystem(fs=store, keys=[world.key], trust=[ALICE.public_key_pem], skip_instance_cache=True)
    assert fs.find(f"{root}/day=1") == [f"{root}/{SECOND}"]
    location, checks = (
        Location(f"s3://{root}/{SECOND}", options),
        Checks(Requirements(trust=trusting()), VerifyMode.READ),
    )
    with (
        fs.open(f"{root}/{SECOND}") as file,
        read_rows(location, keys=[world.key], checks=checks, credentials=world.credentials) as rows,
    ):
        move()
        assert sum(map(len, rows.batches())) == pq.read_table(file).num_rows == 100

    for place in ("another/above", root):
        for listed in (fs.find(place, prefix="_"), fs.find(place), list(fs.walk(place)), fs.glob(f"{place}/**")):
            assert "_pipecrypt" not in repr(listed)
    assert fs.find(root, prefix="day=1") == [f"{root}/{SECOND}"]
    store.rm_file(f"{root}/{SECOND}")
    assert fs.find(root, prefix="day=2") == [f"{root}/{THIRD}"]
    with pytest.raises(IntegrityError):
        fs.find(root, prefix="day=1")


def test_a_file_that_is_missing_is_told_from_above(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.at(tmp_path)
    world.use(monkeypatch)
    store, top = s3fs.S3FileSystem(**options, use_listings_cache=False), "third/top"
    store.mkdir("third")
    store.put(f"{world.make_dataset()}/", f"{top}/one/", recursive=True)
    data = {name: store.cat_file(f"{top}/one/{name}") for name in (FIRST, SECOND)}
    fs = PipecryptFileSystem(fs=store, keys=[world.key], trust=[world.signing], skip_instance_cache=True)
    ways = ("find", "find two levels", "find by prefix", "glob", "glob part of a name", "glob a partition")
    for way in (*ways, "glob tables", "glob tables of two levels"):
        lists, (name, *_) = FROM_ABOVE[way]
        store.rm_file(f"{top}/one/{name}")
        with pytest.raises(IntegrityError):
            lists(fs, top)
        store.pipe_file(f"{top}/one/{name}", data[name])
        lists(fs, top)
