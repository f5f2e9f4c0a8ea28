"""Digests of what stays in plaintext: no changed byte of it is used, and the original comes back without them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.crypto import digest as digest_module
from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import FormatError, IntegrityError, MissingExtraError, PipecryptError
from pipecrypt.parquet.files import ChunkCache, decrypt_file, encrypt_file, open_table_view
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.segments import Segment, SegmentKind, chunk_parts
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.parquet.pages.integrity import ExpectedDigests, SegmentDigests
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.parquet.wire.fields import INTEGRITY_KEY, ColumnMetaData, FileMetaData, KeyValue
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.blob_world import edit_footer
from tests.parquet.test_forgeries import _chunk, _edited
from tests.parquet.test_growing import grow, slices
from tests.parquet.test_view import SideBySide, SomeKeys
from tests.parquet.world import (
    MemorySink,
    MemorySource,
    RandomKeys,
    all_columns,
    changes_the_engine,
    decrypt,
    encrypt,
    every_row_group,
    no_row_groups,
    only,
    parquet_bytes,
    sample_table,
)

SHA256 = DigestAlgorithm.SHA256
_SMALL = pa.table({"id": range(6), "city": [*"abcdab"], "email": [f"u{row}@x" for row in range(6)]})


def small_file() -> bytes:
    """Two row groups of three columns with all kinds of parts, in as few bytes as pyarrow can."""
    blooms = {name: {"ndv": 4, "fpp": 0.1} for name in ("city", "email")}
    return parquet_bytes(
        _SMALL, row_group_size=3, write_page_index=True, bloom_filter_options=blooms, store_schema=False
    )


def pairs_of(data: bytes) -> dict[bytes, bytes]:
    footer = read_stored_footer(MemorySource(data)).metadata
    assert footer is not None
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    return {pair.binary(KeyValue.KEY) or b"": pair.binary(KeyValue.VALUE) or b"" for pair in pairs}


def entry_of(data: bytes) -> dict[str, object]:
    document = json.loads(pairs_of(data)[INTEGRITY_KEY])
    assert isinstance(document, dict)
    return document


def with_integrity(data: bytes, keys: RandomKeys, *values: bytes | None) -> bytes:
    """Replace the entry by others, as somebody could who has the footer's key."""

    def edit(footer: Struct) -> None:
        pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
        kept: list[Value] = [pair for pair in pairs if pair.binary(KeyValue.KEY) != INTEGRITY_KEY]
        for value in values:
            pair = Struct()
            pair.set(KeyValue.KEY, WireType.BINARY, INTEGRITY_KEY)
            if value is not None:
                pair.set(KeyValue.VALUE, WireType.BINARY, value)
            kept.append(pair)
        footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, kept)

    return edit_footer(data, keys, edit)


def plaintext_parts(data: bytes) -> Iterator[tuple[tuple[int, int, int], bytes]]:
    """Yield place and bytes of each part of a plaintext column whose length is in the footer."""
    footer = read_stored_footer(MemorySource(data)).metadata
    assert footer is not None
    for chunks in every_row_group(RowGroups(footer, "x", is_sealed=True)):
        for chunk in chunks:
            for start, length, row_group, column, kind in sorted(chunk_parts(chunk), key=lambda part: part[-1]):
                if chunk.entry.struct(8) is None:
                    yield (row_group, column, kind), data[start : start + length]


def show(data: bytes, keys: object, **options: bool) -> pa.Table:
    with open_table_view(MemorySource(data), keys=keys, **options) as view:  # type: ignore[arg-type]
        return pq.read_table(io.BytesIO(bytes(view.read_range(0, view.size_bytes))))


def decrypt_unchecked(data: bytes, keys: RandomKeys) -> bytes:
    sink = MemorySink()
    decrypt_file(MemorySource(data), sink, keys=keys, checks_digests=False)
    return bytes(sink.data)


