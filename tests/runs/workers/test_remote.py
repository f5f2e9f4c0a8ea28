"""A task in a process of its own looks whether its run goes on before it publishes. Where: test_attempts."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY
from pipecrypt.errors import InterruptedRunError
from pipecrypt.runs.plan.plan import Plan, make_plan
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.workers import remote
from pipecrypt.runs.workers.remote import RemoteSetup, end_run, run_remotely
from pipecrypt.store.lease import HeldLease, Lease
from pipecrypt.store.location import Location
from tests.runs.conftest import World

_ROLLED = ("table-00000.parquet", "table-00001.parquet")


@pytest.fixture(autouse=True)
def _environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)


def _plan(world: World, source: Path | None = None, *, max_file_bytes: int | None = None) -> Plan:
    return make_plan(
        EncryptSpec(
            source=Location(str(source or world.raw)),
            sink=Location(str(world.out)),
            policy=Policy(default=world.key, batch_rows=100),
            max_file_bytes=max_file_bytes,
        )
    )


def _rolled(world: World) -> Plan:
    """Return the plan of a task that writes several files."""
    source = world.root / "text"
    source.mkdir()
    rows = "".join(f"{number},name-{number}\n" for number in range(200))
    (source / "table.csv").write_text("id,name\n" + rows)
    return _plan(world, source, max_file_bytes=1)


@pytest.fixture
def setup(world: World) -> Callable[[Plan], RemoteSetup]:
    return lambda plan: RemoteSetup("here", plan.keys)


@pytest.fixture(autouse=True)
def _own_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    runs = remote.OpenRuns()
    monkeypatch.setattr(remote, "_runs", runs)
    yield
    for name in runs.names:
        runs.end(name)


def _elsewhere(lock: Lease) -> HeldLease:
    return replace(lock.held, directory=lock.held.directory.absolute())


def _locked(world: World, setup: RemoteSetup) -> tuple[RemoteSetup, Lease]:
    lock = Lease(Location(str(world.out)).child(LOCK_DIRECTORY), "run-1")
    travelled: RemoteSetup = pickle.loads(pickle.dumps(replace(setup, lock=_elsewhere(lock))))  # noqa: S301
    return travelled, lock


def _data(world: World) -> list[str]:
    return [path for path in world.tree() if not path.startswith("_")]


@pytest.mark.parametrize("kind", ["whole", "rolled"])
def test_a_task_publishes_only_while_its_run_holds_the_lock(
    world: World, setup: Callable[[Plan], RemoteSetup], kind: str
) -> None:
    plan = _rolled(world) if kind == "rolled" else _plan(world)
    travelled, lock = _locked(world, setup(plan))
    with lock:
        run_remotely(plan.tasks[0], travelled)
        written = world.tree()
        again = plan.tasks[0].with_target(replace(plan.tasks[0].target, overwrite=True))
    with pytest.raises(InterruptedRunError):
        run_remotely(again, travelled)  # nobody holds it
    with (
        Lease(Location(str(world.out)).child(LOCK_DIRECTORY), "run-2"),
        pytest.raises(InterruptedRunError),
    ):
        run_remotely(again, travelled)  # another one holds it
    assert _data(world) == [path for path in written if not path.startswith("_")]
    assert all(world.tree()[path] == written[path] for path in _data(world))
    assert not world.leftovers()


def test_the_lock_is_looked_at_once_for_each_task(
    world: World, setup: Callable[[Plan], RemoteSetup], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _rolled(world)
    looks: list[list[str]] = []

    def look(setup: RemoteSetup) -> None:
        looks.append(_data(world))

    monkeypatch.setattr(remote, "check_lock", look)
    assert len(run_remotely(plan.tasks[0], setup(plan)).parts) == len(_ROLLED)
    assert [[name for name in found if not name.startswith(".")] for found in looks] == [[]]  # before any appeared


def test_the_lock_is_found_from_another_directory(
    world: World, setup: Callable[[Plan], RemoteSetup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.root)
    plan = _plan(world)
    with Lease(Location("out").child(LOCK_DIRECTORY), "run-1") as lock:
        travelled = replace(setup(plan), lock=_elsewhere(lock))
        monkeypatch.chdir("/")
        run_remotely(plan.tasks[0], travelled)
    assert _data(world) == ["a.parquet"]


def test_keys_are_not_wiped_under_a_task_whose_run_ends(
    world: World, setup: Callable[[Plan], RemoteSetup], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(world)
    monkeypatch.setattr(remote, "_check_may_publish", lambda setup: end_run(setup.name))
    run_remotely(plan.tasks[0], setup(plan))  # it had begun to publish when the run ended
    assert remote._runs.names == ()
    assert _data(world) == ["a.parquet"]
