"""`pipecrypt.open`: one file, directories and globs, what is fetched and decrypted, and what people see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pac
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import pipecrypt as pc
from pipecrypt.errors import (
    AccessError,
    ColumnNotFoundError,
    FormatError,
    IntegrityError,
    MissingExtraError,
    SourceNotFoundError,
    UsageError,
)
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.table import view as view_module
from pipecrypt.reading import dataset as dataset_module
from tests.parquet.world import parquet_bytes, sample_table
from tests.reading.world import CREDENTIALS, Keys, seal, write


@pytest.fixture
def table() -> pa.Table:
    return sample_table()


@pytest.mark.parametrize("footer", list(FooterMode))
def test_one_file(tmp_path: Path, keys: Keys, table: pa.Table, footer: FooterMode) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy(footer=footer))
    with pc.open(path, keys=[keys.open]) as opened:
        assert opened.schema.names == table.schema.names
        assert opened.num_rows == 1000
        assert opened.files == (str(path),)
        assert opened.to_table().equals(table)
        assert opened.to_table(columns=["email"]).equals(table.select(["email"]))
        by_expression = opened.to_table(columns=["email"], filter=pac.field("id") >= 990)
        assert by_expression.equals(opened.to_table(columns=["email"], filter=[("id", ">=", 990)]))
        assert by_expression["email"].to_pylist() == table["email"].to_pylist()[990:]
        batches = list(opened.to_batches(columns=["id"], batch_rows=128))
        assert max(batch.num_rows for batch in batches) == 128
        assert pa.Table.from_batches(batches)["id"].to_pylist() == list(range(1000))
        assert opened.dataset().to_table(filter=ds.field("id") < 5).num_rows == 5
        assert opened.to_pandas(columns=["id"])["id"].sum() == sum(range(1000))
        assert opened.to_polars(filter=[("id", "<", 3)])["email"].to_list() == table["email"].to_pylist()[:3]


def test_the_arrow_stream_is_fresh_each_time(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    with pc.open(path, keys=[keys.open]) as orders:
        for _ in range(2):
            assert pa.RecordBatchReader.from_stream(orders).read_all().equals(table)
            assert pl.DataFrame(orders)["email"].to_list() == table["email"].to_pylist()
            assert duckdb.sql("select sum(id) from orders").fetchall() == [(sum(range(1000)),)]


def test_directories_globs_and_partitions(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    for year in (2023, 2024):
        for part in "ab":
            write(tmp_path / "base=0" / f"year={year}" / f"{part}.parquet", table, keys.policy())
    with pc.open(f"{tmp_path}/base=0", keys=[keys.open]) as opened:
        assert len(opened.files) == 4
        assert "rows not counted" in repr(opened)
        assert opened.schema.names == [*table.schema.names, "year"]
        assert opened.num_rows == 4000
        assert "4,000 rows" in repr(opened)
        assert opened.to_table(columns=["id"], filter=[("year", "=", 2024), ("id", "<", 10)]).num_rows == 20
    with pc.open(f"{tmp_path}/base=0/**/a.parquet", keys=[keys.open]) as opened:
        assert opened.num_rows == 2000


def test_other_storages(keys: Keys, table: pa.Table) -> None:
    store = fsspec.filesystem("memory")
    for name in ("a", "b"):
        store.pipe_file(f"/orders/{name}.parquet", seal(parquet_bytes(table), keys.policy(), name))
    with pc.open("memory://orders/", keys=[keys.open]) as opened:
        assert opened.files == ("memory://orders/a.parquet", "memory://orders/b.parquet")
        assert opened.num_rows == 2000
        assert opened.to_table(columns=["email"]).num_rows == 2000
    store.rm("/orders", recursive=True)


class Traffic:
    """What was fetched from memory://, and which chunks were decrypted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched_bytes, self.decrypted = 0, list[str]()
        cat_file, open_pages = MemoryFileSystem.cat_file, view_module.open_pages

        def counting_cat(fs: MemoryFileSystem, *args: object, **named: object) -> bytes:
            data = cat_file(fs, *args, **named)
            self.fetched_bytes += len(data)
            return data

        def counting_open(*args: object, **named: object) -> object:
            self.decrypted.append(str(named["what"]))
            return open_pages(*args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(MemoryFileSystem, "cat_file", counting_cat)
        monkeypatch.setattr(view_module, "open_pages", counting_open)

    def clear(self) -> None:
        self.fetched_bytes = 0
        self.decrypted.clear()


@pytest.fixture
def large(keys: Keys) -> Iterator[pa.Table]:
    rows = 40_000
    columns = {
        f"c{number}": pa.array([f"{number}-{row * 7919 % 10007}-{row}" for row in range(rows)]) for number in range(8)
    }
    table = pa.table({"id": pa.array(range(rows)), **columns})
    data = parquet_bytes(table, row_group_size=1_000, use_dictionary=False, compression="none")
    store = fsspec.filesystem("memory")
    store.pipe_file("/large/a.parquet", seal(data, keys.policy(), "a.parquet"))
    store.pipe_file("/large/plain.parquet", data)
    yield table
    store.rm("/large", recursive=True)


def test_projection_reaches_the_storage(keys: Keys, large: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic(monkeypatch)
    with pc.open("memory://large/a.parquet", keys=[keys.open]) as opened:
        traffic.clear()
        assert opened.to_table(columns=["c3"]).equals(large.select(["c3"]))
        chunks = [
            pq.read_metadata(fsspec.open("memory://large/plain.parquet").open()).row_group(group).column(4)
            for group in range(40)
        ]
        plain_bytes = sum(chunk.total_compressed_size for chunk in chunks)
        assert plain_bytes < traffic.fetched_bytes < 1.1 * plain_bytes
        # Several threads ask, in whatever order.
        assert sorted(traffic.decrypted) == sorted(
            f"/large/a.parquet row group {group} column 'c3'" for group in range(40)
        )


def test_statistics_keep_row_groups_encrypted(keys: Keys, large: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic(monkeypatch)
    with pc.open("memory://large/a.parquet", keys=[keys.open]) as opened:
        traffic.clear()
        found = opened.to_table(columns=["c1"], filter=(pac.field("id") >= 20_000) & (pac.field("id") < 20_005))
        assert found["c1"].to_pylist() == large["c1"].to_pylist()[20_000:20_005]
        assert sorted(traffic.decrypted) == [f"/large/a.parquet row group 20 column '{name}'" for name in ("c1", "id")]


@pytest.mark.parametrize("footer", list(FooterMode))
def test_missing_keys(tmp_path: Path, keys: Keys, table: pa.Table, footer: FooterMode) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy("email", "customer.age", footer=footer))
    with pc.open(path, keys=[keys.open]) as opened:
        assert opened.to_table(columns=["id", "tags"]).equals(table.select(["id", "tags"]))
        for columns in (["email"], ["customer"], None):
            with pytest.raises(AccessError):
                opened.to_table(columns=columns)
        with pytest.raises(AccessError):
            list(opened.to_batches())
        with pytest.raises(AccessError):
            opened.to_table(columns=["id"], filter=[("email", "=", "user1@example.com")])
    with pc.open(path, keys=[keys.open], on_missing_key="null") as opened:
        shown = opened.to_table()
        assert shown["email"].null_count == shown["customer"].null_count == 1000
        assert shown["tags"].equals(table["tags"])


def test_what_people_see(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    odd = table.rename_columns(["id", "<email>", "city", "customer", "tags"])
    path = write(tmp_path / "a.parquet", odd, keys.policy("<email>", "customer.age"))
    with pc.open(path, keys=[keys.open]) as opened:
        text, page = repr(opened), opened._repr_html_()
    assert "1,000 rows" in text
    assert "footer of the file was checked" in text
    lines = {line.split()[0]: line for line in text.splitlines()[4:]}
    assert "encrypted under keystore/open/" in lines["id"]
    assert "encrypted under keystore/secret/" in lines["<email>"]
    assert "key missing" in lines["<email>"]
    assert lines["customer"].count("keystore/") == 2
    assert "<td>&lt;email&gt;</td>" in page
    assert "<email>" not in page
    some = write(tmp_path / "b.parquet", table, keys.policy("customer.age", default=False))
    with pc.open(some, keys=[]) as opened:
        assert "was not checked" in repr(opened)
        assert "partly encrypted" in repr(opened)
    pq.write_table(table, tmp_path / "plain.parquet")
    with pc.open(tmp_path / "plain.parquet") as opened:
        assert "not encrypted" in repr(opened)


def test_closing_wipes_keys_and_ends_reading(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    with pc.open(path, keys=[keys.open]) as opened:
        handed_out = opened.dataset()
    for read in (opened.to_table, handed_out.to_table, lambda: list(opened.to_batches())):
        with pytest.raises(UsageError, match="closed"):
            read()
    opened.close()


def test_credentials_can_be_given(tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    monkeypatch.delenv("PIPECRYPT_PASSPHRASE")
    with pytest.raises(AccessError):
        pc.open(path, keys=[keys.open])
    monkeypatch.setenv("PIPECRYPT_KEYS", "keystore:///nowhere#x")
    with pc.open(path, keys=[keys.open], credentials=CREDENTIALS) as opened:
        assert opened.num_rows == 1000


def test_misuse(tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    with pytest.raises(SourceNotFoundError):
        pc.open(tmp_path / "none.parquet", keys=[keys.open])
    with pytest.raises(UsageError):
        pc.open(path, keys=[keys.open], on_missing_key="zero")
    with pc.open(path, keys=[keys.open]) as opened:
        with pytest.raises(ColumnNotFoundError):
            opened.to_table(columns=["mail"])
        with pytest.raises(ColumnNotFoundError):
            opened.to_table(filter=[("mail", "=", 1)])
        with pytest.raises(UsageError):
            opened.to_table(columns="email")
        with pytest.raises(UsageError):
            opened.to_table(filter=[("id", "~", 1)])
        with pytest.raises(UsageError):
            opened.to_table(filter=[("id", "<", "one")])
        for batch_rows in (0, -1, 1 << 31, 1.5):
            with pytest.raises(UsageError):
                next(opened.to_batches(batch_rows=batch_rows))  # type: ignore[arg-type]
        monkeypatch.setattr(dataset_module.importlib, "import_module", _not_installed)
        with pytest.raises(MissingExtraError) as raised:
            opened.to_polars()
        assert raised.value.hint == "pip install polars"
        with pytest.raises(MissingExtraError):
            opened.to_pandas()


def _not_installed(name: str) -> object:
    raise ImportError(name)


def test_tampering_is_noticed(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    # Of so small a file, pyarrow's first look at the footer reaches into the chunks already.
    with pytest.raises(IntegrityError), pc.open(path, keys=[keys.open]) as opened:
        opened.to_table()
    path.write_bytes(data[:-9])
    with pytest.raises(FormatError):
        pc.open(path, keys=[keys.open])


def test_errors_of_filters_quote_no_values(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    with pc.open(path, keys=[keys.open]) as opened:
        with pytest.raises(FormatError) as raised:
            opened.to_table(filter=pac.field("email").cast(pa.int64()) > 3)
        assert "user" in str(raised.value.__cause__)
        assert "user" not in raised.value.message + raised.value.hint
        with pytest.raises(UsageError):
            opened.to_table(filter=pac.field("tags") > 3)


def test_a_closed_dataset_can_be_shown(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    with pc.open(path, keys=[keys.open]) as opened:
        pass
    assert "closed" in repr(opened)
    assert "closed" in opened._repr_html_()
