"""How much do two workers gain on eight equal files, and Dask? Run: python -m benchmarks.executors [--rounds 3]

Local files; each round runs one local worker, two, and Dask with two in turn, into empty sinks. Medians are printed,
with and without the start of Dask's cluster.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import distributed
import pyarrow as pa
import pyarrow.parquet as pq

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.services.keystore.making import create_key
from pipecrypt.pipeline.request.policy import Policy
from pipecrypt.pipeline.request.request import EncryptRequest
from pipecrypt.pipeline.request.run_options import ExecutorKind, RunOptions
from pipecrypt.pipeline.run.run import run
from pipecrypt.storage.location import Location

FILES = 8
PROMISED_GAIN = 1.7
PROMISED_DASK = 0.9


def _sources(root: Path, megabytes: int) -> Path:
    rows = 20_000
    columns = {f"c{number}": pa.array([os.urandom(32) for _ in range(rows)]) for number in range(8)}
    groups = max(1, megabytes * 1_000_000 // (rows * 8 * 36))
    source = root / "raw"
    source.mkdir()
    with pq.ParquetWriter(
        source / "0.parquet", pa.table(columns).schema, compression="none", use_dictionary=False
    ) as to:
        for _ in range(groups):
            to.write_table(pa.table(columns), row_group_size=rows)
    for number in range(1, FILES):
        shutil.copyfile(source / "0.parquet", source / f"{number}.parquet")
    return source


def _seconds(source: Path, sink: Path, key: str, workers: int, options: RunOptions) -> float:
    request = EncryptRequest(
        source=Location(str(source)),
        sink=Location(str(sink)),
        policy=Policy(default=key),
        workers=workers,
        run=options,
    )
    began = time.perf_counter()
    run(request, credentials=Credentials.from_environment())
    seconds = time.perf_counter() - began
    shutil.rmtree(sink)
    return seconds


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description="compare executors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=300)
    given = parser.parse_args()
    times: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "key").write_bytes(os.urandom(32))
        (root / "key").chmod(0o600)
        os.environ["PIPECRYPT_KEY_FILE"] = str(root / "key")
        key = f"keystore://{root}/keys.json#pii"
        create_key(key, "aes256", Credentials.from_environment())
        source = _sources(root, given.megabytes)
        local, sink = RunOptions(keeps_journal=True), root / "out"
        for _ in range(given.rounds):
            times["one worker"].append(_seconds(source, sink, key, 1, local))
            times["two workers"].append(_seconds(source, sink, key, 2, local))
            alone = RunOptions(keeps_journal=True, executor=ExecutorKind.DASK)
            times["Dask, with its start"].append(_seconds(source, sink, key, 2, alone))
            with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
                there = RunOptions(keeps_journal=True, executor=ExecutorKind.DASK, address=cluster.scheduler_address)
                _seconds(source, sink, key, 2, there)  # imports
                times["Dask, started before"].append(_seconds(source, sink, key, 2, there))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        print(f"{name:22} {seconds:6.2f} s")
    print(f"two workers over one   {medians['one worker'] / medians['two workers']:.2f} x (>= {PROMISED_GAIN})")
    for name in ("Dask, started before", "Dask, with its start"):
        print(f"{name} over two workers {medians['two workers'] / medians[name]:.2f} x (>= {PROMISED_DASK})")


if __name__ == "__main__":
    main()
