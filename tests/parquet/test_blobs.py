"""Any bytes must come back as they were, of any length, on every way in; and nothing of them may be seen."""

from __future__ import annotations

import hashlib
import io
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import (
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    LimitError,
    PolicyError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from pipecrypt.parquet.blob.encrypt import PlainBlob
from pipecrypt.parquet.blob.format import MAX_BLOCK_BYTES, BlobLayout, choose_block_bytes
from pipecrypt.parquet.files import BlobInfo, decrypt_file, encrypt_blob, encrypt_blob_stream
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.ranges import DescribedSource, SourceTraits, read_each
from tests.parquet.blob_world import (
    CHUNK,
    POLICY,
    ROW_GROUP,
    ZSTD,
    FillingSource,
    blob_view,
    by_file,
    restore,
    seal,
    show,
    some_bytes,
    some_text,
)
from tests.parquet.world import MemorySink, MemorySource, PlainSource, RandomKeys

WAYS = [("file", False), ("ranges", False), ("stream", False), ("file", True), ("ranges", True), ("stream", True)]
MIB = 1 << 20


@pytest.mark.parametrize(("way", "compressed"), WAYS)
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, ROW_GROUP - 1, ROW_GROUP, ROW_GROUP + 1, 700_001])
def test_every_length_comes_back(way: str, compressed: bool, size: int) -> None:
    data, keys = some_bytes(size), RandomKeys()
    sealed, report = seal(data, keys, way=way, codec=ZSTD if compressed else None)
    chunks, row_groups = -(-size // CHUNK), -(-size // ROW_GROUP)
    assert (report.rows, report.batches, report.source_bytes) == (chunks, row_groups, size)
    assert (report.data_keys, report.sink_bytes) == (row_groups + 1, len(sealed))
    assert restore(sealed, keys) == data
    assert show(sealed, keys) == data


@pytest.mark.parametrize(("way", "compressed"), WAYS)
@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1])
def test_chunks_of_a_mebibyte(way: str, compressed: bool, size: int) -> None:
    data, keys = some_bytes(size), RandomKeys()
    sealed, report = seal(data, keys, way=way, codec=ZSTD if compressed else None, block_bytes=MIB)
    assert report.rows == -(-size // MIB)
    assert restore(sealed, keys) == show(sealed, keys) == data


@given(st.integers(0, 3 * ROW_GROUP), st.sampled_from(WAYS), st.sampled_from([CHUNK, 3 * CHUNK]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_length_comes_back(size: int, way: tuple[str, bool], block_bytes: int, text: bool) -> None:
    data, keys = (some_text if text else some_bytes)(size), RandomKeys()
    sealed, _ = seal(data, keys, way=way[0], codec=ZSTD if way[1] else None, block_bytes=block_bytes)
    assert restore(sealed, keys) == show(sealed, keys) == data


def test_both_ways_in_make_files_of_one_layout() -> None:
    data, keys = some_bytes(ROW_GROUP + 5), RandomKeys()
    lengths = {len(seal(data, keys, way=way)[0]) for way in ("file", "ranges", "stream")}
    assert (
        max(lengths) - min(lengths) < 10
    )  # the size of the plaintext form, which is not stored twice, has fewer digits
    plain = PlainBlob(MemorySource(data), BlobLayout(len(data), CHUNK))
    table = pq.read_table(io.BytesIO(bytes(plain.read_range(0, plain.size_bytes))))
    assert b"".join(table["chunk"].to_pylist()) == data


class _Requests(FillingSource):
    """Each read is a request, and several may be under way."""

    traits = SourceTraits(reads_in_flight=8)


@pytest.mark.parametrize("kind", [FillingSource, _Requests])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_range_of_the_plaintext_form(kind: type[MemorySource], data: st.DataObject) -> None:
    raw = some_bytes(data.draw(st.sampled_from([0, 5, CHUNK, 3 * CHUNK + 7, ROW_GROUP + 1])))
    layout = BlobLayout(len(raw), CHUNK)
    by_range, filling = PlainBlob(PlainSource(raw), layout), PlainBlob(kind(raw), layout)
    whole = bytes(by_range.read_range(0, by_range.size_bytes))
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    out = bytearray(length)
    assert isinstance(filling, DescribedSource)
    assert by_range.traits == SourceTraits()
    filling.read_into(start, memoryview(out))
    assert whole[start : start + length] == bytes(by_range.read_range(start, length)) == out


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("scope", KeyScope)
def test_what_is_kept_about_a_file(compressed: bool, scope: KeyScope) -> None:
    info, keys = BlobInfo("PLANTED-näme.bin", stat.S_IFREG | 0o4750, 1_700_000_000_123_456_789), RandomKeys()
    policy = EncryptionPolicy(default="master", data_keys=scope, footer=FooterMode.PLAINTEXT)
    sealed, _ = seal(b"PLANTED-bytes" * 1000, keys, info=info, policy=policy, codec=ZSTD if compressed else None)
    assert b"PLANTED" not in sealed
    assert b"pipecrypt.chunks" not in sealed
    assert sealed[:4] == sealed[-4:] == b"PARE"
    sink = MemorySink()
    told: list[tuple[BlobInfo, int]] = []
    report = decrypt_file(
        MemorySource(sealed),
        sink,
        keys=keys,
        codec=ZSTD,
        on_info=lambda info: told.append((info, len(sink.data))),
    )
    assert told == [(BlobInfo("PLANTED-näme.bin", 0o750, 1_700_000_000_123_456_789), 0)]
    assert (report.rows, report.batches, report.source_bytes, report.sink_bytes) == (4, 1, len(sealed), 13_000)


def test_compression_shortens() -> None:
    data, keys = some_text(5 * ROW_GROUP), RandomKeys()
    assert len(seal(data, keys, codec=ZSTD)[0]) < len(data) // 4


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "\ud800", "x" * 2000])
@pytest.mark.parametrize("way", ["file", "stream"])
def test_names_that_cannot_be_kept(name: str, way: str) -> None:
    with pytest.raises(UsageError):
        seal(b"x", RandomKeys(), way=way, info=BlobInfo(name))


@pytest.mark.parametrize("block_bytes", [-CHUNK, 0, 1, 4095, 4097, MAX_BLOCK_BYTES + CHUNK])
@pytest.mark.parametrize("way", ["file", "stream"])
def test_sizes_of_chunks_that_are_not_possible(block_bytes: int, way: str) -> None:
    with pytest.raises(UsageError):
        seal(b"x", RandomKeys(), way=way, block_bytes=block_bytes)


@pytest.mark.parametrize("policy", [EncryptionPolicy(rules=(ColumnRule("a", "k"),)), None])
def test_chunks_have_no_columns(policy: EncryptionPolicy | None) -> None:
    policy = policy or EncryptionPolicy(rules=(ColumnRule("a", "k"),), default="k")
    with pytest.raises(PolicyError):
        seal(b"x", RandomKeys(), policy=policy)


def test_uniform_encryption_takes_one_key() -> None:
    data, keys = some_bytes(2 * ROW_GROUP), RandomKeys()
    sealed, report = seal(data, keys, policy=EncryptionPolicy(default="master", uniform=True))
    assert report.data_keys == 1
    assert restore(sealed, keys) == show(sealed, keys) == data


def test_data_keys_of_a_file() -> None:
    data, keys = some_bytes(2 * ROW_GROUP), RandomKeys()
    sealed, report = seal(data, keys, policy=by_file())
    assert report.data_keys == 2
    assert restore(sealed, keys) == show(sealed, keys) == data


def test_larger_files_get_larger_chunks() -> None:
    two_tebibytes = 32_767 * 64 * MIB
    assert choose_block_bytes(two_tebibytes, MIB, "x") == MIB
    assert choose_block_bytes(two_tebibytes + 1, MIB, "x") == 2 * MIB
    assert choose_block_bytes(16 * two_tebibytes, 3 * MIB, "x") == MAX_BLOCK_BYTES
    with pytest.raises(LimitError):
        choose_block_bytes(16 * two_tebibytes + 1, MIB, "x")


def test_streams_longer_than_ordinals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.parquet.blob.format.MAX_ORDINALS", 2)
    keys = RandomKeys()
    seal(some_bytes(2 * ROW_GROUP), keys, way="stream")
    with pytest.raises(LimitError):
        seal(some_bytes(2 * ROW_GROUP + 1), keys, way="stream")
    assert seal(some_bytes(2 * ROW_GROUP + 1), keys)[1].rows == 65


class _Shrinking(FillingSource):
    def read_into(self, start: int, out: memoryview) -> None:
        if start + len(out) > CHUNK:
            raise FormatError("the file became shorter")
        super().read_into(start, out)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_source_that_becomes_shorter(compressed: bool) -> None:
    codec, options = ZSTD if compressed else None, {"keys": RandomKeys(), "block_bytes": CHUNK}
    with pytest.raises(FormatError):
        encrypt_blob(
            _Shrinking(some_bytes(3 * CHUNK)),
            MemorySink(),
            POLICY,
            context=_context(),
            codec=codec,
            **options,  # type: ignore[arg-type]
        )


def _context() -> Context:
    return Context(new_dataset_id(), "x")


class _Dribbling(io.RawIOBase):
    """Gives a few bytes at a time, then fails or has none at the moment."""

    def __init__(self, data: bytes, end: Exception | int | None) -> None:
        self._file = io.BytesIO(data)
        self._end = end

    def readinto(self, out: memoryview) -> int | None:  # type: ignore[override]
        count = self._file.readinto(out[:1000])
        if count or self._end == 0:
            return count
        if isinstance(self._end, Exception):
            raise self._end
        return None


def test_streams_that_dribble_and_fail() -> None:
    data, keys, sink = some_bytes(ROW_GROUP + 77), RandomKeys(), MemorySink()
    options = {"keys": keys, "context": _context(), "block_bytes": CHUNK}
    encrypt_blob_stream(_Dribbling(data, 0), sink, POLICY, **options)  # type: ignore[arg-type]
    assert restore(bytes(sink.data), keys) == data
    with pytest.raises(BrokenPipeError):
        encrypt_blob_stream(_Dribbling(data, BrokenPipeError()), MemorySink(), POLICY, **options)  # type: ignore[arg-type]
    with pytest.raises(StorageError):
        encrypt_blob_stream(_Dribbling(data, None), MemorySink(), POLICY, **options)  # type: ignore[arg-type]


class _Hanging(io.RawIOBase):
    """Gives two row groups, then nothing for as long as the test lasts."""

    def __init__(self) -> None:
        self._left = 2 * ROW_GROUP
        self.end = threading.Event()

    def readinto(self, out: memoryview) -> int:  # type: ignore[override]
        if not self._left:
            self.end.wait()
            return 0
        count = min(len(out), self._left)
        self._left -= count
        return count


class _FullSink:
    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise StorageError("no space left")


def test_a_stream_that_hangs_does_not_hide_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.parquet.blob.encrypt._GRACE_SECONDS", 0.01)
    monkeypatch.setattr("pipecrypt.parquet.carry.writing._FLUSH_BYTES", 1)
    stream = _Hanging()
    try:
        with pytest.raises(StorageError):
            encrypt_blob_stream(
                stream,
                _FullSink(),
                POLICY,
                keys=RandomKeys(),
                context=_context(),
                block_bytes=CHUNK,
            )
    finally:
        stream.end.set()


@pytest.mark.parametrize(("way", "compressed"), WAYS)
def test_progress_adds_up_to_the_source(way: str, compressed: bool) -> None:
    data, keys, sink, counts = some_bytes(3 * ROW_GROUP + 9), RandomKeys(), MemorySink(), []
    options = {"keys": keys, "context": _context(), "block_bytes": CHUNK, "codec": ZSTD if compressed else None}
    if way == "stream":
        encrypt_blob_stream(io.BytesIO(data), sink, POLICY, on_bytes=counts.append, **options)  # type: ignore[arg-type]
    else:
        encrypt_blob(FillingSource(data), sink, POLICY, on_bytes=counts.append, **options)  # type: ignore[arg-type]
    assert sum(counts) == len(data)


def test_wrong_keys() -> None:
    keys, others = RandomKeys(), RandomKeys()
    sealed, _ = seal(some_bytes(10), keys)
    others.by_metadata = {metadata: (b"\0" * 32, bound) for metadata, (_, bound) in keys.by_metadata.items()}
    for read in (restore, show):
        with pytest.raises(KeyNotFoundError):
            read(sealed, RandomKeys())
        with pytest.raises(IntegrityError):
            read(sealed, others)


def test_compressed_pages_need_a_codec() -> None:
    keys = RandomKeys()
    sealed, _ = seal(some_bytes(10), keys, codec=ZSTD)
    with pytest.raises(UnsupportedError):
        decrypt_file(MemorySource(sealed), MemorySink(), keys=keys)
    with pytest.raises(UnsupportedError):
        blob_view(MemorySource(sealed), keys, None)


class _Sparse:
    """Zeros, and a few other bytes."""

    name = "sparse.bin"
    traits = SourceTraits(seeks_cheaply=True, reads_in_flight=1)

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._zeros = bytes(8 * MIB)

    def read_range(self, start: int, length: int) -> memoryview:
        out = memoryview(bytearray(length))
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: memoryview) -> None:
        out[:] = self._zeros[: len(out)]
        first = -(-start // 999_983) * 999_983
        for position in range(first, start + len(out), 999_983):
            out[position - start] = position % 251

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return read_each(self, ranges)


class _Digest:
    """A sink that keeps nothing."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.digest.update(data)
        self.size_bytes += len(data)


class _FileSink:
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self._file.flush()


def test_three_hundred_mebibytes(tmp_path: Path) -> None:
    source, keys, path = _Sparse(300 * MIB), RandomKeys(), tmp_path / "x.parquet"
    encrypt_blob(source, _FileSink(path), POLICY, keys=keys, context=_context(), block_bytes=MIB)  # type: ignore[arg-type]
    expected, restored = _Digest(), _Digest()
    for start in range(0, source.size_bytes, 4 * MIB):
        expected.write(source.read_range(start, 4 * MIB))
    encrypted = FillingSource(path.read_bytes())
    path.unlink()
    decrypt_file(encrypted, restored, keys=keys)
    assert (restored.size_bytes, restored.digest.digest()) == (300 * MIB, expected.digest.digest())
    with blob_view(encrypted, keys, None) as view:
        for start in (0, 63 * MIB + 17, 64 * MIB - 5, 299 * MIB, 300 * MIB - 10):
            assert view.read_range(start, 10) == source.read_range(start, 10)
