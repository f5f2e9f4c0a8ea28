"""Runs on a Dask cluster of this machine: done, with a worker killed, with nothing secret on the way."""

from __future__ import annotations

import base64
import importlib.util
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipecrypt as pc
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY
from pipecrypt.errors import ConflictError, MissingExtraError, SinkNotEmptyError, UsageError, WorkerError
from pipecrypt.keys.credentials import PASSPHRASE_VARIABLE, PIN_VARIABLE, Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.plan.plan import make_plan
from pipecrypt.runs.report.events import Event, FileDone, FileStarted, TaskRetried
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import ExecutorKind, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers import dask as dask_executor
from pipecrypt.runs.workers.remote import RemoteSetup, end_run, run_remotely
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.secret import DataKey
from tests.runs.conftest import World, write_table

distributed = pytest.importorskip("distributed")
distributed_pickle = pytest.importorskip("distributed.protocol.pickle")
_SECRET_VARIABLES = (PASSPHRASE_VARIABLE, PIN_VARIABLE, "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "VAULT_TOKEN")


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


def _request(world: World, **options: object) -> EncryptSpec:
    given: dict[str, object] = {"keeps_journal": True, "executor": ExecutorKind.DASK, **options}
    return EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(columns={"email": world.key}, sign=world.reference("signing")),
        workers=2,
        run=RunOptions(**given),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("had_one", [False, True])
def test_a_cluster_without_workers_is_not_waited_for_for_ever(cluster: World, had_one: bool) -> None:
    with distributed.LocalCluster(
        n_workers=int(had_one), threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as dask_cluster:
        request = _request(cluster, address=dask_cluster.scheduler_address, worker_wait_seconds=1)

        def leave(event: Event) -> None:
            if isinstance(event, FileDone):
                dask_cluster.scale(0)

        with pytest.raises(WorkerError, match="has had no worker for 1 s") as caught:
            run(request, credentials=cluster.credentials, on_event=leave)
        assert "--resume" in caught.value.hint
    # The sink is free again, and the run can be continued.
    resuming = replace(request, run=RunOptions(keeps_journal=True, resumes=True))
    assert run(resuming, credentials=cluster.credentials).files > 0


def _kill_once(task: Task, setup: RemoteSetup) -> FileDone:
    """Stand in for the worker's function: the first process that gets a certain file dies at it."""
    mark = Path(setup.name)
    if task.path == "a.parquet" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_remotely(task, replace(setup, name="run"))


def _kill_always(task: Task, setup: RemoteSetup) -> FileDone:
    if task.path == "a.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    return run_remotely(task, setup)


def _overtaken_once(task: Task, setup: RemoteSetup) -> FileDone:
    """Let another attempt at a certain file publish just before the first one that gets it."""
    mark = Path(setup.name)
    setup = replace(setup, name="run")
    if task.path == "a.parquet" and not mark.exists():
        mark.touch()
        run_remotely(task, setup)
    return run_remotely(task, setup)


def _die_once_after_publishing(task: Task, setup: RemoteSetup) -> FileDone:
    mark = Path(setup.name)
    done = run_remotely(task, replace(setup, name="run"))
    if task.path == "a.parquet" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return done


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
    monkeypatch.setattr(dask_executor, "run_remotely", _kill_once)
    monkeypatch.setattr("pipecrypt.runs.run.new_token", lambda: "died")
    monkeypatch.chdir(cluster.root)
    events: list[Event] = []
    summary = run(_request(cluster, attempts=3), credentials=cluster.credentials, on_event=events.append)
    assert summary.files == 8
    assert any(isinstance(event, TaskRetried) for event in events)
    assert not pc.verify(cluster.out, trust=[cluster.reference("signing")]).findings


def test_of_two_attempts_at_once_one_counts(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "run_remotely", _overtaken_once)
    monkeypatch.setattr("pipecrypt.runs.run.new_token", lambda: "twice")
    monkeypatch.chdir(cluster.root)
    events: list[Event] = []
    summary = run(_request(cluster), credentials=cluster.credentials, on_event=events.append)
    assert summary.files == 8
    assert not any(isinstance(event, TaskRetried) for event in events)
    assert not pc.verify(cluster.out, trust=[cluster.reference("signing")]).findings


def test_a_worker_that_dies_after_it_published_loses_nothing(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "run_remotely", _die_once_after_publishing)
    monkeypatch.setattr("pipecrypt.runs.run.new_token", lambda: "late")
    monkeypatch.chdir(cluster.root)
    summary = run(_request(cluster), credentials=cluster.credentials)
    assert summary.files == 8
    assert not pc.verify(cluster.out, trust=[cluster.reference("signing")]).findings
    assert not [name for name in cluster.tree() if "/attempts/" in name]


def test_what_somebody_else_put_there_meanwhile_is_not_replaced(cluster: World) -> None:
    place = cluster.out / "more-4.parquet"

    def intrude(event: Event) -> None:
        if isinstance(event, FileStarted) and not place.exists():
            place.write_bytes(b"of another")

    with pytest.raises(SinkNotEmptyError):
        run(_request(cluster), credentials=cluster.credentials, on_event=intrude)
    assert place.read_bytes() == b"of another"


def test_a_run_whose_lock_was_taken_says_so(cluster: World) -> None:
    def take_away(_: Event) -> None:  # before the first task is handed out
        for lock in (cluster.out / LOCK_DIRECTORY).iterdir():
            lock.unlink()

    with pytest.raises(ConflictError):
        run(_request(cluster), credentials=cluster.credentials, on_event=take_away)
    assert [path for path in cluster.tree() if path.endswith(".parquet")] == []


def test_a_worker_that_dies_each_time_ends_the_run(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "run_remotely", _kill_always)
    with pytest.raises(WorkerError, match=r"a\.parquet"):
        run(_request(cluster, attempts=2), credentials=cluster.credentials)
    monkeypatch.undo()
    for name, value in cluster.environ.items():
        monkeypatch.setenv(name, value)
    local = replace(_request(cluster, resumes=True, executor=ExecutorKind.LOCAL), workers=1)
    assert run(local, credentials=cluster.credentials).files >= 1
    assert not pc.verify(cluster.out, trust=[cluster.reference("signing")]).findings


def _watch_keys(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return where the bytes of every symmetric key come that this process makes or opens from now on."""
    seen: list[bytes] = []
    real = DataKey.__init__

    def note(self: DataKey, key_bytes: bytes) -> None:
        seen.append(bytes(key_bytes))
        real(self, key_bytes)

    monkeypatch.setattr(DataKey, "__init__", note)
    return seen


def _watch_client(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return where all comes, as Dask pickles it, that the driver hands to its client from now on."""
    sent: list[bytes] = []
    for name in ("submit", "run"):
        real = getattr(distributed.Client, name)

        def note(
            self: object,
            *arguments: object,
            real: Callable[..., object] = real,
            **options: object,
        ) -> object:
            sent.append(distributed_pickle.dumps((arguments, options)))
            return real(self, *arguments, **options)

        monkeypatch.setattr(distributed.Client, name, note)
    return sent


def _spellings(secret: bytes) -> set[bytes]:
    return {secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)}


def test_what_travels_holds_no_secret(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {name: f"{name}-that-nobody-may-see" for name in _SECRET_VARIABLES}
    credentials = Credentials(cluster.environ | secrets)
    keys, sent = _watch_keys(monkeypatch), _watch_client(monkeypatch)
    assert run(_request(cluster), credentials=credentials).files == 8

    everything = b"".join(sent)
    assert len(sent) >= 8
    assert all(name.encode() in everything for name in ("a.parquet", "more-4.parquet", cluster.key))
    assert keys  # the driver has opened the keystore, and looked at its keys
    hidden = [(cluster.root / "key").read_bytes(), *keys, *(value.encode() for value in secrets.values())]
    assert [secret for secret in hidden for text in _spellings(secret) if text in everything] == []


def test_a_process_keeps_one_session_for_a_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    create_key(world.reference("signing"), "ed25519", world.credentials)
    plan = make_plan(replace(_request(world), policy=Policy(default=world.key, also=[world.reference("other")])))
    setup = RemoteSetup("one", plan.keys)
    try:
        done = [run_remotely(task, setup) for task in plan.tasks]
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


def test_nobody_else_reaches_a_cluster_that_is_started_here(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clusters, addresses = list[Any](), list[str]()
    real = distributed.LocalCluster

    def keep(*arguments: object, **options: object) -> object:
        clusters.append(real(*arguments, **options))
        return clusters[-1]

    def knock(event: Event) -> None:
        if isinstance(event, FileStarted) and not addresses:
            addresses.append(clusters[0].scheduler_address)
            for address, security in (
                (addresses[0].replace("tls://", "tcp://"), None),
                (addresses[0], distributed.Security.temporary()),
            ):
                with pytest.raises((OSError, TypeError)):
                    distributed.Client(address, timeout=2, set_as_default=False, security=security)

    monkeypatch.setattr(distributed, "LocalCluster", keep)
    assert run(_request(cluster), credentials=cluster.credentials, on_event=knock).files == 8
    assert addresses[0].startswith("tls://127.0.0.1:")


def test_no_scheduler_answers(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_CONNECT_SECONDS", 1)
    with pytest.raises(ConflictError):
        run(_request(cluster, address="tcp://127.0.0.1:9"), credentials=cluster.credentials)
