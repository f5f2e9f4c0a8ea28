"""How long does encrypting columns take, next to `cp` and to what else encrypts Parquet?

Run: python -m benchmarks.columns

Every contender runs in a process of its own, in turn, several rounds; the medians are compared. The times are the
contender's own work, start-up and imports excluded; one line reports the command with its start-up too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.keystore import new_key_file

CONTENDERS = (
    "cp",
    "pyarrow plain rewrite",
    "pyarrow PME rewrite",
    "Polars encrypted sink_parquet",
    "pipecrypt 16 columns",
    "pipecrypt 2 columns",
    "pipecrypt decrypt",
    "pipecrypt 16 columns, command",
)
# What the project promises: at most (or, for peers, at least) so many times the contender's time.
TARGETS = {"pipecrypt 16 columns": 2.5, "pipecrypt 2 columns": 1.8, "pipecrypt decrypt": 2.5}


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one contender: seconds, MB/s of plaintext input, peak RSS in MiB, and ratios."""

    contender: str
    seconds: float
    megabytes_per_second: float
    peak_rss_mebibytes: float
    times_cp: float
    runs: tuple[float, ...]


def main() -> None:
    """Make the input, run all contenders, print Markdown and write JSON."""
    arguments = _arguments()
    scratch = Path(tempfile.mkdtemp(prefix="pipecrypt-bench-", dir=arguments.scratch))
    try:
        source = make_input(scratch, arguments.scale)
        samples = _measure(source, scratch, arguments.rounds)
    finally:
        shutil.rmtree(scratch)
    size = samples.pop("size")[0][0]
    results = _results(samples, size)
    report = _markdown(results, size, arguments)
    print(report)
    if arguments.output:
        document = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "input_bytes": size}
        document["results"] = [asdict(result) for result in results]
        Path(arguments.output).with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        Path(arguments.output).with_suffix(".md").write_text(report + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor")
    parser.add_argument("--rounds", type=int, default=5)
    memory = Path("/dev/shm")  # noqa: S108  # a memory file system, so that disks are not what is measured
    parser.add_argument("--scratch", default=str(memory) if memory.is_dir() else None)
    parser.add_argument("--output", help="write PATH.json and PATH.md")
    return parser.parse_args()


def make_input(scratch: Path, scale: float) -> Path:
    command = ["tpchgen-cli", "parquet", "-s", f"{scale:g}", "--tables", "lineitem", "--output-dir", str(scratch)]
    program = Path(sys.executable).with_name("tpchgen-cli")
    subprocess.run([str(program) if program.exists() else command[0], *command[1:]], check=True, capture_output=True)
    return scratch / "lineitem.parquet"


def _measure(source: Path, scratch: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    # A key file, as machines use it: a passphrase costs a tenth of a second on purpose, whatever the data's size.
    key_file = new_key_file(scratch)
    environment = {**os.environ, "PIPECRYPT_KEY_FILE": str(key_file)}
    run_contender("prepare", source, scratch, environment)
    samples: dict[str, list[tuple[float, float]]] = {"size": [(source.stat().st_size, 0.0)]}
    for _ in range(rounds):
        for contender in CONTENDERS:
            _remove(scratch / "out.parquet")
            samples.setdefault(contender, []).append(run_contender(contender, source, scratch, environment))
    return samples


def run_contender(contender: str, source: Path, scratch: Path, environment: dict[str, str]) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.contender", contender, str(source), str(scratch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _results(samples: dict[str, list[tuple[float, float]]], size: int) -> list[Result]:
    cp = statistics.median(seconds for seconds, _ in samples["cp"])
    results = []
    for contender, pairs in samples.items():
        seconds = statistics.median(pair[0] for pair in pairs)
        peak = statistics.median(pair[1] for pair in pairs) / 1024
        runs = tuple(round(pair[0], 4) for pair in pairs)
        results.append(Result(contender, seconds, size / seconds / 1e6, peak, seconds / cp, runs))
    return results


def _markdown(results: list[Result], size: int, arguments: argparse.Namespace) -> str:
    by_name = {result.contender: result for result in results}
    ours = by_name["pipecrypt 16 columns"].seconds
    lines = [
        f"TPC-H lineitem, scale factor {arguments.scale:g}, {size / 1e6:.0f} MB, {arguments.rounds} rounds, "
        f"medians, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}",
        "",
        "| contender | seconds | MB/s of input | peak RSS, MiB | x cp | promised | x pipecrypt, 16 columns |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        target = TARGETS.get(result.contender)
        lines.append(
            f"| {result.contender} | {result.seconds:.3f} | {result.megabytes_per_second:.0f} | "
            f"{result.peak_rss_mebibytes:.0f} | {result.times_cp:.2f} | {f'<= {target}' if target else ''} | "
            f"{result.seconds / ours:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
