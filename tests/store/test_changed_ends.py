"""Ends of local files are replaced by writing what differs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pipecrypt.store.local import LocalStore
from pipecrypt.store.location import Location

BODY = bytes(range(256)) * 20
OLD = bytes(random.Random(1).randbytes(20_000))  # noqa: S311 - bytes of no meaning


def replaced(path: Path, new: bytes) -> int:
    path.write_bytes(BODY + OLD)
    store = LocalStore(Location(str(path)))
    source = store.stat().file()
    assert source is not None
    written = store.replace_end(source, len(BODY), new)
    assert path.read_bytes() == BODY + new
    return written


@pytest.mark.parametrize(
    "place", [0, 1, 15, 16, 4090, 4095, 4096, 8191, 19_990, 19_999], ids=lambda place: f"at {place}"
)
@pytest.mark.parametrize("length", [1, 16, 40, 5000])
def test_what_differs_is_written(tmp_path: Path, place: int, length: int) -> None:
    change = bytes(each ^ 1 for each in OLD[place : place + length])
    new = OLD[:place] + change + OLD[place + length :]
    written = replaced(tmp_path / "file", new)
    assert len(change) <= written <= len(change) + 2 * 15


@pytest.mark.parametrize("new", [OLD[:-1], OLD[:7], OLD + b"x", OLD + OLD, b"x", b"x" + OLD], ids=len)
def test_an_end_of_another_length_is_whole(tmp_path: Path, new: bytes) -> None:
    replaced(tmp_path / "file", new)


def test_many_small_changes_are_all_written(tmp_path: Path) -> None:
    chance = random.Random(2)  # noqa: S311 - the same each time
    for _ in range(200):
        new = bytearray(OLD)
        for _ in range(chance.randrange(40)):
            new[chance.randrange(len(new))] ^= chance.randrange(256)
        replaced(tmp_path / "file", bytes(new))


def test_of_an_end_that_stays_nothing_is_written(tmp_path: Path) -> None:
    assert replaced(tmp_path / "file", OLD) == 0


def test_a_file_with_another_name_is_written_whole(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(BODY + OLD)
    os.link(path, other)
    store = LocalStore(Location(str(path)))
    source = store.stat().file()
    assert source is not None
    assert store.replace_end(source, len(BODY), OLD[:100]) >= len(BODY)
    assert path.read_bytes() == BODY + OLD[:100]
    assert other.read_bytes() == BODY + OLD
