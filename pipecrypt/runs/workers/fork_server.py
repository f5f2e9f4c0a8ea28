"""A process that has loaded what workers need and forks one when it is told to; and the driver's side of it.

Loading takes most of a second of CPU for each worker, a fork takes milliseconds. What is forked here holds no secret:
it is a fresh Python that is told which modules to load, and gets no variable of the environment whose name sounds like
one of a secret. Everything else a worker is told by the driver, through a pipe that this process closes unread.

A process with several threads is not safe to fork, so one that has more than one forks nothing, and workers are
spawned. They are as well where processes cannot be held by a descriptor (`pidfd_open`), as outside of Linux: the driver
signals a worker that is not its child, and its number might be another process's by then. This process ends when its
driver does, and the driver is who learns of the death of a worker and asks for its exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection
from multiprocessing import spawn
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Final, Self

__all__ = ["ForkServer", "ForkedProcess", "serve"]

_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[4:]; from pipecrypt.runs.workers.local import become_worker; "
    "from pipecrypt.runs.workers.fork_server import serve; "
    "serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(), become_worker)"
)
_log: Final = logging.getLogger(__name__)
_SECRET: Final = re.compile("PASS|SECRET|TOKEN|KEY|PIN|CREDENTIAL|AUTH", re.IGNORECASE)
_READ_WHILE_LOADING: Final = "FSSPEC_"  # fsspec makes options of these variables as it is imported
_MOST_BYTES: Final = 64
_FORK: Final = b"fork"
_REFUSED: Final = b"refused"
_THREADS: Final = "/proc/self/task"
# Given its end of a pipe, and a descriptor that ends when the driver does.
BecomeWorker = Callable[[Connection, int], None]


class ForkedProcess:
    """A worker that the server forked, held by a descriptor, so that no other process is ever taken for it.

    Args:
        server: that forked it.
        pid: its number.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        """Take hold of it; the server keeps its number from others until its exit code was asked for."""
        self._server = server
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._code: int | None = None
        self._is_over = False

    def is_alive(self) -> bool:
        """Return whether it runs."""
        self.join(0)
        return not self._is_over

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for so many seconds at most."""
        if not self._is_over and wait([self._descriptor], timeout):
            self._is_over = True
            self._code = self._server.exit_code(self.pid)

    @property
    def exitcode(self) -> int | None:
        """Its exit code as `multiprocessing` tells them; None of one that runs, or where nobody is left to tell."""
        self.join(0)
        return self._code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


class ForkServer:
    """The process that forks workers, from the driver's side; a context manager, whose end is the end of it.

    Args:
        modules: what it loads besides what every worker needs; none that starts threads.
    """

    def __init__(self, modules: Collection[str] = ()) -> None:
        """Start it, where this system lets it be used; it loads while the driver goes on."""
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._alive = -1  # as long as it is open, workers know that their driver lives
        if not _may_fork():
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, self._alive = os.pipe()
        given = [str(theirs.fileno()), str(reader), " ".join(modules), *sys.path]
        command = [os.fsdecode(spawn.get_executable()), *subprocess._args_from_interpreter_flags(), "-c", _PROGRAM]  # type: ignore[attr-defined]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, and a program of ours
                [*command, *given],
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not _SECRET.search(name)},
                pass_fds=[theirs.fileno(), reader],
            )
            self._socket = ours
        except OSError as error:
            ours.close()
            _log.debug("workers are spawned, because a process that forks them could not start: %s", error)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            os.close(reader)

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; no worker is left by now, or else it hears that its driver is gone."""
        self._forget()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def fork(self, connection: Connection) -> ForkedProcess | None:
        """Fork a worker that has this end of a pipe; None where that is not possible.

        Args:
            connection: its end; the caller closes it here.
        """
        answer = self._ask(_FORK, [connection.fileno()])
        if answer is None or answer == _REFUSED:
            return None
        return ForkedProcess(self, int(answer))

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a worker that has ended; None where the server is gone. Only asked once."""
        answer = self._ask(str(pid).encode(), [])
        return None if answer is None else int(answer)

    def _ask(self, request: bytes, descriptors: list[int]) -> bytes | None:
        if self._socket is None:
            return None
        try:
            socket.send_fds(self._socket, [request], descriptors)
            answer = self._socket.recv(_MOST_BYTES)
        except OSError:
            answer = b""
        except BaseException:  # its answer may still come, and would be taken for that to the next request
            self._forget()
            raise
        if not answer:  # it died
            self._forget()
        return answer or None

    def _forget(self) -> None:
        """Ask nothing more of it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _may_fork() -> bool:
    if sys.platform != "linux" or getattr(sys, "frozen", False) or spawn.get_executable() is None:
        return False
    if any(name.startswith(_READ_WHILE_LOADING) and _SECRET.search(name) for name in os.environ):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # an old kernel, or a sandbox
        return False
    return True


def serve(descriptor: int, alive: int, modules: Collection[str], become_worker: BecomeWorker) -> None:
    """Fork workers as the driver asks for them, until it closes its end; the program of the process.

    Args:
        descriptor: of the socket that the driver asks through.
        alive: a descriptor that ends when the driver does.
        modules: what is loaded besides.
        become_worker: what a forked process does.
    """
    for name in modules:
        with contextlib.suppress(ImportError):  # whoever needs it says what is missing
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the memory stays shared
    driver = socket.socket(fileno=descriptor)
    with driver:
        connection = _serve(driver)
    if connection is not None:
        os.set_inheritable(alive, False)
        become_worker(connection, alive)


def _serve(driver: socket.socket) -> Connection | None:
    """Answer requests; return in each forked process its end of a pipe, and None when the driver is gone."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(driver, _MOST_BYTES, 1)
        if not request:
            return None
        if request != _FORK:
            answer = _exit_code(int(request))
        elif not _has_one_thread():
            answer = _REFUSED
        else:
            try:
                pid = os.fork()
            except OSError:
                pid = -1
            if not pid:
                os.set_inheritable(descriptors[0], False)
                return Connection(descriptors[0])
            answer = _REFUSED if pid < 0 else str(pid).encode()
        for each in descriptors:
            os.close(each)
        with contextlib.suppress(OSError):
            driver.send(answer)


def _exit_code(pid: int) -> bytes:
    _, status = os.waitpid(pid, 0)
    return str(os.waitstatus_to_exitcode(status)).encode()


def _has_one_thread() -> bool:
    return len(os.listdir(_THREADS)) == 1  # those of libraries, too
