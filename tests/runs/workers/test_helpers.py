"""One large file, sealed by several processes: the same file, and nothing of it where one dies or is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import ConflictError, WorkerError
from pipecrypt.keys.grants import parse_grants
from pipecrypt.keys.keystores import create_key
from pipecrypt.parquet.files import FileStart, NextRowGroup
from pipecrypt.runs.kinds import encrypt
from pipecrypt.runs.plan import plan
from pipecrypt.runs.report.events import Event, TaskRetried
from pipecrypt.runs.workers import helpers
from pipecrypt.runs.workers.helpers import HelperPool, SharedTask
from tests.runs.conftest import World, write_table

ROWS, ROW_GROUPS = 40_000, 10
SCRIPT = Path(__file__).parent / "shared_script.py"
_begin = SharedTask.begin


@pytest.fixture(autouse=True)
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    create_key(world.reference("signing"), "ed25519", world.credentials)
    monkeypatch.setattr(encrypt, "LEAST_SHARED_BYTES", 1)
    monkeypatch.setattr(plan, "usable_cores", lambda: 8)
    monkeypatch.setattr(SharedTask, "begin", begin_with_all)


def begin_with_all(self: SharedTask, start: FileStart, next_row_group: NextRowGroup) -> None:
    """Give out row groups once all helpers are there: what is tested takes less time than they to start."""
    _begin(self, start, lambda *_: None)
    while any(each.rooms is None and not each.is_gone for each in self._helpers):
        self._wait()
    self._next = next_row_group
    self.poll()


@pytest.fixture
def large(world: World) -> Path:
    table = pa.table(
        {
            "id": range(ROWS),
            "email": [f"user{row}@example.org" for row in range(ROWS)],
            "customer": [{"name": f"n{row}", "tags": ["a"] * (row % 4)} for row in range(ROWS)],
        }
    )
    path = world.root / "large.parquet"
    blooms = {"email": {"ndv": ROWS // ROW_GROUPS, "fpp": 0.1}}
    pq.write_table(
        table,
        path,
        row_group_size=ROWS // ROW_GROUPS,
        write_page_index=True,
        write_page_checksum=True,
        bloom_filter_options=blooms,
    )
    return path


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that helpers sealed, of all runs of the test."""
    real, found = SharedTask.written, list[int]()

    def written(self: SharedTask, row_group: int, write: object) -> None:
        found.append(row_group)
        real(self, row_group, write)  # type: ignore[arg-type]

    monkeypatch.setattr(SharedTask, "written", written)
    return found


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("footer", ["plaintext", "encrypted"])
def test_it_is_the_file_of_one_process(world: World, large: Path, helped: list[int], workers: int, footer: str) -> None:
    policy = pc.Policy(default=world.key, footer=footer)  # type: ignore[arg-type]
    alone = pc.encrypt(large, world.root / "alone.parquet", policy)
    shared = pc.encrypt(large, world.root / "one.parquet", policy, workers=workers)
    assert len(helped) >= 3
    assert (shared.batches, shared.rows, shared.data_keys) == (alone.batches, alone.rows, alone.data_keys)
    assert shared.source_bytes == alone.source_bytes
    assert shared.service_calls == workers
    pc.decrypt(world.root / "one.parquet", world.root / "back.parquet", [world.key])
    assert (world.root / "back.parquet").read_bytes() == large.read_bytes()
    assert pc.open(world.root / "one.parquet", keys=[world.key]).to_table().equals(pq.read_table(large))


def test_a_signed_dataset_of_one_file_names_the_keys_of_all(world: World, large: Path, helped: list[int]) -> None:
    raw = world.root / "one"
    raw.mkdir()
    large.rename(raw / "large.parquet")
    policy = pc.Policy({"email": world.key, "customer": world.key}, sign=world.reference("signing"))
    pc.encrypt(raw, world.root / "signed", policy, workers=2)
    assert helped
    pc.verify(world.root / "signed", trust=[world.reference("signing")], keys=[world.key])
    pc.decrypt(world.root / "signed", world.root / "back", [world.key], trust=[world.reference("signing")])
    assert world.tree(world.root / "back") == world.tree(raw)
    [listed] = (world.root / "signed" / "_pipecrypt" / "files").iterdir()
    assert len(json.loads(listed.read_text())["kek_ids"]) == 2


