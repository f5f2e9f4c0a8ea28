"""How long does a run from S3 to S3 take, beside a copy? Run: python -m benchmarks.objects [--rtt-ms 30] [--rounds 5]

SeaweedFS stands behind a proxy that makes each request wait for a round trip. `rclone copy` with 16 transfers moves the
objects through this machine, `pipecrypt run` with two workers encrypts them: whole commands, taking turns. Each output
is looked at before its time counts: names and sizes of copies, and what is encrypted is decrypted and compared. The
number of requests that each of them made is printed too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.proxy import CountingProxy, Request, counting_proxy
from tests.servers.s3_server import S3Server
from tests.servers.seaweedfs import seaweedfs

__all__ = ["main"]

_PASSPHRASE: Final = "of-a-benchmark"  # noqa: S105 - of keys that are thrown away
_TRANSFERS: Final = 16
_SETS: Final = {"small": (120, 450_000), "large": (20, 50_000_000)}
_ROW_BYTES: Final = 32  # what a row takes of random numbers, which do not compress
_ROW_GROUP_ROWS: Final = 250_000
_CONFIG: Final = """\
source: {{ url: "s3://{bucket}/{name}/*.parquet" }}
sink: {{ url: "s3://{bucket}/{sink}/" }}
encrypt:
  mode: columns
  columns: [{{ match: "*", key: pii }}]
  footer: encrypted
keys: {{ pii: "keystore://{keystore}#pii" }}
run: {{ workers: {workers} }}
"""


@dataclass(slots=True)
class _Bench:
    """What all contenders work with.

    Args:
        server: past the proxy.
        proxy: before it.
        folder: of this machine.
        bucket: that all objects are in.
        workers: of `pipecrypt run`.
        made: how many sinks there were.
    """

    server: S3Server
    proxy: CountingProxy
    folder: Path
    bucket: str
    workers: int
    made: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def new_sink(self) -> str:
        self.made += 1
        return f"sink-{self.made}"

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the sizes of objects below a prefix by name, without what lies in `_pipecrypt/`."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix + "/")
        found = {each["Key"][len(prefix) + 1 :]: each["Size"] for page in pages for each in page.get("Contents", ())}
        return {name: size for name, size in found.items() if not name.startswith("_pipecrypt/")}

    def remove(self, prefix: str) -> None:
        client = self.server.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix + "/"):
            for each in page.get("Contents", ()):
                client.delete_object(Bucket=self.bucket, Key=each["Key"])

    def call(self, command: list[str], **environment: str) -> None:
        subprocess.run(command, env=self.environment | environment, check=True, capture_output=True)


@dataclass(slots=True)
class _Sample:
    seconds: float
    cpu_seconds: float
    requests: Counter[Request]


def _rclone(bench: _Bench, name: str, sink: str) -> Callable[[], None]:
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    # Of two remotes of different names rclone lets no store copy by itself: that would not be a way through here.
    of_remote = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENV_AUTH": "true",
        "ENDPOINT": bench.proxy.url,
        "FORCE_PATH_STYLE": "true",
    }
    remotes = {f"RCLONE_CONFIG_{which}_{key}": value for which in ("ONE", "TWO") for key, value in of_remote.items()}
    source, target = f"one:{bench.bucket}/{name}", f"two:{bench.bucket}/{sink}"
    command = [str(program), "copy", source, target, "--transfers", str(_TRANSFERS), "--checkers", str(_TRANSFERS)]
    return lambda: bench.call(command, RCLONE_CONFIG=os.devnull, **remotes)


def _pipecrypt(bench: _Bench, name: str, sink: str) -> Callable[[], None]:
    config = bench.folder / f"{sink}.yaml"
    text = _CONFIG.format(
        bucket=bench.bucket, name=name, sink=sink, keystore=bench.folder / "keys.json", workers=bench.workers
    )
    config.write_text(text, encoding="utf-8")
    return lambda: bench.call([sys.executable, "-m", "pipecrypt", "run", str(config)])


def _check_copy(bench: _Bench, name: str, sink: str) -> None:
    if bench.sizes(name) != bench.sizes(sink):
        raise SystemExit("rclone did not copy everything")


def _check_encrypted(bench: _Bench, name: str, sink: str) -> None:
    """Decrypt everything, past the proxy, and compare it with the sources."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as plain:
        key = f"keystore://{bench.folder / 'keys.json'}#pii"
        command = [sys.executable, "-m", "pipecrypt", "decrypt", f"s3://{bench.bucket}/{sink}/", plain, "--key", key]
        bench.call(command, AWS_ENDPOINT_URL_S3=bench.server.url)
        for file in bench.sizes(name):
            source, found = bench.folder / name / file, Path(plain) / file
            if _digest(source) != _digest(found):
                raise SystemExit(f"{file} was not encrypted rightly")
    if len(bench.sizes(sink)) != len(bench.sizes(name)):
        raise SystemExit("there are more files than there should be")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_CONTENDERS: Final = {"rclone": (_rclone, _check_copy), "pipecrypt": (_pipecrypt, _check_encrypted)}


