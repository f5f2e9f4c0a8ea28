from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipecrypt.errors import FormatError, InterruptedRunError, PipecryptError, WorkerError
from pipecrypt.runs.files import decrypt
from pipecrypt.runs.plan.plan import make_plan
from pipecrypt.runs.report.events import BytesDone
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.workers import local
from pipecrypt.store.location import Location
from tests.runs.conftest import NAMES, World, write_table

SCRIPT = Path(__file__).parent / "slow_script.py"
LONG = 60.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    """Start the slow script in a process group of its own."""
    started: list[subprocess.Popen[str]] = []
    (world.root / "marks").mkdir()

    def call(
        workers: int, seconds: float, script: Path = SCRIPT, *, attempts: int | None = None
    ) -> subprocess.Popen[str]:
        arguments = [world.raw, world.out, world.key, workers, world.root / "marks", seconds]
        arguments += [] if attempts is None else [attempts]
        process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=os.environ | world.environ | {"PYTHONPATH": str(SCRIPT.parents[3])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def _marked(world: World, count: int) -> list[int]:
    """Wait until `count` processes have written a file and not published it; return their ids."""
    marks = world.root / "marks"
    _wait_for(lambda: len(list(marks.iterdir())) >= count)
    return [int(mark.name) for mark in marks.iterdir()]


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("workers", [1, 2])
def test_undisturbed(world: World, start: Start, workers: int) -> None:
    """The faults of this file switched off: everything is published."""
    process = start(workers, 0.0)
    output, _ = process.communicate(timeout=60)
    assert output == "done 3\n"
    assert sorted(world.tree()) == sorted(NAMES)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "driver"])
def test_stopped(world: World, start: Start, workers: int, number: signal.Signals, to_all: bool) -> None:
    process = start(workers, LONG)
    pids = _marked(world, workers)
    assert len(world.leftovers()) == workers
    began = time.monotonic()
    (os.killpg if to_all else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=30)
    # A scheduler that signals the whole group may be noticed by the death of a worker first.
    expected = {InterruptedRunError.__name__, WorkerError.__name__ if to_all else InterruptedRunError.__name__}
    assert output.split(":")[0] in expected
    assert len(output.splitlines()) == 1, output
    assert process.returncode == 1
    assert world.tree() == {}
    assert workers > 1 or not world.out.exists()  # of two workers, each may leave the empty directory to the other
    assert time.monotonic() - began < 8
    assert not any(_is_alive(pid) for pid in pids)


def test_impatient_user(world: World, start: Start) -> None:
    process = start(2, LONG)
    _marked(world, 2)
    for _ in range(20):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.005)
    output, _ = process.communicate(timeout=30)
    assert output.startswith("InterruptedRunError")
    assert len(output.splitlines()) == 1, output
    assert world.tree() == {}


def test_interrupt_while_workers_start(world: World, start: Start) -> None:
    for delay in (0.3, 0.5, 0.7, 0.9):
        process = start(2, LONG)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert "InterruptedRunError" in output or "import" in output, output
        assert world.tree() == {}


_MASKS = """
import os, signal
from multiprocessing import util
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.plan import RunKeys
from pipecrypt.runs.workers.local import BLOCKED_WHILE_STARTING, WorkerSetup
from pipecrypt.runs.workers.local import WorkerProcess

spawn = util.spawnv_passfds

def spy(path, arguments, descriptors):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if "spawn_main" in str(arguments):
        print("worker", blocked >= BLOCKED_WHILE_STARTING, flush=True)
    return spawn(path, arguments, descriptors)

util.spawnv_passfds = spy
if __name__ == "__main__":
    for _ in range(2):
        worker = WorkerProcess(WorkerSetup(os.getcwd(), RunKeys(()), Credentials({})))
        worker.process.kill()
        worker.process.join()
"""


def test_no_signal_reaches_a_worker_that_starts(tmp_path: Path) -> None:
    script = tmp_path / "masks.py"
    script.write_text(_MASKS)
    output = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert output.splitlines() == ["worker True"] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_driver_leaves_temporary_names_at_most(world: World, start: Start, workers: int) -> None:
    process = start(workers, LONG)
    pids = _marked(world, workers)
    process.kill()
    process.wait()
    _wait_for(lambda: not any(_is_alive(pid) for pid in pids), 10)
    if workers == 1:
        assert world.tree().keys() == {"_pipecrypt/lock/1.json", *world.leftovers()}
        assert len(world.leftovers()) == 1
    else:
        assert world.tree().keys() == {
            "_pipecrypt/lock/1.json"
        }  # the workers outlived the driver just long enough to tidy up


