"""The file system over an object store: s3fs against moto's server. Skipped where those are not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest

import pipecrypt as pc
from tests.parquet.world import parquet_bytes, sample_table
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
