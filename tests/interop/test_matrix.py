"""The page docs/readers.md shows what every reader could read in this run. PIPECRYPT_UPDATE_DOCS=1 writes it anew."""

from __future__ import annotations

import base64
import importlib.metadata
import os
import re
from collections.abc import Callable
from pathlib import Path

import dask
import dask.dataframe as dd
import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.reading.filesystem import PipecryptFileSystem
from tests.interop.recorder import Mode, Recorder, Rows, Way
from tests.reading.world import PASSPHRASE, Keys, write

_PAGE = Path(__file__).parents[2] / "docs" / "readers.md"
_MARKED = re.compile(r"(?<=<!-- measured: begin -->\n).*?(?=<!-- measured: end -->)", re.DOTALL)
_UPDATES = os.environ.get("PIPECRYPT_UPDATE_DOCS", "") not in {"", "0"}
_PACKAGES = ("pyarrow", "pandas", "polars", "duckdb", "dask", "fsspec")
_TABLE = pa.table(
    {
        "id": pa.array(range(1000), pa.int64()),
        "email": [f"user{row}@example.com" for row in range(1000)],
        "city": [("Berlin", "Lima", "Pune")[row % 3] for row in range(1000)],
        "amount": [row / 4 for row in range(1000)],
    }
)


def _modes(folder: Path, keys: Keys) -> list[Mode]:
    encrypted, by_file = FooterMode.ENCRYPTED, KeyScope.FILE
    some = EncryptionPolicy(rules=(ColumnRule("email", keys.open),), footer_key=keys.open)
    uniform = EncryptionPolicy(default=keys.open, footer=encrypted, data_keys=by_file, uniform=True, bind_path=False)
    policies = {
        "clear footer, all columns": keys.policy(),
        "clear footer, some columns": some,
        "clear footer, `data_keys: file`": keys.policy(scope=by_file),
        "encrypted footer": keys.policy(footer=encrypted),
        "encrypted footer, `data_keys: file`": keys.policy(footer=encrypted, scope=by_file),
        "uniform, no prefix": uniform,
    }
    modes = [
        Mode(name, str(write(folder / f"{number}.parquet", _TABLE, policy)), (keys.open,))
        for number, (name, policy) in enumerate(policies.items())
    ]
    locked = str(write(folder / "locked.parquet", _TABLE, keys.policy("email")))
    modes.append(Mode("a key missing", locked, (keys.open,), locked=frozenset({"email"})))
    modes.append(Mode('a key missing, `"null"`', locked, (keys.open,), "null", frozenset({"email"})))
    return modes


def _fs(mode: Mode) -> PipecryptFileSystem:
    fs, _ = fsspec.url_to_fs("pipecrypt::file:///", **_options(mode))
    return fs


def _options(mode: Mode) -> dict[str, object]:
    return {"pipecrypt": {"keys": list(mode.keys), "on_missing_key": mode.on_missing_key}}


def _opened(
    read: Callable[[pc.reading.dataset.EncryptedDataset, list[str]], Rows],
) -> Callable[[Mode, list[str]], Rows]:
    def run(mode: Mode, names: list[str]) -> Rows:
        with pc.open(mode.path, keys=mode.keys, on_missing_key=mode.on_missing_key) as opened:
            return read(opened, names)

    return run


def _of_pandas(frame: pd.DataFrame) -> Rows:
    return pa.Table.from_pandas(frame, preserve_index=False).to_pydict()


def _properties(mode: Mode) -> object:
    return pc.decryption_properties(keys=list(mode.keys))


def _polars_plain(mode: Mode, names: list[str]) -> Rows:
    exposed = pc.expose_data_keys(mode.path, list(mode.keys))
    properties = pl.ParquetDecryptionProperties(footer_key=exposed.footer, column_keys=exposed.columns)
    return pl.read_parquet(mode.path, columns=names, decryption=properties).to_dict(as_series=False)


def _polars_file(mode: Mode, names: list[str]) -> Rows:
    with _fs(mode).open(mode.path) as file:
        return pl.read_parquet(file, columns=names).to_dict(as_series=False)


def _duckdb(relation: duckdb.DuckDBPyRelation, names: list[str]) -> Rows:
    rows = relation.fetchall()
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def _duckdb_plain(mode: Mode, names: list[str]) -> Rows:
    connection = duckdb.connect()
    key = base64.b64encode(pc.expose_data_keys(mode.path, list(mode.keys)).footer).decode()
    connection.execute(f"pragma add_parquet_key('key', '{key}')")
    source = f"read_parquet('{mode.path}', encryption_config={{footer_key: 'key'}})"
    return _duckdb(connection.sql(f"select {', '.join(names)} from {source}"), names)  # noqa: S608  # a path of our own


def _duckdb_fs(mode: Mode, names: list[str]) -> Rows:
    connection = duckdb.connect()
    connection.register_filesystem(_fs(mode))
    return _duckdb(connection.sql(f"select {', '.join(names)} from 'pipecrypt://{mode.path}'"), names)  # noqa: S608


