"""A footer whose chunks are only looked at shows what a footer shows that was opened, and opens what is read."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import FormatError, IntegrityError, KeyNotFoundError, PipecryptError, UsageError
from pipecrypt.parquet.files import TableView, open_table_view
from pipecrypt.parquet.footer.stored import read_sealed_footer, read_stored_footer
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.parquet.table import view_layout
from pipecrypt.parquet.table.keys import encoded_path
from pipecrypt.parquet.wire.fields import COLUMN_META_DATA, ColumnMetaData, FileMetaData
from pipecrypt.parquet.wire.thrift import WireType, encode_struct, encode_zigzag, encoded_bytes
from pipecrypt.parquet.wire.thrift_read import read_struct
from pipecrypt.reading.view_file import ViewFile
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.world import MemorySource, RandomKeys, all_columns, encrypt, only, parquet_bytes
from tests.parquet.world import sample_table as sample


class SharedKeys(RandomKeys):
    """Keys whose metadata says that one KEK wraps them all; counts those that are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Context] = []
        self.missing = False

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        key, key_metadata = super().new_data_key(key_reference, context)
        text = b'{"wrappedKEK":"%b","wrappedDEK":"%b"}' % (key_reference.encode(), key_metadata.hex().encode())
        return key, text

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        if self.missing:
            raise KeyNotFoundError("the key is missing")
        self.opened.append(context)
        try:
            own = bytes.fromhex(key_metadata.split(b'"')[-2].decode())
        except (ValueError, IndexError) as error:
            raise FormatError("key metadata is malformed") from error
        return super().open_data_key(own, context)


class WithoutFooter(SharedKeys):
    """Those of columns only: nothing authenticates the footer."""

    def __init__(self, keys: SharedKeys) -> None:
        super().__init__()
        self._keys = keys

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        if context.column is None:
            raise KeyNotFoundError("that of the footer is missing")
        return self._keys.open_data_key(key_metadata, context)


@pytest.fixture
def keys() -> SharedKeys:
    return SharedKeys()


def _whole(data: bytes, keys: SharedKeys) -> bytes:
    with open_table_view(MemorySource(data), keys=keys) as view:
        return bytes(view.read_range(0, view.size_bytes))


def _opened(monkeypatch: pytest.MonkeyPatch, data: bytes, keys: SharedKeys) -> bytes:
    """Return the plaintext of a view whose whole footer is opened."""
    with monkeypatch.context() as patch:
        patch.setattr(view_layout, "scan_footer", lambda *_, **__: None)
        return _whole(data, keys)


def _is_scanned(view: TableView) -> bool:
    return view._shown.lazy is not None


def _nested() -> pa.Table:
    rows = [{"a": {"b": [number, None], "c": str(number)}, "d": None} for number in range(50)]
    return pa.table({"deep": rows, "x" * 300: range(50), "ö": [None] * 50})


@pytest.mark.parametrize("scope", list(KeyScope))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 100},
        {"row_group_size": 100, "write_page_index": True, "compression": "zstd"},
        {"row_group_size": 100, "use_dictionary": False, "data_page_version": "2.0"},
        {"row_group_size": 100, "write_statistics": False},
        {"row_group_size": 100, "bloom_filter_options": {"id": True}},
    ],
    ids=str,
)
@pytest.mark.parametrize("table", [sample(), _nested(), sample().slice(0, 0)], ids=["flat", "nested", "empty"])
def test_it_shows_what_an_opened_footer_shows(
    keys: SharedKeys, monkeypatch: pytest.MonkeyPatch, table: pa.Table, options: dict[str, Any], scope: KeyScope
) -> None:
    try:
        plain = parquet_bytes(table, **options)
    except (TypeError, KeyError, OSError):
        pytest.skip("this pyarrow writes no such file")
    some = only(table.column_names[0])
    for policy in (all_columns(data_keys=scope), some, replace(some, digest=DigestAlgorithm.SHA256)):
        data = encrypt(plain, policy, keys)
        assert _whole(data, keys) == _opened(monkeypatch, data, keys)
        with open_table_view(MemorySource(data), keys=keys, statistics=False) as view:
            shown = io.BytesIO(view.read_range(0, view.size_bytes))
            assert pq.read_table(shown).equals(pq.read_table(io.BytesIO(plain)))


def test_usual_files_are_scanned(keys: SharedKeys) -> None:
    for options in ({}, {"row_group_size": 100}, {"write_page_index": True}, {"compression": "zstd"}):
        data = encrypt(parquet_bytes(sample(), **options), all_columns(), keys)  # type: ignore[arg-type]
        for statistics in (False, True):
            with open_table_view(MemorySource(data), keys=keys, statistics=statistics) as view:
                assert _is_scanned(view)
                assert view.clear_columns == view.locked_columns == frozenset()
                assert len(view.column_keys) == len(view.leaves)
                assert view.is_authenticated
        data = encrypt(parquet_bytes(sample(), **options), only("email"), keys)  # type: ignore[arg-type]
        with open_table_view(MemorySource(data), keys=keys, statistics=False) as view:
            assert _is_scanned(view)
            assert view.clear_columns == frozenset(range(len(view.leaves))) - {1}
            assert list(view.column_keys) == [1]