def test_each_process_grants_its_own_key(world: World, large: Path, helped: list[int]) -> None:
    sink = world.root / "one.parquet"
    pc.encrypt(large, sink, pc.Policy(default=world.key, also=[world.reference("other")]), workers=3)
    assert helped
    [grants] = [path for path in world.root.iterdir() if path.name.startswith("one.parquet.")]
    assert len(parse_grants(grants.read_bytes()).all) == 3
    pc.decrypt(sink, world.root / "back.parquet", [world.reference("other")])
    assert (world.root / "back.parquet").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("changes", [{"data_keys": "file"}, {"uniform": True}])
def test_a_key_that_reaches_further_is_not_shared(world: World, large: Path, changes: dict[str, object]) -> None:
    summary = pc.encrypt(large, world.root / "one.parquet", pc.Policy(default=world.key, **changes), workers=3)  # type: ignore[arg-type]
    assert summary.service_calls == 1
    pc.decrypt(world.root / "one.parquet", world.root / "back.parquet", [world.key])
    assert (world.root / "back.parquet").read_bytes() == large.read_bytes()


def test_small_and_many_files_have_no_helpers(world: World, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HelperPool, "__init__", None)
    write_table(world.raw / "d.parquet")
    pc.encrypt(world.raw, world.root / "many", pc.Policy(default=world.key), workers=2)
    monkeypatch.setattr(encrypt, "LEAST_SHARED_BYTES", large.stat().st_size + 1)
    pc.encrypt(large, world.root / "one.parquet", pc.Policy(default=world.key), workers=2)


