"""Attempts publish apart, and the driver alone puts the files of one of them where the run wants them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.errors import SinkNotEmptyError
from pipecrypt.runs.plan.plan import Plan, make_plan
from pipecrypt.runs.report.events import Event, FileDone
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers.executor import TaskLedger
from pipecrypt.runs.workers.remote import RemoteSetup, drop_attempts, end_run, put_in_place, run_remotely, take_result
from pipecrypt.store.location import Location
from pipecrypt.store.publication import new_token
from tests.runs.conftest import World


class Attempts:
    """Attempts at the first task of a plan."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.task: Task = plan.tasks[0]
        self.place = Location(str(world.out)).child("_pipecrypt/runs/one/attempts")
        self.setup = RemoteSetup(new_token(), plan.keys, attempts=self.place)

    def carry_out(self) -> FileDone:
        return run_remotely(self.task, self.setup)

    def data(self) -> dict[str, bytes]:
        return {path: content for path, content in self.world.tree().items() if not path.startswith("_")}

    def waiting(self) -> list[str]:
        return [path for path in self.world.tree() if path.startswith("_")]


@pytest.fixture(params=["whole", "rolled"])
def attempts(world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attempts]:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    source, limit = world.raw, None
    if request.param == "rolled":
        source, limit = world.root / "text", 1
        source.mkdir()
        rows = "".join(f"{number},name-{number}\n" for number in range(200))
        (source / "table.csv").write_text("id,name\n" + rows)
    plan = make_plan(
        EncryptSpec(
            source=Location(str(source)),
            sink=Location(str(world.out)),
            policy=Policy(default=world.key, batch_rows=100),
            max_file_bytes=limit,
        )
    )
    made = Attempts(world, plan)
    yield made
    end_run(made.setup.name)


def test_each_attempt_publishes_apart(attempts: Attempts) -> None:
    first, second = attempts.carry_out(), attempts.carry_out()
    assert first.attempt != second.attempt
    assert attempts.data() == {}
    assert len(attempts.waiting()) == len(first.parts) + len(second.parts)


def test_the_first_result_counts_and_the_files_of_others_go(attempts: Attempts) -> None:
    first, second = attempts.carry_out(), attempts.carry_out()
    ledger, told = TaskLedger(attempts.plan.tasks, 1), list[Event]()
    take_result(ledger, second, attempts.place, told.append)
    assert isinstance(told[-1], FileDone)
    placed = attempts.data()
    assert list(placed) == [part.path for part in second.parts]
    before = len(told)
    take_result(ledger, first, attempts.place, told.append)
    assert len(told) == before
    assert attempts.data() == placed
    assert attempts.waiting() == []


def test_files_of_others_stay(attempts: Attempts) -> None:
    done = attempts.carry_out()
    place = attempts.world.out / done.parts[-1].path
    place.write_bytes(b"of another")
    with pytest.raises(SinkNotEmptyError):
        put_in_place(done, attempts.task, attempts.place)
    assert place.read_bytes() == b"of another"
    put_in_place(done, attempts.task.with_target(replace(attempts.task.target, overwrite=True)), attempts.place)
    assert place.read_bytes() != b"of another"


def test_in_its_own_directory_a_run_replaces_what_it_wrote(attempts: Attempts) -> None:
    staged = attempts.task.again()
    put_in_place(attempts.carry_out(), staged, attempts.place)
    before = attempts.data()
    put_in_place(attempts.carry_out(), staged, attempts.place)
    assert attempts.data().keys() == before.keys()
    assert attempts.data() != before
    last = Path(attempts.world.out) / list(before)[-1]
    last.write_bytes(b"of another")
    with pytest.raises(SinkNotEmptyError):
        put_in_place(attempts.carry_out(), staged, attempts.place)


def test_what_is_placed_can_be_decrypted(attempts: Attempts) -> None:
    put_in_place(attempts.carry_out(), attempts.task, attempts.place)
    drop_attempts(attempts.place)
    world = attempts.world
    pc.decrypt(world.out, world.root / "back", [world.key], verify="off", credentials=world.credentials)
    assert len(world.tree(world.root / "back")) == len(attempts.data())
