"""After the digest of the whole file, a source serves the bytes that it digested, or none."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset import checked_source
from pipecrypt.dataset.checked_source import CheckedSource
from pipecrypt.errors import FormatError, IntegrityError
from pipecrypt.vocabulary.ranges import SourceTraits
from tests.parquet.world import MemorySource

_BLOCK = 64
SHA256 = (DigestAlgorithm.SHA256,)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  # the same in each run


class Changing(MemorySource):
    """A file that somebody writes to while it is read; counts what is asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = memoryview(bytearray(data))
        self.asked: list[tuple[int, int]] = []

    def flip(self, at: int) -> None:
        self._data[at] ^= 1

    def read_range(self, start: int, length: int) -> memoryview:
        self.asked.append((start, length))
        return super().read_range(start, length)


class ManyAtOnce(Changing):
    traits = SourceTraits(reads_in_flight=8)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return [memoryview(bytes(self.read_range(start, length))) for start, length in ranges]


class Filling(Changing):
    traits = SourceTraits(seeks_cheaply=True, reads_in_flight=1)

    def read_into(self, start: int, out: memoryview) -> None:
        out[:] = self.read_range(start, len(out))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_source, "BLOCK_BYTES", _BLOCK)


def digested(source: Changing) -> CheckedSource:
    checked = CheckedSource(source)
    found = checked.digest(SHA256, on_bytes=lambda _: None)
    assert found[DigestAlgorithm.SHA256] == hashlib.sha256(source._data).hexdigest()
    assert checked.is_checked
    source.asked.clear()
    return checked


@pytest.mark.parametrize("kind", [Changing, ManyAtOnce, Filling])
@pytest.mark.parametrize("size", [0, 1, _BLOCK - 1, _BLOCK, _BLOCK + 1, 10 * _BLOCK + 7])
def test_any_range_of_what_did_not_change(kind: type[Changing], size: int) -> None:
    data = seeded(size).randbytes(size)
    for checked in (CheckedSource(kind(data)), digested(kind(data))):
        chance = seeded(1)
        for _ in range(300):
            start = chance.randint(0, size)
            length = chance.randint(0, size - start)
            assert bytes(checked.read_range(start, length)) == data[start : start + length]
            out = bytearray(length)
            checked.read_into(start, memoryview(out))
            assert out == data[start : start + length]
        ranges = [(start, min(100, size - start)) for start in range(0, size, 90)]
        assert [bytes(each) for each in checked.read_many(ranges)] == [data[s : s + n] for s, n in ranges]


@pytest.mark.parametrize("kind", [Changing, ManyAtOnce, Filling])
def test_each_byte_that_changed_is_noticed_by_whatever_reads_its_block(kind: type[Changing]) -> None:
    data = seeded(5).randbytes(3 * _BLOCK + 5)
    for at in range(len(data)):
        source = kind(data)
        checked = digested(source)
        source.flip(at)
        block = at // _BLOCK * _BLOCK
        for start, length in ((block, 1), (at, 1), (0, len(data)), (max(0, block - 1), 2)):
            with pytest.raises(IntegrityError, match="changed while it was read"):
                checked.read_range(start, length)
        other = 0 if block else _BLOCK
        assert bytes(checked.read_range(other, 5)) == data[other : other + 5]


def test_a_change_between_two_reads_of_one_block_shows_neither() -> None:
    """A block that was used in part is kept, so the rest of it is as it was."""
    data = seeded(6).randbytes(4 * _BLOCK)
    source = Changing(data)
    checked = digested(source)
    assert bytes(checked.read_range(0, 3)) == data[:3]
    source.flip(10)
    assert bytes(checked.read_range(5, 20)) == data[5:25]
    with pytest.raises(IntegrityError):
        CheckedSource.read_range(_after(source, data), 0, 3)


def _after(source: Changing, data: bytes) -> CheckedSource:
    checked = digested(Changing(data))
    checked._gatherer = checked_source.Gatherer(source)
    return checked


def test_small_reads_one_after_the_other_fetch_each_block_once() -> None:
    data = seeded(7).randbytes(20 * _BLOCK)
    source = Changing(data)
    checked = digested(source)
    found = b"".join(bytes(checked.read_range(start, 7)) for start in range(0, len(data) - 7, 7))
    assert found == data[: len(found)]
    assert sum(length for _, length in source.asked) == len(data)


def test_what_lies_behind_the_end_is_refused() -> None:
    checked = digested(Changing(bytes(100)))
    for start, length in ((-1, 5), (0, 101), (100, 1), (5, -1)):
        with pytest.raises(FormatError):
            checked.read_range(start, length)


def test_stopping_the_pass_leaves_nothing_checked() -> None:
    checked = CheckedSource(Changing(bytes(1000)))

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked.digest(SHA256, on_bytes=stop)
    assert not checked.is_checked
