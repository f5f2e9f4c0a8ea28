"""Verifying and reading while real runs rewrite a dataset: nothing honest is called tampered, nothing is mixed up."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.errors import ConflictError
from tests.faults.scenes import SCENES, Shop, prepare, write_source

NAMES = ("a", "day=1/b", "day=2/c")
ROWS = 30


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = prepare(SCENES["first"], tmp_path).at(tmp_path / "sink")
    _write(made, 0)
    made.run()
    return made


def _write(shop: Shop, version: int) -> None:
    """Change each source; one comes and goes."""
    for name in NAMES:
        write_source(shop.raw, name, ROWS, "parquet", f"v{version}")
    other = shop.raw / "day=3" / "d.parquet"
    if version % 2:
        write_source(shop.raw, "day=3/d", ROWS, "parquet", f"v{version}")
    elif other.exists():
        other.unlink()


@contextmanager
def _rewriting(shop: Shop, rounds: int) -> Iterator[Callable[[], bool]]:
    """Let a process rewrite the dataset so often; yield what says whether it goes on."""
    command = [sys.executable, "-m", "tests.faults.test_beside_runs", str(shop.root), shop.sink, str(rounds)]
    with subprocess.Popen(command) as process:
        try:
            yield lambda: process.poll() is None
        finally:
            process.wait()
    assert process.returncode == 0


def _beside(shop: Shop, rounds: int, look: Callable[[], None]) -> Counter[str]:
    seen: Counter[str] = Counter()
    with _rewriting(shop, rounds) as goes_on:
        while goes_on():
            try:
                look()
                seen["ok"] += 1
            except ConflictError:
                seen["conflict"] += 1
    look()
    assert seen["ok"] > 0
    return seen


ROUNDS = [6, pytest.param(120, marks=pytest.mark.long)]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_verifying(shop: Shop, rounds: int) -> None:
    versions = []
    seen = _beside(shop, rounds, lambda: versions.append(shop.verify()))
    assert versions == sorted(versions)
    assert versions[-1] == rounds + 1
    assert seen["conflict"] <= seen["ok"]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_reading(shop: Shop, rounds: int) -> None:
    def read() -> None:
        keys, trust = [shop.key("pii")], [shop.key("signing")]
        with pc.open(shop.sink, keys=keys, trust=trust, credentials=shop.credentials) as dataset:
            emails = dataset.to_table(columns=["email"])["email"].to_pylist()
        words = Counter(email.partition("-")[0] for email in emails)
        (word,) = words
        assert words[word] == ROWS * (4 if int(word[1:]) % 2 else 3)

    _beside(shop, rounds, read)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_decrypting(shop: Shop, rounds: int) -> None:
    def read() -> None:
        found = shop.plaintext()
        words = Counter({str(email).partition("-")[0] for email in found})
        assert len(words) == 1

    _beside(shop, rounds, read)


def _rewrite(root: Path, sink: str, rounds: int) -> None:
    shop = Shop(SCENES["first"], root, sink)
    for version in range(1, rounds + 1):
        _write(shop, version)
        shop.run()


if __name__ == "__main__":
    _rewrite(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