def _make_sources(bench: _Bench, name: str, count: int, size: int) -> None:
    """Put so many Parquet files of about this size, all different, into the bucket and into the folder."""
    client, random = bench.server.client(), numpy.random.default_rng(17)
    (bench.folder / name).mkdir()
    rows = size // _ROW_BYTES
    for number in range(count):
        table = pa.table({f"c{each}": random.random(rows) for each in range(_ROW_BYTES // 8)})
        path = bench.folder / name / f"part-{number:03}.parquet"
        pq.write_table(table, path, use_dictionary=False, compression="none", row_group_size=_ROW_GROUP_ROWS)
        with path.open("rb") as file:
            client.put_object(Bucket=bench.bucket, Key=f"{name}/{path.name}", Body=file)


def _sample(bench: _Bench, call: Callable[[], None]) -> _Sample:
    bench.proxy.take_seen()
    before, began = _cpu_seconds(), time.perf_counter()
    call()
    return _Sample(time.perf_counter() - began, _cpu_seconds() - before, bench.proxy.take_seen())


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure(bench: _Bench, name: str, rounds: int) -> dict[str, list[_Sample]]:
    samples: dict[str, list[_Sample]] = {contender: [] for contender in _CONTENDERS}
    for _ in range(rounds):
        for contender, (prepare, check) in _CONTENDERS.items():
            sink = bench.new_sink()
            sample = _sample(bench, prepare(bench, name, sink))
            check(bench, name, sink)
            bench.remove(sink)
            samples[contender].append(sample)
    return samples


def _print(name: str, count: int, size: int, samples: dict[str, list[_Sample]]) -> None:
    print(f"\n{name}: {count} files of {size / 1e6:g} MB, {len(samples['rclone'])} rounds")
    limit = statistics.median(each.seconds for each in samples["rclone"])
    for contender, found in samples.items():
        seconds = sorted(each.seconds for each in found)
        median, cpu = statistics.median(seconds), statistics.median(each.cpu_seconds for each in found)
        spread = f"{seconds[0]:.2f} to {seconds[-1]:.2f}"
        requests = found[-1].requests.total()
        print(
            f"  {contender:10} {median:7.2f} s ({spread})  {median / limit:5.2f} x rclone  "
            f"{cpu:6.2f} s of CPU  {requests} requests"
        )


def _print_requests(samples: dict[str, list[_Sample]]) -> None:
    """Print how many requests of each kind the last round made, for files and for all else."""
    for contender, found in samples.items():
        kinds = Counter[str]()
        for request, times in found[-1].requests.items():
            is_of_run = "/_pipecrypt/" in request.path
            kinds[f"{request.method}{' in _pipecrypt/' if is_of_run else ''}"] += times
        print(f"  {contender}: " + ", ".join(f"{times} {kind}" for kind, times in sorted(kinds.items())))


@contextmanager
def _started(folder: Path, rtt_seconds: float, workers: int) -> Iterator[_Bench]:
    with seaweedfs(_made(folder / "weed")) as server, counting_proxy(server.url, rtt_seconds=rtt_seconds) as proxy:
        environment = {**os.environ, **S3Server("proxy", proxy.url).environment, "PIPECRYPT_PASSPHRASE": _PASSPHRASE}
        bench = _Bench(server, proxy, folder, server.new_bucket(), workers, environment=environment)
        key = f"keystore://{folder / 'keys.json'}#pii"
        bench.call([sys.executable, "-m", "pipecrypt", "keys", "new", key])
        yield bench


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print medians with their spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rtt-ms", type=float, default=30.0, help="how long each request waits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=sorted(_SETS), help="one set of files instead of all")
    parser.add_argument("--requests", action="store_true", help="print requests of each kind too")
    given = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="pipecrypt-objects-") as name,
        _started(Path(name), given.rtt_ms / 1000, given.workers) as bench,
    ):
        for which, (count, size) in _SETS.items():
            if given.only in (None, which):
                _make_sources(bench, which, count, size)
                samples = _measure(bench, which, given.rounds)
                _print(which, count, size, samples)
                if given.requests:
                    _print_requests(samples)


if __name__ == "__main__":
    main()
