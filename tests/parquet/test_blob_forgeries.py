"""What an attacker, or a writer who has the key, may do to a file of chunks: all of it must be refused."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from collections.abc import Callable
from itertools import combinations, pairwise, permutations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, IntegrityError, PipecryptError
from pipecrypt.parquet.blob import encrypt as blob_encrypt
from pipecrypt.parquet.blob.encrypt import PlainBlob
from pipecrypt.parquet.blob.format import BlobLayout, plain_offset_index
from pipecrypt.parquet.files import BlobView, FileEncryption, TableView, open_view
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import locate_pages
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode
from pipecrypt.parquet.wire.fields import (
    BLOB_KEY,
    COLUMN_META_DATA,
    OFFSET_INDEX,
    ROW_GROUP,
    ColumnChunk,
    ColumnMetaData,
    FileMetaData,
    PageLocation,
    RowGroup,
)
from pipecrypt.parquet.wire.modules import FileAAD, ModuleType, open_module, seal_module
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_struct
from pipecrypt.parquet.wire.thrift_read import open_encoded, read_struct
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.blob_world import (
    CHUNK,
    ZSTD,
    by_file,
    edit_footer,
    restore,
    seal,
    show,
    some_bytes,
    some_text,
    with_entry,
)
from tests.parquet.blob_world import ROW_GROUP as ROW_GROUP_BYTES
from tests.parquet.world import (
    MemorySink,
    MemorySource,
    RandomKeys,
    all_columns,
    decrypt,
    encrypt,
    parquet_bytes,
    sample_table,
)

REFUSED = (FormatError, IntegrityError)
READERS = (restore, show)


def refuse(data: bytes, keys: RandomKeys) -> None:
    for read in READERS:
        with pytest.raises(REFUSED):
            read(data, keys)


def body_end(data: bytes) -> int:
    return read_sealed_footer(MemorySource(data)).body_end


def pages(size: int) -> list[tuple[int, int]]:
    """Return where the pages of an uncompressed file lie."""
    layout, places = BlobLayout(size, CHUNK), []
    for index in range(layout.row_groups):
        bounds = layout.sealed_bounds(index)
        places += list(pairwise(bounds))
    return places


def row_group_starts(data: bytes, keys: RandomKeys) -> list[int]:
    """Return where row groups begin, and where the last one ends."""
    sealed = read_sealed_footer(MemorySource(data))
    end = sealed.body_end
    with OpenedFile(sealed, keys=keys, aad_prefix=None) as opened:
        return [*(locate_pages(opened.open_row_group(index)[0]).start for index in opened.row_groups.ordinals), end]


# ---- without any key ----


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
def test_every_truncation(compressed: bool, size: int) -> None:
    keys = RandomKeys()
    data, _ = seal(some_text(size), keys, codec=ZSTD if compressed else None)
    for length in range(len(data)):
        refuse(data[:length], keys)


@pytest.mark.parametrize(
    ("size", "compressed"), [(0, False), (0, True), (1, False), (1, True), (700, False), (700, True), (CHUNK + 1, True)]
)
def test_every_changed_byte(size: int, compressed: bool) -> None:
    keys = RandomKeys()
    data, _ = seal(some_text(size), keys, codec=ZSTD if compressed else None)
    changed = bytearray(data)
    for place in range(len(data)):
        changed[place] ^= 1 << place % 8
        for read in READERS:
            with pytest.raises(PipecryptError):
                read(bytes(changed), keys)
        changed[place] ^= 1 << place % 8
    assert restore(bytes(changed), keys) == show(bytes(changed), keys) == some_text(size)


def test_every_truncation_of_the_body() -> None:
    # The footer stays, so that what ends too early is the last page.
    keys = RandomKeys()
    data, _ = seal(some_bytes(CHUNK + 100), keys)
    end = body_end(data)
    for length in range(4, end):
        refuse(data[:length] + data[end:], keys)


def test_every_swapped_and_doubled_chunk() -> None:
    size, keys = 66 * CHUNK, RandomKeys()
    data, _ = seal(some_bytes(size), keys, policy=by_file())
    places = [*pages(size)[:5], *pages(size)[63:]]
    for (start, end), (other, other_end) in combinations(places, 2):
        swapped = bytearray(data)
        swapped[start:end], swapped[other:other_end] = data[other:other_end], data[start:end]
        refuse(bytes(swapped), keys)
    for (start, end), (other, other_end) in permutations(places, 2):
        refuse(data[:start] + data[other:other_end] + data[end:], keys)


def test_swapped_headers_and_bodies() -> None:
    # The two modules of a page have AADs of their own, so a page cannot be put together from two.
    keys = RandomKeys()
    data, _ = seal(some_bytes(2 * CHUNK), keys)
    (first, middle), (_, last) = pages(2 * CHUNK)
    header_bytes = int.from_bytes(data[first : first + 4], "little") + 4
    swapped = data[:first] + data[middle : middle + header_bytes] + data[first + header_bytes : middle]
    refuse(swapped + data[first : first + header_bytes] + data[middle + header_bytes :], keys)
    assert middle < last


def test_every_dropped_and_inserted_chunk() -> None:
    size, keys = 4 * CHUNK + 10, RandomKeys()
    data, _ = seal(some_bytes(size), keys)
    for start, end in pages(size):
        refuse(data[:start] + data[end:], keys)
        for at, _ in [*pages(size), (body_end(data), 0)]:
            refuse(data[:at] + data[start:end] + data[at:], keys)


@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_before_the_footer(compressed: bool) -> None:
    keys = RandomKeys()
    for size in (0, 10, ROW_GROUP_BYTES + 1):
        data, _ = seal(some_bytes(size), keys, codec=ZSTD if compressed else None)
        for junk in (b"\0", os.urandom(100)):
            refuse(data[: body_end(data)] + junk + data[body_end(data) :], keys)


@pytest.mark.parametrize("compressed", [False, True])
def test_swapped_and_dropped_row_groups(compressed: bool) -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(3 * ROW_GROUP_BYTES), keys, policy=by_file(), codec=ZSTD if compressed else None)
    groups = [data[start:end] for start, end in pairwise(row_group_starts(data, keys))]
    for order in permutations(range(3)):
        forged = data[:4] + b"".join(groups[index] for index in order) + data[body_end(data) :]
        assert (forged == data) is (order == (0, 1, 2))
        if forged != data:
            refuse(forged, keys)
    for left in ([0, 1], [0, 2], [1, 2], [0, 0, 2], [0, 1, 2, 2]):
        refuse(data[:4] + b"".join(groups[index] for index in left) + data[body_end(data) :], keys)


def test_chunks_row_groups_and_footers_of_another_file_of_the_same_key() -> None:
    keys, context = RandomKeys(), Context(new_dataset_id(), "the/same.bin")
    size = ROW_GROUP_BYTES + 2 * CHUNK
    one, _ = seal(some_bytes(size, 1), keys, policy=by_file(), context=context)
    two, _ = seal(some_bytes(size, 2), keys, policy=by_file(), context=context)
    # The same data keys in both, as whoever reuses them would have it.
    for start, end in [*pages(size)[:3], (pages(size)[0][0], pages(size)[63][1]), (4, body_end(one))]:
        refuse(one[:start] + two[start:end] + one[end:], keys)
    refuse(one[: body_end(one)] + two[body_end(two) :], keys)


def test_pages_of_another_file_under_the_same_data_key() -> None:
    class OneKey(RandomKeys):
        def new_data_key(self, key_reference: str, context: Context) -> object:  # type: ignore[override]
            key, metadata = super().new_data_key(key_reference, context)
            self.by_metadata[metadata] = (b"\1" * 32, context)
            key.wipe()
            return self.open_data_key(metadata, context), metadata

    keys, context = OneKey(), Context(new_dataset_id(), "the/same.bin")
    one, _ = seal(some_bytes(3 * CHUNK, 1), keys, context=context)
    two, _ = seal(some_bytes(3 * CHUNK, 2), keys, context=context)
    assert restore(one, keys) != restore(two, keys)
    for start, end in pages(3 * CHUNK):
        refuse(one[:start] + two[start:end] + one[end:], keys)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_changed_byte(data: st.DataObject) -> None:
    keys = RandomKeys()
    sealed, _ = seal(some_text(2 * CHUNK + 5), keys, codec=data.draw(st.sampled_from([None, ZSTD])))
    at = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    for read in READERS:
        with pytest.raises(PipecryptError):
            read(bytes(changed), keys)


# ---- tables and chunks are not taken for each other ----


def test_a_table_with_the_entry_is_not_encrypted() -> None:
    table = sample_table(10).replace_schema_metadata({BLOB_KEY: b"{}"})
    for footer in FooterMode:
        with pytest.raises(FormatError):
            encrypt(parquet_bytes(table), all_columns(footer), RandomKeys())


@pytest.mark.parametrize("footer", FooterMode)
def test_a_table_whose_writer_added_the_entry(footer: FooterMode) -> None:
    keys, sink = RandomKeys(), MemorySink()
    with FileEncryption(sink, all_columns(footer), keys=keys, context=Context(new_dataset_id(), "x")) as encryption:
        encryption.append(MemorySource(parquet_bytes(sample_table(10))))
        encryption.finish({BLOB_KEY: b'{"v":1,"chunk_bytes":4096,"size":9,"compression":"none"}'})
    refuse(bytes(sink.data), keys)


def test_the_view_of_a_table() -> None:
    keys, plain = RandomKeys(), parquet_bytes(sample_table(10))
    encrypted = encrypt(plain, all_columns(FooterMode.ENCRYPTED), keys)
    for table in (plain, encrypted, encrypt(plain, all_columns(), keys)):
        assert isinstance(open_view(MemorySource(table), keys=keys), TableView)
    sealed, _ = seal(b"abc", keys)
    with open_view(MemorySource(sealed), keys=keys) as view:
        assert isinstance(view, BlobView)
        assert view.read_range(0, 3) == b"abc"


def test_chunks_without_the_entry_are_a_table() -> None:
    # Only who has the key can take it out.
    keys = RandomKeys()
    data, _ = seal(b"abc", keys)
    assert decrypt(with_entry(data, keys), keys)[:4] == b"PAR1"


# ---- with the footer's key ----

GOOD = {"v": 1, "chunk_bytes": CHUNK, "size": 2 * CHUNK + 5, "compression": "none"}


def changed(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


@pytest.mark.parametrize(
    "entry",
    [
        *(changed(size=size) for size in (-1, 0, 1, CHUNK, 2 * CHUNK + 4, 2 * CHUNK + 6, 3 * CHUNK, 4 * CHUNK, 2**62)),
        *(changed(size=size) for size in (2**63, 2**200, True, None, "5", 5.0, [], {})),
        *(changed(chunk_bytes=size) for size in (-CHUNK, 0, 1, CHUNK - 1, CHUNK + 1, 2**24 + CHUNK, 2**40, 2**70)),
        *(changed(chunk_bytes=size) for size in (2 * CHUNK, 2**24, True, "4096", None)),
        *(changed(size=3 * 2**24 - 1, chunk_bytes=2**24), changed(size=2**62, chunk_bytes=2**24)),
        *(changed(compression=value) for value in ("zstd", "lz4", "", None, 0, [])),
        *(changed(name=value) for value in ("../../etc/passwd", "/etc/passwd", "..", "", "a\0", "\ud800", 5, ["a"])),
        *(changed(mode=value) for value in (0o4755, -1, 2**40, True, "755")),
        *(changed(mtime_ns=value) for value in (2**63, -(2**63) - 1, 1.5, "now")),
        *(changed(v=value) for value in (0, 2, "1", None)),
        *(
            b"",
            b"[]",
            b"null",
            b"{}",
            b"\xff",
            b'{"v":1}',
            b"[" * 10_000,
            b'{"v":' * 3_000,
            b'{"v":1,"size":' + b"9" * 9000,
        ),
        changed(padding="x" * 20_000),
    ],
)
def test_hostile_entries(entry: bytes) -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(2 * CHUNK + 5), keys)
    forged = with_entry(data, keys, entry)
    tracemalloc.start()
    refuse(forged, keys)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20  # two windows of chunks of 16 MiB at most


def test_two_entries_and_one_that_is_good() -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(2 * CHUNK + 5), keys)
    assert restore(with_entry(data, keys, changed()), keys) == restore(data, keys)
    refuse(with_entry(data, keys, changed(), changed()), keys)


def edit_row_groups(edit: Callable[[list[Struct]], None]) -> Callable[[Struct], None]:
    def edited(footer: Struct) -> None:
        row_groups = [open_encoded(each, ROW_GROUP, "x") for each in footer.structs(FileMetaData.ROW_GROUPS)]
        edit(row_groups)
        footer.set_list(FileMetaData.ROW_GROUPS, WireType.STRUCT, [*row_groups])

    return edited


def _swap(row_groups: list[Struct]) -> None:
    row_groups[0], row_groups[1] = row_groups[1], row_groups[0]


def _rows(row_groups: list[Struct]) -> None:
    row_groups[0].set(RowGroup.NUM_ROWS, WireType.I64, 65)


def _drop(row_groups: list[Struct]) -> None:
    del row_groups[0]


def _double(row_groups: list[Struct]) -> None:
    row_groups.append(row_groups[1])


def _two_columns(row_groups: list[Struct]) -> None:
    entry = row_groups[0].structs(RowGroup.COLUMNS)[0]
    row_groups[0].set_list(RowGroup.COLUMNS, WireType.STRUCT, [entry, entry])


def _in_clear(row_groups: list[Struct]) -> None:
    entry = row_groups[0].structs(RowGroup.COLUMNS)[0]
    entry.remove(ColumnChunk.CRYPTO_METADATA)


def _without_index(row_groups: list[Struct]) -> None:
    entry = row_groups[0].structs(RowGroup.COLUMNS)[0]
    entry.remove(ColumnChunk.OFFSET_INDEX_OFFSET)


def _index_elsewhere(row_groups: list[Struct]) -> None:
    entry = row_groups[0].structs(RowGroup.COLUMNS)[0]
    entry.set(ColumnChunk.OFFSET_INDEX_OFFSET, WireType.I64, 2**60)


def _long_index(row_groups: list[Struct]) -> None:
    entry = row_groups[0].structs(RowGroup.COLUMNS)[0]
    entry.set(ColumnChunk.OFFSET_INDEX_LENGTH, WireType.I32, 2**31 - 1)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("edit", [_swap, _rows, _drop, _double, _two_columns, _in_clear])
def test_hostile_row_groups(edit: Callable[[list[Struct]], None], compressed: bool) -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(2 * ROW_GROUP_BYTES), keys, policy=by_file(), codec=ZSTD if compressed else None)
    refuse(edit_footer(data, keys, edit_row_groups(edit)), keys)


@pytest.mark.parametrize("edit", [_without_index, _index_elsewhere, _long_index])
def test_hostile_indexes(edit: Callable[[list[Struct]], None]) -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(ROW_GROUP_BYTES + 1), keys, codec=ZSTD)
    refuse(edit_footer(data, keys, edit_row_groups(edit)), keys)


def test_other_row_counts() -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(CHUNK), keys)
    for rows in (-1, 0, 2, 2**62):
        refuse(edit_footer(data, keys, lambda footer: footer.set(FileMetaData.NUM_ROWS, WireType.I64, rows)), keys)  # noqa: B023


class _Lying:
    """A codec of a writer who means harm: each page says it is something else than it is."""

    def __init__(self, lie: Callable[[bytes], bytes]) -> None:
        self._lie = lie

    def compress(self, data: memoryview) -> bytes:
        return self._lie(bytes(data))

    def decompress(self, data: memoryview, plain_bytes: int) -> bytes:
        raise AssertionError("only writes")


def zstd(data: bytes) -> bytes:
    return bytes(ZSTD.compress(memoryview(data)))


@pytest.mark.parametrize(
    "lie",
    [
        lambda page: zstd(page + b"x"),
        lambda page: zstd(page[:-1]),
        lambda page: zstd(bytes(100 << 20)),
        lambda page: zstd(b"\0\0\0\0" + page[4:]),
        lambda page: zstd(b"\xff\xff\xff\x7f" + page[4:]),
        lambda page: zstd(page) + b"x",
        lambda page: zstd(page)[:-1],
        lambda page: zstd(page[:10]) + zstd(page[10:]) + zstd(b"more"),
        lambda page: bytes(10 * CHUNK),
        lambda page: page,
        lambda page: b"",
    ],
)
def test_hostile_compressed_pages(lie: Callable[[bytes], bytes]) -> None:
    keys = RandomKeys()
    data, _ = seal(some_text(2 * CHUNK), keys, codec=_Lying(lie))
    tracemalloc.start()
    refuse(data, keys)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20


def test_pages_that_grow_beyond_all_room() -> None:
    keys = RandomKeys()
    refuse(seal(some_text(ROW_GROUP_BYTES), keys, codec=_Lying(lambda _: bytes(10 * CHUNK)))[0], keys)


def forge(files: list[bytes], size: int, keys: RandomKeys, **entry: object) -> bytes:
    """Write plaintext files as one of chunks, as somebody could who has the key."""
    sink, policy = MemorySink(), all_columns(FooterMode.ENCRYPTED)
    with FileEncryption(sink, policy, keys=keys, context=Context(new_dataset_id(), "x")) as encryption:
        for data in files:
            encryption.append(MemorySource(data))
        encryption.finish({BLOB_KEY: changed(size=size, **entry)})
    return bytes(sink.data)


def plain(data: bytes, block_bytes: int = CHUNK) -> bytes:
    form = PlainBlob(MemorySource(data), BlobLayout(len(data), block_bytes))
    return bytes(form.read_range(0, form.size_bytes))


def test_forging_works_where_nothing_is_wrong() -> None:
    keys, data = RandomKeys(), some_bytes(2 * CHUNK + 5)
    forged = forge([plain(data)], len(data), keys)
    assert restore(forged, keys) == show(forged, keys) == data


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (b"\x15\x06\x15\x06\x00\x00", b"\x15\x08\x15\x06\x00\x00"),  # another encoding of levels
        (b"\x2c\x15\x02", b"\x2c\x15\x00"),  # no row
        (CHUNK.to_bytes(4, "little"), (CHUNK - 1).to_bytes(4, "little")),  # another length
        (CHUNK.to_bytes(4, "little"), b"\xff\xff\xff\xff"),
    ],
)
def test_pages_with_other_headers_or_lengths(at: bytes, value: bytes) -> None:
    keys, form = RandomKeys(), plain(some_text(2 * CHUNK))
    assert form.count(at) >= 2
    refuse(forge([form.replace(at, value, 1)], 2 * CHUNK, keys), keys)


def test_row_groups_that_are_longer_and_shorter_than_they_must_be() -> None:
    keys = RandomKeys()
    first, second = plain(some_bytes(ROW_GROUP_BYTES - 1)), plain(some_bytes(CHUNK + 1), 2 * CHUNK)
    refuse(forge([first, second], ROW_GROUP_BYTES + CHUNK, keys), keys)


def test_pages_of_other_writers() -> None:
    keys, values = RandomKeys(), [some_bytes(CHUNK, seed) for seed in range(3)]
    schema = pa.schema([pa.field("chunk", pa.binary(), nullable=False)])
    for options in ({}, {"use_dictionary": False, "compression": "none"}, {"data_page_version": "2.0"}):
        data = parquet_bytes(pa.table([values], schema=schema), write_page_index=True, **options)
        for compression in ("none", "zstd"):
            refuse(forge([data], 3 * CHUNK, keys, compression=compression), keys)


@pytest.mark.parametrize("kept", [slice(0, -1), slice(1, None), slice(0, 1)])
def test_indexes_that_leave_pages_out(monkeypatch: pytest.MonkeyPatch, kept: slice) -> None:
    keys = RandomKeys()
    monkeypatch.setattr(blob_encrypt, "plain_offset_index", lambda bounds: plain_offset_index(bounds[kept]))
    refuse(seal(some_bytes(3 * CHUNK), keys, codec=ZSTD)[0], keys)


def test_a_gap_between_compressed_row_groups() -> None:
    # All under the footer's key, so that whoever has it can move what follows the gap. What is shown is right, so
    # only who reads the whole file sees the gap.
    keys, original = RandomKeys(), some_bytes(2 * ROW_GROUP_BYTES)
    policy = EncryptionPolicy(default="master", uniform=True)
    data, _ = seal(original, keys, codec=ZSTD, policy=policy)
    start, gap = row_group_starts(data, keys)[1], b"junk"
    sealed = read_sealed_footer(MemorySource(data))
    cipher = MessageCipher(DataKey(keys.by_metadata[sealed.key_metadata][0]))
    aad = FileAAD(sealed.algorithm.aad_prefix or b"", sealed.algorithm.file_unique).module(
        ModuleType.OFFSET_INDEX, 1, 0
    )
    moved = bytearray(data[:start] + gap + data[start:])

    def edit(row_groups: list[Struct]) -> None:
        entry = row_groups[1].structs(RowGroup.COLUMNS)[0]
        metadata = open_encoded(entry.struct(ColumnChunk.META_DATA) or Struct(), COLUMN_META_DATA, "x")
        metadata.set(ColumnMetaData.DATA_PAGE_OFFSET, WireType.I64, start + len(gap))
        entry.set(ColumnChunk.META_DATA, WireType.STRUCT, metadata)
        at, length = entry.integer(ColumnChunk.OFFSET_INDEX_OFFSET) or 0, entry.integer(ColumnChunk.OFFSET_INDEX_LENGTH)
        index, _ = read_struct(
            open_module(cipher, memoryview(data)[at : at + (length or 0)], aad, "x"), 0, OFFSET_INDEX, "x"
        )
        for location in index.structs(PageLocation.LIST):
            location.set(PageLocation.OFFSET, WireType.I64, (location.integer(PageLocation.OFFSET) or 0) + len(gap))
        resealed = seal_module(cipher, encode_struct(index), aad)
        assert len(resealed) == length
        moved[at + len(gap) : at + len(gap) + len(resealed)] = resealed
        entry.set(ColumnChunk.OFFSET_INDEX_OFFSET, WireType.I64, at + len(gap))

    with_footer = edit_footer(data, keys, edit_row_groups(edit))
    forged = bytes(moved[: body_end(data) + len(gap)]) + with_footer[body_end(data) :]
    with pytest.raises(FormatError):
        restore(forged, keys)
    assert show(forged, keys) == original


def test_nothing_reads_the_source_after_an_error() -> None:
    keys = RandomKeys()
    data = bytearray(seal(some_bytes(200 * CHUNK), keys)[0])
    data[100] ^= 1
    with pytest.raises(IntegrityError) as raised:
        restore(bytes(data), keys)
    # While the error, and with it every frame that it passed, is still alive.
    assert raised.tb is not None
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pipecrypt")]
