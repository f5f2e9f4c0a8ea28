"""Moving files: on file systems that rename, that copy, that do neither, and that fail or die in between."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

from pipecrypt.errors import StorageError
from pipecrypt.store import fsspec_changes as rename_module
from pipecrypt.store.filesystem import open_filesystem
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.s3_object import S3Object
from tests.servers.s3_server import S3Server

BODY, OLDER = b"the new content", b"the old content"
assert len(BODY) == len(OLDER)
NAMES = ("staged/[x] *?.parquet", "day=1/b ü.parquet")


class DiedError(BaseException):
    """Nothing of ours catches it, as nothing catches a kill."""


class _Copying(MemoryFileSystem):  # type: ignore[misc]
    """A storage that copies whole objects, as most do; `on` says what happens instead of a call."""

    protocol = "mover"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    on: ClassVar[dict[str, Callable[..., Any]]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("mover://").removeprefix("abfss://")))

    @classmethod
    def at(cls, path: str) -> bytes | None:
        found = cls.store.get("/box/" + path)
        return None if found is None else bytes(found.getvalue())

    @classmethod
    def put(cls, path: str, data: bytes) -> None:
        cls().pipe_file("/box/" + path, data)

    def _call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        instead = self.on.get(name)
        return real(*arguments) if instead is None else instead(real, *arguments)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self._call("cp_file", super().cp_file, path1, path2)

    def rm_file(self, path: str) -> None:
        self._call("rm_file", super().rm_file, path)

    def info(self, path: str, **options: Any) -> Any:
        # Nothing but its size tells one version from another: so do some.
        found = super().info(path)
        return {name: value for name, value in found.items() if name != "created"}


class _Bare(_Copying):
    """One that can neither rename nor copy."""

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        AbstractFileSystem.cp_file(self, path1, path2)


class _Renaming(_Bare):
    """One that renames and cannot copy, as SFTP."""

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        self._call("mv", self._mv, path1, path2)

    def _mv(self, path1: str, path2: str) -> None:
        old, new = self._strip_protocol(path1), self._strip_protocol(path2)
        if old not in self.store:
            raise FileNotFoundError(old)
        self.store[new] = self.store.pop(old)


@pytest.fixture(autouse=True)
def _no_storage_stays() -> Iterator[None]:
    before = dict(_registry)
    yield
    _registry.clear()
    _registry.update(before)
    for kind in (_Copying, _Bare, _Renaming):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
        kind.on.clear()


def _place(kind: type[_Copying], path: str, *, seconds: float = 5, protocol: str = "mover") -> Location:
    fsspec.register_implementation(protocol, kind, clobber=True)
    return Location(f"{protocol}://box/{path}", {"transfer": {"deadline_seconds": seconds}})


def _two(kind: type[_Copying], *, seconds: float = 5, there: bytes | None = None) -> tuple[Location, Location]:
    kind.put("staged/a", BODY)
    if there is not None:
        kind.put("day=1/a", there)
    return _place(kind, "staged/a", seconds=seconds), _place(kind, "day=1/a", seconds=seconds)


def _is_moved(kind: type[_Copying]) -> bool:
    return (kind.at("staged/a"), kind.at("day=1/a")) == (None, BODY)


@pytest.mark.parametrize("there", [None, OLDER, b"of another size"])
def test_local(tmp_path: Path, there: bytes | None) -> None:
    old, new = (tmp_path / name for name in NAMES)
    for path, data in ((old, BODY), (new, there)):
        if data is not None:
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
    open_store(Location(str(old))).move(Location(str(new)))
    assert not old.exists()
    assert new.read_bytes() == BODY
    with pytest.raises(StorageError):
        open_store(Location(str(old))).move(Location(str(new)))
    assert new.read_bytes() == BODY


def test_local_between_two_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, real = tmp_path / "a", tmp_path / "mounted" / "a", os.rename

    def rename(one: str, other: str, **directories: int) -> None:
        if one == old.name:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(one, other, **directories)

    monkeypatch.setattr(os, "rename", rename)
    old.write_bytes(BODY)
    open_store(Location(str(old))).move(Location(str(new)))
    assert not old.exists()
    assert new.read_bytes() == BODY
    assert [each.name for each in new.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("there", [None, OLDER, b"of another size"])
def test_memory(memory: AbstractFileSystem, there: bytes | None) -> None:
    old, new = (Location(f"memory://box/{name}") for name in NAMES)
    memory.pipe_file(f"/box/{NAMES[0]}", BODY)
    memory.pipe_file("/box/staged/x y.parquet", b"what a glob would find")
    if there is not None:
        memory.pipe_file(f"/box/{NAMES[1]}", there)
    open_store(old).move(new)
    assert {path: memory.cat_file(path) for path in memory.find("/box")} == {
        f"/box/{NAMES[1]}": BODY,
        "/box/staged/x y.parquet": b"what a glob would find",
    }
    with pytest.raises(StorageError):
        open_store(old).move(new)
    assert memory.cat_file(f"/box/{NAMES[1]}") == BODY


@pytest.mark.parametrize("there", [None, OLDER, b"of another size"])
def test_s3(s3_server: S3Server, there: bytes | None) -> None:
    client, bucket = s3_server.client(), s3_server.new_bucket()
    old, new = (Location(f"s3://{bucket}/{name}", s3_server.options) for name in NAMES)
    client.put_object(Bucket=bucket, Key=NAMES[0], Body=BODY)
    if there is not None:
        client.put_object(Bucket=bucket, Key=NAMES[1], Body=there)
    open_store(old).move(new)
    assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == [NAMES[1]]
    assert client.get_object(Bucket=bucket, Key=NAMES[1])["Body"].read() == BODY


def test_s3_once_more_after_a_death(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client, bucket = s3_server.client(), s3_server.new_bucket()
    old, new = (Location(f"s3://{bucket}/{name}", s3_server.options) for name in NAMES)
    client.put_object(Bucket=bucket, Key=NAMES[0], Body=BODY)
    with monkeypatch.context() as patch:
        patch.setattr(S3Object, "remove", _die)
        with pytest.raises(DiedError):
            open_store(old).move(new)
    assert len(client.list_objects_v2(Bucket=bucket)["Contents"]) == len(NAMES)
    open_store(old).move(new)  # the tag of what is there is that of the copy: the bytes are compared
    assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == [NAMES[1]]
    assert client.get_object(Bucket=bucket, Key=NAMES[1])["Body"].read() == BODY


def test_a_storage_that_does_not_offer_copying_gets_the_bytes(
    moto_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bucket = moto_s3_server.client(), moto_s3_server.new_bucket()
    old, new = (Location(f"s3://{bucket}/{name}", moto_s3_server.options) for name in NAMES)
    client.put_object(Bucket=bucket, Key=NAMES[0], Body=BODY)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSYS, "NotImplemented")  # as s3fs says it

    monkeypatch.setattr(open_filesystem(old).fs, "cp_file", refuse)
    monkeypatch.setattr(S3Object, "copy_from", refuse)
    open_store(old).move(new)
    assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == [NAMES[1]]
    assert client.get_object(Bucket=bucket, Key=NAMES[1])["Body"].read() == BODY


@pytest.mark.parametrize("kind", [_Copying, _Renaming])
@pytest.mark.parametrize("there", [None, BODY, OLDER, b"of another size"])
def test_where_the_storage_copies_or_renames(kind: type[_Copying], there: bytes | None) -> None:
    old, new = _two(kind, there=there)
    open_store(old).move(new)
    assert _is_moved(kind)


def test_where_it_offers_neither_the_file_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.store.protocol._PIECE_BYTES", 4)
    _Bare.put("staged/a", BODY)
    open_store(_place(_Bare, "staged/a", protocol="abfss")).move(_place(_Bare, "day=1/a", protocol="abfss"))
    assert _is_moved(_Bare)


def test_where_nothing_can_appear_whole_nothing_moves() -> None:
    old, new = _two(_Bare, there=OLDER)
    with pytest.raises(StorageError, match="neither rename nor copy"):
        open_store(old).move(new)
    assert _Bare.store.keys() == {"/box/staged/a", "/box/day=1/a"}
    assert (_Bare.at("staged/a"), _Bare.at("day=1/a")) == (BODY, OLDER)
    with open_store(new.sibling("b")).write(overwrite=False) as sink:
        sink.write(BODY)
        with pytest.raises(StorageError, match="neither rename nor copy"):
            sink.publish()
    assert len(_Bare.store) == 2


@pytest.mark.parametrize("there", [None, OLDER])
@pytest.mark.parametrize("meanwhile", [b"", BODY[:4], None])
def test_a_copy_that_completes_late_is_waited_for(there: bytes | None, meanwhile: bytes | None) -> None:
    """Azure answers before it has copied: an empty object is there at first. Others show what was there before."""
    started: list[threading.Timer] = []

    def copy(real: Callable[..., None], old: str, new: str) -> None:
        if meanwhile is not None:
            _Copying.put("day=1/a", meanwhile)
        data = BODY
        started.append(threading.Timer(0.3, lambda: _Copying.put("day=1/a", data)))
        started[-1].start()

    def remove(real: Callable[..., None], path: str) -> None:
        assert _Copying.at("day=1/a") == BODY
        real(path)

    old, new = _two(_Copying, there=there)
    _Copying.on.update(cp_file=copy, rm_file=remove)
    open_store(old).move(new)
    started[0].join()
    assert _is_moved(_Copying)


@pytest.mark.parametrize("there", [None, OLDER])
@pytest.mark.parametrize("meanwhile", [b"", BODY[:4], None])
def test_a_copy_that_never_completes_costs_nothing(there: bytes | None, meanwhile: bytes | None) -> None:
    def copy(real: Callable[..., None], old: str, new: str) -> None:
        if meanwhile is not None:
            _Copying.put("day=1/a", meanwhile)

    old, new = _two(_Copying, seconds=0.4, there=there)
    _Copying.on.update(cp_file=copy)
    with pytest.raises(StorageError, match="not whole"):
        open_store(old).move(new)
    assert _Copying.at("staged/a") == BODY
    _Copying.on.clear()
    open_store(old).move(new)
    assert _is_moved(_Copying)


@pytest.mark.parametrize("kind", [_Copying, _Renaming])
@pytest.mark.parametrize("takes_effect", [True, False])
@pytest.mark.parametrize("passes", [True, False])
def test_a_call_that_fails(kind: type[_Copying], takes_effect: bool, passes: bool) -> None:
    calls = 0

    def fail(real: Callable[..., None], *paths: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1 or not passes:
            if takes_effect and calls == 1:
                real(*paths)
            raise ConnectionResetError("gone") if passes else OSError(errno.EACCES, "no")
        real(*paths)

    old, new = _two(kind, there=OLDER)
    name = "mv" if kind is _Renaming else "cp_file"
    kind.on[name] = fail
    if passes or (takes_effect and kind is _Renaming):
        open_store(old).move(new)
    else:
        with pytest.raises(StorageError):
            open_store(old).move(new)
        assert kind.at("staged/a") == BODY
        kind.on.clear()
        open_store(old).move(new)
    assert _is_moved(kind)


@pytest.mark.parametrize("error", [FileExistsError("there"), OSError(errno.EEXIST, "there")])
def test_a_server_that_renames_to_a_free_name_only(error: OSError) -> None:
    def strict(real: Callable[..., None], old: str, new: str) -> None:
        if _Renaming.at("day=1/a") is not None:
            raise error
        real(old, new)

    old, new = _two(_Renaming, there=OLDER)
    _Renaming.on["mv"] = strict
    open_store(old).move(new)
    assert _is_moved(_Renaming)


def _die(*arguments: object, **options: object) -> None:
    raise DiedError


@pytest.mark.parametrize("there", [None, BODY, OLDER, b"of another size"])
@pytest.mark.parametrize("step", ["cp_file", "rm_file"])
def test_after_a_death_in_between_moving_once_more_ends_it(there: bytes | None, step: str) -> None:
    old, new = _two(_Copying, there=there)
    _Copying.on[step] = _die
    with pytest.raises(DiedError):
        open_store(old).move(new)
    assert _Copying.at("staged/a") == BODY
    assert _Copying.at("day=1/a") == (BODY if step == "rm_file" else there)
    _Copying.on.clear()
    open_store(old).move(new)
    assert _is_moved(_Copying)


def test_without_a_look_at_the_copy_the_file_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = _two(_Copying, there=OLDER)
    _Copying.on["cp_file"] = lambda real, *paths: None
    monkeypatch.setattr(rename_module, "_check_copy", lambda *arguments: None)
    open_store(old).move(new)
    assert BODY not in (_Copying.at("staged/a"), _Copying.at("day=1/a"))
