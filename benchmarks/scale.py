"""What do many small files, and a very large one, take? Run: python -m benchmarks.scale [--files 10000]

Small files: seconds of planning, of the run and of a repeated run with nothing to do, and the overhead for each file.
The large file is written with few distinct bytes, planned and run in parts by two workers; `--gigabytes 0` leaves it
out. CPU seconds, of workers too, and peak memory of this process and of its largest worker are printed for each step.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.keystore import new_key
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location

_Result = TypeVar("_Result")
_SPLIT_BYTES = 1 << 30
_PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _timed(what: str, call: Callable[[], _Result]) -> tuple[_Result, float]:
    began, cpu_before = time.perf_counter(), _cpu_seconds()
    result = call()
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - cpu_before
    here, workers = (resource.getrusage(who).ru_maxrss // 1024 for who in _PROCESSES)
    memory = f"peak {here} MiB here, {workers} MiB in the largest worker"
    print(f"{what:34} {seconds:8.2f} s {cpu:8.2f} s of CPU   {memory}", flush=True)
    return result, seconds


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in _PROCESSES]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _request(source: Path, sink: Path, key: str, split_bytes: int | None) -> EncryptSpec:
    return EncryptSpec(
        source=Location(str(source)),
        sink=Location(str(sink)),
        policy=Policy(default=key),
        workers=2,
        run=RunOptions(keeps_journal=True, split_bytes=split_bytes),
    )


def _small_files(root: Path, count: int) -> Path:
    source = root / "small"
    for number in range(count):
        directory = source / f"part={number % 100}"
        directory.mkdir(parents=True, exist_ok=True)
        if number == 0:
            pq.write_table(pa.table({"id": [1, 2, 3], "email": ["a", "b", "c"]}), directory / "0.parquet")
        else:
            os.link(source / "part=0/0.parquet", directory / f"{number}.parquet")
    return source


def _large_file(root: Path, gigabytes: float) -> Path:
    source = root / "large"
    source.mkdir()
    table = pa.table({f"c{number}": pa.array([bytes(1000)] * 10_000) for number in range(8)})
    groups = round(gigabytes * 1e9 / (table.nbytes or 1))
    with pq.ParquetWriter(source / "0.parquet", table.schema, compression="none", use_dictionary=False) as to:
        for _ in range(groups):
            to.write_table(table, row_group_size=10_000)
    return source


def main() -> None:
    """Print seconds and peak memory of each step."""
    parser = argparse.ArgumentParser(description="many files, and a large one")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--gigabytes", type=float, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        key, credentials = new_key(root), Credentials.from_environment()
        request = _request(_small_files(root, given.files), root / "out-small", key, None)
        _timed(f"plan of {given.files} files", lambda: report_plan(request))
        _, seconds = _timed("run, two workers", lambda: run(request, credentials=credentials))
        print(f"  {1000 * seconds / given.files:.2f} ms for each file")
        _timed("run again, nothing to do", lambda: run(request, credentials=credentials))
        if given.gigabytes:
            _measure_large_file(root, given.gigabytes, key, credentials)


def _measure_large_file(root: Path, gigabytes: float, key: str, credentials: Credentials) -> None:
    large = _request(_large_file(root, gigabytes), root / "out-large", key, _SPLIT_BYTES)
    size = (root / "large/0.parquet").stat().st_size
    report, _ = _timed(f"plan of one file of {size / 1e9:.1f} GB", lambda: report_plan(large))
    print(f"  {report.to_do} tasks")
    _, seconds = _timed("run, two workers", lambda: run(large, credentials=credentials))
    print(f"  {size / 1e6 / seconds:,.0f} MB/s")


if __name__ == "__main__":
    main()
