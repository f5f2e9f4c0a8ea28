"""Footers that describe no possible file are refused, with and without keys; all others keep their counts."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import FormatError, LimitError, PipecryptError
from pipecrypt.parquet.files import open_table_view
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.segments import RowsAndBatches, check_opened_structure, check_structure
from pipecrypt.parquet.footer.stored import read_sealed_footer, read_stored_footer
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnMetaData, FileMetaData, RowGroup
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType
from tests.parquet.blob_world import edit_footer, seal
from tests.parquet.test_forgeries import _chunk, _edited
from tests.parquet.test_integrity import small_file
from tests.parquet.test_vectors import ENCRYPTED, PLAIN
from tests.parquet.test_view import SomeKeys
from tests.parquet.world import (
    DATA,
    MemorySource,
    RandomKeys,
    all_columns,
    encrypt,
    needs_vectors,
    no_row_groups,
    only,
    parquet_bytes,
    sample_table,
)

# Its footer says 0 rows, its row groups have 6.
MISCOUNTED = "repeated_no_annotation.parquet"


def check(data: bytes) -> RowsAndBatches | None:
    return check_structure(read_stored_footer(MemorySource(data)), "memory.parquet")


def check_with_keys(data: bytes, keys: object, *, allow_missing_keys: bool = False) -> RowsAndBatches:
    sealed = read_sealed_footer(MemorySource(data))
    with OpenedFile(
        sealed,
        keys=keys,  # type: ignore[arg-type]
        aad_prefix=None,
        allow_missing_keys=allow_missing_keys,
    ) as opened:
        return check_opened_structure(opened)


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("open_chunks", [0, 10_000])
def test_counts_of_tables(footer: FooterMode, open_chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.parquet.footer.row_groups._OPEN_CHUNKS", open_chunks)
    keys = RandomKeys()
    for policy in (all_columns(footer), only("email", footer=footer)):
        data = encrypt(parquet_bytes(sample_table(1000), row_group_size=300, write_page_index=True), policy, keys)
        hidden = footer is FooterMode.ENCRYPTED
        assert check(data) == (None if hidden else (1000, 4))
        assert check_with_keys(data, keys) == (1000, 4)
    assert check(parquet_bytes(sample_table(1000), row_group_size=300)) == (1000, 4)
    assert check(encrypt(no_row_groups(sample_table(1).schema), all_columns(), keys)) == (0, 0)


def test_counts_of_a_file_of_chunks() -> None:
    keys = RandomKeys()
    data, report = seal(bytes(300_000), keys)
    assert check(data) is None
    assert check_with_keys(data, keys) == (report.rows, report.batches)


@needs_vectors
@pytest.mark.parametrize("name", [*PLAIN, *ENCRYPTED])
def test_files_of_other_writers_are_possible(name: str) -> None:
    data = (DATA / name).read_bytes()
    if name == MISCOUNTED:
        with pytest.raises(FormatError):
            check(data)
        return
    structure = check(data)
    if name in PLAIN and name != "incorrect_map_schema.parquet":  # which pyarrow does not open
        metadata = pq.read_metadata(io.BytesIO(data))
        assert structure == (metadata.num_rows, metadata.num_row_groups)


def test_missing_keys_hide_what_they_hide() -> None:
    keys = SomeKeys(missing="lost")
    policy = EncryptionPolicy(rules=(ColumnRule("email", "lost"),), footer=FooterMode.ENCRYPTED, footer_key="open")
    data = encrypt(parquet_bytes(sample_table(100)), policy, keys)
    assert check_with_keys(data, keys, allow_missing_keys=True) == (100, 1)


def _move(field: int, offset: int) -> Callable[[Struct, RowGroups], None]:
    def edit(_: Struct, row_groups: RowGroups) -> None:
        for chunk in row_groups.chunks(0):
            if chunk.leaf.dotted == "id":
                struct = chunk.entry if field in _ENTRY_FIELDS else chunk.metadata
                struct.set(field, WireType.I64, offset)
                struct.remove(ColumnMetaData.DICTIONARY_PAGE_OFFSET if struct is chunk.metadata else -1)

    return edit


_ENTRY_FIELDS = {ColumnChunk.OFFSET_INDEX_OFFSET, ColumnChunk.COLUMN_INDEX_OFFSET}


def _rows(rows: int | None) -> Callable[[Struct, RowGroups], None]:
    return lambda footer, _: footer.set_integer(FileMetaData.NUM_ROWS, WireType.I64, rows)


def _group(field: int, wire_type: int, value: int | None) -> Callable[[Struct, RowGroups], None]:
    return lambda _, row_groups: row_groups.struct(1).set_integer(field, wire_type, value)


def _drop_chunk(_: Struct, row_groups: RowGroups) -> None:
    struct = row_groups.struct(0)
    kept: list[Value] = [*struct.structs(RowGroup.COLUMNS)[:-1]]
    struct.set_list(RowGroup.COLUMNS, WireType.STRUCT, kept)


def _drop_metadata(_: Struct, row_groups: RowGroups) -> None:
    _chunk(row_groups, "id").entry.remove(ColumnChunk.META_DATA)


def _over_each_other(_: Struct, row_groups: RowGroups) -> None:
    place = _chunk(row_groups, "city").metadata.integer(ColumnMetaData.DATA_PAGE_OFFSET) or 0
    _move(ColumnMetaData.DATA_PAGE_OFFSET, place)(_, row_groups)


_IMPOSSIBLE: dict[str, Callable[[Struct, RowGroups], None]] = {
    "more rows": _rows(7),
    "less rows": _rows(5),
    "negative rows": _rows(-1),
    "no rows": _rows(None),
    "rows of a row group": _group(RowGroup.NUM_ROWS, WireType.I64, 4),
    "negative rows of a row group": _group(RowGroup.NUM_ROWS, WireType.I64, -3),
    "no rows of a row group": _group(RowGroup.NUM_ROWS, WireType.I64, None),
    "another ordinal": _group(RowGroup.ORDINAL, WireType.I16, 0),
    "a chunk less": _drop_chunk,
    "no metadata": _drop_metadata,
    "pages behind the file": _move(ColumnMetaData.DATA_PAGE_OFFSET, 10**9),
    "pages in the magic": _move(ColumnMetaData.DATA_PAGE_OFFSET, 1),
    "negative bytes": _move(ColumnMetaData.TOTAL_COMPRESSED_SIZE, -1),
    "pages over the footer": _move(ColumnMetaData.TOTAL_COMPRESSED_SIZE, 10**6),
    "values without bytes": _move(ColumnMetaData.TOTAL_COMPRESSED_SIZE, 0),
    "index behind the file": _move(ColumnChunk.OFFSET_INDEX_OFFSET, 10**9),
    "index in the magic": _move(ColumnChunk.COLUMN_INDEX_OFFSET, 0),
    "over each other": _over_each_other,
}


@pytest.mark.parametrize("name", _IMPOSSIBLE)
@pytest.mark.parametrize("footer", [*FooterMode, None])
def test_impossible_files(name: str, footer: FooterMode | None) -> None:
    plain, keys = small_file(), RandomKeys()
    if footer is None:
        with pytest.raises(FormatError):
            check(_edited(plain, _IMPOSSIBLE[name]))
        return
    data = encrypt(plain, only("email", footer=footer), keys)

    def edit(metadata: Struct) -> None:
        _IMPOSSIBLE[name](metadata, RowGroups(metadata, "x", is_sealed=True))

    assert check_with_keys(edit_footer(data, keys, lambda _: None), keys) == (6, 2)
    forged = edit_footer(data, keys, edit)
    with pytest.raises(FormatError):
        check_with_keys(forged, keys)
    if footer is FooterMode.PLAINTEXT:
        with pytest.raises(FormatError):
            check(forged)


def test_an_encrypted_footer_fills_its_place() -> None:
    data = encrypt(small_file(), all_columns(FooterMode.ENCRYPTED), RandomKeys())
    for more in (1, 16):
        length = int.from_bytes(data[-8:-4], "little") + more
        with pytest.raises(FormatError):
            check(data[:-8] + bytes(more) + length.to_bytes(4, "little") + b"PARE")


def test_more_chunks_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encrypt(small_file(), only("email"), RandomKeys())
    monkeypatch.setattr("pipecrypt.parquet.footer.row_groups._MAX_CHUNKS", 5)
    with pytest.raises(LimitError):
        check(data)


def test_checking_changes_nothing_for_who_opens_the_file_next() -> None:
    keys, seen = RandomKeys(), list[RowsAndBatches | None]()
    data = encrypt(small_file(), only("email"), keys)
    stored = read_stored_footer(MemorySource(data))
    seen.append(check_structure(stored, "memory.parquet"))
    with open_table_view(MemorySource(data), keys=keys, stored=stored) as view:
        shown = bytes(view.read_range(0, view.size_bytes))
    with open_table_view(MemorySource(data), keys=keys) as view:
        assert bytes(view.read_range(0, view.size_bytes)) == shown
    assert seen == [(6, 2)]


_BASE = encrypt(small_file(), only("email"), RandomKeys())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_footers_end_in_our_errors(data: st.DataObject) -> None:
    changed = bytearray(_BASE)
    for _ in range(data.draw(st.integers(1, 5))):
        changed[-data.draw(st.integers(1, int.from_bytes(_BASE[-8:-4], "little") + 8))] = data.draw(st.integers(0, 255))
    try:
        check(bytes(changed))
    except PipecryptError:
        return
