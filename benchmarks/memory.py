"""Does memory stay flat while the file grows ten times? Run: python -m benchmarks.memory [--row-groups 3900000]

With `--row-groups`, instead: what does a forged file cost its reader that lies in the place of a signed one, and whose
footer has so many row groups of one byte each? Each read is a process of its own; imports count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.columns import make_input, run_contender
from benchmarks.keystore import new_key, new_key_file

CONTENDERS = ("pipecrypt 16 columns", "pipecrypt 2 columns", "pipecrypt decrypt")
_READ = """
import sys
import pipecrypt as pc
place, key, trust, mode = sys.argv[1:]
try:
    with pc.open(place, keys=[key], trust=pc.Trust([trust] if trust else None, verify=mode)) as dataset:
        dataset.to_table()
    print("read")
except Exception as error:
    print(type(error).__name__)
"""


def main() -> None:
    """Print peak RSS for scale factors 1 and 10, or what reading a forged file takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row-groups", type=int, help="of a forged file")
    arguments = parser.parse_args()
    if arguments.row_groups:
        _print_forged(arguments.row_groups)
        return
    memory = Path("/dev/shm")  # noqa: S108  # as in columns
    print("| contender | SF1, MiB | SF10, MiB |\n|---|---:|---:|")
    peaks = {contender: [_peak(contender, scale, memory) for scale in (1, 10)] for contender in CONTENDERS}
    for contender, (small, large) in peaks.items():
        print(f"| {contender} | {small:.0f} | {large:.0f} |")


def _print_forged(row_groups: int) -> None:
    import pipecrypt as pc

    with tempfile.TemporaryDirectory(prefix="pipecrypt-bench-") as place:
        root = Path(place)
        os.environ["PIPECRYPT_STATE_DIR"] = str(root / "state")
        key = new_key(root)
        signing = key.replace("#pii", "#signing")
        command = [sys.executable, "-m", "pipecrypt", "keys", "new", signing, "--type", "ed25519"]
        subprocess.run(command, check=True, capture_output=True)
        pq.write_table(pa.table({"a": [1, 2, 3]}), root / "a.parquet")
        pc.encrypt(str(root / "a.parquet"), f"{root}/signed/", pc.Policy(default=key, sign=signing))
        file = root / "signed/a.parquet"
        ways = {"honest, trusted keys": (signing, "read"), "trusted keys": (signing, "read")}
        ways |= {"trusted keys, full": (signing, "full"), "no trusted keys": ("", "off")}
        print("| file and reader | MB | ended with | CPU seconds | peak RSS, MiB |\n|---|---:|---|---:|---:|")
        for way, (trust, mode) in ways.items():
            ended, cpu, peak = _read([str(root / "signed"), key, trust, mode])
            print(f"| {way} | {file.stat().st_size / 1e6:.1f} | {ended} | {cpu:.2f} | {peak:.0f} |", flush=True)
            file.write_bytes(_forged(row_groups))


def _read(arguments: list[str]) -> tuple[str, float, float]:
    """Return how a read ended, and its CPU seconds and peak memory."""
    process = subprocess.Popen([sys.executable, "-c", _READ, *arguments], stdout=subprocess.PIPE, text=True)
    ended = process.stdout.read().strip() if process.stdout else ""
    _, _, usage = os.wait4(process.pid, 0)
    return ended, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _forged(row_groups: int) -> bytes:
    """Return a Parquet file of one column, in Thrift's compact protocol: version, schema, rows, empty row groups."""
    count, left = bytearray(), row_groups
    while left > 0x7F:
        count.append(left & 0x7F | 0x80)
        left >>= 7
    count.append(left)
    schema = b"\x19\x2c" + b"\x48\x01r\x15\x02\x00" + b"\x15\x02\x38\x01a\x00"
    footer = b"\x15\x02" + schema + b"\x16\x00" + b"\x19\xfc" + count + bytes(row_groups) + b"\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


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