def test_a_frozen_worker_publishes_nothing_after_its_driver_died(world: World, start: Start) -> None:
    process = start(2, 0.3)
    pids = _marked(world, 2)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    held = set(world.tree()) - set(world.leftovers())
    process.kill()
    process.wait()
    time.sleep(0.5)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    _wait_for(lambda: not any(_is_alive(pid) for pid in pids), 10)
    assert set(world.tree()) == held


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are spawned")
def test_workers_of_a_run_are_forked_by_one_process_that_ends_with_it(world: World, start: Start) -> None:
    process = start(2, LONG)
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in _marked(world, 2)]
    (parent,) = {int(stat.rpartition(")")[2].split()[1]) for stat in stats}
    assert parent != process.pid
    (world.root / "go-on").touch()
    output, _ = process.communicate(timeout=30)
    assert output == "done 3\n"
    assert not _is_alive(parent)


def _reads_back(world: World) -> None:
    decrypt(world.out, world.root / "back", [world.key], credentials=world.credentials)
    assert world.tree(world.root / "back") == world.tree(world.raw)


def test_killed_worker(world: World, start: Start) -> None:
    process = start(2, LONG, attempts=2)
    victim, other = _marked(world, 2)
    os.kill(victim, signal.SIGKILL)
    _marked(world, 3)  # a fresh one is at the same file
    (world.root / "go-on").touch()
    output, _ = process.communicate(timeout=30)
    retried, done = output.splitlines()
    assert retried.startswith("retried ")
    assert " 2 was killed by SIGKILL " in retried
    assert int(retried.rsplit(" ", 1)[1]) >= 0
    assert done == "done 3"
    assert world.leftovers() == []
    assert not _is_alive(other)
    _reads_back(world)


def test_killed_worker_without_a_second_attempt(world: World, start: Start) -> None:
    process = start(2, LONG, attempts=1)
    victim, other = _marked(world, 2)
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    assert output.startswith("WorkerError")
    assert "SIGKILL" in output
    assert any(name in output for name in NAMES)
    assert world.tree() == {}
    assert not _is_alive(other)


def test_killed_each_time(world: World, start: Start) -> None:
    (world.root / "die").write_text("before")
    output, _ = start(2, 0.0, attempts=3).communicate(timeout=60)
    *retried, failed = output.splitlines()
    assert failed.startswith("WorkerError")
    assert "as were 2 before it" in failed
    assert len(retried) >= 2
    assert len(list((world.root / "marks").iterdir())) >= 3
    assert world.leftovers() == []


@pytest.mark.parametrize("attempts", [1, 2])
def test_killed_between_publishing_and_telling(world: World, start: Start, attempts: int) -> None:
    """The file is there, its record is lost: the next attempt replaces it, though nothing may be overwritten."""
    (world.root / "die").write_text("behind")
    output, _ = start(2, 0.0, attempts=attempts).communicate(timeout=60)
    if attempts == 1:
        assert output.startswith("WorkerError")
        return
    retried, done = output.splitlines()
    path = next(name for name in NAMES if retried.startswith(f"retried {name} 2 "))
    assert int(retried.rsplit(" ", 1)[1]) == (world.raw / path).stat().st_size  # no byte counts twice
    assert done == "done 3"
    _reads_back(world)