@pytest.mark.parametrize("digest", DigestAlgorithm)
def test_the_entry_holds_the_digest_of_every_plaintext_part_as_it_is_stored(digest: DigestAlgorithm) -> None:
    keys = RandomKeys()
    original = small_file()
    data = encrypt(original, only("email", digest=digest), keys)
    parts = list(plaintext_parts(data))
    assert {place[-1] for place, _ in parts} == set(SegmentKind)
    assert [place for place, _ in parts] == sorted(place for place, _ in parts)
    digests = b"".join(bytes.fromhex(digest_module.digest(part, digest)) for _, part in parts)
    if digest is SHA256:
        assert digests == b"".join(hashlib.sha256(part).digest() for _, part in parts)
    assert entry_of(data) == {"v": 1, "digest": digest.value, "digests": base64.b64encode(digests).decode()}
    assert decrypt(data, keys) == original
    assert show(data, keys).equals(_SMALL)


def test_parts_of_appended_files_stand_in_one_order() -> None:
    files = slices(sample_table(500), 120, write_page_index=True, row_group_size=50)
    keys = RandomKeys()
    data, _ = grow(files, only("email", "tags", digest=SHA256), keys)
    digests = b"".join(hashlib.sha256(part).digest() for _, part in plaintext_parts(data))
    assert entry_of(data)["digests"] == base64.b64encode(digests).decode()
    assert len(digests) == 13 * 4 * 3 * 32
    assert len(decrypt(data, keys)) > 0


def test_no_entry_where_nothing_stays_in_plaintext() -> None:
    for policy in (
        EncryptionPolicy(default="k", digest=SHA256),
        EncryptionPolicy(default="k", uniform=True, digest=SHA256),
    ):
        keys = RandomKeys()
        data = encrypt(small_file(), policy, keys)
        assert INTEGRITY_KEY not in pairs_of(data)
        assert decrypt(data, keys) == small_file()


@pytest.mark.parametrize("footer", FooterMode)
def test_files_without_values_come_back(footer: FooterMode) -> None:
    schema = sample_table(1).schema
    for original in (no_row_groups(schema), parquet_bytes(schema.empty_table())):
        keys = RandomKeys()
        data = encrypt(original, only("email", footer=footer, digest=SHA256), keys)
        assert decrypt(data, keys) == original
        assert show(data, keys).num_rows == 0
        if footer is FooterMode.PLAINTEXT and original == no_row_groups(schema):
            assert entry_of(data)["digests"] == ""


def test_files_without_key_values_come_back_without() -> None:
    original, keys = small_file(), RandomKeys()
    footer = read_stored_footer(MemorySource(original)).metadata
    assert footer is not None
    assert not footer.has(FileMetaData.KEY_VALUE_METADATA)
    assert decrypt(encrypt(original, only("email", digest=SHA256), keys), keys) == original


def test_two_columns_of_sixteen() -> None:
    table = pa.table({f"c{index}": [index * row for row in range(1000)] for index in range(16)})
    original, keys = parquet_bytes(table, row_group_size=300, write_page_index=True), RandomKeys()
    for footer in FooterMode:
        data = encrypt(original, only("c3", "c11", footer=footer, digest=SHA256), keys)
        assert decrypt(data, keys) == original
        assert show(data, keys).equals(table)


def test_a_plaintext_file_with_such_an_entry_is_refused() -> None:
    table = _SMALL.replace_schema_metadata({INTEGRITY_KEY.decode(): "{}"})
    for policy in (only("email"), only("email", digest=SHA256), all_columns()):
        with pytest.raises(FormatError):
            encrypt(parquet_bytes(table), policy, RandomKeys())


# --- every byte


def _flips(data: bytes, every_bit: bool, step: int = 1) -> Iterator[bytes]:
    changed = bytearray(data)
    for place in range(0, len(data), step):
        for bit in range(8) if every_bit else (place % 8,):
            changed[place] ^= 1 << bit
            yield bytes(changed)
            changed[place] ^= 1 << bit


def _check_flips(data: bytes, keys: RandomKeys, *, every_bit: bool, step: int = 1) -> None:
    for changed in _flips(data, every_bit, step):
        with pytest.raises(PipecryptError):
            decrypt(changed, keys)
        try:
            shown = show(changed, keys)
        except PipecryptError:
            continue
        assert shown.equals(_SMALL)


