"""The scheme of examples/, installed as anybody would install it, and used through its entry point."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_ROOT = Path(__file__).parents[2]
_PLUG_IN = _ROOT / "examples" / "pipecrypt-env-key"
_KEYS = {name: base64.b64encode(os.urandom(32)).decode() for name in ("PII", "OTHER", "SIGNING")}
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the plug-in; it is among the dev dependencies")
    folder = tmp_path_factory.mktemp("plug-in")
    source = folder / "source"
    source.mkdir()
    for path in _PLUG_IN.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir", "--target"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, folder / "site", source], check=True)
    return folder / "site"


@pytest.fixture
def pipecrypt(installed: Path, tmp_path: Path) -> Command:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIPECRYPT_")}
    environ |= _KEYS | {"PYTHONPATH": f"{installed}{os.pathsep}{_ROOT}", "XDG_STATE_HOME": str(tmp_path / "state")}

    def call(*arguments: object, without: str = "") -> subprocess.CompletedProcess[str]:
        given = {name: value for name, value in environ.items() if name != without}
        command = [sys.executable, "-m", "pipecrypt", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=given, cwd=tmp_path, check=False)

    return call


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"id": [1, 2], "email": ["x@example.org", name]}), tmp_path / f"in/{name}.parquet")
    return tmp_path / "in"


def test_its_keys_encrypt_sign_verify_and_decrypt(pipecrypt: Command, orders: Path, tmp_path: Path) -> None:
    out, back, public = tmp_path / "out", tmp_path / "back", tmp_path / "signing.pub"
    made = pipecrypt("encrypt", orders, out, "--key", "env-key://PII", "--sign", "env-key://SIGNING")
    assert made.returncode == 0, made.stderr
    assert not any(secret in made.stdout + made.stderr for secret in _KEYS.values())

    exported = pipecrypt("keys", "export", "env-key://SIGNING", "--public")
    assert exported.returncode == 0, exported.stderr
    public.write_text(exported.stdout)
    verified = pipecrypt("verify", out, "--trust", public)
    assert verified.returncode == 0, verified.stderr

    done = pipecrypt("decrypt", out, back, "--key", "env-key://PII", "--trust", public)
    assert done.returncode == 0, done.stderr
    for path in orders.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes()

    shown = json.loads(pipecrypt("inspect", out / "a.parquet", "--json").stdout)
    assert "env-key/PII/" in json.dumps(shown)


def test_what_it_refuses_is_refused_as_by_any_scheme(pipecrypt: Command, orders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pipecrypt("encrypt", orders, out, "--key", "env-key://PII").returncode == 0
    denied = 4
    assert pipecrypt("decrypt", out, tmp_path / "x", "--key", "env-key://OTHER").returncode == denied
    missing = pipecrypt("decrypt", out, tmp_path / "y", "--key", "env-key://PII", without="PII")
    assert missing.returncode == denied
    assert "no such environment variable" in missing.stderr
    unknown = pipecrypt("encrypt", orders, tmp_path / "z", "--key", "env-keys://PII")
    assert unknown.returncode == 2
    assert "did you mean env-key://" in unknown.stderr
