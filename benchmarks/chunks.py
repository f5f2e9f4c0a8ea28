"""How long does encrypting a file of random bytes take, next to `cp` and to what else encrypts files from Python?

Run: python -m benchmarks.chunks

Every contender runs in a process of its own, in turn, several rounds; the medians are compared. The times are the
contender's own work, start-up and imports excluded; pipecrypt's include the key session and publishing. Peers that
are not installed (`pip install --group bench`) are left out with a line. Each peer's frames hold 1 MiB where it lets
one choose.
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

from benchmarks.chunk_contender import READ_BYTES, READS
from benchmarks.keystore import new_key_file

CONTENDERS = (
    "cp",
    "pipecrypt encrypt",
    "pipecrypt decrypt",
    "pipecrypt encrypt, zstd",
    "age encrypt",
    "age decrypt",
    "AWS Encryption SDK encrypt",
    "AWS Encryption SDK decrypt",
    "Tink encrypt",
    "Tink decrypt",
)
RANDOM_READS = "pipecrypt 4 KiB reads"
# What the project promises: at most so many times the time of `cp`.
TARGETS = {"pipecrypt encrypt": 1.3, "pipecrypt decrypt": 1.3}
_MISSING = 3
_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one contender: seconds, MB/s of plaintext, peak RSS in MiB, and the ratio to `cp`."""

    contender: str
    seconds: float
    megabytes_per_second: float
    peak_rss_mebibytes: float
    times_cp: float
    runs: tuple[float, ...]


def main() -> None:
    """Make the input, run all contenders, print Markdown and write JSON."""
    arguments = _arguments()
    size = int(arguments.megabytes * 1e6)
    scratch = Path(tempfile.mkdtemp(prefix="pipecrypt-bench-", dir=arguments.scratch))
    try:
        source = _make_input(scratch, size)
        samples, missing = _measure(source, scratch, arguments.rounds)
    finally:
        shutil.rmtree(scratch)
    reads = statistics.median(seconds for seconds, _ in samples.pop(RANDOM_READS))
    results = _results(samples, size)
    report = _markdown(results, size, arguments.rounds, READS / reads, missing)
    print(report)
    if arguments.output:
        document = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "input_bytes": size}
        document["random_reads_per_second"] = READS / reads
        document["results"] = [asdict(result) for result in results]
        Path(arguments.output).with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        Path(arguments.output).with_suffix(".md").write_text(report + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1000.0)
    parser.add_argument("--rounds", type=int, default=5)
    memory = Path("/dev/shm")  # noqa: S108  # a memory file system, so that disks are not what is measured
    parser.add_argument("--scratch", default=str(memory) if memory.is_dir() else None)
    parser.add_argument("--output", help="write PATH.json and PATH.md")
    return parser.parse_args()


def _make_input(scratch: Path, size: int) -> Path:
    path = scratch / "input.bin"
    with path.open("wb") as file:
        for start in range(0, size, _PIECE_BYTES):
            file.write(os.urandom(min(_PIECE_BYTES, size - start)))
    return path


def _measure(source: Path, scratch: Path, rounds: int) -> tuple[dict[str, list[tuple[float, float]]], tuple[str, ...]]:
    # A key file, as machines use it: a passphrase costs a tenth of a second on purpose, whatever the data's size.
    key_file = new_key_file(scratch)
    environment = {**os.environ, "PIPECRYPT_KEY_FILE": str(key_file)}
    _run("prepare", source, scratch, environment)
    samples: dict[str, list[tuple[float, float]]] = {}
    missing: list[str] = []
    for _ in range(rounds):
        for contender in (*CONTENDERS, RANDOM_READS):
            if contender in missing:
                continue
            sample = _run(contender, source, scratch, environment)
            (scratch / "out").unlink(missing_ok=True)
            if sample is None:
                missing.append(contender)
            else:
                samples.setdefault(contender, []).append(sample)
        for leftover in ("encrypted", "age", "aws", "tink"):  # every round writes new files, as `cp` does
            (scratch / leftover).unlink(missing_ok=True)
    return samples, tuple(missing)


def _run(contender: str, source: Path, scratch: Path, environment: dict[str, str]) -> tuple[float, float] | None:
    command = [sys.executable, "-m", "benchmarks.chunk_contender", contender, str(source), str(scratch)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode == _MISSING:
        return None
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr}")
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def _results(samples: dict[str, list[tuple[float, float]]], size: int) -> list[Result]:
    cp = statistics.median(seconds for seconds, _ in samples["cp"])
    results = []
    for contender, pairs in samples.items():
        seconds = statistics.median(pair[0] for pair in pairs)
        peak = statistics.median(pair[1] for pair in pairs) / 1024
        runs = tuple(round(pair[0], 4) for pair in pairs)
        results.append(Result(contender, seconds, size / seconds / 1e6, peak, seconds / cp, runs))
    return results


def _markdown(results: list[Result], size: int, rounds: int, reads: float, missing: tuple[str, ...]) -> str:
    lines = [
        f"{size / 1e6:.0f} MB of random bytes, {rounds} rounds, medians, {os.cpu_count()} CPUs, "
        f"{time.strftime('%Y-%m-%d')}",
        "",
        "| contender | seconds | MB/s | peak RSS, MiB | x cp | promised |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        target = TARGETS.get(result.contender)
        lines.append(
            f"| {result.contender} | {result.seconds:.3f} | {result.megabytes_per_second:.0f} | "
            f"{result.peak_rss_mebibytes:.0f} | {result.times_cp:.2f} | {f'<= {target}' if target else ''} |"
        )
    lines += ["", f"Random reads of {READ_BYTES} bytes through the file system: {reads:.0f} a second."]
    lines += [f"Not installed, so not measured: {contender}." for contender in missing]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
