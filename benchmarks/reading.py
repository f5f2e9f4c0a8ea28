"""How long does `pd.read_parquet("pipecrypt::...")` take, next to reading the plaintext file?

Run: python -m benchmarks.reading

Every read runs in turn, several rounds, and the medians are compared: all columns, and single columns. "Kept" reads
through a file system that has opened the file before, as a second read in one process does; "new" includes opening the
keys and the footer. Bytes are those fetched from the storage in the first read of a file system. The second table reads
the whole plaintext of a signed file, in each of the ways to check it.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.columns import make_input, run_contender
from benchmarks.keystore import new_key_file

COLUMNS = ("l_orderkey", "l_linenumber", "l_returnflag", "l_shipdate", "l_shipmode", "l_comment", "l_extendedprice")
# What the project promises: at most so many times the time of reading the plaintext file.
ALL_TARGET, ONE_TARGET = 1.5, 2.0
MODES = ("off", "read", "full")
_PIECE_BYTES = 4 << 20


class Reads:
    """The three ways to read, of one encrypted file and its plaintext."""

    def __init__(self, scratch: Path) -> None:
        self._plain = str(scratch / "lineitem.parquet")
        self._url = f"pipecrypt::file://{scratch}/encrypted.parquet"
        self._options = {"pipecrypt": {"keys": [f"keystore://{scratch}/keys.json#bench"]}}

    def plain(self, columns: list[str] | None) -> Callable[[], object]:
        import pandas as pd

        return lambda: pd.read_parquet(self._plain, columns=columns)

    def kept(self, columns: list[str] | None) -> Callable[[], object]:
        import pandas as pd

        return lambda: pd.read_parquet(self._url, columns=columns, storage_options=self._options)

    def new(self, columns: list[str] | None) -> Callable[[], object]:
        from pipecrypt.reading.filesystem import PipecryptFileSystem

        read = self.kept(columns)

        def run() -> object:
            PipecryptFileSystem.clear_instance_cache()
            return read()

        return run

    def fetched_bytes(self, columns: list[str]) -> tuple[int, int]:
        """Return the bytes that reading fetches: of the plaintext file, and of the encrypted one."""
        import fsspec
        import pandas as pd
        from fsspec.implementations.local import LocalFileOpener

        from pipecrypt.reading.filesystem import PipecryptFileSystem

        counted = [0]
        real_read = LocalFileOpener.read

        def read(file: LocalFileOpener, *args: int) -> bytes:
            data = real_read(file, *args)
            counted[0] += len(data)
            return data

        LocalFileOpener.read = read
        with fsspec.filesystem("file").open(self._plain) as file:
            pd.read_parquet(file, columns=columns)
        plain, counted[0] = counted[0], 0
        PipecryptFileSystem.clear_instance_cache()
        self.kept(columns)()
        LocalFileOpener.read = real_read
        return plain, counted[0]


def main() -> None:
    """Make the files, run all reads, print Markdown."""
    arguments = _arguments()
    scratch = Path(tempfile.mkdtemp(prefix="pipecrypt-bench-", dir=arguments.scratch))
    try:
        source = make_input(scratch, arguments.scale)
        _encrypt(source, scratch)
        lines = [] if arguments.only_checked else [*_measure(Reads(scratch), arguments), ""]
        lines += _checked(source, scratch, arguments.rounds)
    finally:
        shutil.rmtree(scratch)
    report = "\n".join(lines)
    print(report)
    if arguments.output:
        Path(arguments.output).with_suffix(".md").write_text(report + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all-rounds", type=int, default=3, help="rounds of reading all columns")
    parser.add_argument("--only-checked", action="store_true", help="only the second table")
    memory = Path("/dev/shm")  # noqa: S108  # a memory file system, so that disks are not what is measured
    parser.add_argument("--scratch", default=str(memory) if memory.is_dir() else None)
    parser.add_argument("--output", help="write the report to this file, too")
    return parser.parse_args()


def _encrypt(source: Path, scratch: Path) -> None:
    key_file = new_key_file(scratch)
    os.environ["PIPECRYPT_KEY_FILE"] = str(key_file)
    os.environ.pop("PIPECRYPT_KEYS", None)
    run_contender("prepare", source, scratch, dict(os.environ))


def _measure(reads: Reads, arguments: argparse.Namespace) -> list[str]:
    lines = [
        f"TPC-H lineitem, scale factor {arguments.scale:g}, all 16 columns encrypted, medians, {os.cpu_count()} CPUs, "
        f"Python {sys.version_info.major}.{sys.version_info.minor}, {time.strftime('%Y-%m-%d')}",
        "",
        f"{_opening(arguments.rounds)}",
        "",
        "| columns | plaintext, ms | kept, ms | x | new, ms | x | promised | fetched, MB | plaintext, MB | x |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    reads.kept(["l_tax"])()  # imports are start-up
    for name in COLUMNS:
        plain, kept, new = _interleaved(reads, [name], arguments.rounds)
        before, after = reads.fetched_bytes([name])
        fetched = f"{after / 1e6:.2f} | {before / 1e6:.2f} | {after / before:.2f}"
        lines.append(f"{_row(name, plain, kept, new, ONE_TARGET)} {fetched} |")
    lines.append(f"{_row('all 16', *_interleaved(reads, None, arguments.all_rounds), ALL_TARGET)} | | |")
    return lines


def _row(name: str, plain: float, kept: float, new: float, target: float) -> str:
    return (
        f"| {name} | {plain * 1e3:.0f} | {kept * 1e3:.0f} | {kept / plain:.2f} | {new * 1e3:.0f} | {new / plain:.2f} | "
        f"<= {target} |"
    )


def _interleaved(reads: Reads, columns: list[str] | None, rounds: int) -> tuple[float, float, float]:
    runs = (reads.plain(columns), reads.kept(columns), reads.new(columns))
    samples: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        for run, seconds in zip(runs, samples, strict=True):
            gc.collect()
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    plain, kept, new = map(statistics.median, samples)
    return plain, kept, new


def _opening(rounds: int) -> str:
    from pipecrypt.reading.filesystem import PipecryptFileSystem

    scratch = Path(os.environ["PIPECRYPT_KEY_FILE"]).parent
    samples = []
    for _ in range(rounds):
        fs = PipecryptFileSystem(keys=[f"keystore://{scratch}/keys.json#bench"], skip_instance_cache=True)
        gc.collect()
        started = time.perf_counter()
        view = fs.view(str(scratch / "encrypted.parquet"))
        samples.append(time.perf_counter() - started)
        if view is None:
            raise AssertionError("the file is encrypted")
    return f"Opening the encrypted file: {statistics.median(samples) * 1e3:.0f} ms, its keys included."


def _checked(source: Path, scratch: Path, rounds: int) -> list[str]:
    """Return a table of what reading a signed file takes in each mode, the file system and its keys new each time."""
    import pipecrypt as pc
    from pipecrypt.keys.credentials import Credentials
    from pipecrypt.keys.keystores import create_key

    key, signing = (f"keystore://{scratch}/keys.json#{name}" for name in ("bench", "signing"))
    create_key(signing, "ed25519", Credentials.from_environment())
    signed = scratch / "signed.parquet"
    pc.encrypt(str(source), str(signed), pc.Policy(default=key, sign=signing))
    samples: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode, runs in samples.items():
            runs.append(_read_whole(str(signed), key, signing, mode))
    cpu = {mode: statistics.median(run[1] for run in runs) for mode, runs in samples.items()}
    lines = ["| whole signed file, verify= | seconds | CPU seconds | x off |", "|---|---:|---:|---:|"]
    for mode, runs in samples.items():
        seconds = statistics.median(run[0] for run in runs)
        lines.append(f"| {mode} | {seconds:.2f} | {cpu[mode]:.2f} | {cpu[mode] / cpu['off']:.2f} |")
    return lines


def _read_whole(path: str, key: str, signing: str, mode: str) -> tuple[float, float]:
    import pipecrypt as pc

    gc.collect()
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    trust = None if mode == "off" else [signing]
    fs = pc.PipecryptFileSystem(keys=[key], trust=pc.Trust(trust, verify=mode), skip_instance_cache=True)
    with fs.open(path) as file:
        while file.read(_PIECE_BYTES):
            pass
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
