from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.cli.main import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and a key file, which is faster than a passphrase."""
    monkeypatch.chdir(tmp_path)
    for name in ("PIPECRYPT_PASSPHRASE", "PIPECRYPT_PASSPHRASE_FILE", "PIPECRYPT_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    key_file = tmp_path / "machine.key"
    key_file.write_bytes(bytes(range(32)))
    key_file.chmod(0o600)
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", str(key_file))
    return tmp_path


@pytest.fixture
def keyref(world: Path) -> str:
    assert main(["keys", "new", "keystore://./keys.json#pii"]) == 0
    return "keystore://./keys.json#pii"


@pytest.fixture
def people(world: Path) -> Path:
    """A small table in two row groups."""
    table = pa.table(
        {
            "id": pa.array(range(6), pa.int64()),
            "email": [f"user{n}@example.org" for n in range(6)],
            "address": [{"city": f"city {n}", "zip": str(n)} for n in range(6)],
        }
    )
    path = world / "people.parquet"
    pq.write_table(table, path, row_group_size=3)
    return path
