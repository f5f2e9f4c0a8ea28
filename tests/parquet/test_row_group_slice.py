"""Some row groups as a file of their own: the same rows, whatever the codec, the columns or the footer."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import AlreadyEncryptedError, FormatError
from pipecrypt.parquet.files import encrypt_file, open_table_view, row_group_sizes, slice_row_groups
from pipecrypt.parquet.footer.entries import read_originals
from pipecrypt.parquet.footer.segments import check_structure
from pipecrypt.parquet.footer.stored import read_plain_footer, read_stored_footer
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode
from pipecrypt.parquet.wire.fields import ROW_GROUP, FileMetaData, RowGroup
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_struct
from pipecrypt.parquet.wire.thrift_read import open_encoded
from pipecrypt.store.listing import find_file
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.world import (
    DATA,
    MemorySink,
    MemorySource,
    RandomKeys,
    all_columns,
    decrypt,
    encrypt,
    needs_vectors,
    only,
    parquet_bytes,
    sample_table,
)

PARTS = (range(2), range(2, 5), range(5, 10))


def encrypt_part(data: bytes, chosen: range, policy: EncryptionPolicy, keys: RandomKeys) -> bytes:
    sink = MemorySink()
    source = slice_row_groups(MemorySource(data), chosen)
    encrypt_file(source, sink, policy, keys=keys, context=Context(new_dataset_id(), "memory.parquet"))
    return bytes(sink.data)


def parts_of(data: bytes, policy: EncryptionPolicy, parts: tuple[range, ...] = PARTS) -> list[bytes]:
    keys = RandomKeys()
    return [decrypt(encrypt_part(data, chosen, policy, keys), keys) for chosen in parts]


def read(data: bytes) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(data)).read()


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("footer", list(FooterMode))
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_parts_are_the_table(codec: str, footer: FooterMode, version: str) -> None:
    table = sample_table()
    data = parquet_bytes(table, row_group_size=100, compression=codec, data_page_version=version, write_page_index=True)
    for policy in (all_columns(footer), only("email", "customer.name", footer=footer)):
        back = parts_of(data, policy)
        assert [pq.ParquetFile(io.BytesIO(part)).num_row_groups for part in back] == [2, 3, 5]
        assert pa.concat_tables(read(part) for part in back).equals(table)


@pytest.mark.parametrize("footer", list(FooterMode))
def test_a_part_is_a_possible_file_and_nothing_points_out_of_it(footer: FooterMode) -> None:
    data = parquet_bytes(
        sample_table(), row_group_size=100, write_page_index=True, bloom_filter_options={"email": True, "id": True}
    )
    assert [len(part) < len(data) * 0.7 for part in parts_of(data, all_columns(footer))] == [True] * 3
    for chosen, part in zip(
        PARTS, parts_of(data, only("email", footer=footer, digest=DigestAlgorithm.SHA256)), strict=True
    ):
        structure = check_structure(read_stored_footer(MemorySource(part)), "part")
        assert structure == (100 * len(chosen), len(chosen))
        metadata = pq.ParquetFile(io.BytesIO(part)).metadata
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            assert all(group.column(at).has_offset_index for at in range(group.num_columns))
            assert all(group.column(at).has_column_index for at in range(group.num_columns))
            assert group.column(0).statistics.min == 100 * (chosen.start + index)


def test_bloom_filters_come_along() -> None:
    data = parquet_bytes(sample_table(), row_group_size=100, bloom_filter_options={"email": {"ndv": 100, "fpp": 0.01}})
    whole = [_bloom(data, index) for index in range(10)]
    assert all(whole)
    for chosen, part in zip(PARTS, parts_of(data, only("email")), strict=True):
        assert [_bloom(part, index) for index in range(len(chosen))] == whole[chosen.start : chosen.stop]


def _bloom(data: bytes, index: int) -> bytes:
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(index).column(1).to_dict()
    return data[metadata["bloom_filter_offset"] :][: metadata["bloom_filter_length"]]


def test_ordinals_begin_at_zero() -> None:
    data = with_ordinals(parquet_bytes(sample_table(), row_group_size=100))
    keys = RandomKeys()
    encrypted = encrypt_part(data, range(5, 10), all_columns(), keys)
    for file in (encrypted, decrypt(encrypted, keys)):
        opened = [each.integer(RowGroup.ORDINAL) for each in _row_groups(file)]
        assert opened == [0, 1, 2, 3, 4]


def _row_groups(data: bytes) -> list[Struct]:
    footer = read_stored_footer(MemorySource(data)).metadata
    assert footer is not None
    return [open_encoded(each, ROW_GROUP, "test") for each in footer.structs(FileMetaData.ROW_GROUPS)]


def with_ordinals(data: bytes, extra: tuple[int, bytes] | None = None) -> bytes:
    """Return the file with the ordinals of row groups in it, and with a field of the footer that nobody knows."""
    footer, body_end = read_plain_footer(MemorySource(data))
    for index, group in enumerate(footer.structs(FileMetaData.ROW_GROUPS)):
        group.set(RowGroup.ORDINAL, WireType.I16, index)
        if extra is not None:
            group.set(extra[0], WireType.BINARY, extra[1])
    if extra is not None:
        footer.set(extra[0], WireType.BINARY, extra[1])
    encoded = encode_struct(footer)
    return data[:body_end] + encoded + len(encoded).to_bytes(4, "little") + b"PAR1"


def test_fields_that_nobody_knows_are_kept() -> None:
    data = with_ordinals(parquet_bytes(sample_table(), row_group_size=100), (77, b"a feature of tomorrow"))
    (part,) = parts_of(data, EncryptionPolicy(default="master", footer=FooterMode.ENCRYPTED), (range(3, 5),))
    assert part.count(b"a feature of tomorrow") == 3  # the footer and two row groups


def test_the_size_of_a_part_is_its_own() -> None:
    data = parquet_bytes(sample_table(10_000), row_group_size=1000)
    keys = RandomKeys()
    encrypted = encrypt_part(data, range(5, 7), all_columns(), keys)
    footer = read_stored_footer(MemorySource(encrypted)).metadata
    assert footer is not None
    originals = read_originals(footer)
    assert originals is not None
    back = decrypt(encrypted, keys)
    assert originals.values == {}
    assert abs(originals.source_bytes - len(back)) <= 0.02 * len(back)
    with open_table_view(MemorySource(encrypted), keys=keys) as view:
        assert view.size_bytes < len(data) * 0.25
    assert len(back) < len(data) * 0.25


def test_sizes_of_row_groups_add_up_to_nearly_the_file() -> None:
    data = parquet_bytes(sample_table(), row_group_size=100, write_page_index=True)
    _, body_end = read_plain_footer(MemorySource(data))
    assert sum(row_group_sizes(MemorySource(data))) == body_end - 4


@pytest.mark.parametrize("chosen", [range(9, 11), range(10, 11), range(3, 3), range(-1, 2), range(0, 4, 2)])
def test_row_groups_that_are_not_there(chosen: range) -> None:
    data = parquet_bytes(sample_table(), row_group_size=100)
    with pytest.raises(FormatError):
        slice_row_groups(MemorySource(data), chosen)


def test_encrypted_files_are_refused() -> None:
    for footer in FooterMode:
        data = encrypt(parquet_bytes(sample_table(), row_group_size=100), all_columns(footer), RandomKeys())
        with pytest.raises(AlreadyEncryptedError):
            slice_row_groups(MemorySource(data), range(2))
        with pytest.raises(AlreadyEncryptedError):
            row_group_sizes(MemorySource(data))


@pytest.mark.parametrize("is_local", [True, False])
def test_every_range_is_that_of_the_slice(tmp_path: Path, *, is_local: bool) -> None:
    data = parquet_bytes(sample_table(), row_group_size=100)
    (tmp_path / "a.parquet").write_bytes(data)
    with open_range_source(find_file(Location(str(tmp_path / "a.parquet")))) as file:
        source = slice_row_groups(file if is_local else MemorySource(data), range(4, 6))
        whole = bytes(source.read_range(0, source.size_bytes))
        assert whole.startswith(data[:-10_000])
        assert read(whole).equals(sample_table().slice(400, 200))
        middle = len(whole) // 2
        for start, length in [(0, 4), (len(whole) - 9, 9), (middle, len(whole) - middle), (len(whole), 0), (middle, 0)]:
            assert bytes(source.read_range(start, length)) == whole[start : start + length]
            out = memoryview(bytearray(length))
            source.read_into(start, out)
            assert bytes(out) == bytes(source.read_many([(start, length)])[0]) == whole[start : start + length]
        assert (source.traits.descriptor is not None) == (source.traits.reads_in_flight == 1) == is_local
        for start, length in [(-1, 2), (0, len(whole) + 1), (len(whole), 1)]:
            with pytest.raises(FormatError):
                source.read_range(start, length)


def test_the_last_pages_before_a_gap_are_whole() -> None:
    """Random bytes in one column each: a chunk's end is known by its pages, not by where the next one begins."""
    table = pa.table({"a": [os.urandom(3000) for _ in range(400)], "b": range(400)})
    data = parquet_bytes(table, row_group_size=50, use_dictionary=False, compression="none")
    back = parts_of(data, only("b"), (range(3), range(3, 4), range(4, 8)))
    assert pa.concat_tables(read(part) for part in back).equals(table)


def _several_row_groups() -> list[str]:
    names = []
    for path in sorted(DATA.glob("*.parquet")):
        try:
            if len(row_group_sizes(MemorySource(path.read_bytes()))) > 1:
                names.append(path.name)
        except Exception:  # noqa: S112 - other tests say what is wrong with these
            continue
    return names


@needs_vectors
@pytest.mark.parametrize("name", _several_row_groups())
@pytest.mark.parametrize("footer", list(FooterMode))
def test_files_of_others(name: str, footer: FooterMode) -> None:
    data = (DATA / name).read_bytes()
    groups = len(row_group_sizes(MemorySource(data)))
    back = parts_of(data, all_columns(footer), tuple(range(at, at + 1) for at in range(groups)))
    try:
        table = read(data)
    except (OSError, pa.ArrowException):
        table = None  # pyarrow cannot read it; that its parts could be made is what is left to see
    if table is not None:
        assert pa.concat_tables(read(part) for part in back).equals(table)
