"""Journals that anybody may have written, and very many of them: what is kept of all together is bounded, and cleaning
looks at each run once."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.dataset.statement.manifest import decode_statement, encode_statement
from pipecrypt.dataset.statement.promise import fits_clear_columns
from pipecrypt.errors import ConflictError
from pipecrypt.runs.journal import journal, past_runs
from pipecrypt.runs.journal.block import (
    Block,
    MemoryBudget,
    RunHeader,
    TaskRecord,
    decode_block,
    encode_block,
    memory_of,
    plain_seal,
)
from pipecrypt.runs.journal.cleaning import CleanSummary, clean
from pipecrypt.runs.journal.journal import fetch_ahead, find_runs, joined, read_blocks, read_run
from pipecrypt.runs.journal.past_runs import RunHistory
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.documents import DocumentError
from tests.dataset.statement.world import manifest
from tests.runs.journal.test_journal import _part

MIB = 1 << 20
DATASET = "0" * 32


def run_id(number: int) -> str:
    return f"20200101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z-{number:08x}"


def put(sink: Path, run: int, *blocks: dict[str, Any], is_finished: bool = True) -> Path:
    """Write the journal of a run as anybody can."""
    place = sink / "_pipecrypt/runs" / run_id(run)
    place.mkdir(parents=True)
    for sequence, members in enumerate(blocks):
        header = RunHeader(run_id=run_id(run), dataset_id=DATASET, token="0" * 8, is_staged=False)
        (place / f"parts-{sequence:06}.jsonl").write_bytes(encode_block(Block(header, sequence, **members)))
    if is_finished:
        (place / "finished.json").write_bytes(b"{}")
    return place


def task(number: int, *paths: str, **members: Any) -> TaskRecord:
    return TaskRecord(f"{number:064x}", "", tuple(_part(path, sink_bytes=5) for path in paths), **members)


def look(sink: Path) -> RunHistory:
    return RunHistory.look(Location(str(sink)), lambda _: plain_seal(), None, is_signed=False)


def files(start: int, count: int) -> tuple[TaskRecord, ...]:
    return tuple(task(number, f"day=1/{number:08}.parquet") for number in range(start, start + count))


# What a block can hold much of, so that all of it is kept until the run was read, or for good.
BLOCKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "files": lambda start: {"records": files(start, 100)},
    "tasks without files": lambda start: {"records": tuple(map(task, range(start, start + 150)))},
    "tasks that never end": lambda start: {"records": (task(0, f"{start}", has_more=True),) * 100},
    "sources of wide characters": lambda start: {
        "records": tuple(TaskRecord(f"{start + number:064x}", "\U0001f600" * 1000, ()) for number in range(10))
    },
    "removes": lambda start: {"removes": tuple(f"{start + number:08}" for number in range(300))},
    "replaces": lambda start: {"replaces": tuple(f"{start + number:08}" for number in range(300))},
    "columns": lambda start: {"clear": frozenset({(f"column {start + number}",) for number in range(100)})},
}
# Nothing of it is of use to who follows a run that finished: it goes with its block.
GOES = {"replaces", "sources of wide characters"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let half a mebibyte be kept."""
    for module in (past_runs, journal):
        monkeypatch.setattr(module, "MemoryBudget", partial(MemoryBudget, most_bytes=MIB // 2))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "killed"])
@pytest.mark.usefixtures("small")
def test_what_one_run_notes_is_bounded(tmp_path: Path, kind: str, *, is_finished: bool) -> None:
    blocks = [BLOCKS[kind](1000 * number) for number in range(50)]
    place = put(tmp_path, 1, *blocks, is_finished=is_finished)
    if is_finished and kind in GOES:
        assert look(tmp_path).done == {}
        return
    with pytest.raises(ConflictError) as caught:
        look(tmp_path)
    assert str(place) in caught.value.message
    assert "remove it" in caught.value.hint


@pytest.mark.parametrize("kind", ["files", "columns"])
@pytest.mark.usefixtures("small")
def test_what_all_runs_note_together_is_bounded(tmp_path: Path, kind: str) -> None:
    for number in range(50):
        put(tmp_path, number, BLOCKS[kind](1000 * number))
    with pytest.raises(ConflictError, match=r"journals up to this one note more than"):
        look(tmp_path)


@pytest.mark.usefixtures("small")
def test_what_is_written_again_and_again_is_kept_once(tmp_path: Path) -> None:
    """A sink whose files are written anew each day for years, by runs of which each takes half of what may be kept."""
    for number in range(12):
        removes = tuple(f"day=1/{start:08}.parquet" for start in range(150)) if number == 11 else ()
        put(tmp_path, number, {"records": files(0, 200)}, {"records": files(200, 100)}, {"removes": removes})
    found = look(tmp_path)
    assert len(found.done) == 150
    assert found.dataset_id == DATASET


def test_what_is_charged_is_what_it_takes(tmp_path: Path) -> None:
    header = RunHeader(run_id=run_id(1), dataset_id=DATASET, token="0" * 8, is_staged=False)
    data = encode_block(Block(header, 0, files(0, 1000)))
    tracemalloc.start()
    block = decode_block(data)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.8 * taken < memory_of([block]) < 1.5 * taken


@pytest.mark.usefixtures("small")
def test_a_journal_of_trusted_keys_is_read_whole(tmp_path: Path) -> None:
    put(tmp_path, 1, *(BLOCKS["files"](100 * number) for number in range(20)))
    (run,) = find_runs(Location(str(tmp_path)))
    # As if keys that are trusted had signed each block.
    past = read_run(Location(str(tmp_path)), run, replace(plain_seal(), is_trusted=True))
    assert past is not None
    assert len(past.records) == 2000
    with pytest.raises(ConflictError):
        read_run(Location(str(tmp_path)), run, plain_seal())


def test_a_task_in_several_pieces_is_one_record() -> None:
    header = RunHeader(run_id=run_id(1), dataset_id=DATASET, token="0" * 8, is_staged=False)
    cut = task(9, "lost", has_more=True)
    blocks = (
        Block(header, 0, (task(1, "a"), cut, task(2, "b", has_more=True), task(2, "c", has_more=True))),
        Block(header, 1, (task(2, "d"), task(3, "e", has_more=True))),
        Block(header, 2),  # the run was continued
        Block(header, 3, (task(3, "f"),)),
    )
    found = [(record.task_id[-1], [part.path for part in record.parts]) for record in joined(blocks)]
    assert found == [("1", ["a"]), ("2", ["b", "c", "d"]), ("3", ["f"])]


@pytest.mark.parametrize("line", [b"{}", b'{"a":{}}', b'{"a":[[]]}', b'{"promise":{}}'])
def test_a_block_of_very_many_lines_takes_no_more_than_twenty_times_its_bytes(line: bytes) -> None:
    data = (line + b"\n") * (MIB // 5)
    tracemalloc.start()
    with pytest.raises(DocumentError):
        decode_block(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 20 * len(data)


def test_blocks_are_fetched_ahead_in_order_and_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        put(tmp_path, number, {"records": files(number, 1)}, {"records": files(number, 1)})
    sink, asked, real = Location(str(tmp_path)), list[str](), journal._read_block

    def read(place: Location, max_bytes: int) -> bytes | None:
        asked.append(place.display)
        return real(place, max_bytes)

    monkeypatch.setattr(journal, "_read_block", read)
    runs, most, seen = find_runs(sink), 0, 0
    with fetch_ahead(sink, runs, lambda _: plain_seal()) as fetch:
        for run in runs:
            for block in read_blocks(sink, run, plain_seal(), fetch):
                assert block.header.run_id == run.run_id
                seen += 1
                most = max(most, len(asked) - seen)
    assert seen == len(asked) == 40
    assert most < 8


# ---- cleaning ----


def test_cleaning_keeps_one_block_in_memory_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1/00000001.parquet").write_bytes(b"x")
    put(tmp_path, 0, {"records": files(0, 1)}, is_finished=False)
    put(tmp_path, 1, *({"records": files(300 * number, 300)} for number in range(12)))
    tracemalloc.start()
    found = clean(tmp_path, grace=timedelta())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.runs == (run_id(0),)
    assert peak < 2 * MIB


def _operations(call: Callable[[], CleanSummary]) -> tuple[int, CleanSummary]:
    """Return how many functions were called, of Python and of C."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        done = call()
    finally:
        sys.setprofile(None)
    return count, done


@pytest.mark.parametrize("state", ["killed", "young", "finished", "staged and finished"])
def test_twice_as_many_runs_cost_twice_as_much(tmp_path: Path, state: str) -> None:
    counts = []
    for runs in (60, 120):
        sink = tmp_path / str(runs)
        for number in range(runs):
            place = put(sink, number, {}, is_finished="finished" in state)
            if "staged" in state:
                (place / "staged").mkdir()
                (place / "staged/a").write_bytes(b"")
        grace = timedelta(days=100_000) if state == "young" else timedelta()
        count, done = _operations(partial(clean, sink, grace=grace, dry_run=True))
        assert len(done.runs) == (runs if state == "killed" else 0)
        assert len(done.kept_runs) == (runs if state == "young" else 0)
        assert len(done.removed) == {"killed": runs, "staged and finished": runs}.get(state, 0)
        counts.append(count)
    assert counts[1] < 2.2 * counts[0]


def test_what_lies_in_the_place_of_a_run_is_not_removed(tmp_path: Path) -> None:
    put(tmp_path, 1, {}, is_finished=False)
    for name in (run_id(2), "20200101", "x"):
        (tmp_path / "_pipecrypt/runs" / name).write_bytes(b"")
    found = clean(tmp_path, grace=timedelta())
    assert found.removed == (f"_pipecrypt/runs/{run_id(1)}/parts-000000.jsonl",)
    assert found.runs == (run_id(1), run_id(2))
    assert (tmp_path / "_pipecrypt/runs" / run_id(2)).is_file()


# ---- memory, in a process of its own ----

_CHILD = """
import sys
from datetime import timedelta
from pipecrypt.errors import PipecryptError
from pipecrypt.runs.journal.cleaning import clean
from pipecrypt.runs.journal.block import unchecked_seal
from pipecrypt.runs.journal.past_runs import RunHistory
from pipecrypt.store.location import Location

if sys.argv[1] == "clean":
    clean(sys.argv[2], grace=timedelta(), dry_run=True)
else:
    try:
        RunHistory.look(Location(sys.argv[2]), lambda run: unchecked_seal(run.blocks), None, is_signed=False)
    except PipecryptError as error:
        print(type(error).__name__, end=" ")
# Not ru_maxrss: what the process took that started this one counts there.
status = open("/proc/self/status").read()
print(int(status.partition("VmHWM:")[2].split()[0]) >> 10)
"""
LARGE: dict[str, Callable[[int], dict[str, Any]]] = {
    "files": lambda start: {"records": files(start * 8000, 8000)},
    "removes": lambda start: {"removes": tuple(f"{start:03x}{number:05x}" for number in range(99_000))},
    "tasks that never end": lambda _: {"records": (task(0, has_more=True),) * 20_000},
}


def _spread(sink: Path, blocks: Iterator[dict[str, Any]], count: int, shape: str) -> None:
    """Write so many blocks: as one run that was killed, one that finished, or one run each."""
    if shape == "a run each":
        for number in range(count):
            put(sink, number, next(blocks))
    else:
        put(sink, 0, *(next(blocks) for _ in range(count)), is_finished=shape == "finished")
    put(sink, 5000, {"records": files(0, 1)}, is_finished=False) if shape != "killed" else None


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("shape", ["killed", "finished", "a run each"])
def test_a_hundred_mebibytes_of_journals_take_less_than_half_a_gibibyte(tmp_path: Path, kind: str, shape: str) -> None:
    _spread(tmp_path, map(LARGE[kind], range(1000)), 45, shape)
    for command in ("look", "clean"):
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, command, str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert int(done.stdout.split()[-1]) < 512, f"{command}: {done.stdout}"


@pytest.mark.parametrize("width", [1, 8, 20, 30, 60])
def test_columns_that_are_noted_can_be_read_again(width: int) -> None:
    """Very many short names weigh more than a reader lets their bytes weigh: they are not noted."""
    header = RunHeader(run_id=run_id(1), dataset_id=DATASET, token="0" * 8, is_staged=False)
    noted = 0
    for count in (1, 1000, 1500, 1900, 2500, 10_000):
        columns = frozenset((f"{number:0{width}}",) for number in range(count))
        if fits_clear_columns(columns):
            noted = count
            assert decode_block(encode_block(Block(header, 0, clear=columns))).clear == columns
            statement = encode_statement(replace(manifest(), clear_columns=columns))
            assert decode_statement(statement).clear_columns == columns
    assert noted >= (1000 if width < 30 else 10_000)
