"""Ends of objects that S3 replaces itself: on moto and on SeaweedFS, and what a conflict or a failure leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from pipecrypt.errors import ConflictError, StorageError
from pipecrypt.store import s3_object
from pipecrypt.store.filesystem import open_filesystem
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.s3 import MIN_BODY_BYTES, S3Store
from pipecrypt.store.s3_object import S3Object, copied_ranges
from pipecrypt.store.undo import replace_tail
from tests.servers.s3_server import S3Server

BODY = os.urandom(MIN_BODY_BYTES) + b"more"
END = b"the new end"


class Stored:
    def __init__(self, server: S3Server, body: bytes = BODY) -> None:
        self.client, self.bucket = server.client(), server.new_bucket()
        self.location = Location(f"s3://{self.bucket}/a/b.parquet", server.options)
        self.put(body + b"the old end, which is longer")
        found = open_store(self.location).stat().file()
        assert found is not None
        self.source: SourceFile = found

    def put(self, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key="a/b.parquet", Body=data)

    def get(self) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key="a/b.parquet")["Body"].read())

    def uploads(self) -> list[str]:
        return [each["UploadId"] for each in self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]

    def replace(self) -> int:
        return replace_tail(self.source, len(self.get()) - len(b"the old end, which is longer"), END)


@pytest.fixture
def stored(s3_server: S3Server) -> Stored:
    return Stored(s3_server)


@pytest.fixture
def spoil(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Callable[[], Any]], Any]], None]:
    """Let one call of S3 go another way."""
    fs = open_filesystem(stored.location).fs
    real = fs.call_s3

    def install(action: str, instead: Callable[[Callable[[], Any]], Any]) -> None:
        def call(name: str, **arguments: Any) -> Any:
            return instead(lambda: real(name, **arguments)) if name == action else real(name, **arguments)

        monkeypatch.setattr(fs, "call_s3", call, raising=False)

    return install


def _refuse(call: Callable[[], Any]) -> Any:
    raise OSError("out of order")


def test_only_the_end_is_sent(stored: Stored) -> None:
    assert stored.replace() == len(END)
    assert stored.get() == BODY + END
    assert stored.uploads() == []


def test_a_body_of_several_parts(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_object, "_COPIED_PART_BYTES", MIN_BODY_BYTES * 3 // 2)
    body = os.urandom(MIN_BODY_BYTES * 3 + 1)
    stored = Stored(s3_server, body)
    assert stored.replace() == len(END)
    assert stored.get() == body + END


@pytest.mark.parametrize("size", [MIN_BODY_BYTES, 256 << 20, (256 << 20) + 1, 5 << 40, 40 << 40])
def test_parts_are_what_s3_takes(size: int) -> None:
    ranges = copied_ranges(size)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert len(ranges) < 10_000
    assert all(MIN_BODY_BYTES <= end - start <= 5 << 30 for start, end in ranges)


def test_a_small_object_is_sent_whole(s3_server: S3Server) -> None:
    stored = Stored(s3_server, b"small")
    assert stored.replace() == len(b"small" + END)
    assert stored.get() == b"small" + END


def test_an_object_that_was_replaced_is_left_alone(stored: Stored) -> None:
    stored.put(BODY + b"of somebody else, and longer")
    with pytest.raises(ConflictError):
        stored.replace()
    assert stored.get() == BODY + b"of somebody else, and longer"
    assert stored.uploads() == []


def test_an_object_that_is_replaced_while_it_is_copied(stored: Stored, spoil: Callable[..., None]) -> None:
    def copy(call: Callable[[], Any]) -> Any:
        stored.put(BODY + b"of somebody else")
        return call()

    spoil("upload_part_copy", copy)
    with pytest.raises(ConflictError):
        stored.replace()
    assert stored.get() == BODY + b"of somebody else"
    assert stored.uploads() == []


@pytest.mark.parametrize("action", ["upload_part_copy", "upload_part", "complete_multipart_upload"])
def test_a_failure_aborts_only_our_own_upload(stored: Stored, spoil: Callable[..., None], action: str) -> None:
    other = stored.client.create_multipart_upload(Bucket=stored.bucket, Key="a/b.parquet")["UploadId"]
    before = stored.get()
    spoil(action, _refuse)
    with pytest.raises(StorageError):
        stored.replace()
    assert stored.get() == before
    assert stored.uploads() == [other]


def test_a_lost_answer_is_no_failure(stored: Stored, spoil: Callable[..., None]) -> None:
    def lose(call: Callable[[], Any]) -> Any:
        call()
        raise OSError("connection reset")

    spoil("complete_multipart_upload", lose)
    assert stored.replace() == len(END)
    assert stored.get() == BODY + END


def test_an_unknown_outcome_is_said(
    stored: Stored, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(call: Callable[[], Any]) -> Any:
        def broken(target: object) -> None:
            raise OSError("unreachable")

        monkeypatch.setattr(S3Object, "head", broken)
        return _refuse(call)

    spoil("complete_multipart_upload", vanish)
    with pytest.raises(ConflictError, match="may or may not"):
        stored.replace()


def test_a_store_without_this_call_gets_the_whole_object(stored: Stored, spoil: Callable[..., None]) -> None:
    class UnknownCallError(Exception):
        response = {"Error": {"Code": "NotImplemented"}}  # noqa: RUF012 - as botocore has it

    def unknown(call: Callable[[], Any]) -> Any:
        raise OSError("not implemented") from UnknownCallError()

    spoil("upload_part_copy", unknown)
    assert stored.replace() == len(BODY + END)
    assert stored.get() == BODY + END
    assert stored.uploads() == []


@pytest.mark.parametrize("action", ["upload_part_copy", "complete_multipart_upload"])
def test_a_busy_store_is_asked_again(stored: Stored, spoil: Callable[..., None], action: str) -> None:
    answers: list[None] = []

    class BusyError(Exception):
        response = {  # noqa: RUF012 - as botocore has it
            "ResponseMetadata": {"HTTPStatusCode": 409},
            "Error": {"Code": "ConditionalRequestConflict"},
        }

    def busy(call: Callable[[], Any]) -> Any:
        if len(answers) < 2:
            answers.append(None)
            raise OSError("busy") from BusyError()
        return call()

    spoil(action, busy)
    assert stored.replace() == len(END)
    assert stored.get() == BODY + END


def test_who_copies(stored: Stored) -> None:
    assert isinstance(open_store(stored.location), S3Store)
    assert S3Object(open_filesystem(stored.location)).takes_conditions
    sealed = {**stored.location.options, "s3_additional_kwargs": {"SSECustomerKey": "k"}}
    for other in (
        Location("/a/b", {}),
        Location("memory://a/b", {}),
        Location(f"simplecache::{stored.location.url}", {"s3": stored.location.options}),
    ):
        assert not isinstance(open_store(other), S3Store)
    assert not S3Object(open_filesystem(Location(stored.location.url, sealed))).takes_conditions
