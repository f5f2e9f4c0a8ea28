"""A warning is said once in a run, whatever meets its cause how often, and in which process."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.vocabulary import once
from pipecrypt.vocabulary.once import warn_once

_OPEN = "is open to other users"


def test_two_warnings_are_two_and_the_same_one_is_one(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    logger = logging.getLogger("pipecrypt.test")
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b", "a"):
            warn_once(logger, "%s of %s", name, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [f"{name} of {tmp_path}" for name in "ab"]


def test_a_list_of_keys_that_others_can_read_is_warned_about_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"kf": base64.b64encode(bytes(16)).decode()}))
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            KeySession([f"static://{path}"], credentials=Credentials({})).close()
    assert caplog.text.count(_OPEN) == 1


def test_a_run_with_workers_warns_once(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(6):
        pq.write_table(pa.table({"a": [number]}), tmp_path / "raw" / f"{number}.parquet")
    (tmp_path / "machine.key").write_bytes(bytes(range(32)))
    environment = {**os.environ, "PIPECRYPT_KEY_FILE": "machine.key"}  # both files are open to others

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "pipecrypt", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, umask=0o022
        ).stderr

    run("keys", "new", "keystore://./keys.json#pii")
    (tmp_path / "keys.json").chmod(0o644)
    said = run("encrypt", "raw/", "sealed/", "--key", "keystore://./keys.json#pii", "--workers", "2")
    assert said.count(_OPEN) == 2, said
    assert "keys.json is open" in said
    assert "key file machine.key is open" in said


def test_that_warnings_are_left_out_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "_said", set())
    with caplog.at_level(logging.WARNING):
        for number in [*range(4100), 0, 4099]:
            warn_once(logging.getLogger("pipecrypt.test"), "warning %d", number)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:4096] == [f"warning {number}" for number in range(4096)]
    assert messages[4096:] == ["4096 different warnings were given; further warnings are left out"]
