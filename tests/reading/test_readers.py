"""Readers that nobody here wrote read our files: pyarrow, Polars, DuckDB, pandas. And our own rows."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from pipecrypt.errors import KeyNotFoundError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.reading.pyarrow_keys import crypto_factory, decryption_properties, expose_data_keys
from pipecrypt.reading.rows import Rows, read_rows
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.world import DATA, encrypt, needs_vectors, parquet_bytes, sample_table

CREDENTIALS = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> str:
    reference = f"keystore://{tmp_path_factory.mktemp('keys')}/keys.json"
    for name in ("pii", "money"):
        create_key(f"{reference}#{name}", "aes256", CREDENTIALS)
    return reference


@pytest.fixture
def pii(keystore: str) -> str:
    return f"{keystore}#pii"


def write(place: Path, table: pa.Table, policy: EncryptionPolicy, **options: object) -> str:
    dataset_id = new_dataset_id()
    assert Context(dataset_id, "x")
    with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
        data = encrypt(parquet_bytes(table, **options), policy, session, path=place.name)
        assert session.service_calls == len(policy.key_references())
    place.write_bytes(data)
    return str(place)


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("scope", KeyScope)
def test_pyarrow_reads_with_our_properties(tmp_path: Path, pii: str, footer: FooterMode, scope: KeyScope) -> None:
    table = sample_table()
    policy = EncryptionPolicy(default=pii, footer=footer, data_keys=scope)
    path = write(tmp_path / "a.parquet", table, policy, row_group_size=300)
    properties = decryption_properties([pii], credentials=CREDENTIALS)
    assert pq.read_table(path, decryption_properties=properties).equals(table)


def test_pyarrow_dataset_reads_with_our_factory(tmp_path: Path, pii: str) -> None:
    table = sample_table()
    write(tmp_path / "a.parquet", table, EncryptionPolicy(default=pii), row_group_size=300)
    factory = crypto_factory([pii], credentials=CREDENTIALS)
    configuration = ds.ParquetDecryptionConfig(factory, pe.KmsConnectionConfig(), pe.DecryptionConfiguration())
    options = ds.ParquetFragmentScanOptions(decryption_config=configuration)
    dataset = ds.dataset(tmp_path, format=ds.ParquetFileFormat(default_fragment_scan_options=options))
    assert dataset.to_table(filter=ds.field("id") < 10).num_rows == 10


def test_properties_outlive_what_made_them(tmp_path: Path, pii: str) -> None:
    path = write(tmp_path / "a.parquet", sample_table(50), EncryptionPolicy(default=pii))
    script = (
        "import gc, pyarrow.parquet as pq, pipecrypt.reading.pyarrow_keys as k\n"
        f"p = k.decryption_properties([{pii!r}])\n"
        "gc.collect()\n"
        f"print(pq.read_table({path!r}, decryption_properties=p).num_rows)\n"
    )
    environment = {"PIPECRYPT_PASSPHRASE": "correct horse", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "50\n", done.stderr


def test_pyarrow_without_the_right_key_fails(tmp_path: Path, keystore: str) -> None:
    path = write(tmp_path / "a.parquet", sample_table(50), EncryptionPolicy(default=f"{keystore}#pii"))
    properties = decryption_properties([f"{keystore}#money"], credentials=CREDENTIALS)
    with pytest.raises((KeyNotFoundError, OSError)):
        pq.read_table(path, decryption_properties=properties)


def test_polars_reads_with_explicit_keys(tmp_path: Path, pii: str) -> None:
    table = sample_table().drop_columns(["customer", "tags"])
    policy = EncryptionPolicy(rules=(ColumnRule("email", pii), ColumnRule("id", pii)), data_keys=KeyScope.FILE)
    path = write(tmp_path / "a.parquet", table, policy, row_group_size=300)
    keys = expose_data_keys(path, [pii], credentials=CREDENTIALS)
    properties = pl.ParquetDecryptionProperties(footer_key=keys.footer, column_keys=keys.columns)
    frame = pl.read_parquet(path, decryption=properties)
    assert frame["email"].to_list() == table["email"].to_pylist()
    assert frame["id"].to_list() == table["id"].to_pylist()
    assert keys.footer.hex() not in repr(keys)


def test_explicit_keys_need_file_scope(tmp_path: Path, pii: str) -> None:
    path = write(tmp_path / "a.parquet", sample_table(), EncryptionPolicy(default=pii), row_group_size=300)
    with pytest.raises(UsageError):
        expose_data_keys(path, [pii], credentials=CREDENTIALS)


def test_readers_without_keys_read_plaintext_columns(tmp_path: Path, pii: str) -> None:
    table = sample_table()
    policy = EncryptionPolicy(rules=(ColumnRule("email", pii), ColumnRule("customer", pii)))
    path = write(tmp_path / "a.parquet", table, policy, row_group_size=300)
    expected = table["id"].to_pylist()
    assert pl.read_parquet(path, columns=["id"])["id"].to_list() == expected
    assert pd.read_parquet(path, columns=["id"])["id"].to_list() == expected
    assert [row[0] for row in duckdb.sql(f"select id from '{path}' order by id").fetchall()] == expected  # noqa: S608  # a path of our own


def test_duckdb_reads_uniform_encryption(tmp_path: Path, pii: str) -> None:
    table = sample_table().select(["id", "email"])
    policy = EncryptionPolicy(
        default=pii, footer=FooterMode.ENCRYPTED, data_keys=KeyScope.FILE, uniform=True, bind_path=False
    )
    path = write(tmp_path / "a.parquet", table, policy, row_group_size=300)
    key = expose_data_keys(path, [pii], credentials=CREDENTIALS).footer
    connection = duckdb.connect()
    connection.execute(f"pragma add_parquet_key('key', '{_base64(key)}')")
    query = f"select count(*), max(email) from read_parquet('{path}', encryption_config={{footer_key: 'key'}})"  # noqa: S608  # a path of our own
    assert connection.execute(query).fetchone() == (1000, max(table["email"].to_pylist()))


def _base64(key: bytes) -> str:

    return base64.b64encode(key).decode()


def _dicts(rows: Rows) -> list[dict[str, object]]:
    return [dict(zip(rows.column_names, row, strict=True)) for batch in rows.batches() for row in batch]


def test_rows_with_all_some_and_no_keys(tmp_path: Path, keystore: str) -> None:
    table = sample_table()
    pii, money = f"{keystore}#pii", f"{keystore}#money"
    policy = EncryptionPolicy(rules=(ColumnRule("email", pii), ColumnRule("id", money)), footer_key=pii)
    path = Location(write(tmp_path / "a.parquet", table, policy, row_group_size=300))
    with read_rows(path, keys=[pii, money], credentials=CREDENTIALS) as rows:
        assert _dicts(rows) == table.to_pylist()
    with read_rows(path, keys=[pii], limit=3, credentials=CREDENTIALS) as rows:
        assert rows.locked_columns == ("id",)
        assert [row["email"] for row in _dicts(rows)] == table["email"].to_pylist()[:3]
    with read_rows(path, columns=["city"], limit=2, credentials=CREDENTIALS) as rows:
        assert _dicts(rows) == [{"city": "Berlin"}, {"city": "Lima"}]
    with pytest.raises(KeyNotFoundError, match="'id'"):
        read_rows(path, keys=[pii], columns=["id"], credentials=CREDENTIALS).__enter__()


def test_rows_under_an_encrypted_footer_with_some_keys(tmp_path: Path, keystore: str) -> None:
    table = sample_table()
    pii, money = f"{keystore}#pii", f"{keystore}#money"
    rules = (ColumnRule("email", pii), ColumnRule("tags", money), ColumnRule("customer", money))
    policy = EncryptionPolicy(rules=rules, footer=FooterMode.ENCRYPTED, footer_key=pii)
    path = Location(write(tmp_path / "a.parquet", table, policy))
    with read_rows(path, keys=[pii], credentials=CREDENTIALS) as rows:
        expected = table.select(["id", "email", "city"]).to_pylist()
        assert _dicts(rows) == expected
    with pytest.raises(KeyNotFoundError):
        read_rows(path, keys=[money], credentials=CREDENTIALS).__enter__()


@needs_vectors
def test_external_key_material_of_parquet_java(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    texts = {"kf": "0123456789012345", "kc1": "1234567890123450", "kc2": "1234567890123451"}
    keys.write_text(str({name: _base64(text.encode()) for name, text in texts.items()}).replace("'", '"'))
    path = Location(str(DATA / "external_key_material_java.parquet.encrypted"))
    with read_rows(path, keys=[f"static://{keys}"], credentials=CREDENTIALS) as rows:
        assert sum(len(batch) for batch in rows.batches()) > 0
        assert not rows.locked_columns
