"""A file that is made of several must be one like any other: equal when read, its batches numbered through."""

from __future__ import annotations

import gc
import io
import tracemalloc
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import FormatError, LimitError
from pipecrypt.parquet.files import FileEncryption, open_table_view
from pipecrypt.parquet.footer.inspect import inspect_file
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.parquet.report import FileReport
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.world import (
    MemorySink,
    MemorySource,
    RandomKeys,
    all_columns,
    changes_the_engine,
    decrypt,
    only,
    parquet_bytes,
    sample_table,
)


def grow(
    files: Iterable[bytes], policy: EncryptionPolicy, keys: RandomKeys, **key_values: bytes
) -> tuple[bytes, FileReport]:
    sink = MemorySink()
    with FileEncryption(sink, policy, keys=keys, context=Context(new_dataset_id(), "x.parquet")) as encryption:
        for data in files:
            encryption.append(MemorySource(data))
        report = encryption.finish({name.encode(): value for name, value in key_values.items()})
    return bytes(sink.data), report


def is_wiped(key: DataKey) -> bool:
    try:
        key.expose_key_bytes()
    except RuntimeError:
        return True
    return False


def slices(table: pa.Table, rows: int, **options: object) -> list[bytes]:
    return [parquet_bytes(table.slice(at, rows), **options) for at in range(0, len(table), rows)]


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("data_keys", KeyScope)
@pytest.mark.parametrize("indexes", [False, True])
def test_the_whole_is_the_concatenation(footer: FooterMode, data_keys: KeyScope, indexes: bool) -> None:
    table, keys = sample_table(1000), RandomKeys()
    files = slices(table, 130, write_page_index=indexes, row_group_size=100)
    encrypted, report = grow(files, all_columns(footer, data_keys), keys)
    assert (report.rows, report.batches, report.source_bytes) == (1000, 15, sum(map(len, files)))
    assert report.sink_bytes == len(encrypted)
    assert report.data_keys == len(keys.made) == (6 * 15 if data_keys is KeyScope.BATCH else 6) + 1

    plain = decrypt(encrypted, keys)
    file = pq.ParquetFile(io.BytesIO(plain))
    assert file.read().equals(table.cast(file.schema_arrow))
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [100, 30] * 7 + [90]
    assert file.metadata.num_rows == 1000
    with open_table_view(MemorySource(encrypted), keys=keys) as view:
        shown = pq.read_table(io.BytesIO(bytes(view.read_range(0, view.size_bytes))))
    assert shown.equals(file.read())


@pytest.mark.parametrize("digest", [None, *DigestAlgorithm])
def test_columns_left_in_plaintext_are_read_by_anybody(digest: DigestAlgorithm | None) -> None:
    table, keys = sample_table(900), RandomKeys()
    encrypted, _ = grow(slices(table, 200, write_page_index=True), only("email", digest=digest), keys)
    plain = pq.read_table(io.BytesIO(decrypt(encrypted, keys)))
    assert plain.equals(table.cast(plain.schema))
    with open_table_view(MemorySource(encrypted), keys=keys) as view:
        assert pq.read_table(io.BytesIO(bytes(view.read_range(0, view.size_bytes)))).equals(plain)
    assert pq.read_table(io.BytesIO(encrypted), columns=["id", "tags"]).equals(table.select(["id", "tags"]))


def test_keys_of_finished_batches_are_wiped() -> None:
    seen, keys = [], RandomKeys()
    make = keys.new_data_key

    def remember(reference: str, context: Context) -> object:
        made = make(reference, context)
        seen.append(made[0])
        return made

    keys.new_data_key = remember  # type: ignore[method-assign,assignment]
    files = slices(sample_table(300), 100)
    with FileEncryption(MemorySink(), all_columns(), keys=keys, context=Context(new_dataset_id(), "x")) as encryption:
        encryption.append(MemorySource(files[0]))
        assert [is_wiped(key) for key in seen] == [False] + [True] * 6
    assert all(is_wiped(key) for key in seen)


def test_key_values_are_added_and_a_file_without_rows_keeps_its_schema() -> None:
    keys, empty = RandomKeys(), parquet_bytes(sample_table().slice(0, 0))
    encrypted, report = grow([empty], all_columns(FooterMode.ENCRYPTED), keys, note=b"PLANTED")
    assert (report.rows, report.batches) == (0, pq.ParquetFile(io.BytesIO(empty)).num_row_groups)
    assert b"PLANTED" not in encrypted
    plain = pq.ParquetFile(io.BytesIO(decrypt(encrypted, keys)))
    assert plain.schema_arrow.equals(sample_table().schema)
    assert plain.metadata.metadata[b"note"] == b"PLANTED"


def test_another_schema_is_refused() -> None:
    files = [parquet_bytes(pa.table({"a": [1]})), parquet_bytes(pa.table({"a": ["x"]}))]
    with pytest.raises(FormatError):
        grow(files, all_columns(), RandomKeys())


@changes_the_engine
def test_more_row_groups_than_ordinals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.parquet.footer.row_groups.MAX_ORDINALS", 6)
    grow(slices(sample_table(600), 100), all_columns(), RandomKeys())
    with pytest.raises(LimitError):
        grow(slices(sample_table(700), 100), all_columns(), RandomKeys())


def test_inspect_counts_all_batches() -> None:
    encrypted, _ = grow(slices(sample_table(400), 100), all_columns(), RandomKeys())
    assert inspect_file(MemorySource(encrypted)).batches == 4


class _LengthOnly:
    def __init__(self) -> None:
        self.end = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.end = bytes(data)[-8:]


class _ForgottenKeys(RandomKeys):
    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        made = super().new_data_key(key_reference, context)
        self.by_metadata.clear()
        self.made.clear()
        return made


def test_memory_grows_by_the_footer_and_by_nothing_else() -> None:
    data = parquet_bytes(pa.table({f"column{index}": [1, 2, 3] for index in range(50)}))
    sink, counts = _LengthOnly(), (20, 70)
    held: list[int] = []
    tracemalloc.start()
    with FileEncryption(
        sink, all_columns(), keys=_ForgottenKeys(), context=Context(new_dataset_id(), "x")
    ) as encryption:
        for count in range(counts[1] + 1):
            if count in counts:
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
            encryption.append(MemorySource(data))
        encryption.finish()
    tracemalloc.stop()
    footer_bytes = int.from_bytes(sink.end[:4], "little") * (counts[1] - counts[0]) // (counts[1] + 1)
    assert held[1] - held[0] < 2 * footer_bytes
