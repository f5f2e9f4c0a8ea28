"""Buffers: long enough, writable, and freed with the last view."""

import pytest

from pipecrypt.parquet.carry.reading import allocate_buffer


@pytest.mark.parametrize("length", [0, 1, 700, (2 << 20) - 1, 2 << 20, (6 << 20) + 1])
def test_buffers_can_be_filled(length: int) -> None:
    buffer = allocate_buffer(length)
    view = buffer[:length]
    del buffer
    view[:] = b"x" * length
    assert bytes(view) == b"x" * length
