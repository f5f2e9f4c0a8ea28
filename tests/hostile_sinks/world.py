"""Sinks as honest runs leave them, whole or killed on the way, and the commands that are tried on each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile_sinks.plants import Victim

__all__ = ["COMMANDS", "STATES", "Answer", "Server", "World", "make_states"]

_ROWS: Final = 10
_REPOSITORY: Final = Path(__file__).parents[2]
_KEYS: Final = "keystore://{root}/keys.json"
_CONFIG: Final = """
source: {{ url: "{root}/raw/**/*.parquet" }}
sink: {{ url: "{root}/sink/" }}
encrypt:
  columns: [ {{ match: [email], key: pii }} ]
keys: {{ pii: "keystore://{root}/keys.json#pii" }}
{sign}
run: {{ workers: 1, on_source_change: replace }}
"""
_READ: Final = ("--key", f"{_KEYS}#pii")
_TRUST: Final = ("--trust", "{root}/sign.pub")
_SINK: Final = "{root}/sink"
_ROTATE: Final = ("rotate", _SINK, "--from", f"{_KEYS}#pii")

# Named by what they do. Those that read must give the true rows or fail; those that write may do their work or refuse.
COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "run": ("run", "{root}/config.yaml"),
    "run changed": ("run", "{root}/changed.yaml"),
    "run resume": ("run", "{root}/config.yaml", "--resume"),
    "run overwrite": ("run", "{root}/config.yaml", "--overwrite"),
    "plan": ("plan", "{root}/changed.yaml"),
    "verify": ("verify", _SINK, *_TRUST),
    "verify with keys": ("verify", _SINK, *_TRUST, "--decrypt", *_READ),
    "verify file": ("verify", f"{_SINK}/a.parquet", *_TRUST),
    "decrypt": ("decrypt", _SINK, "{root}/out/", *_READ, *_TRUST),
    "decrypt file": ("decrypt", f"{_SINK}/a.parquet", "{root}/out/a.parquet", *_READ, *_TRUST),
    "cat": ("cat", f"{_SINK}/a.parquet", *_READ, *_TRUST, "--format", "csv"),
    "inspect": ("inspect", _SINK),
    "grant": ("grant", _SINK, "--to", f"{_KEYS}#guest", *_READ),
    "revoke": ("revoke", _SINK, "--from", f"{_KEYS}#pii2"),
    "rotate": (*_ROTATE, "--to", f"{_KEYS}#guest"),
    "rotate deep": (
        "rotate",
        _SINK,
        "--deep",
        "--from",
        f"{_KEYS}#pii",
        "--to",
        f"{_KEYS}#pii2",
        "{sign}",
        "{signkey}",
    ),
    "usage": ("keys", "usage", _SINK),
    "destroy": ("keys", "destroy", f"{_KEYS}#pii2", "--dataset", _SINK, "--dry-run"),
    "clean": ("clean", _SINK, "--grace", "0h"),
    "report": ("report", _SINK),
    "encrypt into": ("encrypt", "{root}/raw/a.parquet", f"{_SINK}/a.parquet", "--key", f"{_KEYS}#pii", "--overwrite"),
}
STATES: Final = ("signed", "unsigned", "killed", "not in place", "half rotated")


@dataclass(frozen=True)
class Answer:
    """What a command did.

    Args:
        code: its exit code; negative: the signal that ended it; None: it hung.
        memory: its largest size in memory, in bytes.
        stdout: the beginning of what it printed.
        stderr: likewise.
    """

    code: int | None
    memory: int
    stdout: str
    stderr: str


class Server:
    """Carries out commands; see server.py.

    Args:
        directory: for its files.
    """

    def __init__(self, directory: Path) -> None:
        """Start it."""
        directory.mkdir()
        environ = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"}
        for name in ("PIPECRYPT_PASSPHRASE", "PIPECRYPT_PASSPHRASE_FILE", "PIPECRYPT_TRUST"):
            environ.pop(name, None)
        command = [sys.executable, "-m", "tests.hostile_sinks.server", str(directory)]
        self._process = subprocess.Popen(
            command, cwd=_REPOSITORY, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def carry_out(self, argv: tuple[str, ...], *, root: Path, timeout: float = 20, **more: Any) -> Answer:
        environ = {"PIPECRYPT_KEY_FILE": str(root / "key"), "PIPECRYPT_STATE_DIR": str(root / "state")}
        request = {"argv": argv, "environ": environ, "cwd": str(root), "timeout": timeout, **more}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class World:
    """One directory with keys, sources, a sink and a victim; laid anew for each trial, always at the same place.

    Args:
        root: the directory.
        server: carries out commands.
    """

    def __init__(self, root: Path, server: Server) -> None:
        """Remember them."""
        self.root = root
        self.sink = root / "sink"
        self._server = server

    def lay(self, state: Path) -> Victim:
        """Copy a state here, with the times of all files, and return the victim beside its sink."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(state, self.root, symlinks=True)
        return Victim(self.root / "victim")

    def command(self, name: str, **more: Any) -> Answer:
        """Carry out one of the commands."""
        is_signed = self.is_signed()
        words = []
        for word in COMMANDS[name]:
            if word in {"{sign}", "{signkey}"} and not is_signed:
                continue
            text = word.format(root=self.root, sign="--sign", signkey=f"keystore://{self.root}/keys.json#sign")
            words.append(text)
        if not is_signed:
            words = [word for word in words if word not in {"--trust", f"{self.root}/sign.pub"}]
        return self._server.carry_out(tuple(words), root=self.root, **more)

    def is_signed(self) -> bool:
        """Say whether what lies here is signed, and commands name a key to trust."""
        return "sign:" in (self.root / "config.yaml").read_text()

    def call(self, *argv: str, **more: Any) -> Answer:
        """Carry out any command, which has to succeed."""
        answer = self._server.carry_out(argv, root=self.root, **more)
        assert answer.code == 0, answer
        return answer

    def outside(self) -> dict[str, tuple[Any, ...]]:
        """Return what lies outside of the sink, all that commands have no business to change."""
        return {
            path.relative_to(self.root).as_posix(): _look(path)
            for path in sorted(self.root.rglob("*"))
            if path.relative_to(self.root).parts[0] not in {"sink", "state", "out"}
        }

    def wrong_rows(self) -> list[str]:
        """Return which decrypted files are not byte for byte the sources of the version that is signed."""
        out, raw = self.root / "out", self.root / "true"
        files = sorted(path for path in out.rglob("*.parquet") if path.is_file()) if out.is_dir() else []
        found = [path.relative_to(out) for path in files]
        return [
            str(path)
            for path in found
            if not (raw / path).exists() or (raw / path).read_bytes() != (out / path).read_bytes()
        ]

    def true_rows(self) -> str:
        """Return what `cat` prints of the version that is signed."""
        rows = pq.read_table(self.root / "true/a.parquet").to_pylist()
        return "".join(["id,email\n", *(f"{row['id']},{row['email']}\n" for row in rows)])


