"""Does memory stay flat while the file grows ten times? Run: python -m benchmarks.memory"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.columns import make_input, run_contender
from benchmarks.keystore import new_key_file

CONTENDERS = ("pipecrypt 16 columns", "pipecrypt 2 columns", "pipecrypt decrypt")


def main() -> None:
    """Print peak RSS for scale factors 1 and 10."""
    memory = Path("/dev/shm")  # noqa: S108  # as in columns
    print("| contender | SF1, MiB | SF10, MiB |\n|---|---:|---:|")
    peaks = {contender: [_peak(contender, scale, memory) for scale in (1, 10)] for contender in CONTENDERS}
    for contender, (small, large) in peaks.items():
        print(f"| {contender} | {small:.0f} | {large:.0f} |")


def _peak(contender: str, scale: float, memory: Path) -> float:
    scratch = Path(tempfile.mkdtemp(prefix="pipecrypt-bench-", dir=memory if memory.is_dir() else None))
    key_file = new_key_file(scratch)
    environment = {**os.environ, "PIPECRYPT_KEY_FILE": str(key_file)}
    try:
        source = make_input(scratch, scale)
        run_contender("prepare", source, scratch, environment)
        return run_contender(contender, source, scratch, environment)[1] / 1024
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
