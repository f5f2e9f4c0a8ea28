from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key


@dataclass(frozen=True)
class World:
    """A keystore that a key file opens, some plaintext files, and a place for the output."""

    root: Path
    environ: dict[str, str]

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.environ)

    @property
    def key(self) -> str:
        return self.reference("pii")

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def reference(self, name: str) -> str:
        return f"keystore://{self.root}/keys.json#{name}"

    def tree(self, directory: Path | None = None) -> dict[str, bytes]:
        base = directory or self.out
        return {str(path.relative_to(base)): path.read_bytes() for path in sorted(base.rglob("*")) if path.is_file()}

    def leftovers(self) -> list[str]:
        return [name for name in self.tree() if name.rsplit("/", 1)[-1].startswith(".")]


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pipecrypt")]


NAMES = ("a.parquet", "day=1/b ü#%.parquet", "day=2/c.parquet")


def write_table(path: Path, rows: int = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": range(rows), "email": [f"{path.name}-{row}@example.org" for row in range(rows)]})
    pq.write_table(table, path, row_group_size=max(rows // 4, 1))


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    made = World(tmp_path, {"PIPECRYPT_KEY_FILE": str(tmp_path / "key")})
    for name in ("pii", "other"):
        create_key(made.reference(name), "aes256", made.credentials)
    for name in NAMES:
        write_table(made.raw / name)
    return made
