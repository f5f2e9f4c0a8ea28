from __future__ import annotations

import pytest

from pipecrypt.errors import WorkerError
from pipecrypt.runs.plan.plan import make_plan
from pipecrypt.runs.report.events import FileDone, Part
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers.executor import TaskLedger
from pipecrypt.runs.workers.limits import FlightLimits
from pipecrypt.store.location import Location
from tests.runs.conftest import World


@pytest.fixture
def tasks(world: World) -> tuple[Task, ...]:
    source, sink = Location(str(world.raw)), Location(str(world.out))
    return make_plan(EncryptSpec(source=source, sink=sink, policy=Policy(default=world.key))).tasks


def _done(task: Task, rows: int) -> FileDone:
    part = Part(
        path=task.path, source_bytes=1, sink_bytes=1, rows=rows, batches=1, data_keys=1, service_calls=0, seconds=0.1
    )
    return FileDone(task.id, (part,))


def test_the_first_result_counts_and_a_late_one_is_dropped(
    tasks: tuple[Task, ...], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = TaskLedger(tasks, attempts=1)
    for number, task in enumerate(reversed(tasks)):
        assert ledger.accept(_done(task, number)) == _done(task, number)
    assert ledger.accept(_done(tasks[0], 99)) is None
    assert "dropped a second result of a.parquet" in caplog.text
    assert [part.rows for part in ledger.parts()] == [2, 1, 0]  # in the order of the tasks, however they came


def test_a_task_whose_worker_died_is_alone_in_the_next(tasks: tuple[Task, ...]) -> None:
    ledger, limits = TaskLedger(tasks, attempts=3), FlightLimits(files=3, memory_bytes=1 << 30)
    first, second, third = tasks
    assert ledger.may_join(second, [first], limits)
    ledger.fail(first, "was killed")
    assert ledger.may_join(first, [], limits)
    assert not ledger.may_join(first, [second], limits)
    assert not ledger.may_join(second, [first], limits)
    assert ledger.may_join(third, [second], limits)


def test_a_result_of_another_run_is_dropped(tasks: tuple[Task, ...]) -> None:
    ledger = TaskLedger(tasks[1:], attempts=1)
    assert ledger.accept(_done(tasks[0], 1)) is None
    assert not ledger.is_complete


def test_the_next_attempt_may_replace_what_the_one_before_published(tasks: tuple[Task, ...]) -> None:
    ledger = TaskLedger(tasks, attempts=3)
    task = tasks[0]
    assert not task.target.overwrite
    assert ledger.fail(task, "was killed") == (task.again(), 2)
    assert ledger.fail(task, "was killed") == (task.again(), 3)
    with pytest.raises(WorkerError, match=r"raw/a\.parquet was killed, as were 2 before it"):
        ledger.fail(task, "was killed")
