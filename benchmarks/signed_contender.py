"""One contender of benchmarks.signed: prints its seconds. Comparing is left to signed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TWO_COLUMNS = ("l_comment", "l_extendedprice")
COPIES = 8


def main() -> None:
    """Run the contender that argv names."""
    contender, source, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    run = _contender(contender, source, scratch)
    started = time.perf_counter()
    run()
    print(json.dumps(time.perf_counter() - started))


def _contender(contender: str, source: Path, scratch: Path) -> Callable[[], object]:
    if contender == "prepare":
        return lambda: _prepare(scratch)
    if contender == "prepare to verify":
        return lambda: _prepare_to_verify(source, scratch)
    if contender == "sha256sum":
        files = sorted(map(str, (scratch / "sha256").glob("*.parquet")))
        return lambda: subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
    if contender.startswith("verify"):
        return _verify(contender, scratch)
    return _encrypt(contender, source, scratch)


def _prepare(scratch: Path) -> None:
    for name, kind in (("bench", "aes256"), ("signing", "ed25519")):
        key = f"keystore://{scratch}/keys.json#{name}"
        command = [sys.executable, "-m", "pipecrypt", "keys", "new", key, "--type", kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _encrypt(contender: str, source: Path, scratch: Path) -> Callable[[], object]:
    import pipecrypt as pc

    columns, _, kind = contender.rpartition(" ")
    _warm_up(scratch)
    policy = _policy(scratch, columns, None if kind == "unsigned" else kind)
    return lambda: pc.encrypt(str(source), f"{scratch}/out/", policy)


def _policy(scratch: Path, columns: str, digest: str | None) -> object:
    import pipecrypt as pc

    key, signing = (f"keystore://{scratch}/keys.json#{name}" for name in ("bench", "signing"))
    chosen = {"default": key} if columns == "16 columns" else {"columns": dict.fromkeys(TWO_COLUMNS, key)}
    return pc.Policy(**chosen, **({} if digest is None else {"sign": signing, "digest": digest}))


def _warm_up(scratch: Path) -> None:
    """Import what the run imports, so that only its work is timed."""
    import pyarrow as pa

    import pipecrypt as pc

    warm = scratch / f"warm-{os.getpid()}.parquet"
    key = f"keystore://{scratch}/keys.json#bench"
    pc.encrypt_batches(pa.table({"a": [1]}), str(warm), pc.Policy(default=key))
    warm.unlink()


def _prepare_to_verify(source: Path, scratch: Path) -> None:
    import pipecrypt as pc

    copies = scratch / "copies"
    copies.mkdir()
    for index in range(COPIES):
        os.link(source, copies / f"part-{index}.parquet")
    for digest in ("sha256", "blake3"):
        pc.encrypt(f"{copies}/", f"{scratch}/{digest}/", _policy(scratch, "16 columns", digest))


def _verify(contender: str, scratch: Path) -> Callable[[], object]:
    import pipecrypt as pc

    digest, workers = contender.split()[1].rstrip(","), int(contender.split()[2])
    trust = [f"keystore://{scratch}/keys.json#signing"]
    return lambda: pc.verify(f"{scratch}/{digest}/", trust=trust, workers=workers)


if __name__ == "__main__":
    main()