def test_a_script_without_a_guard(world: World, start: Start, tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    text = SCRIPT.read_text()
    script.write_text(text.replace('if __name__ == "__main__":', "if True:"))
    output, _ = start(2, 0.0, script).communicate(timeout=60)
    assert "WorkerError" in output
    assert world.tree() == {} if world.out.exists() else True


def test_what_is_published_stays_and_reads_back(world: World, start: Start) -> None:
    process = start(1, 0.7)
    _wait_for(lambda: "a.parquet" in world.tree())
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert world.leftovers() == []
    decrypt(world.out, world.root / "back", [world.key], credentials=world.credentials)
    assert world.tree(world.root / "back").items() <= world.tree(world.raw).items()


@pytest.mark.long
def test_killed_at_any_moment(world: World, start: Start) -> None:
    for step in range(60):
        process = start(1 + step % 2, 0.02)
        time.sleep(0.2 + step * 0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        held = set(world.tree()) - set(world.leftovers()) if world.out.exists() else set()
        whole = {name for name in held if name.endswith(".parquet")}
        if whole:
            for name in world.leftovers():
                (world.out / name).unlink()
            back = world.root / f"back{step}"
            decrypt(world.out, back, [world.key], credentials=world.credentials)
            assert world.tree(back).items() <= world.tree(world.raw).items()
        subprocess.run(["rm", "-rf", str(world.out)], check=True)


@pytest.fixture
def several_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each of two workers be at work on two files."""
    monkeypatch.setenv("FILES_IN_FLIGHT", "2")
    write_table(world.raw / "d.parquet")


def test_several_files_of_a_killed_worker_are_tried_again(world: World, start: Start, several_at_once: None) -> None:
    process = start(2, LONG, attempts=2)
    victim, _ = _marked(world, 2)
    _wait_for(lambda: len(world.leftovers()) == 4)
    os.kill(victim, signal.SIGKILL)
    _marked(world, 3)
    assert len(world.leftovers()) == 3  # of the two that it had, one is tried, alone
    (world.root / "go-on").touch()
    output, _ = process.communicate(timeout=30)
    *retried, done = output.splitlines()
    assert done == "done 4"
    assert len(retried) == 2
    assert all(line.startswith("retried ") and " 2 was killed by SIGKILL " in line for line in retried)
    assert world.leftovers() == []
    _reads_back(world)


def test_several_files_are_removed_when_a_run_is_stopped(world: World, start: Start, several_at_once: None) -> None:
    process = start(2, LONG)
    pids = _marked(world, 2)
    _wait_for(lambda: len(world.leftovers()) == 4)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert output.startswith("InterruptedRunError")
    assert len(output.splitlines()) == 1, output
    assert world.tree() == {}
    assert not any(_is_alive(pid) for pid in pids)


def test_several_files_at_once_are_all_published(world: World, start: Start, several_at_once: None) -> None:
    output, _ = start(2, 0.0).communicate(timeout=60)
    assert output == "done 4\n"
    _reads_back(world)


def test_a_worker_that_can_tell_nothing_ends_and_is_replaced(world: World, start: Start, several_at_once: None) -> None:
    code = (
        "def send(driver, message, real=local._Driver.send):\n"
        "    if isinstance(message, Exception) or isinstance(getattr(message, 'event', None), local.FileDone):\n"
        "        raise MemoryError\n"
        "    real(driver, message)\n"
        "local._Driver.send = send\n"
    )
    script = _with_start(world.root, code)
    _take_turns(world, 1)
    output, _ = start(2, 0.0, script).communicate(timeout=60)
    *retried, done = output.splitlines()
    assert done == "done 4"
    assert retried
    assert all(line.startswith("retried ") and "was told to stop" in line for line in retried)
    _reads_back(world)


class _OddError(FormatError):
    """An error as a key service of others may raise it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="look there")
        self.client = lambda: None


class _NeedsMoreError(FormatError):
    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(f"{message} {name}", hint="look there")


@pytest.mark.parametrize("error", [_OddError("broken file"), _NeedsMoreError("broken", name="file")])
def test_an_error_that_cannot_be_sent_is_told_as_the_one_of_ours_that_it_is(error: PipecryptError) -> None:
    told = pickle.loads(pickle.dumps(local._portable(error)))  # noqa: S301 - made here
    assert isinstance(told, FormatError)
    assert (told.message, told.hint) == ("broken file", "look there")


def test_a_worker_without_its_driver_stops_before_publishing(world: World) -> None:
    ours, theirs = multiprocessing.Pipe()
    source, sink = Location(str(world.raw)), Location(str(world.out))
    task = make_plan(EncryptSpec(source=source, sink=sink, policy=Policy(default=world.key))).tasks[0]
    on_bytes = local._progress(local._Driver(theirs), task)
    on_bytes(4)  # nothing is sent yet
    on_bytes(task.input_bytes - 4)
    assert ours.recv() == local.TaskEvent(task.id, BytesDone(task.input_bytes))
    ours.close()
    with pytest.raises(local._StopError):
        on_bytes(0)


def _with_start(tmp_path: Path, code: str) -> Path:
    """Return a script whose workers do something as they start, each time that `turns` has a line left."""
    script = tmp_path / "at_start.py"
    (tmp_path / "turns").mkdir(exist_ok=True)
    prologue = "if __name__ != '__main__' and (turns := sorted((Path(MARKS).parent / 'turns').iterdir())):\n"
    prologue += "    turns[0].unlink()\n" + "".join(f"    {line}\n" for line in code.splitlines())
    script.write_text(
        SCRIPT.read_text().replace('if __name__ == "__main__":', f'{prologue}\nif __name__ == "__main__":')
    )
    return script


def _take_turns(world: World, count: int) -> None:
    for number in range(count):
        (world.root / "turns" / str(number)).touch()


def test_a_worker_that_is_killed_while_it_starts_is_replaced(world: World, start: Start) -> None:
    script = _with_start(world.root, "os.kill(os.getpid(), signal.SIGKILL)")
    _take_turns(world, 1)
    output, _ = start(2, 0.0, script, attempts=2).communicate(timeout=60)
    assert output.endswith("done 3\n")
    assert "SIGKILL (possibly because memory ran out) while it started: starting another one" in output
    _reads_back(world)


def test_workers_that_are_killed_whenever_they_start_end_the_run(world: World, start: Start) -> None:
    script = _with_start(world.root, "os.kill(os.getpid(), signal.SIGKILL)")
    _take_turns(world, 9)
    output, _ = start(2, 0.0, script, attempts=3).communicate(timeout=60)
    assert "WorkerError: a worker process was killed by SIGKILL (possibly because memory ran out) while it st" in output
    assert world.tree() == {} if world.out.exists() else True


_STOPS = {
    "while a finalizer runs": (
        "class Stops:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        for _ in range(1000):\n"
        "            pass\n"
        "slow = encrypt.encrypt_file\n"
        "def stops(*arguments, **options):\n"
        "    Stops()\n"
        "    return slow(*arguments, **options)\n"
        "encrypt.encrypt_file = stops\n"
    ),
    "when the work is done": (
        "from multiprocessing import util\n"
        "util.Finalize(None, lambda: [os.kill(os.getpid(), signal.SIGTERM), *range(1000)], exitpriority=1)\n"
    ),
}


@pytest.mark.parametrize("moment", _STOPS)
def test_a_stop_is_never_printed(world: World, start: Start, moment: str) -> None:
    script = _with_start(world.root, _STOPS[moment])
    _take_turns(world, 1)
    process = start(2, 0.0, script)
    output, _ = process.communicate(timeout=60)
    assert "Stop" not in output
    assert "Traceback" not in output
    assert output.splitlines()[-1] == "done 3"
    assert (moment == "when the work is done") is (output == "done 3\n")
    _reads_back(world)


_FINALIZERS = """
import os, signal, sys
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.plan import RunKeys
from pipecrypt.runs.workers import local as worker
from pipecrypt.runs.report.logs import LogFormat, LogSetup

class Stopped:
    def __del__(self): os.kill(os.getpid(), signal.SIGTERM)

class Broken:
    def __del__(self): raise ValueError("broken")

def serve(connection, setup):
    Stopped()
    Broken()
    worker._check_not_stopped()

worker._serve = serve
logs = LogSetup(30, LogFormat(sys.argv[1])) if sys.argv[1] else None
worker.work(None, worker.WorkerSetup(os.getcwd(), RunKeys(()), Credentials({}), logs=logs))
"""


@pytest.mark.parametrize("logs", ["", "text", "json"])
def test_a_stop_that_comes_while_a_finalizer_runs_is_not_told_and_not_lost(logs: str) -> None:
    done = subprocess.run([sys.executable, "-c", _FINALIZERS, logs], check=False, capture_output=True, text=True)

    assert done.returncode == local.STOPPED_EXIT_CODE
    assert "_StopError" not in done.stderr
    assert done.stderr.count("ValueError: broken") == 1
    if logs:
        assert len(done.stderr.splitlines()) == 1
