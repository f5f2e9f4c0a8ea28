"""moto's S3 in a process of its own: it answers like S3 in much, checks no signature and keeps objects in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.s3_server import S3Server, free_ports, serving

__all__ = ["moto_s3"]

_START_SECONDS = 30.0


@contextmanager
def moto_s3(folder: Path) -> Iterator[S3Server]:
    """Run moto's server until the block ends.

    Args:
        folder: an empty directory.

    Raises:
        ServerDidNotStart: it does not run here.
    """
    (port,) = free_ports(1)
    server = S3Server("moto", f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    client = server.client()
    with serving(
        command,
        log=folder / "moto.log",
        folder=folder,
        is_ready=lambda: client.list_buckets() is not None,
        seconds=_START_SECONDS,
    ):
        yield server
