"""Runs on a Dask cluster of their own that are stopped: exit code, processes, what the sink holds, and going on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.errors import WorkerError
from pipecrypt.runs.report.events import Event, FileDone
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import ExecutorKind, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.workers import dask as dask_executor
from pipecrypt.store.location import Location
from tests.runs.conftest import NAMES, World, write_table

pytest.importorskip("distributed")
_SCRIPT = Path(__file__).parent / "dask_script.py"

_CLUSTER = """
import time, distributed
if __name__ == "__main__":
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    print(cluster.scheduler_address, flush=True)
    time.sleep(600)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    """Start the script in a process group of its own."""
    started: list[subprocess.Popen[str]] = []
    (world.root / "marks").mkdir()

    def call(seconds: float, *how: str) -> subprocess.Popen[str]:
        arguments = [world.raw, world.out, world.key, world.root / "marks", seconds, *how]
        process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), *map(str, arguments)],
            env=os.environ | world.environ | {"PYTHONPATH": str(_SCRIPT.parents[3])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        for pid in _processes_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def _processes_of(group: int) -> list[int]:
    """Return the processes of a group that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def _data(world: World) -> list[str]:
    return [path for path in world.tree() if not path.startswith("_pipecrypt/")]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "to_all"),
    [
        (signal.SIGINT, True),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.long),
    ],
    ids=["ctrl-c", "group", "driver"],
)
def test_stopped(world: World, start: Start, number: signal.Signals, to_all: bool) -> None:
    process = start(60.0)
    _wait_for(lambda: len(list((world.root / "marks").iterdir())) == 2, 60)
    assert len(world.leftovers()) == 2  # both workers are at work
    (os.killpg if to_all else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert output.startswith("InterruptedRunError"), output
    assert len(output.splitlines()) == 1, output
    assert process.returncode == 1
    assert _data(world) == []
    _wait_for(lambda: not _processes_of(process.pid), 10)  # one that tracks resources ends when it sees the end

    (world.root / "go-on").touch()
    output, _ = start(60.0, "resume").communicate(timeout=60)
    assert output == "done 3\n"
    assert sorted(_data(world)) == sorted(NAMES)
    back = world.root / "back"
    pc.decrypt(world.out, back, [world.key], verify="off", credentials=world.credentials)
    assert world.tree(back) == world.tree(world.raw)


def test_a_scheduler_that_dies_is_told_soon_and_the_run_is_continued(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dask_executor, "_LOST_SECONDS", 1.0)
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    for number in range(12):
        write_table(world.raw / f"more-{number}.parquet", 50)
    (world.root / "cluster.py").write_text(_CLUSTER)
    process = subprocess.Popen(
        [sys.executable, str(world.root / "cluster.py")],
        env=os.environ | {"PYTHONPATH": str(_SCRIPT.parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    request = EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location(str(world.out)),
        policy=Policy(default=world.key),
        run=RunOptions(keeps_journal=True, executor=ExecutorKind.DASK, address=process.stdout.readline().strip()),
    )

    def kill(event: Event) -> None:
        if isinstance(event, FileDone) and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    began = time.monotonic()
    with pytest.raises(WorkerError, match="scheduler"):
        run(request, credentials=world.credentials, on_event=kill)
    assert time.monotonic() - began < 60
    assert "Traceback" not in capfd.readouterr().err
    local = replace(request, run=RunOptions(keeps_journal=True, resumes=True))
    assert run(local, credentials=world.credentials).files >= 1
    assert len(_data(world)) == 15