@pytest.mark.parametrize("footer", FooterMode)
def test_every_third_byte_is_noticed_if_it_changes(footer: FooterMode) -> None:
    keys = RandomKeys()
    data = encrypt(small_file(), only("email", footer=footer, digest=SHA256), keys)
    _check_flips(data, keys, every_bit=False, step=3)


@pytest.mark.long
@pytest.mark.parametrize("footer", FooterMode)
def test_every_changed_bit_is_noticed(footer: FooterMode) -> None:
    keys = RandomKeys()
    _check_flips(encrypt(small_file(), only("email", footer=footer, digest=SHA256), keys), keys, every_bit=True)


def test_without_the_check_changes_go_unnoticed() -> None:
    keys = RandomKeys()
    data = encrypt(small_file(), only("email", digest=SHA256), keys)
    decrypted = shown_wrong = 0
    for changed in _flips(data, every_bit=False):
        try:
            decrypted += decrypt_unchecked(changed, keys) != small_file()
        except PipecryptError:
            continue
        try:
            shown_wrong += not show(changed, keys, checks_digests=False).equals(_SMALL)
        except (PipecryptError, pa.ArrowException, OSError):
            continue
    assert decrypted > 200
    assert shown_wrong > 20


@pytest.mark.parametrize("kind", SegmentKind)
def test_errors_name_the_place(kind: SegmentKind) -> None:
    keys = RandomKeys()
    data = encrypt(small_file(), only("email", digest=SHA256), keys)
    part = next(part for place, part in plaintext_parts(data) if place == (1, 1, kind))
    at = data.index(part) + len(part) - 1
    changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
    with pytest.raises(IntegrityError, match="row group 1 column 'city'"):
        decrypt(changed, keys)
    assert decrypt_unchecked(changed, keys) != small_file()
    if kind is SegmentKind.PAGES:
        with pytest.raises(IntegrityError, match="row group 1 column 'city'"):
            show(changed, keys)
    else:
        assert show(changed, keys).equals(_SMALL)


def test_without_the_footers_key_digests_are_still_compared() -> None:
    keys = SomeKeys(missing="lost")
    policy = EncryptionPolicy(rules=(ColumnRule("email", "lost"),), footer_key="lost", digest=SHA256)
    data = encrypt(small_file(), policy, keys)
    place, part = next(iter(plaintext_parts(data)))
    at = data.index(part)
    with open_table_view(MemorySource(data), keys=keys) as view:
        assert not view.is_authenticated
        assert bytes(view.read_range(at, len(part))) == part
    changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
    with open_table_view(MemorySource(changed), keys=keys) as view, pytest.raises(IntegrityError):
        view.read_range(at + 3, 1)
    assert place == (0, 0, SegmentKind.PAGES)


# --- what is shown


@changes_the_engine
def test_a_piece_is_checked_once_with_its_whole_chunk_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, checked = RandomKeys(), list[tuple[int, int, int]]()
    data = encrypt(small_file(), only("email", digest=SHA256), keys)
    real = ExpectedDigests.check

    def counted(self: ExpectedDigests, place: tuple[int, int, int], part: memoryview) -> None:
        checked.append(place)
        real(self, place, part)

    monkeypatch.setattr(ExpectedDigests, "check", counted)
    (_, part), source = next(iter(plaintext_parts(data))), SideBySide(data)
    start = data.index(part)
    with open_table_view(source, keys=keys, cache=ChunkCache(1 << 20)) as view:
        source.calls.clear()
        assert bytes(view.read_range(start + 2, 5)) == part[2:7]
        assert bytes(view.read_range(start + 4, 5)) == part[4:9]
        assert source.calls == [[(start, len(part))]]
        view.forget_plaintext()
        assert view.read_range(start, len(part)).obj is source.read_range(0, 1).obj  # not copied
        assert checked == [(0, 0, 0)] * 2


