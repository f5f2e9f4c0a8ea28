"""What an attacker, or an odd writer, may put into a file; each case once went unnoticed or made an unreadable file."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import FormatError, IntegrityError, LimitError, UnsupportedError
from pipecrypt.parquet.files import MissingKeys, open_table_view
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups
from pipecrypt.parquet.footer.stored import encode_plain_footer, read_plain_footer, read_sealed_footer
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.wire.fields import ColumnMetaData, FileMetaData, RowGroup
from pipecrypt.parquet.wire.thrift import Raw, Struct, WireType
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey
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


def _edited(data: bytes, edit: Callable[[Struct, RowGroups], None]) -> bytes:
    footer, body_end = read_plain_footer(MemorySource(data))
    edit(footer, RowGroups(footer, "memory.parquet"))
    return data[:body_end] + b"".join(encode_plain_footer(footer))


def _chunk(row_groups: RowGroups, name: str) -> Chunk:
    return next(chunk for chunk in row_groups.chunks(0) if chunk.leaf.dotted == name)


def test_the_algorithm_beside_an_encrypted_footer_cannot_be_weakened() -> None:
    # The field AES_GCM_V1 (1) of the union becomes AES_GCM_CTR_V1 (2), under which pages are not authenticated.
    keys = RandomKeys()
    encrypted = bytearray(encrypt(parquet_bytes(sample_table(10)), all_columns(FooterMode.ENCRYPTED), keys))
    start = len(encrypted) - 8 - int.from_bytes(encrypted[-8:-4], "little")
    assert encrypted[start : start + 2] == b"\x1c\x1c"
    encrypted[start + 1] = 0x2C
    assert read_sealed_footer(MemorySource(bytes(encrypted))).algorithm.ctr_pages
    with pytest.raises(IntegrityError):
        decrypt(bytes(encrypted), keys)
    with pytest.raises(IntegrityError):
        open_table_view(MemorySource(bytes(encrypted)), keys=keys)


def test_a_given_prefix_must_be_the_stored_one() -> None:
    keys = RandomKeys()
    encrypted = encrypt(parquet_bytes(sample_table(10)), all_columns(), keys, path="a.parquet")
    stored = read_sealed_footer(MemorySource(encrypted)).algorithm.aad_prefix
    assert stored is not None
    assert decrypt(encrypted, keys, stored)
    with pytest.raises(IntegrityError):
        decrypt(encrypted, keys, stored.replace(b"a.parquet", b"b.parquet"))


@pytest.mark.parametrize("path", [Raw(b"\x05"), Raw(b"\x18\x05other"), Raw(b"")])
def test_a_chunk_may_call_its_column_anything(path: Raw) -> None:
    def edit(_: Struct, row_groups: RowGroups) -> None:
        wire_type = WireType.LIST if path[:1] == b"\x18" else WireType.I32 if path else WireType.TRUE
        _chunk(row_groups, "email").metadata.set(ColumnMetaData.PATH_IN_SCHEMA, wire_type, path)

    odd, keys = _edited(parquet_bytes(sample_table(10)), edit), RandomKeys()
    assert decrypt(encrypt(odd, only("email"), keys), keys) == odd


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (ColumnMetaData.DATA_PAGE_OFFSET, 2**40),
        (ColumnMetaData.DATA_PAGE_OFFSET, 0),
        (ColumnMetaData.DICTIONARY_PAGE_OFFSET, 2**40),
        (ColumnMetaData.DICTIONARY_PAGE_OFFSET, 0),
        (ColumnMetaData.INDEX_PAGE_OFFSET, 77),
    ],
)
@pytest.mark.parametrize("column", ["city", "email", "id"])
def test_offsets_that_point_nowhere(field: int, value: int, column: str) -> None:
    use_dictionary = field != ColumnMetaData.DICTIONARY_PAGE_OFFSET

    def edit(_: Struct, row_groups: RowGroups) -> None:
        _chunk(row_groups, column).metadata.set(field, WireType.I64, value)

    original = parquet_bytes(sample_table(100), use_dictionary=use_dictionary)
    odd, keys = _edited(original, edit), RandomKeys()
    for policy in (only("email"), all_columns()):
        encrypted = encrypt(odd, policy, keys)
        assert decrypt(encrypted, keys) == odd
        with open_table_view(MemorySource(encrypted), keys=keys) as view:
            shown = io.BytesIO(bytes(view.read_range(0, view.size_bytes)))
        if (field, value) != (ColumnMetaData.DATA_PAGE_OFFSET, 0):  # pyarrow takes 0 at its word, in the original too
            assert pq.read_table(shown).equals(pq.read_table(io.BytesIO(original)))


@pytest.mark.parametrize("level", ["footer", "schema", "row group"])
def test_fields_unknown_to_us_stay_in_no_clear_struct(level: str) -> None:
    def edit(footer: Struct, row_groups: RowGroups) -> None:
        structs = {
            "footer": footer,
            "schema": footer.structs(FileMetaData.SCHEMA)[1],
            "row group": row_groups.struct(0),
        }
        structs[level].set(30, WireType.BINARY, Raw(b"\x06secret"))

    newer, keys = _edited(parquet_bytes(sample_table(10)), edit), RandomKeys()
    with pytest.raises(UnsupportedError):
        encrypt(newer, only("email"), keys)
    encrypted = encrypt(newer, all_columns(FooterMode.ENCRYPTED), keys)
    assert b"secret" not in encrypted
    assert decrypt(encrypted, keys) == newer


def test_a_field_id_that_no_field_can_have() -> None:
    original = parquet_bytes(sample_table(10))
    footer, body_end = read_plain_footer(MemorySource(original))
    footer.entries.insert(0, (-1, WireType.TRUE, True))
    with pytest.raises(FormatError):
        encrypt(original[:body_end] + b"".join(encode_plain_footer(footer)), all_columns(), RandomKeys())


def test_chunks_over_each_other() -> None:
    def edit(_: Struct, row_groups: RowGroups) -> None:
        place = _chunk(row_groups, "id").metadata.integer(ColumnMetaData.DATA_PAGE_OFFSET)
        metadata = _chunk(row_groups, "email").metadata
        metadata.remove(ColumnMetaData.DICTIONARY_PAGE_OFFSET)
        metadata.set_integer(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, place)

    with pytest.raises(FormatError):
        encrypt(_edited(parquet_bytes(sample_table(10)), edit), only("email"), RandomKeys())


def test_a_key_serves_no_more_modules_than_gcm_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.parquet.pages.headers.MAX_INVOCATIONS", 10)
    with pytest.raises(LimitError):
        encrypt(parquet_bytes(sample_table(1000)), all_columns(), RandomKeys())


class _RememberingKeys(RandomKeys):
    def __init__(self) -> None:
        super().__init__()
        self.handed_out: list[DataKey] = []

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        key, metadata = super().new_data_key(key_reference, context)
        self.handed_out.append(key)
        return key, metadata

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        self.handed_out.append(super().open_data_key(key_metadata, context))
        return self.handed_out[-1]


def test_every_data_key_is_wiped() -> None:
    keys = _RememberingKeys()
    encrypted = encrypt(parquet_bytes(sample_table(100), row_group_size=50), all_columns(), keys)
    made = len(keys.handed_out)
    with pytest.raises(IntegrityError):
        decrypt(encrypted[:100] + bytes((encrypted[100] ^ 1,)) + encrypted[101:], keys)
    decrypt(encrypted, keys)
    assert len(keys.handed_out) > made > 10
    for key in keys.handed_out:
        with pytest.raises(RuntimeError):
            key.expose_key_bytes()


def test_zeros_follow_the_last_page_of_a_shown_chunk() -> None:
    keys = RandomKeys()
    encrypted = encrypt(parquet_bytes(sample_table(100), write_page_checksum=True), only("email"), keys)
    sealed = read_sealed_footer(MemorySource(encrypted))
    with OpenedFile(sealed, keys=keys, aad_prefix=None) as opened:
        metadata = next(chunk for chunk in opened.open_row_group(0) if chunk.leaf.dotted == "email").metadata
        start = metadata.integer(ColumnMetaData.DICTIONARY_PAGE_OFFSET) or 0
        end = start + (metadata.integer(ColumnMetaData.TOTAL_COMPRESSED_SIZE) or 0)
    with open_table_view(MemorySource(encrypted), keys=keys) as view:
        assert bytes(view.read_range(end - 64, 64)) == bytes(64)


@pytest.mark.parametrize(
    ("rows", "expected"), [(2**62, LimitError), (2**40 + 1, LimitError), (-1, FormatError), (-(2**40), FormatError)]
)
def test_row_counts_make_no_more_nulls_than_memory_holds(rows: int, expected: type[Exception]) -> None:
    def edit(_: Struct, row_groups: RowGroups) -> None:
        row_groups.struct(0).set(RowGroup.NUM_ROWS, WireType.I64, rows)

    keys = RandomKeys()
    data = encrypt(_edited(parquet_bytes(sample_table(10)), edit), only("email"), keys)
    metadata = next(name for name, (_, context) in keys.by_metadata.items() if context.column)
    del keys.by_metadata[metadata]
    with pytest.raises(expected):
        open_table_view(MemorySource(data), keys=keys, missing=MissingKeys.NULL)