def test_others_are_opened(keys: SharedKeys) -> None:
    plain = parquet_bytes(sample(), row_group_size=100)
    digested = only("email", digest=DigestAlgorithm.SHA256)
    for policy in (digested, all_columns(FooterMode.ENCRYPTED), EncryptionPolicy(default="master", uniform=True)):
        with open_table_view(MemorySource(encrypt(plain, policy, keys)), keys=keys, statistics=False) as view:
            assert not _is_scanned(view)


def test_only_what_is_read_is_opened(keys: SharedKeys) -> None:
    data = encrypt(parquet_bytes(sample(), row_group_size=100), all_columns(), keys)
    groups = 10
    keys.opened.clear()
    with open_table_view(MemorySource(data), keys=keys, statistics=False) as view:
        assert len(keys.opened) == 2  # of the footer, and one to see whether it is at hand
        for part in (part for part in view._shown.parts if part.chunk in ((3, 0), (7, 2))):
            view.read_range(part.start, part.length)
            view.read_range(part.start + 5, 10)
        assert [(context.column, context.batch) for context in keys.opened[2:]] == [(("id",), 3), (("city",), 7)]
    keys.opened.clear()
    with open_table_view(MemorySource(data), keys=keys) as view:
        assert len(keys.opened) == 1 + groups * len(view.leaves)


def _file(view: TableView) -> pa.NativeFile:
    return pa.PythonFile(ViewFile(view), mode="r")


def test_statistics_are_shown_for_readers_that_filter(keys: SharedKeys) -> None:
    data = encrypt(parquet_bytes(sample(), row_group_size=100), all_columns(), keys)
    for statistics in (True, False):
        with open_table_view(MemorySource(data), keys=keys, statistics=statistics) as view:
            chunk = pq.ParquetFile(_file(view)).metadata.row_group(2).column(0)
            assert chunk.is_stats_set is statistics
            assert not statistics or (chunk.statistics.min, chunk.statistics.max) == (200, 299)


