from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from pipecrypt.errors import StorageError, UnsafeSinkError
from pipecrypt.store import preconditions
from pipecrypt.store.conditional import ObjectHead
from pipecrypt.store.filesystem import RemoteFilesystem
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import check_writers
from pipecrypt.store.s3_object import UNCONDITIONAL, S3Object
from tests.store.test_s3_sink import Bucket


def test_servers_that_honour_them(s3_server: Any) -> None:
    bucket = Bucket(s3_server)
    assert check_writers(open_store(bucket.location("out")), is_only_writer=False).keeps_writers_apart
    assert bucket.names() == []
    assert bucket.uploads() == []


@pytest.mark.parametrize("method", ["put", "complete_upload"])
def test_servers_that_ignore_them(moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    real = getattr(S3Object, method)

    def ignoring(self: S3Object, *arguments: Any, **conditions: Any) -> None:
        real(self, *arguments)

    monkeypatch.setattr(S3Object, method, ignoring)  # as a server that does not look at the header
    bucket = Bucket(moto_s3_server)
    with pytest.raises(UnsafeSinkError) as caught:
        check_writers(open_store(bucket.location("out/")), is_only_writer=False)
    assert caught.value.exit_code == 5
    assert not check_writers(open_store(bucket.location("out/")), is_only_writer=True).keeps_writers_apart
    assert bucket.names() == []
    assert bucket.uploads() == []


def test_a_server_that_replaces_in_spite_of_a_tag(moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = S3Object.put

    def ignoring(self: S3Object, *arguments: Any, condition: Mapping[str, str] = UNCONDITIONAL) -> None:
        real(self, *arguments, condition={} if "IfMatch" in condition else condition)

    monkeypatch.setattr(S3Object, "put", ignoring)
    bucket = Bucket(moto_s3_server)
    assert not open_store(bucket.location("out")).guarantees().keeps_writers_apart
    assert bucket.names() == []


def _answering(status: int, code: str) -> Exception:
    error = OSError(code)
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("status", "code"), [(400, "InvalidArgument"), (405, "MethodNotAllowed"), (501, "NotImplemented")]
)
def test_a_server_that_does_not_know_the_header(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    real = S3Object.put

    def put(self: S3Object, *arguments: Any, **conditions: Any) -> None:
        if conditions:
            raise _answering(status, code)
        real(self, *arguments)

    monkeypatch.setattr(S3Object, "put", put)
    assert not open_store(Bucket(moto_s3_server).location("out")).guarantees().keeps_writers_apart


def test_a_server_that_is_busy_is_tried_again(moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, busy = S3Object.put, [_answering(409, "ConditionalRequestConflict")]

    def put(self: S3Object, *arguments: Any, **conditions: Any) -> None:
        if conditions and busy:
            raise busy.pop()
        real(self, *arguments, **conditions)

    monkeypatch.setattr(S3Object, "put", put)
    assert open_store(Bucket(moto_s3_server).location("out")).guarantees().keeps_writers_apart
    assert not busy


def test_what_a_server_ignores_of_moves_is_told(s3_server: Any) -> None:
    report = open_store(Bucket(s3_server).location("out")).guarantees()
    assert report.ignored == (("copies",) if s3_server.name == "moto" else ())


def test_a_server_that_removes_in_spite_of_a_tag_still_keeps_writers_apart(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = S3Object.remove

    def ignoring(self: S3Object, *, expected: str | None = None) -> None:
        real(self)

    monkeypatch.setattr(S3Object, "remove", ignoring)
    bucket = Bucket(moto_s3_server)
    report = open_store(bucket.location("out")).guarantees()
    assert report.keeps_writers_apart
    assert "removes" in report.ignored
    assert bucket.names() == []


@pytest.mark.parametrize("method", ["begin_upload", "put_part", "complete_upload", "copy_from"])
def test_nothing_stays_where_trying_fails(moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise _answering(403, "AccessDenied")

    monkeypatch.setattr(S3Object, method, fail)
    bucket = Bucket(moto_s3_server)
    with pytest.raises(StorageError):
        open_store(bucket.location("out")).guarantees()
    assert bucket.names() == []
    assert bucket.uploads() == []


def test_sinks_that_have_other_means(tmp_path: Path) -> None:
    for url in (str(tmp_path), "memory://x", "-"):
        assert open_store(Location(url)).guarantees().keeps_writers_apart


def test_sinks_that_have_none(faulty: object) -> None:
    with pytest.raises(UnsafeSinkError):
        check_writers(open_store(Location("faulty://b/out")), is_only_writer=False)


def test_a_store_that_fails(moto_s3_server: Any) -> None:
    with pytest.raises(StorageError):
        open_store(Location("s3://no-such-bucket-here/out", moto_s3_server.options)).guarantees()


class _Blobs(MemoryFileSystem):
    """A store in memory under the name of another: it can be told to overlook the mode of an upload."""

    protocol = "abfs"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    overlooks_mode = False
    overlooks_tags = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("abfs://", "memory://")))

    def put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **options: Any) -> None:
        if mode == "create" and not self.overlooks_mode and self.exists(rpath):
            raise FileExistsError(rpath)
        self.pipe_file(rpath, Path(lpath).read_bytes())


class _Blob:
    """An object of such a store; its tag is its content."""

    def __init__(self, remote: RemoteFilesystem) -> None:
        self._fs, self._path = remote.fs, remote.path

    def head(self) -> ObjectHead:
        content = self._fs.cat_file(self._path)
        return ObjectHead(len(content), None, content.decode())

    def replace(self, data: bytes, write_id: str, *, expected: str | None) -> None:
        if not _Blobs.overlooks_tags and self.head().tag != expected:
            raise FileExistsError(self._path)
        self._fs.pipe_file(self._path, data)


@pytest.mark.parametrize("overlooks", [None, "overlooks_mode", "overlooks_tags"])
def test_stores_that_take_a_mode_and_tags_are_tried(monkeypatch: pytest.MonkeyPatch, overlooks: str | None) -> None:
    monkeypatch.setitem(_registry, "abfs", _Blobs)
    monkeypatch.setattr(preconditions, "conditional_object", _Blob)
    if overlooks is not None:
        monkeypatch.setattr(_Blobs, overlooks, True)
    assert open_store(Location("abfs://box/out")).guarantees().keeps_writers_apart is (overlooks is None)
    assert not [name for name in _Blobs.store if "probe" in name]
