"""Who takes `pipecrypt::` URLs, and who wants the file system behind them: what README and docs/reading.md say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import dask.dataframe as dd
import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key

_ROWS = [(1, "x"), (2, "y")]
_Read = Callable[[str], object]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    key_file, reference = tmp_path / "machine.key", f"keystore://{tmp_path}/keys.json#pii"
    key_file.write_bytes(os.urandom(32))
    key_file.chmod(0o600)
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", str(key_file))
    monkeypatch.setenv("PIPECRYPT_KEYS", reference)
    create_key(reference, "aes256", Credentials.from_environment())
    pq.write_table(pa.table({"id": [1, 2], "name": ["x", "y"]}), tmp_path / "t.parquet")
    pc.encrypt(tmp_path / "t.parquet", tmp_path / "s.parquet", pc.Policy(default=reference))
    return f"pipecrypt::file://{tmp_path}/s.parquet"


def _rows(columns: dict[str, list[object]]) -> list[tuple[object, ...]]:
    return list(zip(*columns.values(), strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "read",
    [
        lambda url: pd.read_parquet(url).to_dict("list"),
        lambda url: dd.read_parquet(url).compute(scheduler="synchronous").to_dict("list"),
    ],
    ids=["pandas", "Dask"],
)
def test_these_take_urls(url: str, read: _Read) -> None:
    assert _rows(read(url)) == _ROWS  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("by_url", "by_filesystem"),
    [
        (pq.read_table, lambda fs, path: pq.read_table(path, filesystem=fs).to_pydict()),
        (pl.read_parquet, lambda fs, path: pl.read_parquet(fs.open(path)).to_dict(as_series=False)),
        (pl.scan_parquet, lambda fs, path: pl.read_parquet(fs.open(path)).to_dict(as_series=False)),
    ],
    ids=["pyarrow", "Polars", "Polars lazy"],
)
def test_these_take_the_file_system(url: str, by_url: _Read, by_filesystem: Callable[[object, str], object]) -> None:
    with pytest.raises(Exception, match=r"No such file|URI"):
        by_url(url).collect()  # type: ignore[attr-defined]
    fs, path = fsspec.url_to_fs(url)
    assert _rows(by_filesystem(fs, path)) == _ROWS  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_duckdb_takes_the_file_system(url: str) -> None:
    fs, path = fsspec.url_to_fs(url)
    connection = duckdb.connect()
    connection.register_filesystem(fs)
    with pytest.raises(duckdb.Error):
        connection.sql(f"select * from read_parquet('{url}')").fetchall()  # noqa: S608  # a path of our own
    assert connection.sql(f"select * from read_parquet('pipecrypt://{path}')").fetchall() == _ROWS  # noqa: S608
