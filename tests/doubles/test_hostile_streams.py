from __future__ import annotations

import pytest

from pipecrypt.errors import FormatError, StorageError
from tests.doubles.hostile_streams import (
    BytesSource,
    FailingSink,
    FailingSource,
    RecordingSource,
    bit_flips,
    truncations,
)


def test_sources() -> None:
    source = RecordingSource(b"0123456789")
    kept = source.read_range(2, 3)
    assert bytes(kept) == b"234"
    source.read_range(0, 1)
    assert bytes(kept) != b"234"  # a view that is kept too long shows it
    assert source.ranges == [(2, 3), (0, 1)]
    with pytest.raises(FormatError):
        BytesSource(b"0123").read_range(2, 3)


def test_faults_come_when_planned_and_can_be_switched_off() -> None:
    failing = FailingSource(b"0123", fail_at=2)
    failing.read_range(0, 1)
    with pytest.raises(StorageError):
        failing.read_range(0, 1)
    quiet = FailingSource(b"0123", fail_at=0)
    assert [bytes(quiet.read_range(0, 1)) for _ in range(3)] == [b"0"] * 3


def test_a_full_sink_keeps_what_fits() -> None:
    sink = FailingSink(5)
    sink.write(b"0123")
    with pytest.raises(StorageError):
        sink.write(b"4567")
    assert sink.data == b"01234"


def test_corruptions() -> None:
    data = bytes(9)
    assert [len(cut) for cut in truncations(data)] == list(range(9))
    assert list(truncations(data, [3])) == [bytes(3)]
    flips = dict(bit_flips(data))
    assert len(flips) == 9
    assert {flipped[offset] for offset, flipped in flips.items()} == {1 << bit for bit in range(8)}
    assert all(sum(a != b for a, b in zip(data, flipped, strict=True)) == 1 for flipped in flips.values())