def _duckdb_stream(opened: object, names: list[str]) -> Rows:
    return _duckdb(duckdb.sql(f"select {', '.join(names)} from opened"), names)  # noqa: S608


def _duckdb_dataset(opened: pc.reading.dataset.EncryptedDataset, names: list[str]) -> Rows:
    dataset = opened.dataset()  # noqa: F841  # DuckDB finds it by its name
    return _duckdb(duckdb.sql(f"select {', '.join(names)} from dataset"), names)  # noqa: S608


def _dask(mode: Mode, names: list[str]) -> Rows:
    with dask.config.set(scheduler="threads"):
        frame = dd.read_parquet(f"pipecrypt::file://{mode.path}", columns=names, storage_options=_options(mode))
        return _of_pandas(frame.compute())


def _pandas_url(mode: Mode, names: list[str]) -> Rows:
    url = f"pipecrypt::file://{mode.path}"
    return _of_pandas(pd.read_parquet(url, columns=names, storage_options=_options(mode)))


def _pandas_plain(mode: Mode, names: list[str]) -> Rows:
    return _of_pandas(pd.read_parquet(mode.path, columns=names, decryption_properties=_properties(mode)))


def _arrow_plain(mode: Mode, names: list[str]) -> Rows:
    return pq.read_table(mode.path, columns=names, decryption_properties=_properties(mode)).to_pydict()


def _arrow_fs(mode: Mode, names: list[str]) -> Rows:
    return pq.read_table(mode.path, columns=names, filesystem=_fs(mode)).to_pydict()


_OPEN, _URL, _FS, _STREAM = "`pipecrypt.open`", "`pipecrypt::`", "file system `pipecrypt`", "Arrow stream"
_WAYS = (
    Way("pyarrow", "`decryption_properties`", _arrow_plain),
    Way("pyarrow", _FS, _arrow_fs),
    Way("pyarrow", _OPEN, _opened(lambda opened, names: opened.to_table(names).to_pydict())),
    Way("pyarrow", _STREAM, _opened(lambda opened, names: pa.table(opened).select(names).to_pydict())),
    Way("pandas", "`decryption_properties`", _pandas_plain),
    Way("pandas", _URL, _pandas_url),
    Way("pandas", _OPEN, _opened(lambda opened, names: _of_pandas(opened.to_pandas(names)))),
    Way("Polars", "explicit keys", _polars_plain),
    Way("Polars", f"{_FS}, file object", _polars_file),
    Way("Polars", _OPEN, _opened(lambda opened, names: opened.to_polars(names).to_dict(as_series=False))),
    Way("Polars", _STREAM, _opened(lambda opened, names: pl.DataFrame(opened).select(names).to_dict(as_series=False))),
    Way("DuckDB", "the footer's data key", _duckdb_plain),
    Way("DuckDB", _FS, _duckdb_fs),
    Way("DuckDB", f"{_OPEN}, `dataset()`", _opened(_duckdb_dataset)),
    Way("DuckDB", _STREAM, _opened(_duckdb_stream)),
    Way("Dask", _URL, _dask),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, list[Mode]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPECRYPT_PASSPHRASE", PASSPHRASE)
        for name in ("PIPECRYPT_KEYS", "PIPECRYPT_TRUST", "PIPECRYPT_KEY_FILE"):
            patch.delenv(name, raising=False)
        folder = tmp_path_factory.mktemp("interop")
        modes = _modes(folder, Keys(folder))
        recorder = Recorder(_TABLE.to_pydict())
        for way in _WAYS:
            for mode in modes:
                recorder.run(way, mode)
        PipecryptFileSystem.clear_instance_cache()
        return recorder, modes


def test_the_page_shows_what_was_measured(measured: tuple[Recorder, list[Mode]]) -> None:
    recorder, modes = measured
    table, text = recorder.as_markdown(_WAYS, modes), _PAGE.read_text(encoding="utf-8")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    if _UPDATES:
        page = _MARKED.sub(lambda _: f"Measured with {versions}.\n\n{table}\n", text)
        _PAGE.write_text(page, encoding="utf-8")
    else:
        (shown,) = _MARKED.findall(text)
        assert shown.partition("\n\n")[2].strip() == table  # versions may differ, what they read may not


def test_our_own_ways_read_every_kind_of_file(measured: tuple[Recorder, list[Mode]]) -> None:
    recorder, modes = measured
    whole_file = {
        f"Polars {_FS}, file object",
        *(f"{reader} {_STREAM}" for reader in ("pyarrow", "Polars", "DuckDB")),
    }
    for (reader, through, name), verdict in recorder.verdicts.items():
        mode = next(mode for mode in modes if mode.name == name)
        if "pipecrypt" not in through and through != _STREAM:
            continue
        best = {"error": "other columns" if mode.locked else "all", "null": "nulls"}[mode.on_missing_key]
        # Whoever reads whole files touches the locked column, too.
        allowed = {best, "no"} if best == "other columns" and f"{reader} {through}" in whole_file else {best}
        assert verdict in allowed, (reader, through, name)
