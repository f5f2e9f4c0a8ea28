"""How much do two cores gain over one on eight equal files, and Dask? Run: python -m benchmarks.executors [--rounds 3]

Local files; each round runs, into empty sinks: one worker held to one core, one worker whose threads may use all, two
workers, and Dask with two. Medians are printed, with and without the start of Dask's cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.keystore import new_key
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import ExecutorKind, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location

# Worker processes import this module again: what only the driver needs is imported where it is used.

FILES = 8
PROMISED_GAIN = 1.7
PROMISED_DASK = 0.9


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Hold this process, and what it starts, to one core. The first one often serves interrupts, so it is the last."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(all_cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def _sources(root: Path, megabytes: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    request = EncryptSpec(
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


def _round(source: Path, sink: Path, key: str, times: defaultdict[str, list[float]]) -> None:
    import distributed

    local = RunOptions(keeps_journal=True)
    with _one_core():
        times["one core"].append(_seconds(source, sink, key, 1, local))
    times["one worker"].append(_seconds(source, sink, key, 1, local))
    times["two workers"].append(_seconds(source, sink, key, 2, local))
    alone = RunOptions(keeps_journal=True, executor=ExecutorKind.DASK)
    times["Dask, with its start"].append(_seconds(source, sink, key, 2, alone))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        there = RunOptions(keeps_journal=True, executor=ExecutorKind.DASK, address=cluster.scheduler_address)
        _seconds(source, sink, key, 2, there)  # imports
        times["Dask, started before"].append(_seconds(source, sink, key, 2, there))


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description="compare executors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=300, help="of each file")
    parser.add_argument("--directory", help="where files lie; in memory (/dev/shm) no disk limits both sides")
    given = parser.parse_args()
    times: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=given.directory) as place:
        root = Path(place)
        key, source = new_key(root), _sources(root, given.megabytes)
        for _ in range(given.rounds):
            _round(source, root / "out", key, times)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        print(f"{name:22} {seconds:6.2f} s   {' '.join(f'{one:.2f}' for one in times[name])}")
    two = medians["two workers"]
    print(f"two cores over one core            {medians['one core'] / two:.2f} x (>= {PROMISED_GAIN})")
    print(f"two workers over one on both cores {medians['one worker'] / two:.2f} x")
    for name in ("Dask, started before", "Dask, with its start"):
        print(f"{name} over two workers {two / medians[name]:.2f} x (>= {PROMISED_DASK})")


if __name__ == "__main__":
    main()
