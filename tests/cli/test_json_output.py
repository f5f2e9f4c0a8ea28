"""`--json`: standard output is one document, standard error one object a line, whatever the command and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import IntegrityError
from tests.cli.conftest import Run

KEY = "keystore://./keys.json#pii"
SIGNING = "keystore://./keys.json#signing"


@dataclass(frozen=True)
class Said:
    code: int
    out: bytes
    events: list[dict[str, Any]]


def _pipecrypt(*arguments: str, stdin: bytes = b"") -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "pipecrypt", *arguments], input=stdin, capture_output=True, check=False
    )
    return Said(done.returncode, done.stdout, [json.loads(line) for line in done.stderr.splitlines()])


@pytest.fixture
def house(world: Path) -> Path:
    """Two tables, keys, a configuration, and a signed dataset of them."""
    (world / "raw").mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"id": [1, 2], "email": ["x", "y"]}), world / "raw" / f"{name}.parquet")
    (world / "config.yaml").write_text(
        "source: {url: ./raw/}\nsink: {url: ./signed/}\nencrypt: {default: pii}\n"
        f"keys: {{pii: '{KEY}', s: '{SIGNING}'}}\nsign: s\nrun: {{workers: 2}}\n"
    )
    (world / "wrong.yaml").write_text("source: {}\nsinc: 1\n")
    assert _pipecrypt("keys", "new", KEY, "--json").code == 0
    assert _pipecrypt("keys", "new", SIGNING, "--type", "ed25519", "--json").code == 0
    exported = _pipecrypt("keys", "export", SIGNING, "--public", "--json")
    (world / "signing.pub").write_text(json.loads(exported.out)["public_key"])
    return world


_TRUST = ("--trust", "signing.pub")
_CALLS = [
    (["--version"], 0),
    (["init", "new"], 0),
    (["init", "new"], 5),
    (["config", "check", "config.yaml"], 0),
    (["config", "check", "wrong.yaml"], 2),
    (["config", "schema"], 0),
    (["plan", "config.yaml"], 0),
    (["run", "config.yaml", "--dry-run"], 0),
    (["run", "config.yaml", "--log-level", "debug"], 0),
    (["run", "config.yaml", "--log-level", "debug", "--log-format", "text"], 0),
    (["run", "missing.yaml", "--log-level", "debug"], 2),
    (["encrypt", "raw", "sealed", "--key", KEY], 0),
    (["encrypt", "raw", "sealed", "--key", KEY], 5),
    (["encrypt", "raw", "other", "--key", "keystore://./keys.json#none"], 4),
    (["encrypt", "raw", "two", "--key", KEY, "--workers", "2", "--log-level", "debug"], 0),
    (["decrypt", "sealed", "back", "--key", KEY], 0),
    (["decrypt", "sealed", "back2", "--key", KEY, "--log-level", "debug", "--trust", "nobody.pub"], 2),
    (["cat", "sealed/a.parquet", "--key", KEY], 0),
    (["cat", "sealed/a.parquet"], 4),
    (["inspect", "sealed"], 0),
    (["inspect", "nothing"], 2),
    (["verify", "signed", *_TRUST], 0),
    (["verify", "sealed", *_TRUST], 3),
    (["report", "signed"], 0),
    (["report", "raw"], 2),
    (["clean", "signed"], 0),
    (["keys", "list", "keys.json"], 0),
    (["keys", "usage", "sealed"], 0),
    (["keys", "destroy", KEY], 2),
    (["grant", "signed", "--to", KEY, "--key", KEY], 0),
    (["revoke", "signed", "--from", KEY], 4),
    (["nonsense"], 2),
    (["cat"], 2),
    (["cat", "a", "--limit", "-1"], 2),
    (["keys"], 2),
    (["run", "config.yaml", "--log-format", "yaml"], 2),
]


@pytest.mark.timeout(1200)  # a process for each call, and on a busy machine they take their time
def test_every_command_says_all_in_json(house: Path) -> None:
    for arguments, code in _CALLS:
        said = _pipecrypt(*arguments, "--json")
        assert said.code == code, (arguments, said)
        document = json.loads(said.out)
        assert all("event" in each for each in said.events), (arguments, said.events)
        if code:
            (error,) = [each for each in said.events if each["event"] == "error"]
            assert error["exit_code"] == code
            if arguments[0] != "plan":
                assert document["error"]["message"] == error["message"]


def test_notes_progress_and_logs_are_events(house: Path) -> None:
    events = _pipecrypt("encrypt", "raw", "sealed", "--key", KEY, "--json", "--log-level", "info").events
    assert {"run_started", "file_started", "file_done"} <= {each["event"] for each in events}

    (note,) = [each for each in _pipecrypt("cat", "sealed/a.parquet", "--key", KEY, "--json").events]
    assert note["event"] == "note"
    assert "authenticity" in note["message"]


def test_nothing_is_added_to_data_on_standard_output(house: Path) -> None:
    sealed = _pipecrypt("encrypt", "raw/a.parquet", "-", "--key", KEY, "--json")
    assert (sealed.code, sealed.out[:4], sealed.out[-4:]) == (0, b"PAR1", b"PAR1")

    (house / "damaged.parquet").write_bytes(sealed.out[:200] + bytes(40) + sealed.out[240:])
    failed = _pipecrypt("decrypt", "damaged.parquet", "-", "--key", KEY, "--json")

    assert failed.code == 3
    assert b'"error"' not in failed.out
    assert failed.events[-1]["event"] == "error"


def test_an_error_behind_the_first_rows_is_no_second_document(
    run: Run, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(*_arguments: object) -> Iterator[str]:
        yield "[\n"
        raise IntegrityError("the second row was changed")

    monkeypatch.setattr("pipecrypt.cli.look.format_rows", rows)

    failed = run("cat", people, "--json")

    assert (failed.code, failed.out) == (3, "[\n")
    assert json.loads(failed.err)["message"] == "the second row was changed"


_STRAY = """
import gc, logging, threading, warnings
from pipecrypt.runs.report.logs import LogFormat, LogSetup, write_logs, write_stray_output_as_logs
write_logs(LogSetup(logging.WARNING, LogFormat(%r)))
write_stray_output_as_logs()
warnings.warn("a\\nb \\x1b[2J", UserWarning)
logging.getLogger("some.library").warning("c\\nd")
def fail(): raise ValueError("e\\nf")
thread = threading.Thread(target=fail, name="g"); thread.start(); thread.join()
class Odd:
    def __del__(self): raise ValueError("h\\ni")
Odd(); gc.collect()
"""


@pytest.mark.parametrize("shape", ["json", "text"])
def test_what_python_and_libraries_say_has_the_same_shape(shape: str) -> None:
    done = subprocess.run([sys.executable, "-c", _STRAY % shape], capture_output=True, text=True, check=True)

    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    if shape == "json":
        assert [json.loads(line)["event"] for line in lines] == ["log"] * 4
    else:
        assert lines[0] == "WARNING pipecrypt.warnings: UserWarning: a\\nb \\x1b[2J"


def test_a_note_comes_behind_the_result_that_it_belongs_to(house: Path) -> None:
    assert _pipecrypt("encrypt", "raw", "sealed", "--key", KEY, "--json").code == 0
    for unbuffered in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "pipecrypt", "decrypt", "sealed", f"back{unbuffered}", "--key", KEY],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("decrypted 2 files")
        assert done.stdout.splitlines()[-1].startswith("note: ")
