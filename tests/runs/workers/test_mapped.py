"""Tasks handed to an engine of the caller's: results in any order, twice, lost; and the recipes in the docs."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import pipecrypt as pc
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY
from pipecrypt.errors import ConflictError, InterruptedRunError, SinkNotEmptyError, WorkerError
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.journal.cleaning import clean
from pipecrypt.runs.plan.plan import make_plan
from pipecrypt.runs.report.events import BytesDone, Event, FileDone, Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers import remote
from pipecrypt.runs.workers.remote import RemoteSetup, TaskCall, end_run, run_remotely
from pipecrypt.store.location import Location
from tests.runs.conftest import World, write_table

_PAGE = Path(__file__).parents[3] / "docs" / "executors.md"


@pytest.fixture(autouse=True)
def _environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)


def _run(
    world: World, map_tasks: Callable[[Sequence[TaskCall]], Iterator[FileDone]], *, resumes: bool = False
) -> Summary:
    request = EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(default=world.key),
        run=RunOptions(keeps_journal=True, resumes=resumes),
    )
    return run(request, credentials=world.credentials, map_tasks=map_tasks)


def _check(world: World) -> None:
    back = world.root / "back"
    pc.decrypt(world.out, back, [world.key], verify="off", credentials=world.credentials)
    assert world.tree(back) == world.tree(world.raw)


def test_results_come_in_any_order_and_twice(world: World) -> None:
    def backwards_and_twice(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        copies: list[TaskCall] = pickle.loads(pickle.dumps(list(calls)))  # noqa: S301 - made here
        for call in reversed(copies):
            result = call()
            yield result
            yield result

    assert _run(world, backwards_and_twice).files == 3
    _check(world)


def test_lost_results_end_the_run_and_are_done_when_it_is_resumed(world: World) -> None:
    with pytest.raises(WorkerError):
        _run(world, lambda calls: (call() for call in calls[:1]))
    assert _run(world, lambda calls: (call() for call in calls), resumes=True).files == 2
    _check(world)


def test_a_single_file_is_done_here_and_replaces_nothing(world: World) -> None:
    def never(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        raise AssertionError(f"{len(calls)} tasks travel without a lock")

    sink = world.root / "one.parquet"
    request = EncryptSpec(
        source=Location(str(world.raw / "a.parquet")),
        sink=Location(str(sink)),
        policy=Policy(default=world.key),
        run=RunOptions(keeps_journal=True),
    )

    def appear(event: Event) -> None:
        if isinstance(event, BytesDone) and not sink.exists():
            sink.write_bytes(b"of another")

    with pytest.raises(SinkNotEmptyError):
        run(request, credentials=world.credentials, map_tasks=never, on_event=appear)
    assert sink.read_bytes() == b"of another"


def test_a_task_of_a_run_that_ended_publishes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(
        EncryptSpec(source=Location(str(world.raw)), sink=Location(str(world.out)), policy=Policy(default=world.key))
    )
    setup = RemoteSetup("ended", plan.keys)
    run_remotely(plan.tasks[0], setup)
    real = remote.run_task

    def end_meanwhile(task: Task, *args: Any, **named: Any) -> FileDone:
        end_run("ended")
        return real(task, *args, **named)

    monkeypatch.setattr(remote, "run_task", end_meanwhile)
    with pytest.raises(InterruptedRunError):
        run_remotely(plan.tasks[1], setup)  # at work when the run ends
    with pytest.raises(InterruptedRunError):
        run_remotely(plan.tasks[2], setup)  # sent before, and begun afterwards
    assert list(world.tree()) == ["a.parquet"]


def _foreign(world: World) -> Path:
    place = world.out / "a.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"of another")
    return place


def test_what_somebody_else_put_there_meanwhile_is_not_replaced(world: World) -> None:
    def intrude(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        _foreign(world)
        yield from (call() for call in calls)

    with pytest.raises(SinkNotEmptyError):
        _run(world, intrude)
    assert (world.out / "a.parquet").read_bytes() == b"of another"


def test_a_call_that_is_made_twice_replaces_its_own_file(world: World) -> None:
    def again(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        for call in calls:
            call()  # its result gets lost
            yield call()

    assert _run(world, again).files == 3
    _check(world)


@pytest.mark.parametrize("is_second", [False, True])
@pytest.mark.parametrize("which", ["first", "second", "both"])
def test_what_is_signed_is_what_stands_there_however_often_a_call_is_made(
    world: World, which: str, is_second: bool
) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    request = EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(default=world.key, sign=world.reference("signing")),
        run=RunOptions(keeps_journal=True),
    )
    if is_second:
        run(request, credentials=world.credentials)
        write_table(world.raw / "new.parquet", 50)

    def twice(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        for call in calls:
            results = [call(), call()]
            yield from {"first": results[:1], "second": results[1:], "both": results}[which]

    assert run(request, credentials=world.credentials, map_tasks=twice).files == (1 if is_second else 3)
    assert not pc.verify(world.out, trust=[world.reference("signing")]).findings
    assert not [name for name in world.tree() if "/attempts/" in name]


def test_what_no_call_returned_is_refused(world: World) -> None:
    with pytest.raises(WorkerError, match="int"):
        _run(world, lambda calls: iter([1]))  # type: ignore[arg-type,list-item]


def test_a_call_that_is_late_touches_nothing(world: World) -> None:
    kept: list[TaskCall] = []

    def keep(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        kept.extend(calls)
        yield from (call() for call in calls)

    _run(world, keep)
    before = {name: content for name, content in world.tree().items() if not name.startswith("_")}
    late = replace(kept[0], setup=replace(kept[0].setup, name="late", lock=None))  # nothing stops it
    late()
    end_run("late")
    assert {name: content for name, content in world.tree().items() if not name.startswith("_")} == before
    assert clean(world.out, grace=timedelta()).removed != ()
    assert not [name for name in world.tree() if "/attempts/" in name]


def test_no_key_stays_open_after_a_run(world: World) -> None:
    seen: list[tuple[str, ...]] = []

    def look(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        for call in calls:
            yield call()
            seen.append(remote._runs.names)

    _run(world, look)
    assert [len(names) for names in seen] == [1, 1, 1]
    assert remote._runs.names == ()
    with pytest.raises(InterruptedRunError):
        run_remotely(*_late(world, seen[0][0]))


def _late(world: World, name: str) -> tuple[Task, RemoteSetup]:
    plan = make_plan(
        EncryptSpec(
            source=Location(str(world.raw)), sink=Location(str(world.root / "late")), policy=Policy(default=world.key)
        )
    )
    return plan.tasks[0], RemoteSetup(name, plan.keys)


@pytest.mark.parametrize("fails", ["while it yields", "at once", "in the driver"])
def test_no_key_stays_open_after_a_run_that_failed(world: World, fails: str) -> None:
    closed: list[bool] = []

    def break_off(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        try:
            yield calls[0]()
            if fails == "while it yields":
                raise OSError("the engine is gone")
            yield calls[1]()
        finally:
            closed.append(True)

    def at_once(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        calls[0]()
        raise OSError("the engine is gone")

    def stop(event: Event) -> None:
        if fails == "in the driver" and isinstance(event, FileDone):
            raise OSError("the reader of events is gone")

    request = EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(default=world.key),
        run=RunOptions(keeps_journal=True),
    )
    engine = at_once if fails == "at once" else break_off
    with pytest.raises(OSError, match="is gone"):
        run(request, credentials=world.credentials, map_tasks=engine, on_event=stop)
    assert remote._runs.names == ()
    assert closed == ([] if fails == "at once" else [True])


def test_a_call_that_is_made_after_its_run_was_stopped_publishes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[TaskCall] = []

    def keep(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        kept.extend(calls)
        yield calls[0]()
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        _run(world, keep)
    # As in a process elsewhere, which nobody told.
    runs = remote.OpenRuns()
    monkeypatch.setattr(remote, "_runs", runs)
    try:
        before = world.tree()
        with pytest.raises(InterruptedRunError):
            kept[1]()
        assert world.tree() == before
        assert _run(world, lambda calls: (call() for call in calls), resumes=True).files == 2
        after = world.tree()
        with pytest.raises(InterruptedRunError):
            kept[2]()
        assert world.tree() == after
    finally:
        for name in runs.names:
            runs.end(name)
    _check(world)


def test_a_driver_whose_lock_was_taken_says_so(world: World) -> None:
    def take_away(calls: Sequence[TaskCall]) -> Iterator[FileDone]:
        for lock in (world.out / LOCK_DIRECTORY).iterdir():
            lock.unlink()
        yield from (call() for call in calls)

    with pytest.raises(ConflictError):
        _run(world, take_away)
    assert [path for path in world.tree() if path.endswith(".parquet")] == []


@pytest.mark.parametrize("engine", ["threads", "ray", "spark"])
def test_the_recipes_work(world: World, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"ray": "ray", "spark": "pyspark"}.get(engine)
    if package is not None:
        if not os.environ.get(f"PIPECRYPT_TEST_{engine.upper()}"):
            pytest.skip(f"set PIPECRYPT_TEST_{engine.upper()}=1 to run it on {engine}")
        pytest.importorskip(package)
        root = str(Path(__file__).parents[3])
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
        monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    recipe = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    names: dict[str, Callable[[Sequence[TaskCall]], Iterator[FileDone]]] = {}
    exec(recipe, names)  # noqa: S102 - our own documentation
    assert _run(world, names[f"on_{engine}"]).files == 3
    _check(world)
