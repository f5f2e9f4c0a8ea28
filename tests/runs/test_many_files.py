"""Many files: what a plan, a run and a run with nothing to do take for each file does not grow with their number."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.journal import journal
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import World

_STEP = 40
_LISTINGS = ("scandir", "listdir")
_LOOKS = ("stat", "lstat", "open", "readlink")
_CHANGES = ("link", "unlink", "rename")
_WORKS = ("plan", "run", "nothing to do", "plan again")
# Of a source and its output: when it is listed, compared with all others, opened and read, checked, and published.
_OF_A_FILE = {
    "plan": {"stat": 3, "lstat": 2, "open": 1},
    "run": {"stat": 4, "lstat": 2, "open": 2, "link": 1, "unlink": 1},
    "nothing to do": {"stat": 1, "lstat": 2},
    "plan again": {"stat": 1, "lstat": 2},
}
# A few in a hundred above what Python 3.11 counts; later ones call less.
_CALLS_OF_A_FILE = {"plan": 770, "run": 4000, "nothing to do": 345, "plan again": 350}


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Args:
        calls: of functions of Python and built-in ones.
        of_files: calls of the system that name a table, by what they do.
        listings: directories that were listed.
    """

    calls: int
    of_files: Counter[str]
    listings: int


@pytest.fixture(autouse=True)
def the_journal_is_written_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often it is written in between depends on time."""
    monkeypatch.setattr(journal, "_FLUSH_SECONDS", 1e9)
    monkeypatch.setattr(journal, "_SOON_SECONDS", 1e9)


@contextmanager
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Cost]]:
    calls, of_files, listings = itertools.count(), Counter[str](), Counter[str]()  # threads count too

    def note(frame: FrameType, event: str, _: object) -> None:
        if event in {"call", "c_call"}:
            next(calls)

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if name in _LISTINGS:
                listings[name] += 1
            elif ".parquet" in str(args[0]):
                of_files[name] += 1
            return original(*args, **options)

        return call

    with monkeypatch.context() as patches:
        for name in (*_LISTINGS, *_LOOKS, *_CHANGES):
            patches.setattr(os, name, counting(name, getattr(os, name)))
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            yield lambda: Cost(next(calls), of_files, listings.total())
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def _spec(world: World, root: Path, files: int, *, signs: bool) -> EncryptSpec:
    source = root / "raw"
    source.mkdir(parents=True)
    for number in range(files):
        pq.write_table(pa.table({"id": [1, 2], "email": ["a", "b"]}), source / f"{number:03}.parquet")
    signing = world.reference("signing") if signs else None
    return EncryptSpec(
        source=Location(str(source)),
        sink=Location(str(root / "out")),
        policy=Policy({"email": world.key}, unlisted="plaintext", sign=signing),
        run=RunOptions(keeps_journal=True),
    )


def _costs(world: World, files: int, monkeypatch: pytest.MonkeyPatch, *, signs: bool) -> dict[str, Cost]:
    spec = _spec(world, world.root / f"{files}", files, signs=signs)
    works: list[Callable[[], object]] = [
        lambda: report_plan(spec, world.credentials),
        lambda: run(spec, credentials=world.credentials),
        lambda: run(spec, credentials=world.credentials),
        lambda: report_plan(spec, world.credentials),
    ]
    costs = {}
    for name, work in zip(_WORKS, works, strict=True):
        with _counted(monkeypatch) as cost:
            work()
            costs[name] = cost()
    return costs


@pytest.mark.parametrize("signs", [False, True], ids=["unsigned", "signed"])
def test_a_file_more_costs_the_same_however_many_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch, signs: bool
) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    _costs(world, 1, monkeypatch, signs=signs)  # imports what is needed
    some, more, most = (_costs(world, count * _STEP, monkeypatch, signs=signs) for count in (1, 2, 3))

    for name in _WORKS:
        assert some[name].listings == more[name].listings == most[name].listings, name
        looks = [_of_each(before[name], after[name]) for before, after in ((some, more), (more, most))]
        assert looks[0] == looks[1], name
        assert all(count <= _OF_A_FILE[name].get(call, 0) for call, count in looks[0].items()), (name, looks[0])
        # A few calls depend on time, such as looks at the lock.
        calls = (most[name].calls - more[name].calls) / _STEP
        assert calls <= 1.03 * (more[name].calls - some[name].calls) / _STEP, name
        assert calls <= _CALLS_OF_A_FILE[name], name


def _of_each(before: Cost, after: Cost) -> dict[str, float]:
    return {call: (after.of_files[call] - before.of_files[call]) / _STEP for call in after.of_files}
