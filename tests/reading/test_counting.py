"""Rows are counted from signed lists or footers, each read once, several at a time where they are not local."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import pipecrypt as pc
from pipecrypt.errors import AccessError, IntegrityError, UsageError
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.reading.filesystem import PipecryptFileSystem
from tests.dataset.world import ALICE, sign
from tests.parquet.world import parquet_bytes, sample_table
from tests.reading.world import Keys, seal, write

UNCHECKED = pc.Trust(verify="off")


@pytest.fixture
def table() -> pa.Table:
    return sample_table()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What is asked of a storage that is not local."""
    made: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(MemoryFileSystem, name)

        def call(fs: MemoryFileSystem, *args: Any, **options: Any) -> Any:
            made[name] += 1
            return real(fs, *args, **options)

        return call

    for name in ("info", "cat_file", "isfile", "open"):
        monkeypatch.setattr(MemoryFileSystem, name, counted(name))
    yield made
    MemoryFileSystem.store.clear()


def _put(name: str, data: bytes) -> None:
    MemoryFileSystem().pipe_file(f"/orders/{name}", data)


@pytest.mark.parametrize("footer", list(FooterMode))
def test_no_view_is_opened(
    tmp_path: Path, keys: Keys, table: pa.Table, footer: FooterMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.parquet", table.slice(0, 100 * (number + 1)), keys.policy(footer=footer))
    (tmp_path / "plain.parquet").write_bytes(parquet_bytes(table))
    with pc.open(tmp_path, keys=[keys.open], trust=UNCHECKED) as opened:
        monkeypatch.setattr(PipecryptFileSystem, "view", None)
        monkeypatch.setattr("pipecrypt.reading.views.open_view", None)
        assert opened.num_rows == 100 + 200 + 300 + 1000


def test_a_file_elsewhere_takes_one_request(keys: Keys, table: pa.Table, requests: Counter[str]) -> None:
    for number in range(5):
        _put(f"{number}.parquet", seal(parquet_bytes(table), keys.policy(), f"{number}.parquet"))
    with pc.open("memory://orders/", keys=[keys.open], trust=UNCHECKED) as opened:
        requests.clear()
        assert opened.num_rows == 5000
        assert requests == {"cat_file": 5}
        requests.clear()
        assert opened.to_table(columns=["id"]).num_rows == 5000
        assert requests["info"] == requests["isfile"] == 0


def test_several_footers_are_fetched_at_once(
    keys: Keys, table: pa.Table, requests: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        _put(f"{number}.parquet", seal(parquet_bytes(table), keys.policy(), f"{number}.parquet"))
    with pc.open("memory://orders/", keys=[keys.open], trust=UNCHECKED) as opened:
        meeting, real = threading.Barrier(4, timeout=60), MemoryFileSystem.cat_file

        def waiting(fs: MemoryFileSystem, *args: Any, **options: Any) -> Any:
            meeting.wait()
            return real(fs, *args, **options)

        monkeypatch.setattr(MemoryFileSystem, "cat_file", waiting)
        assert opened.num_rows == 4000


def test_a_file_that_was_replaced_since_it_was_listed_is_read_as_it_is_now(
    keys: Keys, table: pa.Table, requests: Counter[str]
) -> None:
    for name in ("a", "b"):
        _put(f"{name}.parquet", seal(parquet_bytes(table), keys.policy(), f"{name}.parquet"))
    with pc.open("memory://orders/", keys=[keys.open], trust=UNCHECKED) as opened:
        _put("b.parquet", seal(parquet_bytes(table.slice(0, 7)), keys.policy(), "b.parquet"))
        assert opened.to_table().num_rows == 1007
        assert opened.num_rows == 1007
        assert requests["info"] > 0


def test_what_was_signed_is_not_looked_at_again(
    tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "plain.parquet"
    source.write_bytes(parquet_bytes(table))
    dataset = tmp_path / "signed"
    pc.encrypt(source, dataset / "a.parquet", pc.Policy(default=keys.open))
    sign(dataset, ALICE)
    with pc.open(dataset, keys=[keys.open], trust=[ALICE.public_key_pem]) as opened:
        monkeypatch.setattr(PipecryptFileSystem, "count_rows", None)
        assert opened.num_rows == 1000


def test_a_footer_that_was_changed_is_noticed(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    for name in ("a", "b"):
        path = write(tmp_path / f"{name}.parquet", table, keys.policy())
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # of the footer's tag
    path.write_bytes(data)
    with pc.open(tmp_path, keys=[keys.open], trust=UNCHECKED) as opened, pytest.raises(IntegrityError):
        opened.num_rows  # noqa: B018


def test_a_key_that_is_missing(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    write(tmp_path / "a.parquet", table, keys.policy())
    write(tmp_path / "b.parquet", table, keys.policy("email"))
    with pc.open(tmp_path, keys=[keys.open], trust=UNCHECKED) as opened:
        assert opened.num_rows == 2000  # that of a column is not needed
    hidden = keys.policy(footer=FooterMode.ENCRYPTED)
    write(tmp_path / "c.parquet", table, hidden)
    with pc.open(tmp_path / "[bc].parquet", keys=[keys.open], trust=UNCHECKED) as opened:
        assert opened.num_rows == 2000
    with pc.open(tmp_path / "*.parquet", keys=[], trust=UNCHECKED) as opened, pytest.raises(AccessError):
        opened.num_rows  # noqa: B018


def test_bytes_of_another_file_have_no_rows(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    write(tmp_path / "a.parquet", table, keys.policy())
    (tmp_path / "model.bin").write_bytes(b"weights")
    pc.encrypt(tmp_path / "model.bin", tmp_path / "b.parquet", pc.Policy(default=keys.open, mode="chunks"))
    with pc.open(tmp_path, keys=[keys.open], trust=UNCHECKED) as opened, pytest.raises(UsageError, match="no table"):
        opened.num_rows  # noqa: B018
