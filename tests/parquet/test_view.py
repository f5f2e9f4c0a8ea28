"""The plaintext view of an encrypted file: what readers see, what they may not see, and from how many threads."""

from __future__ import annotations

import gc
import io
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import AccessError, FormatError, KeyNotFoundError
from pipecrypt.parquet.files import ChunkCache, MissingKeys, TableView, open_table_view
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.parquet.table import view as view_module
from pipecrypt.parquet.table.view_layout import LOCKED_GAP_BYTES
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.world import (
    DATA,
    MemorySource,
    PlainSource,
    RandomKeys,
    all_columns,
    encrypt,
    needs_vectors,
    parquet_bytes,
)
from tests.parquet.world import sample_table as sample


class SomeKeys(RandomKeys):
    """Keys of which those made for one key reference are not given back."""

    def __init__(self, missing: str = "secret") -> None:
        super().__init__()
        self._missing = missing
        self.withheld: set[bytes] = set()

    def new_data_key(self, key_reference: str, context: object) -> tuple[DataKey, bytes]:
        key, metadata = super().new_data_key(key_reference, context)  # type: ignore[arg-type]
        if key_reference == self._missing:
            self.withheld.add(metadata)
        return key, metadata

    def open_data_key(self, key_metadata: bytes, context: object) -> DataKey:
        if key_metadata in self.withheld:
            raise KeyNotFoundError("the key 'secret' is missing")
        return super().open_data_key(key_metadata, context)  # type: ignore[arg-type]


class SideBySide(MemorySource):
    """A source that fetches several ranges at once, and notes what it was asked."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.calls: list[list[tuple[int, int]]] = []

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        self.calls.append(list(ranges))
        return [self.read_range(start, length) for start, length in ranges]


class OneBuffer(PlainSource):
    """A source whose answers are overwritten by the next one, as a local file's are."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._buffer = bytearray(len(data))

    def read_range(self, start: int, length: int) -> memoryview:
        self._buffer[:length] = super().read_range(start, length)
        return memoryview(self._buffer)[:length]


def read_file(view: TableView, *, pre_buffer: bool = True) -> pq.ParquetFile:
    return pq.ParquetFile(pa.PythonFile(_Seekable(view), mode="r"), pre_buffer=pre_buffer)


class _Seekable(io.RawIOBase):
    def __init__(self, view: TableView) -> None:
        self._view, self._at = view, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._view.size_bytes)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = self._view.size_bytes - self._at
        length = left if size is None or size < 0 else min(size, left)
        data = bytes(self._view.read_range(self._at, length))
        self._at += length
        return data


def some(*patterns: str, footer: FooterMode) -> EncryptionPolicy:
    secret = tuple(ColumnRule(pattern, "secret") for pattern in patterns)
    return EncryptionPolicy(rules=secret, default="open", footer=footer, footer_key="open")


def opened(table: pa.Table, policy: EncryptionPolicy, missing: MissingKeys) -> TableView:
    keys = SomeKeys()
    data = encrypt(parquet_bytes(table, row_group_size=300), policy, keys)
    return open_table_view(MemorySource(data), keys=keys, missing=missing)  # type: ignore[arg-type]


@pytest.mark.parametrize("footer", FooterMode)
def test_the_view_is_as_large_as_the_file_and_reads_as_the_table(footer: FooterMode) -> None:
    table, keys = sample(), RandomKeys()
    data = encrypt(parquet_bytes(table, row_group_size=300), all_columns(footer), keys)
    with open_table_view(MemorySource(data), keys=keys) as view:
        assert view.size_bytes == len(data)
        assert read_file(view).read().equals(table)
        assert sorted(view.column_keys) == list(range(len(view.leaves)))


@pytest.mark.parametrize("footer", FooterMode)
def test_locked_columns_raise_when_they_are_read_and_not_before(footer: FooterMode) -> None:
    table = sample()
    with opened(table, some("email", "customer.age", footer=footer), MissingKeys.ERROR) as view:
        file = read_file(view)
        assert file.schema_arrow.names == table.schema.names
        readable = ["id", "city", "tags"]
        assert file.read(readable).equals(table.select(readable))
        assert (
            file.read(["customer.name"])["customer"]
            .combine_chunks()
            .field("name")
            .equals(table["customer"].combine_chunks().field("name"))
        )
        for column in ("email", "customer.age"):
            with pytest.raises(AccessError, match=f"row group 0 column '{column}'"):
                file.read([column])
        with pytest.raises(AccessError):
            view.read_range(0, view.size_bytes)


