"""Workers are forked by a process that has loaded what they need, and holds no secret."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.plan import RunKeys
from pipecrypt.runs.workers import fork_server
from pipecrypt.runs.workers.fork_server import ForkedProcess, ForkServer
from pipecrypt.runs.workers.local import STOPPED_EXIT_CODE, WorkerProcess, WorkerSetup, _Beginning
from pipecrypt.store.location import Location
from pipecrypt.store.open import client_modules

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
_SECRET = "correct horse battery staple"  # noqa: S105 - of nobody


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def _setup() -> WorkerSetup:
    return WorkerSetup(os.getcwd(), RunKeys(()), Credentials({}), logs=None)


def _forked(server: ForkServer) -> WorkerProcess:
    worker = WorkerProcess(_setup(), server)
    assert isinstance(worker.process, ForkedProcess)
    return worker


def _environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def _pid(server: ForkServer) -> int:
    assert server._process is not None
    return server._process.pid


def test_a_worker_does_its_work_and_ends(server: ForkServer) -> None:
    worker = _forked(server)
    assert worker.receive() is None  # it has its keys
    worker.connection.close()
    worker.process.join(30)
    assert worker.process.exitcode == 0
    worker.tidy_up()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, STOPPED_EXIT_CODE), (signal.SIGKILL, -signal.SIGKILL)])
def test_its_exit_code_is_told(server: ForkServer, number: signal.Signals, code: int) -> None:
    worker = _forked(server)
    assert worker.receive() is None
    assert worker.process.is_alive()
    assert worker.process.exitcode is None
    (worker.process.kill if number == signal.SIGKILL else worker.process.terminate)()
    worker.process.join(30)
    assert (worker.process.is_alive(), worker.process.exitcode) == (False, code)
    worker.process.terminate()  # nobody has its number
    worker.tidy_up()


def test_the_server_is_given_no_secret_and_workers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIPECRYPT_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "VAULT_TOKEN"):
        monkeypatch.setenv(name, _SECRET)
    monkeypatch.setenv("TZ", "UTC")
    with ForkServer() as server:
        worker = _forked(server)
        worker.receive()
        seen = _environment_of(_pid(server))
        assert _SECRET.encode() not in seen
        assert b"TZ=UTC" in seen
        worker.tidy_up()


def test_a_worker_has_the_environment_of_its_driver(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what changed after the server was started."""
    monkeypatch.setenv("PIPECRYPT_TEST_PASSPHRASE", _SECRET)
    seen = list[object]()
    monkeypatch.setattr(Connection, "send", lambda self, message: seen.append(message))
    _forked(server).process.kill()
    beginning, setup = seen
    assert isinstance(beginning, _Beginning)
    assert beginning.environment["PIPECRYPT_TEST_PASSPHRASE"] == _SECRET
    assert _SECRET not in repr(beginning)
    assert isinstance(setup, WorkerSetup)


def test_a_process_with_threads_forks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with ForkServer(["threaded"]) as server:
        worker = WorkerProcess(_setup(), server)
        assert not isinstance(worker.process, ForkedProcess)
        assert worker.receive() is None
        worker.tidy_up()


def test_workers_are_spawned_where_the_server_died(server: ForkServer) -> None:
    first = _forked(server)
    assert first.receive() is None
    os.kill(_pid(server), signal.SIGKILL)
    second = WorkerProcess(_setup(), server)
    assert not isinstance(second.process, ForkedProcess)
    assert second.receive() is None
    first.process.kill()
    first.process.join(30)
    assert (first.process.is_alive(), first.process.exitcode) == (False, None)
    first.tidy_up()
    second.tidy_up()


@pytest.mark.parametrize("why", ["no pidfd", "fsspec's options"])
def test_workers_are_spawned_where_forking_is_not_safe(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "no pidfd":
        monkeypatch.delattr(fork_server.os, "pidfd_open")
    else:
        monkeypatch.setenv("FSSPEC_S3_SECRET", _SECRET)
    with ForkServer() as server:
        assert server._process is None
        worker = WorkerProcess(_setup(), server)
        assert not isinstance(worker.process, ForkedProcess)
        worker.tidy_up()


def test_server_and_workers_end_with_their_driver(tmp_path: Path) -> None:
    server = ForkServer()
    worker = _forked(server)
    assert worker.receive() is None
    process = server._process
    assert process is not None
    assert server._socket is not None
    server._socket.close()  # as the system does for a driver that dies
    os.close(server._alive)
    assert process.wait(30) == 0
    deadline = time.monotonic() + 30
    while worker.process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    worker.tidy_up()


def test_an_answer_that_was_not_waited_for_is_not_taken_for_another(server: ForkServer) -> None:
    worker = _forked(server)
    assert worker.receive() is None

    class Impatient:
        def __init__(self, given: Any) -> None:
            self.given = given

        def recv(self, size: int) -> bytes:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(self.given, name)

    server._socket = Impatient(server._socket)  # type: ignore[assignment]
    worker.process.kill()
    with pytest.raises(KeyboardInterrupt):
        worker.process.join(30)
    assert (worker.process.exitcode, server._socket) == (None, None)
    worker.tidy_up()


def test_what_speaks_with_s3_is_loaded_before() -> None:
    assert client_modules([Location("s3://bucket/a"), Location("/tmp/a")]) == {"s3fs"}  # noqa: S108 - never opened
    assert client_modules([Location("memory://a")]) == set()
