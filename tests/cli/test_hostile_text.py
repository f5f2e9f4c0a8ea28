"""Names, values, metadata and messages that try to forge a line or to reach a terminal, through every command."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.cli.main import main
from pipecrypt.cli.render import OUTPUT, note, show, show_aside, show_error, write_progress
from pipecrypt.config.document import Position, Problem, config_error
from pipecrypt.errors import ConfigError, PipecryptError, StorageError
from pipecrypt.runs.report.logs import LogFormat, LogSetup, TextFormatter, current_logs, write_logs
from tests.cli.conftest import Answer, Run

_EVIL = "a\x1b[31m\nerror: forged\r\x9b2J\u2028b\u202ec\x7f"
_FORGED = ("error: forged", "hint: forged", "ERROR forged")


@pytest.fixture(autouse=True)
def _text_output() -> Iterator[None]:
    OUTPUT.as_json = False
    yield
    OUTPUT.as_json = False


@pytest.fixture
def evil(world: Path) -> Path:
    """A directory of files whose names, columns, values and metadata are hostile."""
    table = pa.table({_EVIL: [_EVIL, None], "id": [1, 2]}).replace_schema_metadata({_EVIL: _EVIL})
    (world / "raw").mkdir()
    pq.write_table(table, world / "raw" / f"{_EVIL}.parquet")
    return world


def _check(answer: Answer) -> None:
    for text in (answer.out, answer.err):
        for line in text.split("\n"):
            assert line.isprintable(), ascii(line)
            assert not line.startswith(_FORGED)


def test_every_command_escapes_what_comes_from_data(run: Run, evil: Path, keyref: str) -> None:
    config = evil / "config.yaml"
    config.write_text(
        f"source: {{url: {evil}/raw/}}\nsink: {{url: {evil}/sealed/}}\n"
        f"encrypt: {{default: k}}\nkeys: {{k: 'keystore://{evil}/keys.json#pii'}}\n"
    )
    name = f"{_EVIL}.parquet"

    for arguments, code in [
        (["config", "check", config], 0),
        (["plan", config], 0),
        (["run", config], 0),
        (["run", config], 0),
        (["inspect", "sealed"], 0),
        (["inspect", f"sealed/{name}"], 0),
        (["cat", f"sealed/{name}"], 4),
        (["cat", f"sealed/{name}", "--key", keyref], 0),
        (["cat", f"sealed/{name}", "--key", keyref, "--json"], 0),
        (["cat", f"raw/{name}", "--columns", f"no{_EVIL}"], 2),
        (["keys", "usage", "sealed"], 0),
        (["report", "sealed"], 0),
        (["decrypt", "sealed", "back", "--key", keyref], 0),
        (["encrypt", f"raw/{name}", f"other/{name}", "--key", keyref, "--log-level", "debug"], 0),
        (["encrypt", f"raw/{name}", f"other/{name}", "--key", keyref], 5),
        (["grant", "sealed", "--to", keyref, "--key", keyref], 0),
        (["clean", "sealed", "--dry-run"], 0),
        (["verify", f"{evil}/raw/{name}", "--trust", keyref], 2),
        (["inspect", f"missing/{name}"], 2),
        (["inspect", "--json", f"missing/{name}"], 2),
        ([f"no-{_EVIL}"], 2),
        (["inspect", "x", f"--no-{_EVIL}"], 2),
        (["keys", "list", f"missing-{_EVIL}"], 4),
        (["run", f"missing-{_EVIL}.yaml"], 2),
        (["keys", "new", f"keystore://{_EVIL}#a"], 2),
    ]:
        answer = run(*arguments)
        assert answer.code == code, (arguments, answer)
        _check(answer)
    assert run("report", "sealed", "--html", "page.html").code == 0
    page = (evil / "page.html").read_text(encoding="utf-8")
    assert all(line.isprintable() for line in page.split("\n"))


def test_what_a_program_reads_is_exact(run: Run, evil: Path) -> None:
    file = f"raw/{_EVIL}.parquet"

    assert json.loads(run("cat", file, "--json").out)[0] == {_EVIL: _EVIL, "id": 1}
    text = run("cat", file, "--format", "csv").out
    assert f'"{_EVIL}",1\n' in text


def test_each_way_out_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    show({}, lambda: [_EVIL])
    show_aside({}, lambda: [_EVIL])
    note(_EVIL)
    write_progress(_EVIL)
    show_error(PipecryptError(_EVIL, hint=_EVIL))
    show_error(StorageError(f"a server said {_EVIL}"))
    show_error(ConfigError(_EVIL))

    captured = capsys.readouterr()
    _check(Answer(0, captured.out, captured.err))
    assert captured.out.count("\n") == 1
    assert captured.err.count("\n") == 9


def test_problems_of_a_configuration_are_lines_and_forge_none(capsys: pytest.CaptureFixture[str]) -> None:
    error = config_error("c.yaml", [Problem(Position(n, 1), f"{n} {_EVIL}", _EVIL) for n in (1, 2)])
    show_error(error)

    shown = capsys.readouterr().err
    _check(Answer(0, "", shown))
    first, second, hint = shown.splitlines()
    assert (first[:17], second[:10], hint[:6]) == ("error: c.yaml:1:1", "c.yaml:2:1", "hint: ")


@pytest.mark.parametrize("broken", [False, True])
def test_logs_forge_no_line(capsys: pytest.CaptureFixture[str], broken: bool) -> None:
    before = current_logs()
    write_logs(LogSetup(logging.INFO, LogFormat.TEXT))
    logger = logging.getLogger("pipecrypt.somewhere")
    try:
        if broken:
            raise OSError(f"x\nERROR forged{_EVIL}")
        logger.warning("could not open %s", _EVIL)
    except OSError:
        logger.exception("x\nERROR forged%s", _EVIL)
    finally:
        write_logs(before or LogSetup(logging.WARNING, LogFormat.TEXT))

    shown = capsys.readouterr().err
    _check(Answer(0, "", shown))
    assert len([line for line in shown.splitlines() if not line.startswith("  ")]) == 1


def test_a_record_without_a_traceback_is_one_line() -> None:
    record = logging.LogRecord("pipecrypt", logging.ERROR, "", 1, "%s", (_EVIL,), None)

    assert TextFormatter().format(record).isprintable()


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"LC_ALL": "C"}, marks=pytest.mark.long),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.long),
        {"PYTHONIOENCODING": "ascii:strict"},
        pytest.param({"PYTHONIOENCODING": "cp1252"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_no_locale_stops_a_command_or_changes_data(world: Path, environ: dict[str, str]) -> None:
    pq.write_table(pa.table({"größe €": ["日本 \U0001f600", "\u202e"]}), world / "t.parquet")
    assert main(["keys", "new", "keystore://./keys.json#pii"]) == 0

    is_ascii = environ.get("PYTHONUTF8") == "0"

    def pipecrypt(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "pipecrypt", *arguments], env=os.environ | environ, capture_output=True, check=False
        )

    for arguments in (
        ("cat", "t.parquet"),
        ("cat", "t.parquet", "--format", "json"),
        ("inspect", "t.parquet"),
        ("encrypt", "t.parquet", "größe €.parquet", "--key", "keystore://./keys.json#pii", "--overwrite"),
        ("inspect", "größe €.parquet", "--json"),
        ("inspect", "größe €.missing"),
    ):
        done = pipecrypt(*arguments)
        # Where the file system's encoding is ASCII, the name cannot be written into the file, which is said plainly.
        is_refused = arguments[-1].endswith("missing") or (is_ascii and "größe €.parquet" in arguments)
        assert done.returncode == (2 if is_refused else 0), done
        assert b"Error:" not in done.stderr
        assert "\u202e".encode() not in done.stdout
    assert json.loads(pipecrypt("cat", "t.parquet", "--json").stdout)[1] == {"größe €": "\u202e"}
    data = pipecrypt("cat", "t.parquet", "--format", "csv").stdout
    assert data.decode() == "größe €\n日本 \U0001f600\n\u202e\n"
