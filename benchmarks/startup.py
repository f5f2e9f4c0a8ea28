"""How long does `pipecrypt --help` take, from process start to end? Run: python -m benchmarks.startup"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
PROMISED_SECONDS = 0.25


def main() -> None:
    """Print the median and the fastest of several runs."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pipecrypt", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    print(
        f"pipecrypt --help: median {statistics.median(seconds):.3f} s, fastest {min(seconds):.3f} s "
        f"of {ROUNDS} runs; promised: under {PROMISED_SECONDS} s"
    )


if __name__ == "__main__":
    main()