def test_locked_chunks_lie_further_apart_than_readers_reach() -> None:
    with opened(sample(), some("email", "id", footer=FooterMode.PLAINTEXT), MissingKeys.ERROR) as view:
        metadata = read_file(view).metadata
        places = [metadata.row_group(group).column(column).data_page_offset for group in range(4) for column in (0, 1)]
        assert all(after - before > LOCKED_GAP_BYTES for before, after in pairwise(places))
        assert view.size_bytes - places[-1] > LOCKED_GAP_BYTES
        assert bytes(view.read_range(places[0] - 8, 8)) == bytes(8)


@pytest.mark.parametrize("footer", FooterMode)
def test_locked_columns_read_as_nulls_on_request(footer: FooterMode) -> None:
    table = sample()
    with opened(table, some("email", "customer.age", "tags", footer=footer), MissingKeys.NULL) as view:
        shown = read_file(view).read()
        assert shown.schema.names == table.schema.names
        assert shown.select(["id", "city"]).equals(table.select(["id", "city"]))
        for column in ("email", "customer", "tags"):
            assert shown[column].null_count == table.num_rows
        assert view.locked_columns


def deep_table() -> pa.Table:
    inner = pa.struct([pa.field("x", pa.int32(), nullable=False), pa.field("y", pa.list_(pa.string()))])
    types = {
        "required": pa.field("required", pa.int64(), nullable=False),
        "nested": pa.field("nested", pa.struct([pa.field("a", inner, nullable=False)]), nullable=False),
        "lists": pa.field("lists", pa.list_(pa.list_(inner))),
        "map": pa.field("map", pa.map_(pa.string(), pa.int64())),
        "decimal": pa.field("decimal", pa.decimal128(20, 3), nullable=False),
        "fixed": pa.field("fixed", pa.binary(7)),
        "time": pa.field("time", pa.timestamp("us", tz="Europe/Oslo"), nullable=False),
        "flag": pa.field("flag", pa.bool_(), nullable=False),
        "choice": pa.field("choice", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        "open": pa.field("open", pa.int64(), nullable=False),
    }
    rows = [
        {
            "required": row,
            "nested": {"a": {"x": row, "y": ["p"] * (row % 3)}},
            "lists": [[{"x": 1, "y": None}]] * (row % 2),
            "map": [("k", row)],
            "decimal": row,
            "fixed": b"1234567",
            "time": row,
            "flag": row % 2 == 0,
            "choice": "ab"[row % 2],
            "open": row,
        }
        for row in range(700)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(types.values())))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_kind_of_column_can_be_null(version: str) -> None:
    table, keys = deep_table(), SomeKeys()
    names = [name for name in table.schema.names if name != "open"]
    policy = some(*names, footer=FooterMode.PLAINTEXT)
    data = encrypt(parquet_bytes(table, row_group_size=300, data_page_version=version), policy, keys)
    with open_table_view(MemorySource(data), keys=keys, missing=MissingKeys.NULL) as view:  # type: ignore[arg-type]
        shown = read_file(view).read()
        assert shown["open"].equals(table["open"])
        assert all(shown[name].null_count == 700 for name in names)
        assert all(shown.schema.field(name).nullable for name in names)


def test_a_row_group_of_more_nulls_than_a_page_holds() -> None:
    table, keys = pa.table({"a": pa.nulls(2_500_000, pa.int8())}), SomeKeys()
    data = encrypt(parquet_bytes(table, row_group_size=2_500_000), some("a", footer=FooterMode.PLAINTEXT), keys)
    with open_table_view(MemorySource(data), keys=keys, missing=MissingKeys.NULL) as view:  # type: ignore[arg-type]
        assert read_file(view).read()["a"].null_count == 2_500_000


def test_any_range_is_the_same_in_one_piece_and_in_many() -> None:
    table, keys = sample(), RandomKeys()
    data = encrypt(parquet_bytes(table, row_group_size=300, write_page_checksum=True), all_columns(), keys)
    with open_table_view(OneBuffer(data), keys=keys) as view:
        whole = bytes(view.read_range(0, view.size_bytes))
        dice = random.Random(5)  # noqa: S311  # no secret
        ranges = [(start := dice.randrange(len(whole)), dice.randrange(len(whole) - start + 1)) for _ in range(200)]
        assert [bytes(data) for data in view.read_many(ranges)] == [whole[a : a + b] for a, b in ranges]
        for start, length in ranges:
            assert bytes(view.read_range(start, length)) == whole[start : start + length]
    assert pq.read_table(io.BytesIO(whole)).equals(table)
    for start, length in ((-1, 4), (0, len(whole) + 1), (len(whole), 1)):
        with pytest.raises(FormatError):
            view.read_range(start, length)


