"""Files of any kind, encrypted in chunks, through the file system: the original bytes, by range, for every reader."""

from __future__ import annotations

import io
import os
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import IntegrityError, KeyNotFoundError, UsageError
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.reading.rows import read_rows
from pipecrypt.runs.files import encrypt
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.store.location import Location
from tests.reading.world import CREDENTIALS, Keys

CHUNK = 4096


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def sealed(tmp_path: Path, keys: Keys, data: bytes, name: str = "x.bin", **options: object) -> str:
    (tmp_path / name).write_bytes(data)
    policy = Policy(default=keys.open, mode="chunks", chunk_bytes=CHUNK, **options)  # type: ignore[arg-type]
    encrypt(tmp_path / name, tmp_path / "out" / f"{name}.chunks.parquet", policy, overwrite=True)
    return str(tmp_path / "out" / f"{name}.chunks.parquet")


def options(*keys: str) -> dict[str, object]:
    return {"pipecrypt": {"keys": list(keys)}}


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 70 * CHUNK + 17])
def test_ranges_seeks_and_sizes(tmp_path: Path, keys: Keys, size: int, compression: str) -> None:
    data = os.urandom(size // 2) + bytes(size - size // 2)
    path = sealed(tmp_path, keys, data, compression=compression)
    with fsspec.open(f"pipecrypt::{path}", **options(keys.open)) as file:
        assert file.read() == data
        file.seek(size // 3)
        assert file.read(100) == data[size // 3 : size // 3 + 100]
        file.seek(-min(10, size), io.SEEK_END)
        assert file.read() == data[size - min(10, size) :]
    fs, inner = fsspec.url_to_fs(f"pipecrypt::{path}", **options(keys.open))
    assert isinstance(fs, PipecryptFileSystem)
    assert fs.info(inner)["size"] == size
    assert fs.cat_file(inner, 5, 50) == data[5:50]
    assert fs.cat_ranges([inner, inner], [0, 7], [3, 9]) == [data[0:3], data[7:9]]
    assert fs.ls(os.path.dirname(inner), detail=True)[0]["size"] == size


def test_any_format_reads_through_it(tmp_path: Path, keys: Keys) -> None:
    table = pa.table({"a": range(1000), "b": [str(row) for row in range(1000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    parquet = sealed(tmp_path, keys, buffer.getvalue(), "t.parquet")
    assert pd.read_parquet(f"pipecrypt::file://{parquet}", storage_options=options(keys.open)).equals(table.to_pandas())
    csv = sealed(tmp_path, keys, table.to_pandas().to_csv(index=False).encode(), "t.csv")
    assert len(pd.read_csv(f"pipecrypt::file://{csv}", storage_options=options(keys.open))) == 1000
    with pc.open(parquet, keys=[keys.open]) as opened:
        assert opened.to_table().equals(table)
        assert "chunks" in repr(opened)


def test_without_the_key_or_changed(tmp_path: Path, keys: Keys) -> None:
    path = Path(sealed(tmp_path, keys, os.urandom(10 * CHUNK)))
    with pytest.raises(KeyNotFoundError), fsspec.open(f"pipecrypt::{path}", **options(keys.secret)) as file:
        file.read()
    data = bytearray(path.read_bytes())
    data[2 * CHUNK] ^= 1
    path.write_bytes(data)
    with fsspec.open(f"pipecrypt::{path}", **options(keys.open)) as file:
        file.seek(8 * CHUNK)
        assert len(file.read(CHUNK)) == CHUNK  # chunks that are whole can be read
        file.seek(0)
        with pytest.raises(IntegrityError):
            file.read()


def test_rows_are_not_shown(tmp_path: Path, keys: Keys) -> None:
    path = sealed(tmp_path, keys, b"hello")
    with pytest.raises(UsageError):
        read_rows(Location(path), keys=[keys.open], credentials=CREDENTIALS).__enter__()


def test_open_takes_a_table_in_chunks_and_names_what_is_none(tmp_path: Path, keys: Keys) -> None:
    table = pa.table({"id": [1, 2, 3]})
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    with pc.open(sealed(tmp_path, keys, out.getvalue().to_pybytes(), "x.parquet"), keys=[keys.open]) as dataset:
        assert dataset.to_table() == table
    with pytest.raises(UsageError, match="no table"):
        pc.open(sealed(tmp_path, keys, b"no table"), keys=[keys.open])