def test_what_is_no_part_is_shown_as_zeros() -> None:
    keys = RandomKeys()
    data = encrypt(small_file(), only("email", digest=SHA256), keys)
    hidden = [part for place, part in plaintext_parts(data) if place[-1] != SegmentKind.PAGES]
    assert len(hidden) > 8
    with open_table_view(MemorySource(data), keys=keys) as view:
        for part in hidden:
            assert bytes(view.read_range(data.index(part), len(part))) == bytes(len(part))
        assert bytes(view.read_range(0, 4)) == b"PAR1"
    with open_table_view(MemorySource(data), keys=keys, checks_digests=False) as view:
        assert bytes(view.read_range(data.index(hidden[0]), len(hidden[0]))) == hidden[0]


def _reaching_behind(column: str) -> bytes:
    """Return a file in which a chunk declares less bytes than it has, as some writers do (PARQUET-816)."""

    def edit(_: Struct, row_groups: RowGroups) -> None:
        metadata = _chunk(row_groups, column).metadata
        size = metadata.integer(ColumnMetaData.TOTAL_COMPRESSED_SIZE) or 0
        metadata.set(ColumnMetaData.TOTAL_COMPRESSED_SIZE, WireType.I64, size - 10)

    return _edited(parquet_bytes(_SMALL, use_dictionary=False), edit)


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("column", ["id", "city"])
def test_pages_behind_the_declared_end_are_digested_too(footer: FooterMode, column: str) -> None:
    # In the encrypted footer, the parts of the locked column behind the chunk cannot be seen.
    keys = SomeKeys(missing="lost")
    policy = EncryptionPolicy(rules=(ColumnRule("email", "lost"),), footer=footer, footer_key="open", digest=SHA256)
    original = _reaching_behind(column)
    data = encrypt(original, policy, keys)
    if footer is FooterMode.PLAINTEXT:
        assert [each["column"] for each in entry_of(data)["longer"]] == [_SMALL.schema.names.index(column)]  # type: ignore[attr-defined]
    with open_table_view(MemorySource(data), keys=keys) as view:
        part = next(
            part for part in view._shown.parts if part.chunk is not None and view.leaves[part.chunk[1]].dotted == column
        )
        assert part.place is None
        start, end = part.start, part.start + part.length
        assert bytes(view.read_range(start, end - start)) == data[start:end]
    assert data[start:end] in original
    changed = data[: end - 1] + bytes((data[end - 1] ^ 1,)) + data[end:]
    with open_table_view(MemorySource(changed), keys=keys) as view, pytest.raises(IntegrityError):
        view.read_range(start, 1)
    keys.withheld.clear()
    assert decrypt(data, keys) == original
    with pytest.raises(IntegrityError):
        decrypt(changed, keys)


# --- the entry itself


def _changed(data: bytes, **members: object) -> bytes:
    return json.dumps({**entry_of(data), **members}).encode()


_Edit = Callable[[bytes], tuple[bytes | None, ...]]
_EDITS: dict[str, _Edit] = {
    "twice": lambda data: (pairs_of(data)[INTEGRITY_KEY],) * 2,
    "no value": lambda _: (None,),
    "empty": lambda _: (b"",),
    "no object": lambda _: (b"[]",),
    "not UTF-8": lambda _: (b"\xff",),
    "deep": lambda _: (b"[" * 1000,),
    "long": lambda data: (pairs_of(data)[INTEGRITY_KEY] + b" " * 100_000,),
    "version 2": lambda data: (_changed(data, v=2),),
    "no version": lambda data: (_changed(data, v=None),),
    "SHA-1": lambda data: (_changed(data, digest="sha1"),),
    "a number": lambda data: (_changed(data, digest=1),),
    "no digests": lambda data: (_changed(data, digests=""),),
    "one digest less": lambda data: (_changed(data, digests=_resized(data, -32)),),
    "one digest more": lambda data: (_changed(data, digests=_resized(data, 32)),),
    "half a digest more": lambda data: (_changed(data, digests=_resized(data, 16)),),
    "no base64": lambda data: (_changed(data, digests="?" + str(entry_of(data)["digests"])[1:]),),
    "unknown member": lambda data: (_changed(data, more=1),),
    "longer is no list": lambda data: (_changed(data, longer=1),),
    "longer than none": lambda data: (_changed(data, longer=[{"row_group": 0, "column": 2, "bytes": 9}]),),
    "longer nowhere": lambda data: (_changed(data, longer=[{"row_group": 9, "column": 0, "bytes": 9}]),),
    "negative": lambda data: (_changed(data, longer=[{"row_group": -1, "column": 0, "bytes": 9}]),),
    "over others": lambda data: (_changed(data, longer=[{"row_group": 0, "column": 0, "bytes": 10**6}]),),
}


