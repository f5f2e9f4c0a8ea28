"""Very large Parquet files become several tasks by row groups; here, a small size stands for a large one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipecrypt as pc
from pipecrypt.errors import (
    AlreadyEncryptedError,
    ConflictError,
    FormatError,
    InterruptedRunError,
    SinkNotEmptyError,
    UsageError,
)
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.files import decrypt
from pipecrypt.runs.kinds.encrypt import Encryption, share_out
from pipecrypt.runs.plan.plan import make_plan
from pipecrypt.runs.report.events import BytesDone, Event, FileStarted, RunStarted, Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import World, own_threads, write_table

SPLIT_BYTES = 16_000
BIG = "big.parquet"
PARTS = ["big-00000.parquet", "big-00001.parquet", "big-00002.parquet"]


@pytest.fixture
def big(world: World) -> Path:
    """A file of about three times the size of a task, among small ones."""
    path = world.raw / BIG
    table = pa.table({"id": range(4000), "email": [f"big-{row}@example.org" for row in range(4000)]})
    pq.write_table(table, path, row_group_size=200)
    assert 3 * SPLIT_BYTES <= path.stat().st_size < 4 * SPLIT_BYTES
    return path


def request(world: World, source: Path | None = None, sink: str | None = None, **options: object) -> EncryptSpec:
    asked = EncryptSpec(
        source=Location(str(source or world.raw)),
        sink=Location(sink or str(world.out)),
        policy=Policy(default=world.key),
        run=RunOptions(split_bytes=SPLIT_BYTES),
    )
    return replace(asked, **options)  # type: ignore[arg-type]


def carry_out(world: World, asked: EncryptSpec) -> tuple[Summary, list[Event]]:
    events: list[Event] = []
    return run(asked, credentials=world.credentials, on_event=events.append), events


@pytest.mark.parametrize("workers", [1, 2])
def test_there_and_back(world: World, big: Path, workers: int) -> None:
    summary, events = carry_out(world, request(world, workers=workers))
    assert [part.path for part in summary.parts] == ["a.parquet", *PARTS, "day=1/b ü#%.parquet", "day=2/c.parquet"]
    sources = sum(path.stat().st_size for path in world.raw.rglob("*.parquet"))
    started = next(event for event in events if isinstance(event, RunStarted))
    assert started.bytes == summary.source_bytes == sources
    assert sum(event.bytes for event in events if isinstance(event, BytesDone)) == sources
    decrypt(world.out, world.root / "back", [world.key], credentials=world.credentials)
    parts = sorted((world.root / "back").glob("big*"))
    assert [path.name for path in parts] == PARTS
    assert pa.concat_tables(pq.read_table(path) for path in parts).equals(pq.read_table(big))
    assert own_threads() == []


def test_the_plan_is_the_same_whoever_makes_it(world: World, big: Path) -> None:
    one, other = make_plan(request(world)), make_plan(request(world, workers=4))
    assert [task.id for task in one.tasks] == [task.id for task in other.tasks]
    assert len({task.id for task in one.tasks}) == len(one.tasks) == 6
    parts = [task for task in one.tasks if task.path in PARTS]
    assert {task.source for task in parts} == {parts[0].source}
    ranges = [task.kind.row_groups for task in parts if isinstance(task.kind, Encryption)]
    assert [index for each in ranges for index in each or ()] == list(range(20))
    assert sum(task.input_bytes for task in parts) == big.stat().st_size


def test_what_stays_whole(world: World, big: Path) -> None:
    (world.raw / "bad.parquet").write_bytes(b"PAR1" + bytes(3 * SPLIT_BYTES) + b"PAR1")
    table = pq.read_table(big)
    pq.write_table(table, world.raw / "one group.parquet", row_group_size=len(table))
    carry_out(world, request(world, big, str(world.root / "enc.parquet"), run=RunOptions()))
    (world.raw / "encrypted.parquet").write_bytes((world.root / "enc.parquet").read_bytes())
    paths = {task.path for task in make_plan(request(world)).tasks}
    assert {"bad.parquet", "one group.parquet", "encrypted.parquet"} < paths
    for name, error in (("bad.parquet", FormatError), ("encrypted.parquet", AlreadyEncryptedError)):
        with pytest.raises(error):
            carry_out(world, request(world, world.raw / name, str(world.root / "one")))
    assert len(make_plan(request(world, big, "-")).tasks) == 1


def test_a_single_file_is_numbered(world: World, big: Path) -> None:
    asked = request(world, big, f"{world.root}/one.parquet")
    carry_out(world, asked)
    names = [f"one-{index:05}.parquet" for index in range(3)]
    assert sorted(path.name for path in world.root.glob("one*")) == names
    with pytest.raises(SinkNotEmptyError):
        make_plan(asked)
    assert len(make_plan(replace(asked, overwrite=True)).tasks) == 3


def test_outputs_at_one_place(world: World, big: Path) -> None:
    write_table(world.raw / PARTS[1])
    with pytest.raises(UsageError):
        make_plan(request(world))


def test_a_source_that_changes_meanwhile(world: World, big: Path) -> None:
    plan_of = request(world)

    def change(event: Event) -> None:
        if isinstance(event, RunStarted):
            write_table(big, 3000)

    with pytest.raises(ConflictError):
        run(plan_of, credentials=world.credentials, on_event=change)
    assert not [name for name in world.tree() if name.startswith("big")]
    assert world.leftovers() == []


def _signed(world: World, **options: object) -> EncryptSpec:
    signing = world.reference("signing")
    return request(world, policy=Policy(default=world.key, sign=signing), **options)


@pytest.fixture
def signing(world: World) -> str:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    return world.reference("signing")


def test_a_signed_dataset(world: World, big: Path, signing: str) -> None:
    carry_out(world, _signed(world))
    report = pc.verify(world.out, trust=[signing], keys=[world.key], credentials=world.credentials)
    assert (report.findings, report.files, report.tags_checked) == ((), 6, True)
    assert {entry for entry in world.tree() if entry.startswith("big")} == set(PARTS)
    with pc.open(world.out, keys=[world.key], trust=[signing], credentials=world.credentials) as dataset:
        assert dataset.to_table().num_rows == 7000


def test_written_whole_before(world: World, big: Path, signing: str) -> None:
    """A table must not be in a dataset twice, whole and in parts."""
    carry_out(world, _signed(world, run=RunOptions()))
    with pytest.raises(ConflictError):
        carry_out(world, _signed(world, overwrite=True))
    (world.out / BIG).unlink()
    carry_out(world, _signed(world, overwrite=True))
    assert pc.verify(world.out, trust=[signing], credentials=world.credentials).findings == ()


def test_a_signed_file(world: World, big: Path, signing: str) -> None:
    carry_out(world, replace(_signed(world), source=Location(str(big)), sink=Location(f"{world.root}/one.parquet")))
    for index in range(3):
        report = pc.verify(world.root / f"one-{index:05}.parquet", trust=[signing], credentials=world.credentials)
        assert report.findings == ()


@given(
    sizes=st.lists(st.integers(0, 1000), max_size=60),
    more_bytes=st.integers(0, 500),
    split_bytes=st.integers(1, 2000),
)
def test_shares_add_up(sizes: list[int], more_bytes: int, split_bytes: int) -> None:
    file_bytes = sum(sizes) + more_bytes
    shares = share_out(sizes, file_bytes, split_bytes)
    if not shares:
        return
    assert len(shares) >= 2
    assert [index for row_groups, _ in shares for index in row_groups] == list(range(len(sizes)))
    assert sum(size for _, size in shares) == file_bytes
    assert min(size for _, size in shares) >= 0
    largest = max(sizes)
    assert all(sum(sizes[i] for i in row_groups) <= 1.5 * split_bytes + 2 * largest for row_groups, _ in shares)


@pytest.mark.parametrize("is_signed", [False, True])
def test_split_and_made_whole_again(world: World, big: Path, signing: str, *, is_signed: bool) -> None:
    """Where runs keep a journal, another size is a change like others: nothing of the old outputs stays."""
    journal = RunOptions(keeps_journal=True, split_bytes=SPLIT_BYTES)
    asked = (_signed if is_signed else request)(world, run=journal)
    assert carry_out(world, asked)[0].files == 6
    assert carry_out(world, asked)[0].files == 0
    whole = replace(asked, run=replace(journal, split_bytes=None))
    with pytest.raises(ConflictError):
        carry_out(world, whole)
    for options, names in ((whole.run, [BIG]), (journal, PARTS)):
        changed = replace(asked, run=replace(options, on_source_change=OnSourceChange.REPLACE))
        carry_out(world, changed)
        assert sorted(path.name for path in world.out.glob("big*")) == names
        if is_signed:
            assert pc.verify(world.out, trust=[signing], credentials=world.credentials).findings == ()


def test_a_run_is_continued_between_two_parts(world: World, big: Path) -> None:
    asked = request(world, run=RunOptions(keeps_journal=True, split_bytes=SPLIT_BYTES))

    def stop(event: Event) -> None:
        if isinstance(event, FileStarted) and event.path == PARTS[1]:
            raise InterruptedRunError("stopped")

    with pytest.raises(InterruptedRunError):
        run(asked, credentials=world.credentials, on_event=stop)
    before = world.tree()
    assert PARTS[0] in before
    assert PARTS[1] not in before
    carry_out(world, replace(asked, run=replace(asked.run, resumes=True)))
    assert world.tree()[PARTS[0]] == before[PARTS[0]]
    decrypt(world.out, world.root / "back", [world.key], credentials=world.credentials)
    parts = sorted((world.root / "back").glob("big*"))
    assert pa.concat_tables(pq.read_table(path) for path in parts).equals(pq.read_table(big))
