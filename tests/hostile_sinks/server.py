"""A program that carries out commands in forks of itself, and reports what each did: exit code, output, peak memory.

Everything is imported once. Requests come as lines of JSON on standard input, an answer for each goes to standard
output. On request it notes every path that a command hands to the system, whether or not something is there, so that
the suite plants things at the paths that commands really use. Paths relative to a directory descriptor are resolved.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

import pipecrypt
from pipecrypt.cli.main import app, main

_PATH_CALLS = (
    "open",
    "stat",
    "lstat",
    "scandir",
    "listdir",
    "mkdir",
    "rmdir",
    "unlink",
    "remove",
    "readlink",
    "access",
)
_TWO_PATH_CALLS = ("rename", "replace", "link", "symlink")
_PUBLISHING_CALLS = ("rename", "replace", "link")
_OUTPUT_CHARACTERS = 4000
# A sparse file of 8 GiB must not be written for real where a command copies what it should refuse.
_MAX_FILE_BYTES = 9 << 30


class _Trace:
    """Notes the paths of one process."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._write = os.write

    def install(self) -> None:
        for name in _PATH_CALLS:
            self._wrap(name, 1)
        for name in _TWO_PATH_CALLS:
            self._wrap(name, 2)
        sys.addaudithook(lambda event, given: self._note(given[0], None) if event == "open" else None)

    def _wrap(self, name: str, count: int) -> None:
        real = getattr(os, name)

        def call(*given: Any, **options: Any) -> Any:
            for index in range(min(count, len(given))):
                fallback = options.get("src_dir_fd" if index == 0 else "dst_dir_fd")
                self._note(given[index], options.get("dir_fd", fallback))
            return real(*given, **options)

        for allowed in (os.supports_dir_fd, os.supports_follow_symlinks, os.supports_fd):
            if real in allowed:
                allowed.add(call)
        setattr(os, name, call)

    def _note(self, path: object, directory: int | None) -> None:
        if isinstance(path, int):
            with contextlib.suppress(OSError):
                self._line(f"/proc/self/fd/{path}", resolve=True)
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.fsdecode(path)
        if directory is not None and not text.startswith("/"):
            with contextlib.suppress(OSError):
                text = os.path.join(os.path.realpath(f"/proc/self/fd/{directory}"), text)
        self._line(os.path.abspath(text))

    def _line(self, text: str, *, resolve: bool = False) -> None:
        self._write(self._log, (json.dumps(os.path.realpath(text) if resolve else text) + "\n").encode())


def _kill_at(kill: dict[str, Any]) -> None:
    """End the process before the n-th publication behind that of a name."""
    seen = {"named": False, "left": kill["after"]}

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            if seen["named"] or str(given[1]).endswith(kill["name"]):
                seen["named"] = True
                if seen["left"] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen["left"] -= 1
            return real(*given, **options)

        for allowed in (os.supports_dir_fd, os.supports_follow_symlinks):
            if real in allowed:
                allowed.add(call)
        return call

    for name in _PUBLISHING_CALLS:
        setattr(os, name, wrapped(getattr(os, name)))


def _child(request: dict[str, Any], output: Path) -> int:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    for stream, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(output / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - for the process
    if "trace" in request:
        _Trace(Path(request["trace"])).install()
    if "kill" in request:
        _kill_at(request["kill"])
    code = main(request["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _carry_out(request: dict[str, Any], output: Path) -> dict[str, Any]:
    pid = os.fork()
    if pid == 0:
        code = 70
        with contextlib.suppress(BaseException):
            code = _child(request, output)
        os._exit(code)
    deadline = time.monotonic() + request["timeout"]
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return {"code": None, "memory": usage.ru_maxrss << 10, **_read(output)}
        time.sleep(0.002)
    return {"code": os.waitstatus_to_exitcode(status), "memory": usage.ru_maxrss << 10, **_read(output)}


def _read(output: Path) -> dict[str, str]:
    found = {}
    for name in ("stdout", "stderr"):
        path = output / name
        found[name] = path.read_text(errors="replace")[:_OUTPUT_CHARACTERS] if path.exists() else ""
        path.unlink(missing_ok=True)
    return found


def _load_everything() -> None:
    """Import what commands import late, once for all forks: that takes longer than most of them do."""
    for module in pkgutil.walk_packages(pipecrypt.__path__, "pipecrypt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("pyarrow.compute", "pyarrow.csv", "pyarrow.parquet", "rich.progress", "rich.table", "ruamel.yaml"):
        importlib.import_module(name)
    commands = typer.main.get_command(app)
    typer.main.get_command = lambda _: commands
    gc.freeze()


def _serve() -> None:
    _load_everything()
    output = Path(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(_carry_out(json.loads(line), output)), flush=True)


if __name__ == "__main__":
    _serve()
