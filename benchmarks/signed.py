"""What does signing cost, and how fast is verifying?

Run: python -m benchmarks.signed

Encrypting: unsigned against signed with SHA-256 and with BLAKE3, all columns and two of them. Verifying: `pipecrypt
verify` with one and two workers against `sha256sum` on the same eight files. Every contender runs in a process of its
own, in turn, several rounds; the medians are compared. Start-up and imports are excluded.
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
from pathlib import Path

from benchmarks.columns import make_input
from benchmarks.keystore import new_key_file

ENCRYPTING = tuple(
    f"{columns} {kind}" for columns in ("16 columns", "2 columns") for kind in ("unsigned", "sha256", "blake3")
)
VERIFYING = ("sha256sum", "verify sha256, 1 worker", "verify sha256, 2 workers", "verify blake3, 1 worker")
# At most so many times the time of the unsigned run.
TARGETS = {"sha256": 1.6, "blake3": 1.2}
COPIES = 8


def main() -> None:
    """Make the input, run all contenders, print Markdown and write JSON."""
    arguments = _arguments()
    scratch = Path(tempfile.mkdtemp(prefix="pipecrypt-bench-", dir=arguments.scratch))
    try:
        samples, size = _measure(scratch, arguments)
    finally:
        shutil.rmtree(scratch)
    medians = {contender: statistics.median(runs) for contender, runs in samples.items()}
    report = _markdown(medians, size, arguments)
    print(report)
    if arguments.output:
        document = {"cpus": os.cpu_count(), "input_bytes": size, "runs": samples, "medians": medians}
        Path(arguments.output).with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        Path(arguments.output).with_suffix(".md").write_text(report + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor")
    parser.add_argument("--rounds", type=int, default=7)
    memory = Path("/dev/shm")  # noqa: S108  # a memory file system, so that disks are not what is measured
    parser.add_argument("--scratch", default=str(memory) if memory.is_dir() else None)
    parser.add_argument("--output", help="write PATH.json and PATH.md")
    return parser.parse_args()


def _measure(scratch: Path, arguments: argparse.Namespace) -> tuple[dict[str, list[float]], int]:
    source = make_input(scratch, arguments.scale)
    size = source.stat().st_size
    key_file = new_key_file(scratch)
    environment = {**os.environ, "PIPECRYPT_KEY_FILE": str(key_file), "PIPECRYPT_STATE_DIR": str(scratch / "state")}
    samples: dict[str, list[float]] = {}
    _run("prepare", source, scratch, environment)
    for _ in range(arguments.rounds):
        for contender in ENCRYPTING:
            samples.setdefault(contender, []).append(_run(contender, source, scratch, environment))
            for each in ("out", "state"):  # a removed dataset is not made anew while it is remembered
                shutil.rmtree(scratch / each, ignore_errors=True)
    _run("prepare to verify", source, scratch, environment)
    for _ in range(arguments.rounds):
        for contender in VERIFYING:
            samples.setdefault(contender, []).append(_run(contender, source, scratch, environment))
    return samples, size


def _run(contender: str, source: Path, scratch: Path, environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", "benchmarks.signed_contender", contender, str(source), str(scratch)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _markdown(medians: dict[str, float], size: int, arguments: argparse.Namespace) -> str:
    lines = [
        f"TPC-H lineitem, scale factor {arguments.scale:g}, {size / 1e6:.0f} MB, {arguments.rounds} rounds, "
        f"medians, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}",
        "",
        "| encrypting | seconds | x unsigned | promised |",
        "|---|---:|---:|---:|",
    ]
    for contender in ENCRYPTING:
        columns, _, kind = contender.rpartition(" ")
        ratio = medians[contender] / medians[f"{columns} unsigned"]
        promised = f"<= {TARGETS[kind]}" if kind in TARGETS else ""
        lines.append(f"| {contender} | {medians[contender]:.3f} | {ratio:.2f} | {promised} |")
    lines += ["", f"| verifying {COPIES} files | seconds | MB/s | x sha256sum |", "|---|---:|---:|---:|"]
    for contender in VERIFYING:
        seconds = medians[contender]
        rate = COPIES * size / seconds / 1e6
        lines.append(f"| {contender} | {seconds:.3f} | {rate:.0f} | {seconds / medians['sha256sum']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
