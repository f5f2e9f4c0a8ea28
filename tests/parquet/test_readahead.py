"""Reading ahead: many small windows, buffers that are used again, sources that fail or change."""

from __future__ import annotations

import pytest

from pipecrypt.errors import StorageError
from pipecrypt.parquet.carry.reading import ReadAhead, allocate_buffer
from pipecrypt.parquet.files import decrypt_file, encrypt_file
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.world import (
    FillingSource,
    MemorySink,
    RandomKeys,
    all_columns,
    only,
    parquet_bytes,
    sample_table,
)

_WINDOW_BYTES = 700


class _FillingSource(FillingSource):
    """Fills buffers as a local file does, and fails at the read numbered `fails_at`."""

    def __init__(self, data: bytes, fails_at: int | None = None) -> None:
        super().__init__(data)
        self.fills = 0
        self._fails_at = fails_at

    def read_into(self, start: int, out: memoryview) -> None:
        self.fills += 1
        if self.fills == self._fails_at:
            raise StorageError("the device failed")
        out[:] = self.read_range(start, len(out))


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("footer.segments", "carry.reading"):
        monkeypatch.setattr(f"pipecrypt.parquet.{module}.WINDOW_BYTES", _WINDOW_BYTES)


def _original() -> bytes:
    return parquet_bytes(sample_table(600), row_group_size=100, write_page_index=True, data_page_size=300)


@pytest.mark.parametrize("policy", [all_columns(), all_columns(FooterMode.ENCRYPTED), only("email")])
def test_many_windows(policy: EncryptionPolicy) -> None:
    original, keys, sealed, back = _original(), RandomKeys(), MemorySink(), MemorySink()
    source = _FillingSource(original)
    encrypt_file(source, sealed, policy, keys=keys, context=Context(new_dataset_id(), "a"))
    assert source.fills > 10
    encrypted = _FillingSource(bytes(sealed.data))
    decrypt_file(encrypted, back, keys=keys)
    assert encrypted.fills > 10
    assert back.data == original


@pytest.mark.parametrize("fails_at", [1, 2, 7])
def test_a_read_that_fails_ahead_ends_the_walk(fails_at: int) -> None:
    source = _FillingSource(_original(), fails_at)
    with pytest.raises(StorageError):
        encrypt_file(source, MemorySink(), all_columns(), keys=RandomKeys(), context=Context(new_dataset_id(), "a"))


def test_ranges_in_and_out_of_the_windows() -> None:
    data = bytes(range(256)) * 8
    ahead = ReadAhead(_FillingSource(data))
    try:
        ahead.plan([(100, 300), (300, 900), (1500, 2000)])
        for start, length in (
            (100, 50),
            (250, 50),
            (10, 20),
            (290, 30),
            (300, 600),
            (1000, 100),
            (1500, 500),
            (0, 2048),
        ):
            assert bytes(ahead.read(start, length)) == data[start : start + length]
    finally:
        ahead.close()


@pytest.mark.parametrize("length", [0, 1, 700, (2 << 20) - 1, 2 << 20, (6 << 20) + 1])
def test_buffers_are_long_enough_writable_and_freed_with_the_last_view(length: int) -> None:
    buffer = allocate_buffer(length)
    view = buffer[:length]
    del buffer
    view[:] = b"x" * length
    assert bytes(view) == b"x" * length
