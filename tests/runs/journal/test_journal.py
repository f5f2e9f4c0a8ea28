"""Blocks of a journal: whatever is written can be read again, however much a run notes."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.runs.journal.block import MAX_BLOCK_BYTES, Block, RunHeader, TaskRecord, decode_block, encode_block
from pipecrypt.runs.journal.journal import Journal, RecordedRun, find_runs, read_run
from pipecrypt.runs.journal.seal import Seal, plain_seal
from pipecrypt.runs.report.events import PART_COUNTS, Part
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.documents import DocumentError

_HEADER = RunHeader(run_id="20260101T000000Z-00000000", dataset_id="0" * 32, token="0" * 8, is_staged=False)
_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30).filter(
    lambda name: name not in {".", ".."} and name.lower() != "_pipecrypt"
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_COUNTS = st.integers(0, 2**50)


def _part(path: str, **counts: int) -> Part:
    given = dict.fromkeys(PART_COUNTS, 0) | counts
    return Part(path=path, seconds=0.25, **given)


_PARTS = st.builds(lambda path, rows, sink: _part(path, rows=rows, sink_bytes=sink), _PATHS, _COUNTS, _COUNTS)
_RECORDS = st.builds(
    TaskRecord,
    task_id=st.text("0123456789abcdef", min_size=64, max_size=64),
    source=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    parts=st.lists(_PARTS, max_size=3).map(tuple),
    has_more=st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Block,
        header=st.just(_HEADER),
        sequence=st.integers(0, 10**6),
        records=st.lists(_RECORDS, max_size=3).map(tuple),
        removes=st.lists(_PATHS, max_size=3).map(tuple),
        replaces=st.lists(_PATHS, max_size=3).map(tuple),
    )
)
def test_what_is_written_can_be_read(block: Block) -> None:
    assert decode_block(encode_block(block)) == block


@pytest.mark.parametrize("name", ["removes", "replaces"])
def test_what_nobody_could_read_is_not_written(name: str) -> None:
    for paths in (("x" * 4000,) * 1000, ("x",) * 100_001):
        with pytest.raises(DocumentError):
            encode_block(replace(Block(_HEADER, 0), **{name: paths}))


@pytest.mark.parametrize(
    "record",
    [
        TaskRecord("ab" * 32, "x" * 5000, ()),
        TaskRecord("ab" * 32, "\udcff", ()),
        TaskRecord("no digest", "x", ()),
        TaskRecord("ab" * 32, "x", (_part("../x"),)),
        TaskRecord("ab" * 32, "x", (_part("x", rows=-1),)),
        TaskRecord("ab" * 32, "x", (replace(_part("x"), seconds=float("nan")),)),
    ],
    ids=["long", "not Unicode", "id", "outside", "negative", "nan"],
)
def test_what_a_reader_refuses_is_not_written(record: TaskRecord) -> None:
    with pytest.raises(DocumentError):
        encode_block(Block(_HEADER, 0, (record,)))


def _read(tmp_path: Path) -> RecordedRun:
    sink = Location(str(tmp_path))
    (found,) = find_runs(sink)
    past = read_run(sink, found, plain_seal())
    assert past is not None
    return past


def _sizes(tmp_path: Path) -> list[int]:
    return [path.stat().st_size for path in sorted(tmp_path.rglob("parts-*"))]


def test_very_many_paths_take_several_blocks(tmp_path: Path) -> None:
    paths = tuple(f"country=de/day=2026-01-01/part-{number:08}.snappy.parquet" for number in range(60_000))
    journal = Journal(Location(str(tmp_path)), _HEADER, plain_seal())
    journal.begin(paths)
    journal.removes(paths)
    past = _read(tmp_path)
    assert past.removes == past.replaces == paths
    assert len(_sizes(tmp_path)) > 2
    assert max(_sizes(tmp_path)) <= MAX_BLOCK_BYTES


def test_very_many_short_paths_take_several_blocks(tmp_path: Path) -> None:
    paths = tuple("".join(letters) for letters in itertools.product(string.ascii_letters, repeat=3))
    journal = Journal(Location(str(tmp_path)), _HEADER, plain_seal())
    journal.begin(paths)
    assert _read(tmp_path).replaces == paths


def test_the_first_half_of_a_lost_attempt_is_no_part_of_the_next(tmp_path: Path) -> None:
    """A run that was killed between two blocks of one task does it again when it goes on, under the same id."""
    halves = [TaskRecord("cd" * 32, "large", (_part(f"x-{number}"),), has_more=number == 0) for number in range(2)]
    journal = Journal(Location(str(tmp_path)), _HEADER, plain_seal())
    journal.begin()
    journal.add(halves[0])
    journal.flush()
    again = Journal(Location(str(tmp_path)), _HEADER, plain_seal(), sequence=_read(tmp_path).next_sequence)
    again.begin()
    for half in halves:
        again.add(half)
        again.flush()
    (record,) = _read(tmp_path).records.values()
    assert [part.path for part in record.parts] == ["x-0", "x-1"]


def test_a_task_of_very_many_files_takes_several_blocks(tmp_path: Path) -> None:
    parts = tuple(_part(f"{'deep/' * 100}x-{number:05}.parquet", rows=number) for number in range(6_000))
    small = TaskRecord("ab" * 32, "small", (_part("small.parquet"),))
    large = TaskRecord("cd" * 32, "large", parts)
    journal = Journal(Location(str(tmp_path)), _HEADER, plain_seal())
    journal.begin()
    for record in (small, large):
        journal.add(record)
    journal.flush()
    past = _read(tmp_path)
    assert past.records == {record.task_id: record for record in (small, large)}
    assert max(_sizes(tmp_path)) <= MAX_BLOCK_BYTES
    max(tmp_path.rglob("parts-*")).unlink()  # as when the run was killed before the last of them
    assert set(_read(tmp_path).records) == {small.task_id}


# ---- how often a run notes ----


@dataclass
class _Timed:
    """A run by a clock of its own, in which each block that is written takes a while.

    Args:
        sink: where it writes.
        block_seconds: what a block takes.
    """

    sink: Location
    block_seconds: float
    now: float = 0.0
    written: list[float] = field(default_factory=list)
    tasks: int = 0

    def __post_init__(self) -> None:
        self.journal = Journal(self.sink, _HEADER, _timed_seal(self), clock=lambda: self.now)
        self.journal.begin()

    def finish_task(self, *, after: float, seconds: float) -> None:
        """Let time pass until a task is done that took so many seconds."""
        self.now += after
        self.tasks += 1
        part = replace(_part(f"x-{self.tasks}"), seconds=seconds)
        self.journal.add(TaskRecord(f"{self.tasks:064x}", "x", (part,)))

    @property
    def lost(self) -> int:
        """How many tasks a kill would cost now."""
        (found,) = find_runs(self.sink)
        past = read_run(self.sink, found, plain_seal())
        assert past is not None
        return self.tasks - len(past.records)


def _timed_seal(run: _Timed) -> Seal:
    def seal(block: bytes) -> bytes:
        run.now += run.block_seconds
        run.written.append(run.now)
        return block

    return replace(plain_seal(), seal=seal)


@pytest.fixture
def memory() -> Iterator[Location]:
    yield Location("memory://journals-by-the-clock")
    fsspec.filesystem("memory").rm("/journals-by-the-clock", recursive=True)


def test_a_kill_costs_a_short_run_little(memory: Location) -> None:
    run = _Timed(memory, block_seconds=0.003)
    for _ in range(3):
        for _ in range(150):
            run.finish_task(after=0.01, seconds=0.01)
        assert run.lost <= 100  # the work of a second


def test_a_run_of_few_quick_files_notes_them_too(memory: Location) -> None:
    run = _Timed(memory, block_seconds=0.02)
    for _ in range(120):
        run.finish_task(after=0.01, seconds=0.01)
    assert run.lost < 110


@pytest.mark.parametrize("block_seconds", [0.03, 0.3])
def test_where_a_block_takes_long_there_are_few(memory: Location, block_seconds: float) -> None:
    run = _Timed(memory, block_seconds=block_seconds)
    for _ in range(10_000):
        run.finish_task(after=0.01, seconds=0.01)
    assert len(run.written) <= 3 + run.now / 2
    assert run.now - run.written[-1] < 2.5


def test_a_long_run_leaves_no_more_blocks_than_one_in_two_seconds(memory: Location) -> None:
    run = _Timed(memory, block_seconds=0.0001)
    for _ in range(10_000):
        run.finish_task(after=0.1, seconds=0.2)
    of_the_first = sum(1 for moment in run.written if moment <= 200)
    assert of_the_first <= 350
    assert len(run.written) - of_the_first <= 800 / 2 + 1


def test_long_tasks_that_end_together_are_noted_at_once(memory: Location) -> None:
    """Nothing else may happen for as long: a caller's own engine tells only of results."""
    run = _Timed(memory, block_seconds=0.06)
    for after in (600, 0.01, 0.01, 0.01):
        run.finish_task(after=after, seconds=600)
        assert run.lost == 0


def test_long_tasks_of_very_many_workers_are_noted_together(memory: Location) -> None:
    run = _Timed(memory, block_seconds=0.03)
    for _ in range(2_000):
        run.finish_task(after=0.1, seconds=100)
    assert len(run.written) <= 3 + run.now / 2
