"""From object store to object store, through a network: SeaweedFS behind a proxy that delays each request."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.inputs import check_same, new_keys, program, write_table
from benchmarks.proxy import counting_proxy
from benchmarks.suite import Case, Contender, Place, Ready, Work, WrongOutputError

__all__ = ["CASES"]

_BUCKET, _TRANSFERS, _WORKERS, _RTT_MS = "bench", "16", 2, 30.0
_SMALL, _LARGE = (120, 450_000), (20, 50_000_000)
_CONFIG = """\
source: {{ url: "s3://bench/raw/*.parquet" }}
sink: {{ url: "s3://bench/out/" }}
encrypt: {{ default: pii, footer: encrypted }}
keys: {{ pii: "{key}" }}
run: {{ workers: {workers} }}
"""


def _prepare(
    files: Callable[[Place], tuple[int, int]],
    rtt_ms: Callable[[Place], float] = lambda _: _RTT_MS,
    *,
    encrypts: bool = False,
) -> Callable[[Place], AbstractContextManager[Ready]]:
    """Put files into a bucket; what the contenders see of it is the proxy."""

    @contextmanager
    def prepare(place: Place) -> Iterator[Ready]:
        from tests.servers.s3_server import S3Server, ServerDidNotStart
        from tests.servers.seaweedfs import seaweedfs

        (place.root / "weed").mkdir()
        try:
            with (
                seaweedfs(place.root / "weed") as server,
                counting_proxy(server.url, rtt_seconds=rtt_ms(place) / 1000) as proxy,
            ):
                os.environ.update(server.environment)  # for the checks, which look past the proxy
                environment = {**new_keys(place.root), **S3Server("proxy", proxy.url).environment}
                size = _upload(place, server.client(), files(place))
                if encrypts:
                    _carry_out(_pipecrypt_command(place, _WORKERS), environment)
                proxy.take_seen()
                yield Ready(size, environment, lambda: {"requests": float(proxy.take_seen().total())})
        except ServerDidNotStart as error:
            raise SystemExit(f"objects: {error}") from error

    return prepare


def _upload(place: Place, client: Any, files: tuple[int, int]) -> int:
    count, size = files
    client.create_bucket(Bucket=_BUCKET)
    for number in range(count):
        path = place.root / "raw" / f"part-{number:04}.parquet"
        rows = max(1, int(size * min(1, place.scale * 4)) // 32)
        write_table(path, rows=rows, columns=4, seed=number, row_group_size=250_000)
        with path.open("rb") as file:
            client.put_object(Bucket=_BUCKET, Key=f"raw/{path.name}", Body=file)
    return sum(path.stat().st_size for path in (place.root / "raw").iterdir())


def _client() -> Any:
    import boto3
    from botocore.client import Config

    return boto3.client("s3", config=Config(s3={"addressing_style": "path"}))


def _empty() -> None:
    client = _client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix="out/"):
        for each in page.get("Contents", ()):
            client.delete_object(Bucket=_BUCKET, Key=each["Key"])


def _check_copied(place: Place) -> None:
    """Compare names and sizes; what copies is trusted with the bytes."""
    pages = _client().get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix="out/")
    found = {each["Key"][4:]: each["Size"] for page in pages for each in page.get("Contents", ())}
    if found != {path.name: path.stat().st_size for path in (place.root / "raw").iterdir()}:
        raise WrongOutputError("the copy is not whole")
    _empty()


def _check_encrypted(place: Place) -> None:
    """Decrypt everything, past the proxy, and compare it with the sources."""
    with tempfile.TemporaryDirectory(dir=place.root) as plain:
        place.pipecrypt("decrypt", f"s3://{_BUCKET}/out/", plain, "--key", place.key())
        check_same(place.root / "raw", Path(plain))
    _empty()


def _carry_out(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})


def _pipecrypt_command(place: Place, workers: int) -> list[str]:
    config = place.root / f"run-{workers}.yaml"
    config.write_text(_CONFIG.format(key=place.key(), workers=workers), encoding="utf-8")
    return [sys.executable, "-m", "pipecrypt", "run", str(config)]


def _pipecrypt(workers: Callable[[Place], int] = lambda _: _WORKERS) -> Contender:
    return Contender(lambda place: _pipecrypt_command(place, workers(place)), _check_encrypted, is_ours=True)


def _plan(place: Place) -> Work:
    command = _pipecrypt_command(place, _WORKERS)
    return [*command[:3], "plan", command[-1]]


def _rclone(place: Place) -> Work:
    # Of two remotes of different names rclone lets no store copy by itself: that would not be a way through here.
    remote = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "FORCE_PATH_STYLE": "true"}
    remote["ENDPOINT"] = os.environ["AWS_ENDPOINT_URL_S3"]
    os.environ["RCLONE_CONFIG"] = os.devnull
    for which in ("ONE", "TWO"):
        os.environ.update({f"RCLONE_CONFIG_{which}_{key}": value for key, value in remote.items()})
    paths = [f"one:{_BUCKET}/raw", f"two:{_BUCKET}/out"]
    return [program("rclone"), "copy", *paths, "--transfers", _TRANSFERS, "--checkers", _TRANSFERS]


def _s5cmd(place: Place) -> Work:
    """s5cmd lets the store copy between its own buckets, so it goes through files, in two commands."""
    program_name, endpoint, there = program("s5cmd"), os.environ["AWS_ENDPOINT_URL_S3"], place.root / "out-s5cmd"
    command = f"{program_name} --endpoint-url {endpoint} --numworkers {_TRANSFERS} cp "
    return ["sh", "-ec", f"{command} 's3://{_BUCKET}/raw/*' {there}/ && {command} '{there}/*' s3://{_BUCKET}/out/"]


def _reading(*arguments: str) -> Contender:
    def start(place: Place) -> Work:
        given = [each.format(key=place.key(), out=place.out) for each in arguments]
        return [sys.executable, "-m", "pipecrypt", *given]

    return Contender(start, is_ours=True)


def _open(place: Place) -> Work:
    import pipecrypt as pc

    def run() -> None:
        with pc.open(f"s3://{_BUCKET}/out/", keys=[place.key()], trust=pc.Trust(verify="off")) as dataset:
            assert dataset.num_rows > 0  # noqa: S101

    return run


_LIMITS = (
    "Round trips: what each file needs one after the other, how many files are in flight, and what a run asks before "
    "and "
    "after all of them ([requests](requests.md)). The command starts Python, and a process for each worker."
)
_COPIES = {
    "rclone": Contender(_rclone, _check_copied),
    "s5cmd, through files": Contender(_s5cmd, _check_copied),
    "pipecrypt": _pipecrypt(),
}

CASES = (
    Case(
        "objects: small files",
        "How long do 120 files of 450 KB take from S3 to S3, at 30 ms a request, beside a copy?",
        _LIMITS,
        _prepare(lambda _: _SMALL),
        _COPIES,
        "rclone",
        rounds=3,
    ),
    Case(
        "objects: large files",
        "And 20 files of 50 MB?",
        "Bytes: SeaweedFS, the proxy, the hashes that S3 wants and what encrypts share two cores.",
        _prepare(lambda _: _LARGE),
        _COPIES,
        "rclone",
        rounds=3,
    ),
    Case(
        "objects: round trips",
        "How does the time grow with the distance?",
        _LIMITS,
        _prepare(lambda _: (60, _SMALL[1]), lambda place: place.point),
        {"rclone": _COPIES["rclone"], "pipecrypt": _pipecrypt()},
        "rclone",
        axis="ms a request",
        points=(0, 10, 30, 100),
        rounds=3,
    ),
    Case(
        "objects: files",
        "How does the time grow with the number of files?",
        _LIMITS,
        _prepare(lambda place: (int(place.point), _SMALL[1])),
        {"rclone": _COPIES["rclone"], "pipecrypt": _pipecrypt()},
        "rclone",
        axis="files",
        points=(1, 10, 100, 400),
        quick_points=(1, 10),
        rounds=3,
    ),
    Case(
        "objects: workers",
        "What do more workers add?",
        "A worker keeps several files in flight, so that more of them help only where CPU is what is short.",
        _prepare(lambda _: _SMALL),
        {"rclone": _COPIES["rclone"], "pipecrypt": _pipecrypt(lambda place: int(place.point))},
        "rclone",
        axis="workers",
        points=(1, 2, 4),
        rounds=3,
    ),
    Case(
        "objects: other commands",
        "What do the commands take that read a dataset of 120 files?",
        _LIMITS,
        _prepare(lambda _: _SMALL, encrypts=True),
        {
            "plan": Contender(_plan, is_ours=True),
            "run, nothing to do": Contender(lambda place: _pipecrypt_command(place, _WORKERS), is_ours=True),
            "decrypt to files": _reading("decrypt", f"s3://{_BUCKET}/out/", "{out}", "--key", "{key}"),
            "keys usage": _reading("keys", "usage", f"s3://{_BUCKET}/out/"),
            "clean": _reading("clean", f"s3://{_BUCKET}/out/"),
            "pipecrypt.open and num_rows": Contender(_open, is_ours=True),
        },
        "plan",
        rounds=3,
    ),
)
