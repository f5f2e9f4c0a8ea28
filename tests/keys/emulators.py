"""Start emulators of AWS for tests: moto's server and ministack, each on a free loopback port. What is fake in them
stands where they are used.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

ACCESS_KEY_ID = "AKIDFORTESTS"
SECRET_ACCESS_KEY = "a-secret-of-nobody-in-no-account"  # noqa: S105
SESSION_TOKEN = "a-session-token-of-nobody"  # noqa: S105
# boto3 finds these and nothing else: no files, no instance.
AWS_ENVIRONMENT: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    "AWS_SESSION_TOKEN": SESSION_TOKEN,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
_SECONDS = 30


@contextmanager
def moto() -> Iterator[str]:
    port = _free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, {}) as url:
        yield url


@contextmanager
def ministack() -> Iterator[str]:
    port = _free_port()
    environment = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "kms,s3", "LOG_LEVEL": "WARNING"}
    with _running([sys.executable, "-m", "ministack"], port, environment) as url:
        yield url


@contextmanager
def _running(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[str]:
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