@pytest.mark.parametrize(("cores", "expected"), [(2, 1), (3, 3), (8, 4)])
def test_processors_say_how_many_help(
    world: World, large: Path, monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    """On two, one process keeps nearly both busy; more helpers than processors would only take memory."""
    monkeypatch.setattr(plan, "usable_cores", lambda: cores)
    summary = pc.encrypt(large, world.root / "one.parquet", pc.Policy(default=world.key), workers=4)
    assert summary.service_calls == expected


def test_several_files_one_after_the_other(world: World, large: Path, helped: list[int]) -> None:
    raw = world.root / "two"
    raw.mkdir()
    large.rename(raw / "a.parquet")
    (raw / "b.parquet").write_bytes((raw / "a.parquet").read_bytes())
    summary = pc.encrypt(raw, world.out, pc.Policy(default=world.key), workers=3)
    assert len(helped) != len(set(helped))
    assert summary.service_calls == 3
    pc.decrypt(world.out, world.root / "back", [world.key])
    assert world.tree(world.root / "back") == world.tree(raw)


def _kill_at_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real, killed = getattr(SharedTask, name), list[int]()

    def kill(self: SharedTask, row_group: int, *arguments: object) -> object:
        if not killed:
            process = self._owner[row_group].process.process
            killed.append(process.pid or 0)
            os.kill(killed[0], signal.SIGKILL)
            process.join()
        return real(self, row_group, *arguments)

    monkeypatch.setattr(SharedTask, name, kill)


@pytest.mark.parametrize("when", ["sealed", "place", "placed"])
def test_the_file_is_begun_anew_where_a_helper_is_killed(
    world: World, large: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    _kill_at_first(monkeypatch, when)
    events: list[Event] = []
    pc.encrypt(large, world.out / "one.parquet", pc.Policy(default=world.key), workers=3, on_event=events.append)
    [retried] = [event for event in events if isinstance(event, TaskRetried)]
    assert (retried.attempt, "SIGKILL" in retried.reason) == (2, True)
    assert [*world.tree()] == ["one.parquet"]
    pc.decrypt(world.out / "one.parquet", world.root / "back.parquet", [world.key])
    assert (world.root / "back.parquet").read_bytes() == large.read_bytes()


def test_nothing_appears_where_it_may_not_be_tried_again(
    world: World, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at_first(monkeypatch, "sealed")
    config = world.root / "run.yaml"
    config.write_text(
        f"source: {{ url: '{large}' }}\nsink: {{ url: '{world.out}/one.parquet' }}\nencrypt: {{ default: pii }}\n"
        f"keys: {{ pii: '{world.key}' }}\nrun: {{ workers: 2, attempts: 1 }}\n"
    )
    with pytest.raises(WorkerError, match="SIGKILL"):
        pc.run(config)
    assert world.tree() == {}


def test_a_helper_that_dies_before_it_had_work_is_done_without(
    world: World, large: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = HelperPool.share

    def share(self: HelperPool, *arguments: object) -> SharedTask:
        for each in self._helpers:
            each.process.process.kill()
            each.process.process.join()
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(HelperPool, "share", share)
    assert pc.encrypt(large, world.root / "one.parquet", pc.Policy(default=world.key), workers=2).files == 1
    assert "SIGKILL" in caplog.text


def test_a_source_that_changes_is_refused(world: World, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: SharedTask, start: FileStart, next_row_group: NextRowGroup) -> None:
        os.utime(large, ns=(1, 1))  # the helper opens it now
        begin_with_all(self, start, next_row_group)

    monkeypatch.setattr(SharedTask, "begin", begin)
    with pytest.raises(ConflictError):
        pc.encrypt(large, world.out / "one.parquet", pc.Policy(default=world.key), workers=2)
    assert world.tree() == {}


def test_row_groups_that_are_too_large_are_sealed_by_the_writer(
    world: World, large: Path, helped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "_MOST_ROOM_BYTES", 4096)
    pc.encrypt(large, world.root / "one.parquet", pc.Policy(default=world.key), workers=2)
    assert not helped
    pc.decrypt(world.root / "one.parquet", world.root / "back.parquet", [world.key])
    assert (world.root / "back.parquet").read_bytes() == large.read_bytes()


def test_nothing_stays_open(world: World, large: Path, helped: list[int]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    pc.encrypt(large, world.root / "warm.parquet", pc.Policy(default=world.key), workers=2)
    warm = set(os.listdir("/proc/self/fd"))
    pc.encrypt(large, world.root / "one.parquet", pc.Policy(default=world.key), workers=2)
    assert helped
    assert set(os.listdir("/proc/self/fd")) <= warm | before
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pipecrypt")]


def test_duckdb_reads_it(world: World, large: Path) -> None:
    """By the plaintext that comes back, since DuckDB knows no key services."""
    pc.encrypt(large, world.root / "one.parquet", pc.Policy(default=world.key), workers=3)
    pc.decrypt(world.root / "one.parquet", world.root / "back.parquet", [world.key])
    assert duckdb.read_parquet(str(world.root / "back.parquet")).sum("id").fetchall() == [(ROWS * (ROWS - 1) // 2,)]


# ---- stopped and killed ----


@pytest.fixture
def start(world: World, large: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def call(mode: str) -> subprocess.Popen[str]:
        arguments = [large, world.out / "one.parquet", world.key, world.root / "mark", mode]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
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


def _helper_pids(world: World) -> list[int]:
    mark, deadline = world.root / "mark", time.monotonic() + 60
    while not mark.exists() or not mark.read_text().endswith("\n"):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return [int(each) for each in mark.read_text().split()]


def _are_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "driver"])
def test_stopped(
    world: World, start: Callable[..., subprocess.Popen[str]], number: signal.Signals, to_all: bool
) -> None:
    process = start("wait")
    pids = _helper_pids(world)
    (os.killpg if to_all else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert output.startswith("InterruptedRunError"), output
    assert len(output.splitlines()) == 1, output
    assert world.tree() == {}
    assert _are_gone(pids)


def test_killed(world: World, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("wait")
    pids = _helper_pids(world)
    process.kill()
    process.wait()
    assert _are_gone(pids)
    assert not (world.out / "one.parquet").exists()
    assert all(name.startswith(".one.parquet.pipecrypt-") for name in world.tree())


def test_a_full_disk(world: World, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("full")
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1].startswith("StorageError"), output
    assert world.tree() == {}