def _resized(data: bytes, growth: int) -> str:
    digests = base64.b64decode(str(entry_of(data)["digests"]))
    return base64.b64encode((digests + bytes(32))[: len(digests) + growth]).decode()


@pytest.mark.parametrize("name", _EDITS)
def test_entries_that_do_not_fit(name: str) -> None:
    keys = RandomKeys()
    data = encrypt(small_file(), only("email", digest=SHA256), keys)
    assert decrypt(with_integrity(data, keys, pairs_of(data)[INTEGRITY_KEY]), keys) == small_file()
    forged = with_integrity(data, keys, *_EDITS[name](data))
    with pytest.raises((FormatError, IntegrityError)) as caught:
        show(forged, keys)
    if name != "over others":  # which only a view trusts, where it cannot see all parts
        with pytest.raises(type(caught.value)):
            decrypt(forged, keys)
    if name in {"SHA-1", "version 2"}:
        assert "upgrade" in caught.value.hint
    if name not in {"twice", "no value"}:
        assert decrypt_unchecked(forged, keys) == small_file()
        assert show(forged, keys, checks_digests=False).equals(_SMALL)


def test_an_entry_in_a_file_of_another_writer_is_refused() -> None:
    keys = RandomKeys()
    data = encrypt(small_file(), only("email", digest=SHA256), keys)

    def drop_layout(footer: Struct) -> None:
        pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
        kept: list[Value] = [pair for pair in pairs if pair.binary(KeyValue.KEY) == INTEGRITY_KEY]
        footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, kept)

    with pytest.raises(FormatError):
        decrypt(edit_footer(data, keys, drop_layout), keys)


def test_blake3_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, policy = RandomKeys(), only("email", digest=DigestAlgorithm.BLAKE3)
    data = encrypt(small_file(), policy, keys)
    monkeypatch.setitem(sys.modules, "blake3", None)
    sink = MemorySink()
    with pytest.raises(MissingExtraError):
        encrypt_file(MemorySource(small_file()), sink, policy, keys=keys, context=Context(new_dataset_id(), "x"))
    assert not sink.data
    for read in (decrypt, show):
        with pytest.raises(MissingExtraError):
            read(data, keys)
    assert decrypt_unchecked(data, keys) == small_file()
    assert show(data, keys, checks_digests=False).equals(_SMALL)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_entries_end_in_our_errors(data: st.DataObject) -> None:
    segments = [Segment(kind, 0, column, 4, 9, 9) for column in range(3) for kind in SegmentKind]
    written = SegmentDigests(SHA256)
    written.expect(segments)
    for segment in segments:
        written.put(segment.place, f"{segment.column:02}" * 32)
    written.lengthen(0, 2, 10)
    entry = bytearray(written.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(entry) - 1))
        entry[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    for value in (bytes(entry), data.draw(st.binary(max_size=300))):
        try:
            ExpectedDigests(value, segments, "{} {}".format, "x")
        except PipecryptError:
            continue


def test_a_digest_takes_little_more_than_its_bytes() -> None:
    count = 100_000
    digests, hex_digest = SegmentDigests(SHA256), "ab" * 32
    tracemalloc.start()
    digests.expect(Segment(SegmentKind.PAGES, index, 0, 4, 9, 9) for index in range(count))
    for index in range(count):
        digests.put((index, 0, SegmentKind.PAGES), hex_digest)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 50 * count
