"""What cases work on: keys, TPC-H tables, random bytes, tables of any shape. And whether an output is right."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.suite import LeftOutError, Place, Ready, WrongOutputError

__all__ = [
    "check_decrypts",
    "check_same",
    "lineitem",
    "new_keys",
    "program",
    "random_file",
    "ready",
    "same_files",
    "warm_up",
    "write_table",
]

_PIECE_BYTES = 16 << 20


def program(name: str) -> str:
    """Return the path of a program, from this environment or the machine's.

    Raises:
        LeftOutError: it is not installed.
    """
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise LeftOutError(f"there is no program {name}")
    return found


def new_keys(place: Path) -> Mapping[str, str]:
    """Make a keystore with keys `pii`, `other` and `signing` in a directory; return the environment that opens it.

    A key file opens it, as on machines: a passphrase costs a tenth of a second on purpose, whatever the data's size.
    """
    from pipecrypt.keys.credentials import Credentials
    from pipecrypt.keys.keystores import create_key

    key_file = place / "keystore.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(os.urandom(32))
    environment = {"PIPECRYPT_KEY_FILE": str(key_file)}
    os.environ.update(environment)  # for the checks, which happen in this process
    for name, kind in (("pii", "aes256"), ("new", "aes256"), ("other", "aes256"), ("signing", "ed25519")):
        create_key(f"keystore://{place}/keys.json#{name}", kind, Credentials(environment))
    write_table(place / "warm.parquet", rows=10, columns=1)
    (place / "warm.csv").write_text("a\n1\n", encoding="utf-8")
    return environment


@contextmanager
def ready(place: Place, source: Path) -> Iterator[Ready]:
    """Make keys, and say how large a source is: what most cases need."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    yield Ready(sum(path.stat().st_size for path in files), new_keys(place.root))


def lineitem(place: Place, scale: float, kind: str = "parquet") -> Path:
    """Make TPC-H lineitem: 232 MB of Parquet, or 760 MB of CSV, at a scale of 1."""
    command = [program("tpchgen-cli"), kind, "-s", f"{scale * place.scale:g}", "--tables", "lineitem"]
    subprocess.run([*command, "--output-dir", str(place.root)], check=True, capture_output=True)
    return place.root / f"lineitem.{kind}"


def random_file(path: Path, size: int) -> Path:
    """Make a file of random bytes."""
    with path.open("wb") as file:
        for start in range(0, size, _PIECE_BYTES):
            file.write(os.urandom(min(_PIECE_BYTES, size - start)))
    return path


def write_table(path: Path, *, rows: int, columns: int, seed: int = 17, **options: Any) -> Path:
    """Write random numbers, which do not compress: 8 bytes for each row and column."""
    import numpy
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = numpy.random.default_rng(seed)
    table = pa.table({f"c{number}": random.random(rows) for number in range(columns)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **{"use_dictionary": False, "compression": "none", **options})
    return path


def warm_up(place: Place, source: str = "warm.parquet") -> None:
    """Encrypt a small file, so that what is imported and started once is not timed: commands show what that costs."""
    import pipecrypt as pc

    out = place.root / f"warm-{os.getpid()}"
    pc.encrypt(place.root / source, out, pc.Policy(default=place.key()))
    out.unlink()


def same_files(one: Path, other: Path) -> bool:
    """Say whether two files, or all Parquet files of two directories, have the same bytes."""
    if one.is_file():
        return other.is_file() and filecmp.cmp(one, other, shallow=False)
    names, others = ({path.relative_to(root) for path in root.rglob("*.parquet")} for root in (one, other))
    return names == others and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def check_same(source: Path, out: Path) -> None:
    """See that a copy is one."""
    if not same_files(source, out):
        raise WrongOutputError(f"{out} is not {source}")


def check_decrypts(place: Place, source: Path, encrypted: Path | None = None) -> None:
    """See that what was encrypted is: that it differs from its source, and decrypts to it."""
    encrypted, plain = encrypted or place.out, place.root / "checked"
    if same_files(source, encrypted):
        raise WrongOutputError(f"{encrypted} is plaintext")
    place.pipecrypt("decrypt", str(encrypted), str(plain), "--key", place.key())
    check_same(source, plain)
    shutil.rmtree(plain) if plain.is_dir() else plain.unlink()
