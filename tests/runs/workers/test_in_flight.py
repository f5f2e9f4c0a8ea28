"""Several files at work in one process, and how many they may be."""

from __future__ import annotations

import gzip
import shutil
import threading
from dataclasses import replace

import pytest

from pipecrypt.errors import ContentError, InterruptedRunError, UsageError
from pipecrypt.runs.files import decrypt
from pipecrypt.runs.kinds import encrypt
from pipecrypt.runs.plan.plan import Plan, make_plan
from pipecrypt.runs.report.events import BytesDone, Event, FileDone, FileStarted
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import MAX_FILES_IN_FLIGHT, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers import executor, limits
from pipecrypt.runs.workers.limits import FlightLimits, flight_limits, needs_no_workers
from pipecrypt.store.location import Location
from tests.runs.conftest import NAMES, World

_SECONDS = 20.0


def _spec(world: World, **options: int) -> EncryptSpec:
    return EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(default=world.key),
        run=RunOptions(**options),
    )


def _plan(world: World, **options: int) -> Plan:
    return make_plan(_spec(world, **options))


# ---- how many ----


def test_a_few_local_files_are_done_one_by_one(world: World) -> None:
    assert flight_limits(_plan(world)).files == 1
    assert flight_limits(_plan(world, files_in_flight=5)).files == 5


def test_many_small_local_files_are_at_work_together_and_large_ones_alone(world: World) -> None:
    plan = _plan(world)
    small = replace(plan.tasks[0], source=replace(plan.tasks[0].source, size_bytes=34_000))
    large = replace(plan.tasks[0], source=replace(plan.tasks[0].source, size_bytes=50 << 20))
    many = replace(plan, tasks=(small,) * 1000, workers=2)
    limits = flight_limits(many)
    assert limits.files > 1
    assert limits.allow(small, [small] * (limits.files - 1))
    assert not limits.allow(small, [small] * limits.files)
    assert limits.allow(large, [])
    assert not limits.allow(large, [large])
    assert not limits.allow(small, [large])
    assert flight_limits(replace(many, tasks=(small,) * 30)).files == 1
    assert flight_limits(replace(many, options=RunOptions(files_in_flight=1))).files == 1
    assert flight_limits(replace(many, options=RunOptions(memory_bytes=1 << 20))).memory_bytes == 1 << 19


def test_a_store_that_is_not_local_lets_several_be_at_work(world: World) -> None:
    plan = _plan(world)
    for url, many in (("s3://bucket/out/", True), ("gs://bucket/out/", True), ("memory://out/", False)):
        assert (flight_limits(replace(plan, sink=Location(url))).files > 1) is many


def test_little_work_that_waits_for_a_store_needs_no_workers(world: World) -> None:
    plan = _plan(world)
    remote = replace(plan, sink=Location("s3://bucket/out/"))
    assert not needs_no_workers(plan)
    assert needs_no_workers(remote)
    assert not needs_no_workers(replace(remote, tasks=plan.tasks * 100))
    large = replace(plan.tasks[0], source=replace(plan.tasks[0].source, size_bytes=1 << 30))
    assert not needs_no_workers(replace(remote, tasks=(large,)))


def test_workers_share_the_memory(world: World) -> None:
    plan = _plan(world, memory_bytes=1 << 30)
    assert flight_limits(plan).memory_bytes == 1 << 30
    assert flight_limits(replace(plan, workers=4)).memory_bytes == 1 << 28


def test_the_machine_says_how_much_memory_there_is_where_nobody_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < limits.machine_memory_bytes() < 1 << 50
    group = world.root / "memory.max"
    monkeypatch.setattr(limits, "_GROUP_LIMITS", (str(group), str(world.root / "missing")))
    whole = limits.machine_memory_bytes()
    group.write_text("max\n")
    assert limits.machine_memory_bytes() == whole
    group.write_text("4000000\n")
    assert limits.machine_memory_bytes() == 4_000_000
    assert flight_limits(_plan(world)).memory_bytes == 1_000_000


def test_files_and_their_memory_bound_what_is_at_work(world: World) -> None:
    first, second, third = _plan(world).tasks
    size = first.input_bytes
    roomy = FlightLimits(files=2, memory_bytes=1 << 30)
    assert roomy.allow(second, [first])
    assert not roomy.allow(third, [first, second])
    tight = FlightLimits(files=10, memory_bytes=5 * size)
    assert tight.allow(first, [])
    assert not tight.allow(second, [first])
    assert FlightLimits(files=10, memory_bytes=10 * size).allow(second, [first])
    large = replace(first, source=replace(first.source, size_bytes=1 << 40))
    assert FlightLimits(files=10, memory_bytes=1).allow(large, [])
    assert FlightLimits(files=10, memory_bytes=1 << 30).allow(large, [large] * 3)


