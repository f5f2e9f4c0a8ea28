"""Fixtures of the servers, each started once for all tests of a worker; tests/conftest.py makes them known everywhere.

A test that works on any S3 server asks for `s3_server` and runs on each. Where a server cannot start it is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

__all__ = ["azurite_store", "fake_gcs_store", "moto_s3_server", "s3_server", "seaweedfs_server"]


@pytest.fixture(scope="session")
def moto_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a running `S3Server`: moto."""
    pytest.importorskip("boto3")
    pytest.importorskip("moto.server")
    from tests.servers.moto_s3 import moto_s3  # noqa: PLC0415

    yield from _running("moto", moto_s3(tmp_path_factory.mktemp("moto")))


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a running `S3Server`: SeaweedFS."""
    pytest.importorskip("boto3")
    from tests.servers.seaweedfs import seaweedfs  # noqa: PLC0415

    yield from _running("SeaweedFS", seaweedfs(tmp_path_factory.mktemp("weed")))


@pytest.fixture(params=["moto_s3_server", "seaweedfs_server"], ids=["moto", "seaweedfs"])
def s3_server(request: pytest.FixtureRequest) -> object:
    """Return each of the servers in turn."""
    pytest.importorskip("s3fs")
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def fake_gcs_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a running `BlobStore`: fake-gcs-server."""
    pytest.importorskip("boto3")
    from tests.servers.blob_stores import fake_gcs  # noqa: PLC0415

    yield from _running("fake-gcs-server", fake_gcs(tmp_path_factory.mktemp("gcs")))


@pytest.fixture(scope="session")
def azurite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a running `BlobStore`: Azurite."""
    pytest.importorskip("boto3")
    from tests.servers.blob_stores import azurite  # noqa: PLC0415

    yield from _running("Azurite", azurite(tmp_path_factory.mktemp("azurite")))


def _running(name: str, server: AbstractContextManager[object]) -> Iterator[object]:
    """Yield a server while it runs; skip what asks for it where it cannot start."""
    from tests.servers.s3_server import ServerDidNotStart  # noqa: PLC0415

    try:
        with server as started:
            yield started
    except ServerDidNotStart as error:
        pytest.skip(f"{name}: {error}")
