"""Fixtures of the servers, each started once for all tests of a worker; tests/conftest.py makes them known everywhere.

A test that works on any S3 server asks for `s3_server` and runs on each. Where a server cannot start it is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

__all__ = ["azurite_store", "fake_gcs_store", "moto_s3_server", "s3_server", "seaweedfs_server"]


@pytest.fixture(scope="session")
def moto_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a running `S3Server`: moto."""
    pytest.importorskip("boto3")
    pytest.importorskip("moto.server")
    from tests.servers.moto_s3 import moto_s3  # noqa: PLC0415
    from tests.servers.s3_server import ServerDidNotStart  # noqa: PLC0415

    try:
        with moto_s3(tmp_path_factory.mktemp("moto")) as server:
            yield server
    except ServerDidNotStart as error:
        pytest.skip(f"moto: {error}")


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a running `S3Server`: SeaweedFS."""
    pytest.importorskip("boto3")
    from tests.servers.s3_server import ServerDidNotStart  # noqa: PLC0415
    from tests.servers.seaweedfs import seaweedfs  # noqa: PLC0415

    try:
        with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
            yield server
    except ServerDidNotStart as error:
        pytest.skip(f"SeaweedFS: {error}")


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
    from tests.servers.s3_server import ServerDidNotStart  # noqa: PLC0415

    try:
        with fake_gcs(tmp_path_factory.mktemp("gcs")) as store:
            yield store
    except ServerDidNotStart as error:
        pytest.skip(f"fake-gcs-server: {error}")


@pytest.fixture(scope="session")
def azurite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a running `BlobStore`: Azurite."""
    pytest.importorskip("boto3")
    from tests.servers.blob_stores import azurite  # noqa: PLC0415
    from tests.servers.s3_server import ServerDidNotStart  # noqa: PLC0415

    try:
        with azurite(tmp_path_factory.mktemp("azurite")) as store:
            yield store
    except ServerDidNotStart as error:
        pytest.skip(f"Azurite: {error}")
