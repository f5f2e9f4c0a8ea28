"""The stored footer: its digest is that of the file's end, and a check sees it before anything else happens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pyarrow as pa
import pytest

from pipecrypt.errors import IntegrityError, NotEncryptedError
from pipecrypt.parquet.files import TableView, decrypt_file, encrypt_file, open_view
from pipecrypt.parquet.footer.stored import StoredFooter, read_stored_footer
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.parquet.report import FileReport, SealedColumn
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.blob_world import restore, seal
from tests.parquet.test_growing import grow, slices
from tests.parquet.world import (
    MemorySink,
    MemorySource,
    RandomKeys,
    all_columns,
    encrypt,
    no_row_groups,
    only,
    parquet_bytes,
    sample_table,
)


def _encrypted(data: bytes, policy: EncryptionPolicy) -> tuple[bytes, FileReport]:
    sink = MemorySink()
    context = Context(new_dataset_id(), "memory.parquet")
    report = encrypt_file(MemorySource(data), sink, policy, keys=RandomKeys(), context=context)
    return bytes(sink.data), report


def _end_digest(data: bytes) -> str:
    length = int.from_bytes(data[-8:-4], "little")
    return hashlib.sha256(data[-8 - length :]).hexdigest()


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("columns", [3, 4000])
def test_the_report_holds_the_digest_of_the_files_end(footer: FooterMode, columns: int) -> None:
    table = pa.table({f"column{index:05}" * 8: [1, 2] for index in range(columns)})
    data, report = _encrypted(parquet_bytes(table, row_group_size=1), all_columns(footer))
    stored = read_stored_footer(MemorySource(data))
    assert report.footer_sha256 == stored.sha256 == _end_digest(data)
    assert stored.size_bytes == len(data) == report.sink_bytes
    if columns > 3:
        assert len(data) - stored.body_end > 3 << 20


@pytest.mark.parametrize("way", ["file", "stream"])
def test_the_report_on_a_file_of_chunks_holds_it_too(way: str) -> None:
    keys = RandomKeys()
    data, report = seal(bytes(10_000), keys, way=way)
    assert report.footer_sha256 == read_stored_footer(MemorySource(data)).sha256 == _end_digest(data)
    assert report.sealed_columns == (SealedColumn(("chunk",), "master"),)
    assert restore(data, keys) == bytes(10_000)


def test_the_report_on_a_file_of_several_holds_it_too() -> None:
    data, report = grow(slices(sample_table(300), 100), only("email"), RandomKeys())
    assert report.footer_sha256 == _end_digest(data)
    assert report.sealed_columns == (SealedColumn(("email",), "master"),)


def test_encrypted_columns_are_reported_with_their_master_keys() -> None:
    policy = EncryptionPolicy(rules=(ColumnRule("email", "pii"), ColumnRule("customer", "crm")), footer_key="footer")
    for data in (parquet_bytes(sample_table(10)), no_row_groups(sample_table(1).schema)):
        _, report = _encrypted(data, policy)
        assert report.sealed_columns == (
            SealedColumn(("email",), "pii"),
            SealedColumn(("customer", "name"), "crm"),
            SealedColumn(("customer", "age"), "crm"),
        )
        assert report.encrypted_columns == 3


def test_uniform_encryption_is_under_the_master_key_of_the_footer() -> None:
    policy = EncryptionPolicy(default="master", footer_key="footer", uniform=True)
    keys = RandomKeys()
    sink = MemorySink()
    data = parquet_bytes(pa.table({"a": [1], "b": ["x"]}))
    report = encrypt_file(MemorySource(data), sink, policy, keys=keys, context=Context(new_dataset_id(), "x"))
    assert report.sealed_columns == (SealedColumn(("a",), "footer"), SealedColumn(("b",), "footer"))
    assert {reference for reference, _ in keys.made} == {"footer"}


class _UnaskedKeys(RandomKeys):
    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        raise AssertionError("a key was asked for before the footer was checked")


def _decrypt(source: MemorySource, check: Callable[[StoredFooter], None]) -> None:
    sink = MemorySink()
    try:
        decrypt_file(source, sink, keys=_UnaskedKeys(), check=check)
    finally:
        assert not sink.data


@pytest.mark.parametrize("footer", [*FooterMode, None])
def test_a_check_is_called_before_a_key_is_asked_for(footer: FooterMode | None) -> None:
    plain = parquet_bytes(sample_table(10))
    data = plain if footer is None else encrypt(plain, all_columns(footer), RandomKeys())
    seen: list[StoredFooter] = []

    def refuse(stored: StoredFooter) -> None:
        seen.append(stored)
        raise IntegrityError("not the footer that was signed")

    with pytest.raises(IntegrityError):
        _decrypt(MemorySource(data), refuse)
    assert [(stored.sha256, stored.size_bytes) for stored in seen] == [(_end_digest(data), len(data))]
    assert (seen[0].sealed is None) == (footer is None)


def test_a_plaintext_file_that_passes_the_check_is_still_not_decrypted() -> None:
    with pytest.raises(NotEncryptedError):
        _decrypt(MemorySource(parquet_bytes(sample_table(10))), lambda _: None)


class _CountingSource(MemorySource):
    """Knows how often its end was read."""

    ends_read = 0

    def read_range(self, start: int, length: int) -> memoryview:
        self.ends_read += start + length == self.size_bytes
        return super().read_range(start, length)


@pytest.mark.parametrize("footer", FooterMode)
def test_one_stored_footer_serves_to_find_out_what_a_file_is_and_to_open_it(footer: FooterMode) -> None:
    keys = RandomKeys()
    table = sample_table(100)
    source = _CountingSource(encrypt(parquet_bytes(table), all_columns(footer), keys))
    stored = read_stored_footer(source)
    with open_view(source, keys=keys, stored=stored) as view:
        assert isinstance(view, TableView)
        assert view.size_bytes == source.size_bytes
        assert len(view.leaves) == 6
    assert source.ends_read == 1
