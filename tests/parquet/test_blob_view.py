"""Any range of a file of chunks must be the original's, and cost no more than the chunks that it hits."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import FormatError, IntegrityError
from pipecrypt.parquet.blob import view as view_module
from pipecrypt.parquet.blob.format import BlobLayout
from pipecrypt.parquet.files import BlobView
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.blob_world import CHUNK, ROW_GROUP, ZSTD, FillingSource, blob_view, seal, some_bytes, some_text
from tests.parquet.world import MemorySource, PlainSource, RandomKeys

SIZE = 3 * ROW_GROUP + 2 * CHUNK + 123
PAGE_OVERHEAD = 200  # headers and tags of a page, with room to spare


class CountingSource(MemorySource):
    """Remembers what was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read_range(self, start: int, length: int) -> memoryview:
        self.reads.append((start, length))
        return super().read_range(start, length)

    def forget(self) -> None:
        self.reads.clear()

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


class OneBufferSource(PlainSource):
    """Serves every range from one buffer, as a local file does: a view is valid until the next call."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._buffer = bytearray(len(data))

    def read_range(self, start: int, length: int) -> memoryview:
        view = memoryview(self._buffer)[:length]
        view[:] = super().read_range(start, length)
        return view


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "zstd"])
def sealed(request: pytest.FixtureRequest) -> tuple[bytes, bytes, RandomKeys]:
    keys = RandomKeys()
    original = some_text(SIZE) if request.param else some_bytes(SIZE)
    return original, seal(original, keys, codec=ZSTD if request.param else None)[0], keys


@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 20 * CHUNK)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_random_reads(sealed: tuple[bytes, bytes, RandomKeys], ranges: list[tuple[int, int]]) -> None:
    original, data, keys = sealed
    with blob_view(OneBufferSource(data), keys) as view:
        assert (view.name, view.size_bytes) == ("memory.parquet", SIZE)
        for start, wanted in ranges:
            length = min(wanted, SIZE - start)
            out = bytearray(length)
            view.read_into(start, memoryview(out))
            assert out == original[start : start + length] == view.read_range(start, length)


def test_what_was_read_stays(sealed: tuple[bytes, bytes, RandomKeys]) -> None:
    original, data, keys = sealed
    with blob_view(FillingSource(data), keys) as view:
        views = [view.read_range(start, 100) for start in range(0, SIZE - 100, 3 * CHUNK)]
    for start, seen in zip(range(0, SIZE - 100, 3 * CHUNK), views, strict=True):
        assert seen == original[start : start + 100]


def test_only_the_chunks_that_are_hit_are_fetched() -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(SIZE), keys)
    source = CountingSource(data)
    with blob_view(source, keys, None) as view:
        assert source.bytes_read <= 4 + 65_536
        source.forget()
        for start, length, chunks in [
            (100 * CHUNK + 5, 10, 1),
            (70 * CHUNK - 1, 2, 2),
            (10 * CHUNK, 4 * CHUNK, 4),
            (0, 1, 1),
            (SIZE - 1, 1, 1),
        ]:
            view.read_range(start, length)
            assert len(source.reads) == 1
            assert source.bytes_read <= chunks * (CHUNK + PAGE_OVERHEAD)
            source.forget()
        view.read_range(SIZE - 1, 1)
        assert not source.reads  # it is kept


def test_a_range_over_two_row_groups_takes_a_read_of_each() -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(SIZE), keys)
    source = CountingSource(data)
    with blob_view(source, keys, None) as view:
        source.forget()
        view.read_range(ROW_GROUP - CHUNK, 2 * CHUNK)
    assert len(source.reads) == 2


def test_compressed_row_groups_take_one_more_read_for_their_index() -> None:
    keys = RandomKeys()
    data, _ = seal(some_text(SIZE), keys, codec=ZSTD)
    source = CountingSource(data)
    with blob_view(source, keys) as view:
        source.forget()
        view.read_range(7, 1)
        assert len(source.reads) == 2
        view.read_range(50 * CHUNK, 1)
        assert len(source.reads) == 3
        assert source.bytes_read < 8 * CHUNK


def test_front_to_back_is_read_in_large_ranges() -> None:
    original, keys = some_bytes(SIZE), RandomKeys()
    data, _ = seal(original, keys)
    source = CountingSource(data)
    with blob_view(source, keys, None) as view:
        source.forget()
        for start in range(0, SIZE, 1000):
            length = min(1000, SIZE - start)
            assert view.read_range(start, length) == original[start : start + length]
        assert len(source.reads) <= 2 * len(range(0, SIZE, ROW_GROUP))
        assert source.bytes_read <= len(data)  # nothing is read twice


def test_opening_takes_no_keys_but_the_footers(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, opened = RandomKeys(), []
    data, _ = seal(some_bytes(SIZE), keys)
    open_data_key = keys.open_data_key

    def remember(key_metadata: bytes, context: object) -> DataKey:
        opened.append(open_data_key(key_metadata, context))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(keys, "open_data_key", remember)
    with blob_view(MemorySource(data), keys, None) as view:
        assert len(opened) == 1
        view.read_range(0, 1)
        view.read_range(CHUNK, 1)
        assert len(opened) == 2
    for key in opened:
        with pytest.raises(RuntimeError):
            key.expose_key_bytes()
    with pytest.raises(RuntimeError):
        view.read_range(0, 1)
    view.close()


def test_a_chunk_that_nobody_asked_for_does_no_harm() -> None:
    original, keys = some_bytes(8 * CHUNK), RandomKeys()
    data, _ = seal(original, keys)
    start, end = BlobLayout(len(original), CHUNK).sealed_bounds(0)[3:5]
    broken = data[: end - 1] + bytes((data[end - 1] ^ 1,)) + data[end:]
    assert start < end
    with blob_view(MemorySource(broken), keys, None) as view:
        for chunk in (0, 1, 2):  # read ahead from the second one on
            assert view.read_range(chunk * CHUNK, CHUNK) == original[chunk * CHUNK : (chunk + 1) * CHUNK]
        with pytest.raises(IntegrityError):
            view.read_range(3 * CHUNK, 1)
        with pytest.raises(IntegrityError):
            view.read_range(0, len(original))
        assert view.read_range(4 * CHUNK, CHUNK) == original[4 * CHUNK : 5 * CHUNK]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (0, SIZE + 1), (SIZE, 1), (2**62, 1)])
def test_ranges_outside(start: int, length: int) -> None:
    keys = RandomKeys()
    data, _ = seal(some_bytes(SIZE), keys)
    with blob_view(MemorySource(data), keys, None) as view:
        with pytest.raises(FormatError):
            view.read_range(start, length)
        assert view.read_range(SIZE, 0) == b""


def test_an_empty_file() -> None:
    keys = RandomKeys()
    with blob_view(MemorySource(seal(b"", keys)[0]), keys, None) as view:
        assert (view.size_bytes, view.read_range(0, 0)) == (0, b"")


@pytest.mark.parametrize("kind", [OneBufferSource, FillingSource])
def test_several_threads(sealed: tuple[bytes, bytes, RandomKeys], kind: type[MemorySource]) -> None:
    original, data, keys = sealed
    barrier = threading.Barrier(4)

    def read(offset: int) -> bool:
        barrier.wait()
        starts = range(offset, SIZE - 5000, 7919)
        return all(view.read_range(start, 5000) == original[start : start + 5000] for start in starts)

    with blob_view(kind(data), keys) as view, ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, (0, 1, 1000, 20_000)))


def test_more_row_groups_than_stay_open() -> None:
    original, keys = some_bytes(18 * ROW_GROUP), RandomKeys()
    data, _ = seal(original, keys)
    with blob_view(MemorySource(data), keys, None) as view:
        for row_group in (*range(18), 0, 17, 3):
            start = row_group * ROW_GROUP + 5
            assert view.read_range(start, 3) == original[start : start + 3]


def reachable(start: object) -> list[bytearray]:
    """Return the buffers that an object keeps alive."""
    found: list[bytearray] = []
    seen, pending = set[int](), [start]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, type | ModuleType | FunctionType):
            continue
        seen.add(id(value))
        if isinstance(value, bytearray):
            found.append(value)
        pending += gc.get_referents(value)
    return found


def test_plaintext_is_forgotten_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "_KEPT_BYTES", 8 * CHUNK)
    data, keys = some_bytes(100 * CHUNK), RandomKeys()
    sealed, _ = seal(data, keys)
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]

    def found(view: BlobView) -> int:
        return sum(chunk in kept for kept in reachable(view) for chunk in chunks)

    with blob_view(FillingSource(sealed), keys, None) as view:
        for start in range(0, len(data), CHUNK):  # more than is kept, so that some made room for others
            view.read_range(start, 1)
        assert found(view) >= 8
        view.forget_plaintext()
        assert found(view) == 0
        assert view.read_range(0, len(data)) == data
