"""Chunks that take many windows: the same results as in one, whatever lies across their borders, in bounded memory."""

from __future__ import annotations

import os
import time
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import FormatError, PipecryptError, StorageError
from pipecrypt.parquet.files import decrypt_file, encrypt_file
from pipecrypt.parquet.pages.headers import MAX_HEADER_BYTES, PageScan
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.wire.thrift import encode_varint
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.test_vectors import ENCRYPTED, FOREIGN_KEYS, PLAIN, TOO_MANY_PAGES, middle_column
from tests.parquet.world import (
    DATA,
    FillingSource,
    FixedKeys,
    MemorySink,
    RandomKeys,
    all_columns,
    decrypt,
    encrypt,
    needs_vectors,
    only,
    parquet_bytes,
    sample_table,
)

_MIB = 1 << 20
_SMALL_FILES = [name for name in PLAIN if name != TOO_MANY_PAGES and (DATA / name).stat().st_size < 200_000]


class _FillingSource(FillingSource):
    """Fills buffers as a local file does, and knows the largest range it was asked for."""

    largest_bytes = 0

    def read_into(self, start: int, out: memoryview) -> None:
        self.largest_bytes = max(self.largest_bytes, len(out))
        out[:] = super().read_range(start, len(out))


@pytest.fixture
def window_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    for module in ("footer.segments", "carry.reading"):
        monkeypatch.setattr(f"pipecrypt.parquet.{module}.WINDOW_BYTES", request.param)
    return int(request.param)


def _sealed(data: bytes, policy: EncryptionPolicy, keys: RandomKeys) -> bytes:
    sink = MemorySink()
    encrypt_file(_FillingSource(data), sink, policy, keys=keys, context=Context(new_dataset_id(), "memory.parquet"))
    return bytes(sink.data)


def _opened(data: bytes, keys: RandomKeys | FixedKeys, prefix: bytes | None = None) -> bytes:
    sink = MemorySink()
    decrypt_file(_FillingSource(data), sink, keys=keys, aad_prefix=prefix)
    return bytes(sink.data)


@needs_vectors
@pytest.mark.parametrize("window_bytes", [61, 700], indirect=True)
@pytest.mark.parametrize("name", _SMALL_FILES)
def test_windows_change_no_result(name: str, window_bytes: int) -> None:
    original = (DATA / name).read_bytes()
    middle = middle_column(original)
    for policy in (all_columns(), only(middle), only(middle, digest=DigestAlgorithm.SHA256)):
        keys = RandomKeys()
        # A source in memory fills no buffers, so it is read in ranges as long as its chunks.
        at_once = decrypt(encrypt(original, policy, keys), keys)
        assert _opened(_sealed(original, policy, keys), keys) == at_once


@needs_vectors
@pytest.mark.parametrize("window_bytes", [61, 700], indirect=True)
@pytest.mark.parametrize("name", ENCRYPTED)
def test_files_of_other_writers_in_windows(name: str, window_bytes: int) -> None:
    encrypted, keys = (DATA / name).read_bytes(), FixedKeys(FOREIGN_KEYS)
    prefix = b"tester" if "disable_aad_storage" in name else None
    assert _opened(encrypted, keys, prefix) == decrypt(encrypted, keys, prefix)


def _outcome(data: bytes, *, in_windows: bool) -> object:
    keys = RandomKeys()
    try:
        return decrypt((_sealed if in_windows else encrypt)(data, all_columns(), keys), keys)
    except PipecryptError as error:
        return type(error)


@pytest.mark.parametrize("window_bytes", [61], indirect=True)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_a_damaged_chunk_has_one_outcome(window_bytes: int, data: st.DataObject) -> None:
    changed = bytearray(_PLAIN)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(4, len(changed) // 2))] = data.draw(st.integers(0, 255))
    assert _outcome(bytes(changed), in_windows=True) == _outcome(bytes(changed), in_windows=False)


_PLAIN = parquet_bytes(sample_table(60), row_group_size=30, data_page_size=100)


def test_a_long_chunk_takes_little_memory() -> None:
    values = pa.array([os.urandom(_MIB) for _ in range(64)], pa.binary())
    original = parquet_bytes(
        pa.table({"blob": values}), compression="none", use_dictionary=False, data_page_size=_MIB, write_batch_size=1
    )
    keys, source = RandomKeys(), _FillingSource(original)
    sealed = _CountingSink()
    tracemalloc.start()
    try:
        encrypt_file(source, sealed, all_columns(), keys=keys, context=Context(new_dataset_id(), "a"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sealed.written > 64 * _MIB
    assert source.largest_bytes <= 4 * _MIB
    assert peak < 40 * _MIB
    assert _opened(_sealed(original, all_columns(), keys), keys) == original


class _SlowSink(MemorySink):
    """Looks at what it was given only after a while, and fails at the write numbered `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self._fails_at = fails_at
        self.writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        time.sleep(0.0005)
        if self.writes == self._fails_at:
            raise StorageError("the disk is full")
        super().write(data)


@pytest.mark.parametrize("window_bytes", [700], indirect=True)
@pytest.mark.parametrize("policy", [all_columns(), only("email"), only("id", "tags", digest=DigestAlgorithm.SHA256)])
def test_no_buffer_is_filled_while_it_is_written(
    policy: EncryptionPolicy, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipecrypt.parquet.carry.writing._FLUSH_BYTES", window_bytes)
    original = parquet_bytes(sample_table(600), row_group_size=100, write_page_index=True, data_page_size=300)
    keys, sealed, back = RandomKeys(), _SlowSink(), _SlowSink()
    encrypt_file(_FillingSource(original), sealed, policy, keys=keys, context=Context(new_dataset_id(), "a"))
    decrypt_file(_FillingSource(bytes(sealed.data)), back, keys=keys)
    assert back.data == original
    assert min(sealed.writes, back.writes) > 10


@pytest.mark.parametrize("window_bytes", [700], indirect=True)
@pytest.mark.parametrize("fails_at", [1, 2, 5])
def test_a_write_that_fails_ends_the_walk(fails_at: int, window_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.parquet.carry.writing._FLUSH_BYTES", window_bytes)
    original = parquet_bytes(sample_table(600), row_group_size=100)
    for policy in (all_columns(), only("email")):
        with pytest.raises(StorageError):
            encrypt_file(
                _FillingSource(original),
                _SlowSink(fails_at),
                policy,
                keys=RandomKeys(),
                context=Context(new_dataset_id(), "a"),
            )


class _CountingSink:
    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)


def test_a_header_that_never_ends_is_given_up() -> None:
    # Field 9, a binary of 1 GiB that the chunk does not hold: the header could end behind any window.
    header = b"\x15\x00\x15\x00\x15\x00\x68" + encode_varint(1 << 30)
    scan = PageScan(1 << 31, 1, room_bytes=1 << 31, what="chunk")
    while scan.needed_bytes <= MAX_HEADER_BYTES:
        assert scan.scan(memoryview(header.ljust(scan.needed_bytes, b"\0"))) == []
    assert scan.needed_bytes <= 2 * MAX_HEADER_BYTES
    with pytest.raises(FormatError):
        scan.scan(memoryview(header.ljust(scan.needed_bytes, b"\0")))


def test_a_page_longer_than_its_chunk_asks_for_nothing() -> None:
    header = b"\x15\x00\x15\x02\x15" + encode_varint(1 << 31) + b"\x2c\x15\x02\x15\x00\x15\x00\x15\x00\x00\x00"
    scan = PageScan(1000, 1, room_bytes=1000, what="chunk")
    with pytest.raises(FormatError):
        scan.scan(memoryview(header))
