# ruff: noqa: PT012 - what fails is the block as a whole
"""Publishing on S3, against the servers of tests/servers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.errors import ConflictError, SinkNotEmptyError, StorageAccessError, StorageError, UsageError
from pipecrypt.store.location import Location, TransferSettings, transfer_settings
from pipecrypt.store.open import open_store
from pipecrypt.store.s3_object import MOST_PARTS, S3Object, first_part_bytes, part_bytes

MIB = 1 << 20
PART = 5 * MIB
SMALL = {"part_bytes": PART, "deadline_seconds": 5}


class Bucket:
    """A bucket of its own, seen by boto3 and by pipecrypt."""

    def __init__(self, server: Any) -> None:
        self.name = server.new_bucket()
        self.client = server.client()
        self.options = {**server.options, "transfer": SMALL}

    def location(self, key: str) -> Location:
        return Location(f"s3://{self.name}/{key}", self.options)

    def names(self) -> list[str]:
        return sorted(each["Key"] for each in self.client.list_objects_v2(Bucket=self.name).get("Contents", ()))

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def uploads(self) -> list[str]:
        return [each["UploadId"] for each in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]


@pytest.fixture
def bucket(s3_server: Any) -> Bucket:
    return Bucket(s3_server)


def _publish(location: Location, data: bytes, *, overwrite: bool = False) -> None:
    with open_store(location).write(overwrite=overwrite) as sink:
        for start in range(0, len(data), 3 * MIB):
            sink.write(memoryview(data)[start : start + 3 * MIB])
        sink.publish()


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 7])
@pytest.mark.parametrize("overwrite", [False, True])
def test_publishes_whole_objects(bucket: Bucket, size: int, overwrite: bool) -> None:
    data = os.urandom(size)
    _publish(bucket.location("x/ü a+b.bin"), data, overwrite=overwrite)
    assert bucket.names() == ["x/ü a+b.bin"]
    assert bucket.get("x/ü a+b.bin") == data
    assert bucket.uploads() == []
    assert bucket.client.head_object(Bucket=bucket.name, Key="x/ü a+b.bin")["Metadata"]["pipecrypt-write-id"]


def test_no_file_is_made_on_a_disk(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    _publish(bucket.location("a"), bytes(2 * PART))
    assert bucket.names() == ["a"]


@pytest.mark.parametrize("size", [1, 2 * PART])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(bucket: Bucket, size: int, error: type[BaseException]) -> None:
    other = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="other")["UploadId"]
    with pytest.raises(error), open_store(bucket.location("a")).write(overwrite=False) as sink:
        sink.write(bytes(size))
        sink.write(bytes(size))
        raise error
    assert bucket.names() == []
    assert bucket.uploads() == [other]


@pytest.mark.parametrize("size", [1, 2 * PART])
def test_the_first_writer_stays(bucket: Bucket, size: int) -> None:
    with open_store(bucket.location("a")).write(overwrite=False) as late:
        late.write(bytes(size))
        _publish(bucket.location("a"), b"first")
        with pytest.raises(SinkNotEmptyError):
            late.publish()
    with pytest.raises(SinkNotEmptyError):
        open_store(bucket.location("a")).write(overwrite=False)
    assert bucket.get("a") == b"first"
    assert bucket.uploads() == []
    _publish(bucket.location("a"), bytes(size), overwrite=True)
    assert bucket.get("a") == bytes(size)


def test_a_complete_file_waits_at_the_storage(bucket: Bucket) -> None:
    with open_store(bucket.location("a")).write(overwrite=False) as sink:
        sink.write(b"few")
        sink.complete()
        assert len(bucket.uploads()) == 1
        assert bucket.names() == []
        sink.publish()
    assert bucket.get("a") == b"few"
    with open_store(bucket.location("b")).write(overwrite=False) as sink:
        sink.write(b"few")
        sink.complete()
    assert bucket.names() == ["a"]
    assert bucket.uploads() == []


def test_refusals_come_at_once(moto_s3_server: Any, seaweedfs_server: Any) -> None:
    with pytest.raises(StorageError):  # SeaweedFS makes buckets that are not there
        _publish(Location("s3://no-such-bucket-here/a", moto_s3_server.options), b"x")
    denied = {**seaweedfs_server.options, "secret": "wrong", "transfer": SMALL}
    with pytest.raises(StorageAccessError) as caught:
        _publish(Location(f"s3://{seaweedfs_server.new_bucket()}/a", denied), b"x")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("expected", [None, 0, 10 * MIB, 100 << 30, 5 << 40])
def test_parts_hold_five_tebibytes(expected: int | None) -> None:
    first = first_part_bytes(TransferSettings(), expected)
    sizes = [part_bytes(first, number) for number in range(1, MOST_PARTS + 1)]
    assert sum(sizes) >= 5 << 40
    assert max(sizes) <= 5 << 30
    assert sum(sizes[:6000]) >= (expected or 0)
    assert len(set(sizes[:6000])) == 1  # which Cloudflare R2 insists on


@pytest.mark.parametrize(
    "given",
    [
        *(3, {"deadline": 1}, {"deadline_seconds": "x"}, {"deadline_seconds": -1}, {"part_bytes": 1}),
        *({"parts_in_flight": 0}, {"ranges_in_flight": 1.5}, {"range_bytes": True}),
    ],
)
def test_settings_are_checked(given: object) -> None:
    with pytest.raises(UsageError):
        transfer_settings({"transfer": given})


def test_settings_are_found() -> None:
    assert transfer_settings({}) == TransferSettings()
    assert transfer_settings({"transfer": {"deadline_seconds": 3}}) == TransferSettings(deadline_seconds=3)
    assert transfer_settings({"transfer": TransferSettings(deadline_seconds=4)}).deadline_seconds == 4


def _fails(*arguments: Any, **options: Any) -> None:
    raise PermissionError("not now")  # no failure that passes


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (["complete_upload"], StorageError),
        (["complete_upload", "abort_upload"], ConflictError),  # the parts may still become an object
        (["complete_upload", "head"], ConflictError),
    ],
)
def test_what_is_unknown_is_not_called_failed(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch, broken: list[str], kind: type[Exception]
) -> None:
    bucket = Bucket(moto_s3_server)
    with (
        monkeypatch.context() as patch,
        pytest.raises(kind) as caught,
        open_store(bucket.location("k")).write(overwrite=False) as sink,
    ):
        sink.write(memoryview(bytes(PART + 1)))
        sink.write(memoryview(bytes(PART + 1)))
        for method in broken:
            patch.setattr(S3Object, method, _fails)
        sink.publish()
    assert isinstance(caught.value, ConflictError) == (kind is ConflictError)
    assert bucket.names() == []


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_short_object_is_removed_and_never_what_came_in_its_place(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    bucket, real = Bucket(moto_s3_server), S3Object.head

    def head(self: S3Object) -> Any:
        found = real(self)
        if found is None:
            return None
        if is_replaced:
            bucket.client.put_object(Bucket=bucket.name, Key="k", Body=b"of another run")
        return replace(found, size_bytes=1)

    monkeypatch.setattr(S3Object, "head", head)
    with pytest.raises(StorageError, match="kept 1 of"):
        _publish(bucket.location("k"), bytes(2 * PART))
    assert bucket.names() == (["k"] if is_replaced else [])
    assert not is_replaced or bucket.get("k") == b"of another run"


def test_a_short_object_goes_where_the_store_has_no_conditions(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, real, real_remove = Bucket(moto_s3_server), S3Object.head, S3Object.remove

    class NotImplementedThereError(OSError):
        status = 501

    def remove(self: S3Object, *, expected: str | None = None) -> None:
        if expected is not None:
            raise NotImplementedThereError
        real_remove(self)

    def head(self: S3Object) -> Any:
        found = real(self)
        return None if found is None else replace(found, size_bytes=1)

    monkeypatch.setattr(S3Object, "remove", remove)
    monkeypatch.setattr(S3Object, "head", head)
    with pytest.raises(StorageError, match="kept 1 of"):
        _publish(bucket.location("k"), bytes(2 * PART))
    assert bucket.names() == []
