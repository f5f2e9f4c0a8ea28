"""What the answers of stores to conditional requests mean, and what is done then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import SimpleNamespace
from typing import Any, cast

import fsspec.asyn
import pytest

from pipecrypt.errors import ConflictError, StorageError
from pipecrypt.store import azure, gcs
from pipecrypt.store.azure import AzureObject
from pipecrypt.store.conditional import (
    ConditionalObject,
    ObjectHead,
    asks_to_repeat,
    carry_out,
    is_condition_failed,
    knows_no_condition,
    precondition_failed,
)
from pipecrypt.store.filesystem import RemoteFilesystem
from pipecrypt.store.gcs import GCSObject
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.retry import Retry

PLACE = Location("s3://b/k")
HEAD = ObjectHead(10, "id", "tag")


def s3_error(status: int, code: str) -> Exception:
    error = OSError(code)
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}  # type: ignore[attr-defined]
    return error


class _AzureCode(str, Enum):  # noqa: UP042 - as Azure's client has it
    EXISTS = "BlobAlreadyExists"
    COPYING = "PendingCopyOperation"


def azure_error(status: int, code: _AzureCode) -> Exception:
    error = Exception(code.value)
    error.status_code, error.error_code = status, code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "failed", "repeats", "unknown"),
    [
        (s3_error(412, "PreconditionFailed"), True, False, False),
        (s3_error(409, "ConditionalRequestConflict"), False, True, False),
        (s3_error(409, "OperationAborted"), False, True, False),
        (azure_error(409, _AzureCode.EXISTS), True, False, False),
        (azure_error(409, _AzureCode.COPYING), False, True, False),
        (FileExistsError(), True, False, False),
        (FileNotFoundError(), True, False, False),
        (s3_error(501, "NotImplemented"), False, False, True),
        (s3_error(405, "MethodNotAllowed"), False, False, True),
        (s3_error(400, "InvalidArgument"), False, False, True),
        (s3_error(400, "RequestTimeout"), False, False, False),
        (s3_error(400, "ExpiredToken"), False, False, False),
        (s3_error(403, "AccessDenied"), False, False, False),
    ],
    ids=str,
)
def test_an_answer_means_one_thing(error: Exception, failed: bool, repeats: bool, unknown: bool) -> None:
    assert (is_condition_failed(error), asks_to_repeat(error), knows_no_condition(error)) == (failed, repeats, unknown)
    assert not (precondition_failed(error) and asks_to_repeat(error))


class _Store:
    """One object, whose writes fail with these errors, one after the other, before they succeed."""

    def __init__(self, *errors: Exception, head: ObjectHead | None = HEAD) -> None:
        self.errors = list(errors)
        self.found = head
        self.attempts = 0

    def head(self) -> ObjectHead | None:
        return self.found

    def write(self) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)


def carry(store: _Store, seconds: float = 60) -> None:
    retry = Retry(seconds, clock=lambda: float(store.attempts), pause=lambda _: False)
    target = cast(ConditionalObject, store)
    carry_out(target, store.write, lambda head: False, expected="tag", location=PLACE, retry=retry)


def test_what_was_not_decided_is_tried_again() -> None:
    store = _Store(*[s3_error(409, "ConditionalRequestConflict")] * 3)
    carry(store)
    assert store.attempts == 4


def test_what_is_never_decided_is_not_called_replaced() -> None:
    store = _Store(*[s3_error(409, "ConditionalRequestConflict")] * 90)
    with pytest.raises(OSError, match="ConditionalRequestConflict"):
        carry(store)


@pytest.mark.parametrize("found", [None, ObjectHead(10, "other", "other")])
def test_an_undecided_request_whose_object_was_replaced_is_not_repeated(found: ObjectHead | None) -> None:
    store = _Store(s3_error(409, "ConditionalRequestConflict"), head=found)
    with pytest.raises(ConflictError, match="replaced by another run"):
        carry(store)
    assert store.attempts == 1


def remote_of(**fs: object) -> RemoteFilesystem:
    made = SimpleNamespace(
        loop=fsspec.asyn.get_loop(), split_path=lambda path: (*path.split("/", 1), None), _location="", **fs
    )
    settings = SimpleNamespace(deadline_seconds=5)
    return cast(RemoteFilesystem, SimpleNamespace(fs=made, path="b/k", settings=settings))


def google(answers: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> GCSObject:
    async def call(*_: object, **options: Any) -> Mapping[str, Any]:
        return answers(options)

    return GCSObject(remote_of(_call=call))


def test_gcs_copies_in_several_calls() -> None:
    seen: list[str | None] = []

    def answer(options: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append(options["rewriteToken"])
        return {"done": True} if len(seen) == 3 else {"done": False, "rewriteToken": f"t{len(seen)}"}

    google(answer).copy_from("b/old", HEAD, expected=None)
    assert seen == [None, "t1", "t2"]


@pytest.mark.parametrize("answer", [{}, {"done": False}, {"done": False, "rewriteToken": ""}])
def test_gcs_that_does_not_say_how_to_go_on_is_not_asked_for_ever(answer: Mapping[str, Any]) -> None:
    with pytest.raises(StorageError, match="neither copied"):
        google(lambda _: answer).copy_from("b/old", HEAD, expected=None)


def test_gcs_that_never_ends_copying_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "_LONGEST_COPY_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        google(lambda _: {"done": False, "rewriteToken": "t"}).copy_from("b/old", HEAD, expected=None)


class _Blob:
    """A blob that is copied to; its copy has these states, one after the other, and then stays in the last."""

    def __init__(self, *states: str | None, hangs: bool = False) -> None:
        self.states = list(states)
        self.hangs = hangs
        self.url = "https://a/b"

    async def __aenter__(self) -> _Blob:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def start_copy_from_url(self, url: str, **conditions: object) -> None:
        if self.hangs:
            await azure.asyncio.sleep(3600)

    async def get_blob_properties(self) -> SimpleNamespace:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return SimpleNamespace(copy=SimpleNamespace(status=state))


def copy_on_azure(blob: _Blob, *, seconds: float = 5) -> None:
    remote = remote_of(service_client=SimpleNamespace(get_blob_client=lambda *_: blob))
    remote.settings.deadline_seconds = seconds  # type: ignore[misc]
    AzureObject(remote).copy_from("b/old", HEAD, expected="tag")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.core")
    monkeypatch.setattr(azure, "_POLL_SECONDS", 0.01)


def test_azure_waits_for_a_copy(hasty: None) -> None:
    copy_on_azure(_Blob("pending", "pending", "success"))


@pytest.mark.parametrize("state", ["failed", "aborted"])
def test_a_copy_that_azure_gave_up_is_not_called_done(hasty: None, state: str) -> None:
    with pytest.raises(StorageError, match=state):
        copy_on_azure(_Blob("pending", state))


def test_a_blob_that_replaced_the_copy_is_not_taken_for_it(hasty: None) -> None:
    with pytest.raises(FileExistsError):
        copy_on_azure(_Blob("pending", None))


def test_a_copy_that_stays_pending_is_left(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "_LONGEST_COPY_SECONDS", 0.2)
    with pytest.raises(TimeoutError):
        copy_on_azure(_Blob("pending"))


def test_an_azure_that_does_not_answer_is_left(hasty: None) -> None:
    with pytest.raises(TimeoutError):
        copy_on_azure(_Blob("success", hangs=True), seconds=0.1)