def test_of_compressed_rows_only_as_many_are_at_work_as_fit(world: World) -> None:
    shutil.rmtree(world.raw)
    world.raw.mkdir()
    for name in ("a.csv.gz", "b.csv.gz", "c.csv"):
        (world.raw / name).write_bytes(gzip.compress(b"id,email\n1,x\n") if name.endswith("gz") else b"id,email\n1,x\n")
    first, second, plain = _plan(world).tasks
    tight = FlightLimits(files=16, memory_bytes=100 << 20)
    assert tight.allow(first, [])
    assert not tight.allow(second, [first])
    assert tight.allow(plain, [plain])
    assert FlightLimits(files=16, memory_bytes=1 << 30).allow(second, [first])


@pytest.mark.parametrize(
    "options", [{"files_in_flight": 0}, {"files_in_flight": MAX_FILES_IN_FLIGHT + 1}, {"memory_bytes": 0}]
)
def test_numbers_that_mean_nothing_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        RunOptions(**options)


# ---- in this process ----


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> threading.Barrier:
    """Let no file go on before all three are at work."""
    barrier, encrypt_file = threading.Barrier(len(NAMES)), encrypt.encrypt_file

    def encrypt_together(*arguments: object, **options: object) -> object:
        barrier.wait(_SECONDS)
        return encrypt_file(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(encrypt, "encrypt_file", encrypt_together)
    return barrier


def test_files_are_at_work_side_by_side_and_told_of_in_one_thread(world: World, together: threading.Barrier) -> None:
    events: list[tuple[int, Event]] = []
    summary = run(
        _spec(world, files_in_flight=3),
        credentials=world.credentials,
        on_event=lambda event: events.append((threading.get_ident(), event)),
    )
    assert [part.path for part in summary.parts] == list(NAMES)
    assert {thread for thread, _ in events} == {threading.get_ident()}
    told = [event for _, event in events]
    assert {event.path for event in told if isinstance(event, FileStarted)} == set(NAMES)
    assert sum(event.bytes for event in told if isinstance(event, BytesDone)) == summary.source_bytes
    assert sum(isinstance(event, FileDone) for event in told) == len(NAMES)
    decrypt(world.out, world.root / "back", [world.key], credentials=world.credentials)
    assert world.tree(world.root / "back") == world.tree(world.raw)


def test_the_first_failure_ends_all_and_removes_what_was_begun(
    world: World, together: threading.Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    encrypt_together = encrypt.encrypt_file

    def fails(source: object, *arguments: object, **options: object) -> object:
        if source.name.endswith("c.parquet"):  # type: ignore[attr-defined]
            together.wait(_SECONDS)
            failed.set()
            raise ContentError("broken")
        report = encrypt_together(source, *arguments, **options)  # type: ignore[arg-type]
        assert failed.wait(_SECONDS)
        options["on_bytes"](0)  # type: ignore[operator]
        return report

    monkeypatch.setattr(encrypt, "encrypt_file", fails)
    told: list[Event] = []

    def on_event(event: Event) -> None:
        told.append(event)

    with pytest.raises(ContentError, match="broken"):
        run(_spec(world, files_in_flight=3), credentials=world.credentials, on_event=on_event)
    assert not any(thread.name.startswith("pipecrypt-file") for thread in threading.enumerate())
    assert world.leftovers() == []
    published = {event.parts[0].path for event in told if isinstance(event, FileDone)}
    assert published <= set(NAMES)


def test_what_was_published_while_another_file_failed_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    published, failed = threading.Barrier(len(NAMES)), threading.Event()
    real = executor.run_task

    def run_task(task: Task, *arguments: object) -> FileDone:
        if task.path == NAMES[-1]:
            published.wait(_SECONDS)
            threading.Timer(0.2, failed.set).start()  # when the failure was told
            raise ContentError("broken")
        done = real(task, *arguments)  # type: ignore[arg-type]
        published.wait(_SECONDS)
        assert failed.wait(_SECONDS)
        return done

    monkeypatch.setattr(executor, "run_task", run_task)
    told: list[Event] = []
    spec = _spec(world, files_in_flight=3, keeps_journal=True)
    with pytest.raises(ContentError, match="broken"):
        run(spec, credentials=world.credentials, on_event=told.append)
    assert {event.parts[0].path for event in told if isinstance(event, FileDone)} == set(NAMES[:-1])
    monkeypatch.undo()
    resumed = run(replace(spec, run=replace(spec.run, resumes=True)), credentials=world.credentials)
    assert [part.path for part in resumed.parts] == [NAMES[-1]]


def test_a_stop_ends_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    encrypt_file, stopped = encrypt.encrypt_file, threading.Event()

    def waits(*arguments: object, **options: object) -> object:
        report = encrypt_file(*arguments, **options)  # type: ignore[arg-type]
        assert stopped.wait(_SECONDS)
        return report

    def on_event(event: Event) -> None:
        if isinstance(event, FileStarted):
            threading.Timer(0.2, stopped.set).start()  # when it is known that the run is over
            raise KeyboardInterrupt  # as a signal does

    monkeypatch.setattr(encrypt, "encrypt_file", waits)
    with pytest.raises(InterruptedRunError):
        run(_spec(world, files_in_flight=3), credentials=world.credentials, on_event=on_event)
    assert world.tree() == {}
