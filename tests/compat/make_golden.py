"""Write a directory of golden files with the pipecrypt that is installed, through its public face and commands only.

`python -m tests.compat.make_golden DIRECTORY` makes a new one. What is there already is never written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import pipecrypt as pc

__all__ = ["CONFIG", "KEY_FILE", "MTIME", "make"]

KEY_FILE = "key-file.bin"
MTIME = 1_700_000_000  # of all sources, in seconds since 1970: runs compare it
_ROWS = 40

CONFIG = """\
source:
  url: ./sources/orders/
sink:
  url: ./signed/
encrypt:
  columns:
    - { match: [email, customer], key: pii }
  also: [backup]
keys:
  pii: keystore://./keys.json#pii
  backup: keystore://./keys.json#backup
sign: keystore://./keys.json#signing
"""
_KEYS = {
    "pii": "aes256",
    "prices": "aes256",
    "backup": "aes256",
    "partner": "aes256",
    "signing": "ed25519",
    "later": "mldsa65",
    "alice": "x25519",
    "bob": "mlkem768x25519",
}


def make(root: Path) -> None:
    """Fill an empty directory: sources, a keystore, and what was encrypted of them."""
    root.mkdir(parents=True)
    os.chdir(root)
    # A key to test with, which opens nothing else.
    Path(KEY_FILE).write_bytes(hashlib.sha256(b"golden files").digest())
    Path(KEY_FILE).chmod(0o600)
    os.environ["PIPECRYPT_KEY_FILE"] = str(root / KEY_FILE)
    os.environ["PIPECRYPT_STATE_DIR"] = str(root / "state")
    for name, kind in _KEYS.items():
        _pipecrypt("keys", "new", _key(name), "--type", kind)
    for name in ("alice", "bob", "signing", "later"):
        Path(f"{name}.pub").write_bytes(_pipecrypt("keys", "export", _key(name), "--public"))
    _write_sources(Path("sources"))
    _tables(Path("tables"))
    _blobs(Path("blobs"))
    batch = pq.read_table("sources/people.parquet").to_batches()[0]
    Path("message.bin").write_bytes(pc.encrypt_bytes(batch, pc.Policy(columns={"email": _key("pii")})))
    _signed()
    shutil.rmtree("state", ignore_errors=True)
    _note_digests()


def _key(name: str) -> str:
    return f"keystore://./keys.json#{name}"


def _pipecrypt(*arguments: str) -> bytes:
    return subprocess.run([sys.executable, "-m", "pipecrypt", *arguments], check=True, stdout=subprocess.PIPE).stdout


def _people(first: int) -> pa.Table:
    ids = list(range(first, first + _ROWS))
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "email": [None if i % 7 == 0 else f"person{i}@example.org" for i in ids],
            "price": pa.array([i * 100 for i in ids], pa.decimal128(12, 2)),
            "customer": [{"city": f"city {i % 5}", "zip": f"{i:05}"} for i in ids],
            "tags": [[f"tag {j}" for j in range(i % 4)] for i in ids],
        }
    )


def _write_sources(sources: Path) -> None:
    (sources / "orders" / "day=1").mkdir(parents=True)
    pq.write_table(_people(0), sources / "people.parquet", row_group_size=15, write_page_index=True)
    pq.write_table(_people(100), sources / "orders" / "day=1" / "a.parquet", row_group_size=15)
    pq.write_table(_people(200), sources / "orders" / "b.parquet")
    (sources / "people.csv").write_text("id,email,zip\n1,ada@example.org,00123\n2,,04567\n", encoding="utf-8")
    (sources / "notes.bin").write_bytes(hashlib.shake_256(b"notes").digest(20_000) + bytes(20_000))
    _set_times(sources)


def _set_times(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            os.utime(path, (MTIME, MTIME))


def _tables(sink: Path) -> None:
    sink.mkdir()
    two_keys = {"email": _key("pii"), "customer": _key("pii"), "price": _key("prices"), "tags": _key("pii")}
    policies = {
        f"{footer}-{scope}": pc.Policy(columns=two_keys, footer=footer, data_keys=scope)
        for footer in ("plaintext", "encrypted")
        for scope in ("batch", "file")
    }
    policies |= {
        "uniform": pc.Policy(default=_key("pii"), uniform=True),
        "unbound": pc.Policy(columns={"email": _key("pii")}, bind_path=False),
        "recipient-x25519": pc.Policy(columns={"email": "recipient://./alice.pub"}),
        "recipient-mlkem768x25519": pc.Policy(default="recipient://./bob.pub", footer="encrypted"),
        "one-file-signed": pc.Policy(columns={"email": _key("pii")}, sign=[_key("signing"), _key("later")]),
    }
    for name, policy in policies.items():
        pc.encrypt("sources/people.parquet", sink / f"{name}.parquet", policy)
    pc.encrypt("sources/people.csv", sink / "from-csv.parquet", pc.Policy(columns={"email": _key("pii")}))


def _blobs(sink: Path) -> None:
    sink.mkdir()
    for name, compression in (("stored", "none"), ("zstd", "zstd")):
        policy = pc.Policy(default=_key("pii"), mode="chunks", chunk_bytes=4096, compression=compression)
        pc.encrypt("sources/notes.bin", sink / f"{name}.parquet", policy)


def _signed() -> None:
    """Two versions of a dataset, the second of one more file, with a grant."""
    Path("run.yaml").write_text(CONFIG, encoding="utf-8")
    late = Path("sources/orders/b.parquet")
    held = late.rename("b.parquet")
    pc.run("run.yaml")
    held.rename(late)
    pc.run("run.yaml")
    pc.grant("signed", _key("partner"), [_key("pii")], trust=[_key("signing")])


def _note_digests() -> None:
    paths = sorted(path for path in Path().rglob("*") if path.is_file())
    digests = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    Path("digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
