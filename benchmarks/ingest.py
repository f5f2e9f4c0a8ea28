"""How long does it take to make encrypted Parquet of CSV, next to pyarrow's reader and encrypting writer?

Run: python -m benchmarks.ingest

Every contender runs in a process of its own, in turn, several rounds; the medians are compared. The times are the
contender's own work, imports excluded. The input is also made four times as large: memory should not follow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ingest_contender import CONTENDERS

PEER = "pyarrow open_csv + PME writer"
OURS = "pipecrypt"
PROMISED = 1.3
GROWTH = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: wall and CPU seconds, peak RSS in MiB, CPU seconds of the calling thread."""

    seconds: float
    cpu_seconds: float
    peak_rss_mebibytes: float
    thread_cpu_seconds: float


def main() -> None:
    """Make the inputs, run all contenders, print Markdown."""
    arguments = _arguments()
    scratch = Path(tempfile.mkdtemp(prefix="pipecrypt-bench-", dir=arguments.scratch))
    try:
        source = _make_input(scratch, arguments.scale)
        size = source.stat().st_size
        samples = _measure(source, arguments)
        large = _make_input(scratch, arguments.scale * GROWTH)
        peaks = {name: _run(name, large, arguments.codec).peak_rss_mebibytes for name in CONTENDERS}
    finally:
        shutil.rmtree(scratch)
    report = _markdown(samples, peaks, size, arguments)
    print(report)
    if arguments.output:
        Path(arguments.output).with_suffix(".md").write_text(report + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.5, help="TPC-H scale factor")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codec", default="zstd", choices=["zstd", "snappy", "none"])
    parser.add_argument("--output", help="write PATH.md")
    memory = Path("/dev/shm")  # noqa: S108  # a memory file system, so that disks are not what is measured
    parser.add_argument("--scratch", default=str(memory) if memory.is_dir() else None)
    return parser.parse_args()


def _make_input(scratch: Path, scale: float) -> Path:
    place = scratch / f"{scale:g}"
    program = Path(sys.executable).with_name("tpchgen-cli")
    command = ["csv", "-s", f"{scale:g}", "--tables", "lineitem", "--output-dir", str(place)]
    subprocess.run([str(program) if program.exists() else "tpchgen-cli", *command], check=True, capture_output=True)
    return place / "lineitem.csv"


def _measure(source: Path, arguments: argparse.Namespace) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.rounds):
        for name, runs in samples.items():
            runs.append(_run(name, source, arguments.codec))
    return samples


def _run(contender: str, source: Path, codec: str) -> Sample:
    target = source.with_name("out")
    command = [sys.executable, "-m", "benchmarks.ingest_contender", contender, str(source), str(target), codec]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    target.unlink()
    return Sample(*json.loads(done.stdout.splitlines()[-1]))


def _markdown(
    samples: dict[str, list[Sample]], peaks: dict[str, float], size: int, arguments: argparse.Namespace
) -> str:
    seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in samples.items()}
    lines = [
        f"TPC-H lineitem as CSV, scale factor {arguments.scale:g}, {size / 1e6:.0f} MB, {arguments.codec}, "
        f"{arguments.rounds} rounds, medians, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}",
        "",
        f"| contender | seconds | CPU seconds | MB/s | x {PEER} | promised | peak RSS, MiB | of {GROWTH} x the input |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, runs in samples.items():
        cpu = statistics.median(run.cpu_seconds for run in runs)
        peak = statistics.median(run.peak_rss_mebibytes for run in runs)
        promised = f">= {PROMISED}" if name == OURS else ""
        lines.append(
            f"| {name} | {seconds[name]:.2f} | {cpu:.2f} | {size / seconds[name] / 1e6:.0f} | "
            f"{seconds[PEER] / seconds[name]:.2f} | {promised} | {peak:.0f} | {peaks[name]:.0f} |"
        )
    share = statistics.median(run.thread_cpu_seconds / run.cpu_seconds for run in samples[OURS])
    lines += [
        "",
        f"Share of the CPU time that the thread takes which opens keys, encrypts and publishes: {share:.1%} "
        "(promised: at most 5 %).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
