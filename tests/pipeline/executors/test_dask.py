"""Runs on a Dask cluster of this machine: done, with a worker killed, with nothing secret on the way."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.errors import ConflictError, MissingExtraError, UsageError, WorkerError
from pipecrypt.keys.services.keystore.making import create_key
from pipecrypt.pipeline.executors import dask as dask_executor
from pipecrypt.pipeline.executors.alone import AloneSetup, end_run, run_task_alone
from pipecrypt.pipeline.planning.plan import make_plan
from pipecrypt.pipeline.progress.events import Event, FileDone, FileStarted, TaskRetried
from pipecrypt.pipeline.request.policy import Policy
from pipecrypt.pipeline.request.request import EncryptRequest
from pipecrypt.pipeline.request.run_options import ExecutorKind, RunOptions
from pipecrypt.pipeline.run.run import run
from pipecrypt.pipeline.task.operation import Task
from pipecrypt.storage.location import Location
from tests.pipeline.conftest import World, write_table

pytest.importorskip("distributed")


@pytest.fixture
def cluster(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let worker processes, which look into their own environment, open the keystore."""
    create_key(world.reference("signing"), "ed25519", world.credentials)
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    )
    for number in range(5):
        write_table(world.raw / f"more-{number}.parquet", 50)
    return world


def _request(world: World, **options: object) -> EncryptRequest:
    given: dict[str, object] = {"keeps_journal": True, "executor": ExecutorKind.DASK, **options}
    return EncryptRequest(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(columns={"email": world.key}, sign=world.reference("signing")),
        workers=2,
        run=RunOptions(**given),  # type: ignore[arg-type]
    )


def _kill_once(task: Task, setup: AloneSetup) -> FileDone:
    """Stand in for the worker's function: the first process that gets a certain file dies at it."""
    mark = Path(setup.name)
    if task.path == "a.parquet" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_task_alone(task, replace(setup, name="run"))


def _kill_always(task: Task, setup: AloneSetup) -> FileDone:
    if task.path == "a.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    return run_task_alone(task, setup)


def test_a_cluster_encrypts_and_signs(cluster: World) -> None:
    events: list[Event] = []
    summary = run(_request(cluster), credentials=cluster.credentials, on_event=events.append)
    assert summary.files == 8
    assert sum(isinstance(event, FileStarted) for event in events) == 8
    assert not pc.verify(cluster.out, trust=[cluster.reference("signing")]).findings
    back = cluster.root / "back"
    pc.decrypt(cluster.out, back, [cluster.key], verify="off", credentials=cluster.credentials)
    assert cluster.tree(back) == cluster.tree(cluster.raw)
    assert run(_request(cluster), credentials=cluster.credentials).files == 0


def test_a_killed_worker_is_replaced(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "run_task_alone", _kill_once)
    monkeypatch.setattr("pipecrypt.pipeline.executors.choice.new_token", lambda: "died")
    monkeypatch.chdir(cluster.root)
    events: list[Event] = []
    summary = run(_request(cluster, attempts=3), credentials=cluster.credentials, on_event=events.append)
    assert summary.files == 8
    assert any(isinstance(event, TaskRetried) for event in events)
    assert not pc.verify(cluster.out, trust=[cluster.reference("signing")]).findings


def test_a_worker_that_dies_each_time_ends_the_run(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "run_task_alone", _kill_always)
    with pytest.raises(WorkerError, match=r"a\.parquet"):
        run(_request(cluster, attempts=2), credentials=cluster.credentials)
    monkeypatch.undo()
    for name, value in cluster.environ.items():
        monkeypatch.setenv(name, value)
    local = replace(_request(cluster, resumes=True, executor=ExecutorKind.LOCAL), workers=1)
    assert run(local, credentials=cluster.credentials).files >= 1
    assert not pc.verify(cluster.out, trust=[cluster.reference("signing")]).findings


def test_what_travels_holds_no_secret(world: World) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    plan = make_plan(_request(world))
    setup = AloneSetup("run", plan.key_references, plan.dataset_id, plan.also)
    sent = pickle.dumps([(task, setup) for task in plan.tasks])
    secret = (world.root / "key").read_bytes()
    assert secret not in sent


def test_a_process_keeps_one_session_for_a_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    create_key(world.reference("signing"), "ed25519", world.credentials)
    plan = make_plan(replace(_request(world), policy=Policy(default=world.key, also=[world.reference("other")])))
    setup = AloneSetup("one", plan.key_references, plan.dataset_id, plan.also)
    try:
        done = [run_task_alone(task, setup) for task in plan.tasks]
    finally:
        end_run("one")
        end_run("one")
    assert sum(part.service_calls for each in done for part in each.parts) == 2  # for the key, and for the other one
    assert [len(each.grants) for each in done] == [1, 1, 1]


def test_what_no_worker_reaches_is_refused(world: World) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    with pytest.raises(UsageError):
        replace(_request(world), sink=Location("memory://nowhere/"))


def test_a_missing_package_shows_before_anything_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError):
        _request(world)


def test_no_scheduler_answers(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_CONNECT_SECONDS", 1)
    with pytest.raises(ConflictError):
        run(_request(cluster, address="tcp://127.0.0.1:9"), credentials=cluster.credentials)
