"""What do many small files, and a very large one, take? Run: python -m benchmarks.scale [--files 10000] [--sign]

Small files, of about 34 KB unless told otherwise: planning, the run, and a plan and a run with nothing to do. Each step
is a process of its own, so that its CPU seconds, those of its workers too, and its peak memory beyond what it began
with are its own; both are also told for each file. Before a time counts it is checked that the step did what it should.
The large file is written with few distinct bytes, planned and run in parts by two workers; `--gigabytes 0` leaves it
out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.keystore import new_key
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location

_SPLIT_BYTES = 1 << 30
_ROW_BYTES = 24  # of the small files, about
_MOST_LINKS = 10_000
_PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
_STEPS = ("plan", "run", "plan, nothing to do", "run, nothing to do")


@dataclass(frozen=True)
class Cost:
    """What a step took: seconds, CPU seconds of all its processes, and bytes of memory beyond the start."""

    seconds: float
    cpu_seconds: float
    memory_bytes: int


def _measured(step: str, request: EncryptSpec, expected: int) -> Cost:
    """Do a step in this process, and check what it did: how many files are to be done, or were."""
    credentials, left = Credentials.from_environment(), 0 if "nothing" in step else expected
    began, cpu_before, memory_before = time.perf_counter(), _cpu_seconds(), _memory_bytes()
    if step.startswith("plan"):
        done = report_plan(request, credentials).to_do
    else:
        done = run(request, credentials=credentials).files
    cost = Cost(time.perf_counter() - began, _cpu_seconds() - cpu_before, _memory_bytes() - memory_before)
    if done != left:
        raise AssertionError(f"{step}: {done} files instead of {left}")
    return cost


def _in_own_process(step: str, request: EncryptSpec, expected: int) -> Cost:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(_measured, step, request, expected).result()


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in _PROCESSES]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _memory_bytes() -> int:
    """Return the peak of this process; `ru_maxrss` would begin with that of the process which started it."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return 0 if found is None else int(found[1]) * 1024


def _request(source: Path, sink: Path, key: str, *, split_bytes: int | None = None, sign: str | None) -> EncryptSpec:
    return EncryptSpec(
        source=Location(str(source)),
        sink=Location(str(sink)),
        policy=Policy(default=key, sign=sign),
        workers=2,
        run=RunOptions(keeps_journal=True, split_bytes=split_bytes),
    )


def _small_files(root: Path, count: int, file_bytes: int) -> Path:
    """Write files in a hundred directories; one file has many names, of which file systems allow so many."""
    source, first = root / "small", Path()
    rows = max(1, file_bytes // _ROW_BYTES)
    for number in range(count):
        directory = source / f"part={number % 100}"
        directory.mkdir(parents=True, exist_ok=True)
        place = directory / f"{number}.parquet"
        if number % _MOST_LINKS:
            os.link(first, place)
        else:
            first = place
            pq.write_table(pa.table({"id": range(rows), "email": [os.urandom(8).hex() for _ in range(rows)]}), first)
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
    """Print what each step takes."""
    parser = argparse.ArgumentParser(description="many files, and a large one")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--file-bytes", type=int, default=34_000, help="of each small file, about")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--sign", action="store_true", help="sign what is written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        key, sign = new_key(root), None
        if given.sign:
            sign = key.rpartition("#")[0] + "#signing"
            create_key(sign, "ed25519", Credentials.from_environment())
        if given.files:
            source = _small_files(root, given.files, given.file_bytes)
            size = (source / "part=0/0.parquet").stat().st_size
            print(f"{given.files} files of {size} bytes, {'signed' if sign else 'unsigned'}")
            request = _request(source, root / "out-small", key, sign=sign)
            for step in _STEPS:
                _print(step, _in_own_process(step, request, given.files), given.files)
        if given.gigabytes:
            large = _request(
                _large_file(root, given.gigabytes), root / "out-large", key, split_bytes=_SPLIT_BYTES, sign=sign
            )
            size = (root / "large/0.parquet").stat().st_size
            print(f"one file of {size / 1e9:.1f} GB")
            tasks = report_plan(large).to_do
            for step in _STEPS:
                cost = _in_own_process(step, large, tasks)
                _print(step, cost, 1)
                print(f"  {size / 1e6 / cost.seconds:,.0f} MB/s" if step == "run" else f"  {tasks} tasks")


def _print(step: str, cost: Cost, files: int) -> None:
    each = f"{1000 * cost.cpu_seconds / files:8.3f} ms of CPU and {cost.memory_bytes / files:8,.0f} bytes for each file"
    memory = f"{cost.memory_bytes / 2**20:6.0f} MiB"
    print(f"{step:20} {cost.seconds:8.2f} s {cost.cpu_seconds:8.2f} s of CPU {memory} {each}", flush=True)


if __name__ == "__main__":
    main()
