from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Run
from pipecrypt import __version__
from pipecrypt.errors import ConflictError, InterruptedRunError, PipecryptError


def _pipecrypt(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipecrypt", *arguments],
        env=os.environ | (environ or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def _raise(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def listing(_reference: str, _credentials: object) -> None:
        raise error

    monkeypatch.setattr("pipecrypt.keys.keystores.read_keys", listing)


def test_without_arguments_it_helps(run: Run) -> None:
    answer = run()

    assert answer.code == 0
    assert "encrypt" in answer.out


def test_version(run: Run) -> None:
    assert run("--version").out == f"pipecrypt {__version__}\n"
    assert run("--version", "--json").document == {"version": __version__}
    assert run("--json", "--version").document == {"version": __version__}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["encrypt"],
        ["encrypt", "a", "b"],
        ["encrypt", "a", "b", "--key", "k", "--footer", "open"],
        ["encrypt", "a", "b", "--key", "k", "--workers", "0"],
        ["cat", "a", "--limit", "-1"],
        ["keys"],
        ["keys", "new", "keystore://k#a", "--type", "rsa"],
        ["inspect", "--passphrase", "x"],
        ["--log-level", "loud"],
    ],
)
def test_wrong_usage_exits_with_2_and_has_a_json_twin(run: Run, arguments: list[str]) -> None:
    answer = run(*arguments)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.splitlines()[-1].startswith("hint: see pipecrypt")

    answer = run(*arguments, "--json")

    assert answer.code == 2
    assert answer.document["error"]["type"] == "UsageError"


def test_an_error_has_message_hint_exit_code_and_json_twin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _raise(monkeypatch, ConflictError("sink s3://x holds a file", hint="look\nagain \x1b[2J"))

    answer = run("keys", "list", "k", "--json")

    assert answer.code == 5
    told = {
        "type": "ConflictError",
        "message": "sink s3://x holds a file",
        "hint": "look\nagain \x1b[2J",
        "exit_code": 5,
    }
    assert answer.document == {"error": told}
    assert [json.loads(line) for line in answer.err.splitlines()] == [{"event": "error", **told}]

    assert run("keys", "list", "k").err.splitlines() == [
        "error: sink s3://x holds a file",
        "hint: look\\nagain \\x1b[2J",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InterruptedRunError("interrupted")])
def test_an_interruption_exits_with_1(run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    _raise(monkeypatch, error)

    answer = run("keys", "list", "k")

    assert answer.code == 1
    message, hint = answer.err.splitlines()
    assert message == "error: interrupted"
    # Only a run knows what it published.
    assert ("published" in hint) == isinstance(error, InterruptedRunError)


def test_an_unexpected_error_is_one_line_and_a_traceback_only_for_debugging(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _raise(monkeypatch, ZeroDivisionError("so it goes"))

    answer = run("keys", "list", "k")
    assert answer.code == 1
    assert answer.err.splitlines() == [
        "error: unexpected ZeroDivisionError: so it goes",
        f"hint: {PipecryptError.default_hint}",
    ]

    for arguments in (["--log-level", "debug", "keys", "list", "k"], ["keys", "list", "k", "--log-level", "debug"]):
        assert "Traceback" in run(*arguments).err
    assert "Traceback" not in run("keys", "list", "k").err, "a log level lasts for one call"


def test_a_closed_pipe_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _raise(monkeypatch, BrokenPipeError())

    answer = run("keys", "list", "k")

    assert (answer.code, answer.out, answer.err) == (1, "", "")


def test_a_pipe_closed_by_its_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipecrypt", "config", "schema"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    "environ", [{"LC_ALL": "C"}, {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {"COLUMNS": "10"}]
)
def test_any_locale_and_width_shows_any_path(tmp_path: Path, environ: dict[str, str]) -> None:
    done = _pipecrypt("inspect", str(tmp_path / "größe\udcff.parquet"), environ=environ | {"NO_COLOR": "1"})

    assert done.returncode == 2
    warned = [line for line in done.stderr.splitlines() if "PYTHONUTF8=1" in line]
    assert len(warned) == (environ.get("PYTHONUTF8") == "0")
    assert done.stderr.splitlines()[len(warned)].startswith("error: ")
    assert "\x1b" not in done.stderr

    done = _pipecrypt("inspect", str(tmp_path / "größe\udcff.parquet"), "--json", environ=environ)
    message = json.loads(done.stdout)["error"]["message"]
    assert "größe".encode() in message.encode(errors="surrogateescape"), "no byte of the path is lost"


def test_module_and_script_are_the_same() -> None:
    assert _pipecrypt("--version").stdout == f"pipecrypt {__version__}\n"
    script = Path(sys.executable).with_name("pipecrypt")
    if script.exists():
        done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
        assert done.stdout == f"pipecrypt {__version__}\n"


_SIGNALLED = """
import importlib.abc, os, signal, sys

module, number, disposition, *arguments = sys.argv[1:]
number = getattr(signal, number)
if disposition == "ignored":
    signal.signal(number, signal.SIG_IGN)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Finder())
sys.argv[1:] = arguments
from pipecrypt.cli.entry import main
sys.exit(main())
"""


def _signalled(module: str, number: str, *arguments: str, disposition: str = "default") -> tuple[int, str, str]:
    """Run a command to which a signal is sent when it begins to import a module."""
    command = [sys.executable, "-c", _SIGNALLED, module, number, disposition, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("module", ["pipecrypt.errors", "pipecrypt.cli.render", "pipecrypt.keys.keystores"])
def test_a_signal_ends_a_command_with_a_message_however_early_it_comes(module: str, number: str) -> None:
    code, out, err = _signalled(module, number, "keys", "list", "none.json")
    assert (code, out, err.splitlines()) == (1, "", ["error: interrupted", "hint: run the command again"])


def test_an_early_signal_has_a_json_twin() -> None:
    code, out, _ = _signalled("pipecrypt.cli.render", "SIGTERM", "--json", "keys", "list", "none.json")
    assert code == 1
    assert json.loads(out)["error"]["message"] == "interrupted"


def test_a_signal_that_is_ignored_stays_so() -> None:
    code, out, _ = _signalled("pipecrypt.cli.render", "SIGHUP", "--version", disposition="ignored")
    assert (code, out) == (0, f"pipecrypt {__version__}\n")
