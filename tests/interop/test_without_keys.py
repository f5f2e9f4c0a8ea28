"""Readers without any key: they read the plaintext columns of a file whose footer is readable, and nothing else.

What docs/readers.md says of pyarrow, pandas, Polars and DuckDB, with the versions that are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from tests.reading.world import Keys, write

# On both sides of the encrypted column, because a reader may fetch what lies between two as well.
_PLAIN = ["id", "city"]
_TABLE = pa.table(
    {
        "id": pa.array(range(1000), pa.int64()),
        "email": [f"user{row}@example.com" for row in range(1000)],
        "city": [("Berlin", "Lima", "Pune")[row % 3] for row in range(1000)],
    }
)
_Read = Callable[[str, list[str]], pa.Table]


def _duckdb(path: str, names: list[str]) -> pa.Table:
    found = duckdb.connect().sql(f"select {', '.join(names)} from '{path}'")  # noqa: S608  # a path of our own
    return pa.table(dict(zip(names, zip(*found.fetchall(), strict=True), strict=True)))


READERS: dict[str, _Read] = {
    "pyarrow": lambda path, names: pq.read_table(path, columns=names),
    "pyarrow, dataset": lambda path, names: ds.dataset(path).to_table(columns=names),
    "pandas": lambda path, names: pa.Table.from_pandas(pd.read_parquet(path, columns=names), preserve_index=False),
    "Polars": lambda path, names: pl.read_parquet(path, columns=names).to_arrow(),
    "Polars lazy": lambda path, names: pl.scan_parquet(path).select(names).collect().to_arrow(),
    "DuckDB": _duckdb,
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("scope", KeyScope)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_plaintext_columns_are_read_and_encrypted_ones_refused(
    tmp_path: Path,
    keys: Keys,
    read: _Read,
    scope: KeyScope,
) -> None:
    policy = EncryptionPolicy(rules=(ColumnRule("email", keys.open),), footer_key=keys.open, data_keys=scope)
    path = str(write(tmp_path / "a.parquet", _TABLE, policy))
    assert read(path, _PLAIN).to_pydict() == _TABLE.select(_PLAIN).to_pydict()
    for names in (["email"], [*_PLAIN, "email"]):
        with pytest.raises(Exception, match=r"(?i)crypt"):
            read(path, names)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_of_an_encrypted_footer_nothing_is_read(tmp_path: Path, keys: Keys, read: _Read) -> None:
    policy = EncryptionPolicy(
        rules=(ColumnRule("email", keys.open),), footer_key=keys.open, footer=FooterMode.ENCRYPTED
    )
    path = str(write(tmp_path / "a.parquet", _TABLE, policy))
    with pytest.raises(Exception, match=r"(?i)crypt"):
        read(path, ["id"])
