"""Parts of a file beside its pages: Bloom filters, indexes, limits; and what inspecting tells of them."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import FormatError, LimitError, UnsupportedError
from pipecrypt.parquet.footer.inspect import inspect_file
from pipecrypt.parquet.footer.row_groups import RowGroups, check_counts
from pipecrypt.parquet.footer.stored import encode_plain_footer, read_plain_footer
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.parquet.wire.fields import RowGroup
from pipecrypt.parquet.wire.thrift import Raw, WireType
from tests.parquet.world import (
    MemorySource,
    RandomKeys,
    all_columns,
    decrypt,
    encrypt,
    only,
    parquet_bytes,
    sample_table,
)


@pytest.fixture(scope="module")
def duckdb_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("duckdb") / "bloom.parquet"
    rows = "select 'PLANTED-' || (range % 100) as name, range % 50 as number, range as id from range(10000)"
    duckdb.sql(f"copy ({rows}) to '{place}' (row_group_size 5000)")
    data = place.read_bytes()
    metadata = duckdb.sql(f"select bloom_filter_offset from parquet_metadata('{place}')").fetchall()  # noqa: S608
    assert any(offset for (offset,) in metadata), "this DuckDB writes no Bloom filters"
    return data


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("pattern", ["name", "id", "*"])
@pytest.mark.parametrize("digest", [None, DigestAlgorithm.SHA256])
def test_bloom_filters_survive(
    duckdb_file: bytes, footer: FooterMode, pattern: str, digest: DigestAlgorithm | None, tmp_path: Path
) -> None:
    keys = RandomKeys()
    encrypted = encrypt(duckdb_file, only(pattern, footer=footer, digest=digest), keys)
    assert decrypt(encrypted, keys) == duckdb_file
    assert (b"PLANTED" in encrypted) == (pattern == "id")
    if pattern == "name" and footer is FooterMode.PLAINTEXT:
        path = tmp_path / "a.parquet"
        path.write_bytes(encrypted)
        # The plaintext column's Bloom filter has moved and must still answer rightly.
        for number, count in ((7, 200), (51, 0)):
            query = f"select count(*) from '{path}' where number = {number}"  # noqa: S608  # a path of our own
            assert duckdb.sql(query).fetchall() == [(count,)]


def test_plaintext_page_indexes_point_to_where_pages_are_now() -> None:
    original = parquet_bytes(sample_table(5000), data_page_size=500, write_page_index=True, row_group_size=2000)
    encrypted = encrypt(original, only("email", "customer"), RandomKeys())
    before, after = (pq.ParquetFile(io.BytesIO(data)) for data in (original, encrypted))
    assert after.read(columns=["id", "city"]).equals(before.read(columns=["id", "city"]))
    column = after.metadata.row_group(1).column(0)
    assert column.has_offset_index
    assert column.has_column_index


def test_counts_over_the_ordinals_are_refused() -> None:
    check_counts(32_767, 32_767, "file")
    with pytest.raises(LimitError):
        check_counts(32_768, 1, "file")
    with pytest.raises(LimitError):
        check_counts(1, 32_768, "file")


@pytest.mark.parametrize("write_page_index", [False, True])
def test_too_many_pages_are_counted_by_index_or_walk(write_page_index: bool) -> None:
    table = pa.table({"n": pa.array(range(40_000), pa.int64())})
    original = parquet_bytes(
        table, data_page_size=1, write_batch_size=1, use_dictionary=False, write_page_index=write_page_index
    )
    keys = RandomKeys()
    with pytest.raises(LimitError):
        encrypt(original, all_columns(), keys)
    assert not keys.made
    plain = parquet_bytes(table.append_column("m", table["n"]), use_dictionary=False)
    assert encrypt(plain, all_columns(), keys)


def test_column_in_another_file_is_refused() -> None:
    place = io.BytesIO()
    metadata: list[pq.FileMetaData] = []
    table = pa.table({"n": [1, 2, 3]})
    pq.write_table(table, io.BytesIO(), metadata_collector=metadata)
    metadata[0].set_file_path("elsewhere.parquet")
    metadata[0].write_metadata_file(place)
    with pytest.raises((UnsupportedError, FormatError)):
        encrypt(place.getvalue(), all_columns(), RandomKeys())


def test_inspect_tells_footer_columns_and_readers() -> None:
    original = parquet_bytes(sample_table(), row_group_size=300)
    plain = inspect_file(MemorySource(original))
    assert (plain.encrypted, plain.footer_mode, plain.overhead_bytes) == (False, None, None)
    assert [reader.verdict for reader in plain.readers] == ["all"]

    encrypted = encrypt(original, only("email"), RandomKeys(), path="a/b.parquet")
    summary = inspect_file(MemorySource(encrypted))
    assert (summary.footer_mode, summary.algorithm, summary.data_keys) == ("plaintext", "AES_GCM_V1", "batch")
    assert (summary.rows, summary.batches, summary.path) == (1000, 4, "a/b.parquet")
    assert summary.overhead_bytes == len(encrypted) - len(original)
    assert {column.path for column in summary.columns if column.encrypted} == {"email"}

    hidden = inspect_file(MemorySource(encrypt(original, all_columns(FooterMode.ENCRYPTED), RandomKeys())))
    assert (hidden.footer_mode, hidden.rows, hidden.columns) == ("encrypted", None, ())
    assert hidden.dataset_id is not None


@pytest.mark.parametrize(
    ("policy", "reader", "verdict"),
    [
        (only("email"), "DuckDB", "plaintext columns"),
        (only("email"), "Polars", "plaintext columns"),
        (only("email"), "any reader without keys", "plaintext columns"),
        (all_columns(), "any reader without keys", "no"),
        (all_columns(data_keys=KeyScope.FILE), "Polars", "all"),
        (
            EncryptionPolicy(default="k", footer=FooterMode.ENCRYPTED, uniform=True, bind_path=False),
            "DuckDB",
            "all",
        ),
        (only("email", footer=FooterMode.ENCRYPTED), "DuckDB", "no"),
    ],
)
def test_verdicts_on_readers(policy: EncryptionPolicy, reader: str, verdict: str) -> None:
    encrypted = encrypt(parquet_bytes(sample_table(), row_group_size=300), policy, RandomKeys())
    readers = {summary.reader: summary.verdict for summary in inspect_file(MemorySource(encrypted)).readers}
    assert readers[reader] == verdict


def test_fields_unknown_to_us_need_an_encrypted_footer() -> None:
    original = parquet_bytes(sample_table(10))
    footer, body_end = read_plain_footer(MemorySource(original))
    chunk = RowGroups(footer, "footer").struct(0).structs(RowGroup.COLUMNS)[1]
    chunk.set(20, WireType.BINARY, Raw(b"\x03abc"))
    newer = original[:body_end] + b"".join(encode_plain_footer(footer))
    with pytest.raises(UnsupportedError):
        encrypt(newer, all_columns(), RandomKeys())
    keys = RandomKeys()
    assert decrypt(encrypt(newer, all_columns(FooterMode.ENCRYPTED), keys), keys) == newer
    assert decrypt(encrypt(newer, only("id"), keys), keys) == newer


@pytest.mark.parametrize("footer", list(FooterMode))
@pytest.mark.parametrize("scope", list(KeyScope))
def test_row_groups_that_are_closed_and_opened_again(
    monkeypatch: pytest.MonkeyPatch, footer: FooterMode, scope: KeyScope
) -> None:
    options: dict[str, object] = {
        "row_group_size": 50,
        "write_page_index": True,
        "data_page_size": 256,
        "write_page_checksum": True,
    }
    original = parquet_bytes(sample_table(1000), **options)
    digested = only("email", footer=footer, digest=DigestAlgorithm.SHA256)
    for policy in (all_columns(footer, scope), only("email", footer=footer), digested):
        keys = RandomKeys()
        kept_open = encrypt(original, policy, keys)
        monkeypatch.setattr("pipecrypt.parquet.footer.row_groups._OPEN_CHUNKS", 0)
        reopened = encrypt(original, policy, keys)
        assert decrypt(reopened, keys) == original
        monkeypatch.undo()
        assert decrypt(reopened, keys) == decrypt(kept_open, keys) == original


def test_a_glob_is_a_glob_even_if_a_column_has_its_name() -> None:
    table = pa.table({"id": [1], "card_number": ["4111-SECRET"], "card_*": ["x"]})
    encrypted = encrypt(parquet_bytes(table), only("card_*"), RandomKeys())
    assert b"4111-SECRET" not in encrypted
    assert [column.path for column in inspect_file(MemorySource(encrypted)).columns if column.encrypted] == [
        "card_number",
        "card_*",
    ]
