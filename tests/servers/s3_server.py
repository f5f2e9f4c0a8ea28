"""What tests know of an S3 server on this machine, and how a program that serves is started and stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.client import Config

__all__ = ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "S3Server", "ServerDidNotStart", "free_ports", "serving"]

ACCESS_KEY_ID: Final = "AKIDFORTESTS"
SECRET_ACCESS_KEY: Final = "a-secret-of-nobody-in-no-account"  # noqa: S105
REGION: Final = "us-east-1"
_STOP_SECONDS: Final = 30.0


class ServerDidNotStart(Exception):  # noqa: N818 - a reason to skip
    """The program is not installed, ended early or never answered."""


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Args:
        name: what it is.
        url: of its S3 interface.
    """

    name: str
    url: str

    @property
    def options(self) -> dict[str, object]:
        """Storage options for s3fs."""
        return {
            "endpoint_url": self.url,
            "key": ACCESS_KEY_ID,
            "secret": SECRET_ACCESS_KEY,
            "client_kwargs": {"region_name": REGION},
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes s3fs and boto3 find this server and nothing else, where options cannot be given."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """Return a client of boto3, which looks at the server past s3fs."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=2),
        )

    def new_bucket(self) -> str:
        """Make a bucket of its own for a test and return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


@contextmanager
def serving(
    command: Sequence[str], *, log: Path, folder: Path, is_ready: Callable[[], bool], seconds: float
) -> Iterator[None]:
    """Run a program until the block ends.

    Args:
        command: the program and its arguments.
        log: gets what it prints.
        folder: its working directory and its place for temporary files.
        is_ready: says whether it serves; what it raises means no.
        seconds: how long that may take.

    Raises:
        ServerDidNotStart: it is not ready by then, or ended.
    """
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "TMPDIR": str(folder),
    }
    with log.open("wb") as printed:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=printed, stderr=printed)
    try:
        _wait(process, is_ready, seconds, log)
        yield
    finally:
        process.kill()  # the data is thrown away, and leaving in order takes some of them a quarter of a minute
        process.wait(_STOP_SECONDS)


def _wait(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    trouble = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise ServerDidNotStart(f"{process.args!r} ended with {process.returncode}: {last}")
        try:
            if is_ready():
                return
        except Exception as error:  # whatever the client calls "not yet"
            trouble = str(error)
        time.sleep(0.1)
    raise ServerDidNotStart(f"not ready within {seconds:.0f} seconds: {trouble}")


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
