"""The servers keep and check what the tests of storages rely on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.servers.s3_server import S3Server, ServerDidNotStart, free_ports, serving


def test_an_object_is_kept_and_made_only_once(s3_server: S3Server) -> None:
    client, bucket = s3_server.client(), s3_server.new_bucket()
    client.put_object(Bucket=bucket, Key="a", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=bucket, Key="a", Body=b"second", IfNoneMatch="*")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"first"


def test_s3fs_finds_it_by_options_and_by_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    bucket = s3_server.new_bucket()
    s3fs.S3FileSystem(**s3_server.options).pipe_file(f"{bucket}/a", b"here")
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    assert s3fs.S3FileSystem(skip_instance_cache=True).cat_file(f"{bucket}/a") == b"here"


def test_seaweedfs_checks_signatures(seaweedfs_server: S3Server) -> None:
    client = seaweedfs_server.client()
    client._request_signer._credentials.secret_key = "another"  # noqa: S105
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.list_buckets()


def test_a_server_that_ends_or_never_answers_is_a_reason_to_skip(tmp_path: Path) -> None:
    for command, reason in [(["false"], "ended with 1"), (["sleep", "9"], "not ready")]:
        with (
            pytest.raises(ServerDidNotStart, match=reason),
            serving(command, log=tmp_path / "log", folder=tmp_path, is_ready=lambda: False, seconds=0.5),
        ):
            pytest.fail("it does not serve")
    assert len(set(free_ports(9))) == 9
    assert not [each for each in os.listdir(tmp_path) if each != "log"]