def test_many_threads_read_one_view() -> None:
    table, keys = sample(5000), RandomKeys()
    data = encrypt(parquet_bytes(table, row_group_size=500, data_page_size=1000), all_columns(), keys)
    with open_table_view(OneBuffer(data), keys=keys, cache=ChunkCache(50_000)) as view:
        whole = bytes(view.read_range(0, view.size_bytes))

        def read_some(seed: int) -> bool:
            dice = random.Random(seed)  # noqa: S311  # no secret
            for _ in range(50):
                start = dice.randrange(len(whole))
                length = dice.randrange(min(9000, len(whole) - start) + 1)
                if bytes(view.read_range(start, length)) != whole[start : start + length]:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read_some, range(16)))


def test_a_chunk_is_decrypted_once_and_its_neighbours_are_fetched_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table, keys = sample(), RandomKeys()
    source = SideBySide(encrypt(parquet_bytes(table, row_group_size=1000), all_columns(), keys))
    decrypted = []
    real = view_module.open_pages
    monkeypatch.setattr(
        view_module, "open_pages", lambda *args, **named: decrypted.append(named["what"]) or real(*args, **named)
    )
    with open_table_view(source, keys=keys) as view:
        metadata = read_file(view).metadata.row_group(0)
        first, third = metadata.column(0), metadata.column(2)
        start = first.dictionary_page_offset
        view.forget_plaintext()  # a reader's first look at the end of a small file reaches into its chunks
        decrypted.clear()
        source.calls.clear()
        view.read_range(start, 10)
        view.read_many([(start + 5, 10), (start + 2, 3)])
        assert len(decrypted) == 1
        assert len(source.calls) == 1
        view.read_many([(start, 10), (third.dictionary_page_offset, 10), (metadata.column(4).data_page_offset, 5)])
        assert len(decrypted) == 3
        assert [len(call) for call in source.calls] == [1, 2]
        view.forget_plaintext()
        view.read_range(start, first.total_compressed_size + metadata.column(1).total_compressed_size)
        assert len(decrypted) == 5
        assert len(source.calls[-1]) == 1


def test_keys_are_wiped_with_the_view() -> None:
    keys = RandomKeys()
    data = encrypt(parquet_bytes(sample()), all_columns(), keys)
    made: list[DataKey] = []
    real = keys.open_data_key
    keys.open_data_key = lambda *args: made.append(real(*args)) or made[-1]  # type: ignore[method-assign,func-returns-value]
    view = open_table_view(MemorySource(data), keys=keys)
    assert made
    del view
    for key in made:
        with pytest.raises(RuntimeError):
            key.expose_key_bytes()


def test_pruning_needs_statistics_of_encrypted_columns() -> None:
    with opened(sample(), some("email", footer=FooterMode.PLAINTEXT), MissingKeys.NULL) as view:
        metadata = read_file(view).metadata
        assert metadata.row_group(1).column(0).statistics.min == 300
        assert metadata.row_group(1).column(1).statistics is None
        assert pc.sum(read_file(view).read_row_group(1, ["id"])["id"]).as_py() == sum(range(300, 600))


@needs_vectors
@pytest.mark.parametrize(
    "name", ["alltypes_plain.parquet", "nested_maps.snappy.parquet", "repeated_no_annotation.parquet"]
)
def test_files_of_other_writers_read_as_nulls(name: str) -> None:
    plain, keys = (DATA / name).read_bytes(), SomeKeys()
    data = encrypt(plain, EncryptionPolicy(default="secret", footer_key="open"), keys)
    with open_table_view(MemorySource(data), keys=keys, missing=MissingKeys.NULL) as view:  # type: ignore[arg-type]
        shown = read_file(view).read()
        assert shown.num_rows == pq.read_table(io.BytesIO(plain)).num_rows
        assert all(not any(column.to_pylist()) for column in shown.columns)


def test_several_views_keep_plaintext_within_one_bound() -> None:
    keys = RandomKeys()
    data = encrypt(parquet_bytes(sample(), row_group_size=100, use_dictionary=False), all_columns(), keys)
    kept, views = ChunkCache(20_000), list[TableView]()

    def held_bytes() -> int:
        return sum(len(plain) for plain in kept._chunks.values())

    for _ in range(5):
        views.append(open_table_view(MemorySource(data), keys=keys, cache=kept))
        for start in range(4, len(data) - 4, 500):
            views[-1].read_range(start, 3)
        assert 10_000 < held_bytes() == kept._bytes <= 20_000
    views.pop().close()
    assert held_bytes() == kept._bytes
    views.clear()
    gc.collect()
    assert held_bytes() == kept._bytes == 0