def _look(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content: str | None = None
    if path.is_symlink():
        content = os.readlink(path)
    elif path.is_file():
        content = hashlib.sha256(path.read_bytes()).hexdigest() if status.st_size < 1 << 26 else None
    is_directory = path.is_dir()
    return (status.st_mode, 0 if is_directory else status.st_size, status.st_mtime_ns, content)


def _write_source(path: Path, first: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = range(first, first + _ROWS)
    pq.write_table(pa.table({"id": list(rows), "email": [f"user{row}@example.org" for row in rows]}), path)


def _begin(world: World, *, signed: bool) -> None:
    root = world.root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "key").write_bytes(bytes(range(32)))
    (root / "key").chmod(0o600)
    for name in ("pii", "pii2", "guest"):
        world.call("keys", "new", f"keystore://{root}/keys.json#{name}")
    world.call("keys", "new", f"keystore://{root}/keys.json#sign", "--type", "ed25519")
    exported = world.call("keys", "export", f"keystore://{root}/keys.json#sign", "--public")
    (root / "sign.pub").write_text(exported.stdout)
    sign = f'sign: "keystore://{root}/keys.json#sign"' if signed else ""
    (root / "config.yaml").write_text(_CONFIG.format(root=root, sign=sign))
    changed = _CONFIG.format(root=root, sign=sign).replace("/raw/", "/raw2/")
    (root / "changed.yaml").write_text(changed)
    for name, first in (("a", 0), ("day=1/b", 10)):
        _write_source(root / f"raw/{name}.parquet", first)
    world.call("run", f"{root}/config.yaml")
    _write_source(root / "raw/a.parquet", 40)
    world.call("run", f"{root}/config.yaml")
    world.call(
        "grant",
        f"{root}/sink",
        "--to",
        f"keystore://{root}/keys.json#pii2",
        "--key",
        f"keystore://{root}/keys.json#pii",
    )
    shutil.copytree(root / "raw", root / "true")
    # What a later run finds: one source changed, one gone, one new.
    _write_source(root / "raw2/a.parquet", 70)
    _write_source(root / "raw2/day=2/c.parquet", 80)


def make_states(world: World, directory: Path) -> dict[str, Path]:
    """Return a directory for each state, to be laid from.

    Args:
        world: where they are made: paths stand in configurations and in what is remembered.
        directory: where they are kept.
    """
    states = {name: directory / name.replace(" ", "-") for name in STATES}

    def keep(name: str) -> None:
        shutil.copytree(world.root, states[name], symlinks=True)

    _begin(world, signed=False)
    keep("unsigned")
    _begin(world, signed=True)
    keep("signed")
    for name, kill in (
        ("killed", {"name": "manifest.json", "after": 0}),
        ("not in place", {"name": "manifest.json", "after": 1}),
    ):
        world.lay(states["signed"])
        shutil.rmtree(world.root / "victim")
        answer = world.command("run changed", kill=kill)
        assert answer.code == -9, answer
        # The sources are those of the killed run from here on, and it can be resumed.
        shutil.rmtree(world.root / "raw")
        (world.root / "raw2").rename(world.root / "raw")
        shutil.copytree(world.root / "raw", world.root / "raw2")
        shutil.copy(world.root / "changed.yaml", world.root / "config.yaml")
        if name == "not in place":
            shutil.rmtree(world.root / "true")
            shutil.copytree(world.root / "raw", world.root / "true")
        keep(name)
    world.lay(states["unsigned"])
    shutil.rmtree(world.root / "victim")
    answer = world.command("rotate deep", kill={"name": "undo.tmp", "after": 1})
    assert answer.code == -9, answer
    keep("half rotated")
    return states