def test_a_missing_key_is_seen_when_the_view_is_opened(keys: SharedKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encrypt(parquet_bytes(sample(), row_group_size=100), all_columns(), keys)
    keys.missing = True
    with open_table_view(MemorySource(data), keys=keys, statistics=False) as view:
        assert not _is_scanned(view)
        assert view.locked_columns == frozenset(range(len(view.leaves)))


def test_what_was_changed_is_noticed_when_it_is_read(keys: SharedKeys) -> None:
    """Without the footer's key, nothing but the sealed metadata of a chunk shows that its place was changed."""
    data = encrypt(parquet_bytes(sample(), row_group_size=500), all_columns(), keys)
    with open_table_view(MemorySource(data), keys=WithoutFooter(keys), statistics=False) as view:
        assert _is_scanned(view)
        assert not view.is_authenticated
        entry = view._shown.lazy._found[1][0].entry  # type: ignore[union-attr]
        values = view._shown.lazy._found[1][0].num_values  # type: ignore[union-attr]
    other = entry.replace(encode_zigzag(values), encode_zigzag(values + 1))
    assert len(other) == len(entry)
    changed = data.replace(entry, other)
    assert changed != data
    with open_table_view(MemorySource(changed), keys=WithoutFooter(keys), statistics=False) as view:
        assert _is_scanned(view)
        for start, room, row_group, column in view._shown.parts._chunks:  # type: ignore[attr-defined]
            if (row_group, column) == (1, 0):
                with pytest.raises(IntegrityError, match="not what the footer shows"):
                    view.read_range(start, room)
            else:
                view.read_range(start, room)
    assert _whole(changed, WithoutFooter(keys)) == _whole(data, WithoutFooter(keys))  # opened, it is as it was sealed


def _unauthenticated(data: bytes, keys: SharedKeys) -> TableView:
    return open_table_view(MemorySource(data), keys=WithoutFooter(keys), statistics=False)


def _shown_of(data: bytes, keys: SharedKeys, row_group: int, column: int) -> tuple[int, int]:
    """Return where the clear metadata of a chunk begins in a file, and where it ends."""
    with _unauthenticated(data, keys) as view:
        assert view._shown.lazy is not None
        found = view._shown.lazy._found[row_group][column]
        at = data.index(found.entry)
        return at + found.metadata_at, at + len(found.entry)


@pytest.mark.parametrize("dictionary", [False, True])
def test_no_change_of_clear_metadata_changes_what_is_read(keys: SharedKeys, *, dictionary: bool) -> None:
    """Readers decode pages by it: with another type or codec, the bytes of true pages are other values."""
    rng = random.Random(5)  # noqa: S311  # of a test
    table = pa.table({"id": range(40), "amount": [rng.randrange(1 << 40) for _ in range(40)]})
    plain = parquet_bytes(table, row_group_size=20, compression="snappy", use_dictionary=dictionary)
    data, scanned, refused = encrypt(plain, all_columns(), keys), 0, 0
    start, end = _shown_of(data, keys, 1, 1)
    for at in range(start, end):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                view = _unauthenticated(bytes(changed), keys)
            except PipecryptError:
                refused += 1
                continue
            with view:
                if _is_scanned(view):
                    scanned += 1
                    (part,) = [part for part in view._shown.parts if part.chunk == (1, 1)]
                    with pytest.raises(IntegrityError, match="not what the footer shows"):
                        view.read_range(part.start, part.length)
                else:  # shown as it was sealed
                    assert pq.read_table(_file(view)).equals(table)
    assert scanned > 40
    assert refused > 0


def _with_codec_changed(data: bytes, keys: SharedKeys) -> bytes:
    start, end = _shown_of(data, keys, 0, 0)
    codec = data.index(encoded_path(("amount",))[1:], start, end) + len(encoded_path(("amount",))[1:])
    assert data[codec : codec + 2] == b"\x15\x02"  # SNAPPY
    return data[: codec + 1] + b"\x00" + data[codec + 2 :]


def _row_groups(data: bytes) -> list[bytes]:
    footer = read_stored_footer(MemorySource(data)).metadata
    assert footer is not None
    return [bytes(encoded_bytes(each) or b"") for each in footer.structs(FileMetaData.ROW_GROUPS)]


def _amounts(keys: SharedKeys) -> tuple[pa.Table, bytes]:
    rng = random.Random(5)  # noqa: S311  # of a test
    schema = pa.schema([pa.field("amount", pa.int64(), nullable=False)])
    table = pa.table([[rng.randrange(1 << 40) for _ in range(20)]], schema=schema)
    plain = parquet_bytes(table, compression="snappy", use_dictionary=False)
    return table, encrypt(plain, all_columns(), keys)


def test_another_codec_is_refused(keys: SharedKeys) -> None:
    table, data = _amounts(keys)
    with _unauthenticated(data, keys) as view:
        assert pq.read_table(_file(view)).equals(table)
    with _unauthenticated(_with_codec_changed(data, keys), keys) as view, pytest.raises(IntegrityError):
        pq.read_table(_file(view))


def test_columns_that_are_repeated_behind_the_row_group_are_refused(keys: SharedKeys) -> None:
    """A reader takes the last of two lists, and only the first would be compared."""
    _, data = _amounts(keys)
    (group,), (other,) = _row_groups(data), _row_groups(_with_codec_changed(data, keys))
    columns = read_struct(other, 0, {}, "row group")[0].entries[0][2]  # encoded
    assert isinstance(columns, bytes)
    repeated = group[:-1] + b"\x09\x02" + columns + b"\x00"
    start = read_sealed_footer(MemorySource(data)).body_end
    footer = data[start:-8].replace(group, repeated)
    changed = data[:start] + footer + len(footer).to_bytes(4, "little") + data[-4:]
    with pytest.raises(FormatError, match="repeats a field"):
        _unauthenticated(changed, keys)


@pytest.mark.parametrize("name", ["dictionary", "values"])
def test_a_chunk_that_readers_might_not_fetch_is_opened_at_once(keys: SharedKeys, name: str) -> None:
    """One that seems to lie elsewhere for some readers, or to have no values: nothing would be compared."""
    data = encrypt(parquet_bytes(sample(), row_group_size=500), all_columns(), keys)
    start, end = _shown_of(data, keys, 1, 0)
    entry = data[start:end]
    metadata, _ = read_struct(entry, 0, COLUMN_META_DATA, "metadata")
    if name == "values":
        metadata.set(ColumnMetaData.NUM_VALUES, WireType.I64, 100)
    else:  # the data pages alone, with a dictionary behind them
        dictionary = metadata.integer(ColumnMetaData.DICTIONARY_PAGE_OFFSET) or 0
        pages = metadata.integer(ColumnMetaData.DATA_PAGE_OFFSET) or 0
        size = metadata.integer(ColumnMetaData.TOTAL_COMPRESSED_SIZE) or 0
        assert 0 < dictionary < pages
        metadata.set(ColumnMetaData.DICTIONARY_PAGE_OFFSET, WireType.I64, dictionary + size)
        metadata.set(ColumnMetaData.TOTAL_COMPRESSED_SIZE, WireType.I64, size - (pages - dictionary))
    other = encode_struct(metadata)
    assert len(other) == len(entry)
    assert other != entry
    with _unauthenticated(data.replace(entry, other), keys) as view:
        assert not _is_scanned(view)
        assert pq.read_table(_file(view)).equals(sample())


def test_sealed_metadata_that_was_changed_is_noticed_when_it_is_read(keys: SharedKeys) -> None:
    data = encrypt(parquet_bytes(sample(), row_group_size=500), all_columns(), keys)
    changed = None
    with open_table_view(MemorySource(data), keys=keys, statistics=False) as view:
        sealed = view._shown.lazy._found[1][2].sealed  # type: ignore[union-attr]
        changed = bytearray(data)
        changed[data.index(sealed) + 20] ^= 1

    with open_table_view(MemorySource(bytes(changed)), keys=WithoutFooter(keys), statistics=False) as view:
        for start, room, row_group, column in view._shown.parts._chunks:  # type: ignore[attr-defined]
            if (row_group, column) == (1, 2):
                with pytest.raises(IntegrityError, match="metadata of"):
                    view.read_range(start, room)
            else:
                view.read_range(start, room)
    with pytest.raises(IntegrityError):  # with its key, the footer's tag tells
        open_table_view(MemorySource(bytes(changed)), keys=keys, statistics=False)


@pytest.mark.parametrize("policy", [all_columns(), only("text")], ids=["all", "some"])
def test_no_mutation_of_a_footer_is_read_otherwise_than_by_the_whole_parser(
    keys: SharedKeys, monkeypatch: pytest.MonkeyPatch, policy: EncryptionPolicy
) -> None:
    """Nothing authenticates the footer here, so that the parsers themselves are compared."""

    table = pa.table({"id": range(40), "text": [str(number) for number in range(40)]})
    data = encrypt(parquet_bytes(table, row_group_size=20, write_page_index=True), policy, keys)
    start, rng, same = read_sealed_footer(MemorySource(data)).body_end, random.Random(7), 0  # noqa: S311  # of a test
    for _ in range(600):
        changed = bytearray(data)
        changed[rng.randrange(start, len(data) - 8)] ^= 1 << rng.randrange(8)
        shown = []
        for read in (_whole, lambda *given: _opened(monkeypatch, *given)):
            try:
                shown.append(read(bytes(changed), WithoutFooter(keys)))
            except PipecryptError:
                shown.append(b"refused")
        assert shown[0] == shown[1]
        same += shown[0] != b"refused"
    assert same > 50


def test_a_closed_view_opens_nothing_more(keys: SharedKeys) -> None:
    data = encrypt(parquet_bytes(sample()), all_columns(), keys)
    view = open_table_view(MemorySource(data), keys=keys, statistics=False)
    start, room, _, _ = view._shown.parts._chunks[3]  # type: ignore[attr-defined]
    view.close()
    with pytest.raises(UsageError, match="wiped"):
        view.read_range(start, room)


def test_a_chunk_that_was_open_is_closed_with_its_view(keys: SharedKeys) -> None:
    data = encrypt(parquet_bytes(sample()), all_columns(), keys)
    view = open_table_view(MemorySource(data), keys=keys, statistics=False)
    start, room, _, _ = view._shown.parts._chunks[3]  # type: ignore[attr-defined]
    view.read_range(start, room)
    view.close()
    with pytest.raises(UsageError, match="wiped"):
        view.read_range(start, room)
    assert not view._opened._ciphers  # type: ignore[union-attr]


def test_a_key_that_is_opened_while_the_view_is_closed_is_wiped(keys: SharedKeys) -> None:
    """As by another thread: the view is open when it is asked for the chunk, and closed when the key arrives."""
    data = encrypt(parquet_bytes(sample()), all_columns(), keys)
    view, made, real = open_table_view(MemorySource(data), keys=keys, statistics=False), [], keys.open_data_key

    def open_and_close(key_metadata: bytes, context: Context) -> DataKey:
        made.append(real(key_metadata, context))
        view.close()
        return made[-1]

    start, room, _, _ = view._shown.parts._chunks[3]  # type: ignore[attr-defined]
    keys.open_data_key = open_and_close  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="wiped"):
        view.read_range(start, room)
    assert len(made) == 1
    with pytest.raises(RuntimeError, match="wiped"):
        made[0].expose_key_bytes()


def test_threads_open_each_chunk_once(keys: SharedKeys) -> None:
    data = encrypt(parquet_bytes(sample(), row_group_size=50), all_columns(), keys)
    with open_table_view(MemorySource(data), keys=keys, statistics=False) as view:
        keys.opened.clear()
        parts = list(view._shown.parts)[1:-1] * 4
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda part: view.read_range(part.start, part.length), parts))
        assert len(keys.opened) == 20 * len(view.leaves) - 1
