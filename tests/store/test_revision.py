"""A small file is replaced only where it is the one that was read, whatever happens to the request or its answer."""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipecrypt.errors import ConflictError, FormatError, StorageError
from pipecrypt.store import local
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.s3_object import S3Object
from pipecrypt.vocabulary.state import take_lock
from tests.doubles.fault_proxy import FaultKind, fault_proxy

MOST = 1000


@pytest.fixture(params=["local", "memory", "moto", "seaweedfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location(str(tmp_path / "_pipecrypt" / "manifest.json"))
    if request.param == "memory":
        return Location(f"memory://{uuid.uuid4().hex}/manifest.json")
    pytest.importorskip("s3fs")
    server = request.getfixturevalue(f"{request.param}_s3_server" if request.param == "moto" else "seaweedfs_server")
    return Location(f"s3://{server.new_bucket()}/_pipecrypt/manifest.json", server.options)


def _data(place: Location) -> bytes | None:
    found = open_store(place).read_revision(max_bytes=MOST)
    return None if found is None else found.data


def test_of_two_that_read_the_same_one_publishes(place: Location) -> None:
    assert open_store(place).read_revision(max_bytes=MOST) is None
    open_store(place).replace(b"1", expected=None)
    with pytest.raises(ConflictError):
        open_store(place).replace(b"another first", expected=None)
    first = open_store(place).read_revision(max_bytes=MOST)
    open_store(place).replace(b"2", expected=first)
    for late in (b"another second", b"2"):
        with pytest.raises(ConflictError):
            open_store(place).replace(late, expected=first)
    assert _data(place) == b"2"
    open_store(place).replace(b"3", expected=open_store(place).read_revision(max_bytes=MOST))
    assert _data(place) == b"3"


def test_what_went_away_is_not_replaced(place: Location) -> None:
    open_store(place).replace(b"1", expected=None)
    first = open_store(place).read_revision(max_bytes=MOST)
    if place.is_local:
        os.unlink(place.local_path)
    else:
        fs, path = fsspec.core.url_to_fs(place.url, **place.options)
        fs.rm_file(path)
    with pytest.raises(ConflictError):
        open_store(place).replace(b"2", expected=first)
    assert _data(place) is None


def test_a_file_is_bounded(place: Location) -> None:
    open_store(place).replace(b"x" * MOST, expected=None)
    found = open_store(place).read_revision(max_bytes=MOST)
    assert found is not None
    assert len(found.data) == MOST
    with pytest.raises(FormatError):
        open_store(place).read_revision(max_bytes=MOST - 1)


def test_many_at_once(tmp_path: Path) -> None:
    place = Location(str(tmp_path / "manifest.json"))
    open_store(place).replace(b"0", expected=None)
    first, won = open_store(place).read_revision(max_bytes=MOST), []

    def publish(number: int) -> None:
        try:
            open_store(place).replace(b"%d" % number, expected=first)
            won.append(number)
        except ConflictError:
            pass

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert _data(place) == b"%d" % won[0]


def test_a_process_that_was_stopped_in_between_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Location(str(tmp_path / "manifest.json"))
    open_store(place).replace(b"1", expected=None)
    first = open_store(place).read_revision(max_bytes=MOST)
    monkeypatch.setattr(local, "take_lock", partial(take_lock, wait_seconds=0.1))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConflictError, match="another process holds the lock"):
        open_store(place).replace(b"2", expected=first)
    os.close(descriptor)
    open_store(place).replace(b"2", expected=first)


def _through(server: Any, proxy: Any, bucket: str) -> Location:
    options = {**server.options, "endpoint_url": proxy.url, "transfer": {"deadline_seconds": 5}}
    return Location(f"s3://{bucket}/manifest.json", options)


class _Losing:
    """Chooses what happens to requests: the answers of so many `PUT`s are lost, and of looks after them, if wanted."""

    def __init__(self, losing: int, *, hides: bool) -> None:
        self.losing = losing
        self.hides = hides
        self.lost = 0

    def choose(self, request: str, *, is_creation: bool) -> FaultKind | None:
        if request.startswith("PUT") and self.lost < self.losing:
            self.lost += 1
            return FaultKind.RESET
        return FaultKind.DROP if self.hides and self.lost and request.startswith("HEAD") else None


def test_a_small_object_is_read_by_one_request(moto_s3_server: Any) -> None:
    bucket = moto_s3_server.new_bucket()
    with fault_proxy(moto_s3_server.url) as proxy:
        store = open_store(_through(moto_s3_server, proxy, bucket))
        assert store.read_small(max_bytes=MOST) is None
        open_store(Location(f"s3://{bucket}/manifest.json", moto_s3_server.options)).replace(b"12", expected=None)
        assert store.read_small(max_bytes=2) == b"12"
        with pytest.raises(FormatError):
            store.read_small(max_bytes=1)
        assert [(request.split()[0], count) for request, count in proxy._made.items()] == [("GET", 3)]


def test_a_lost_answer_is_looked_up(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.new_bucket()
    plain = Location(f"s3://{bucket}/manifest.json", s3_server.options)
    with fault_proxy(s3_server.url) as proxy:
        place = _through(s3_server, proxy, bucket)
        for version in range(2):
            losing = _Losing(1, hides=False)
            monkeypatch.setattr(type(proxy), "choose", losing.choose)
            open_store(place).replace(b"%d" % version, expected=open_store(plain).read_revision(max_bytes=MOST))
            assert losing.lost == 1
            assert _data(plain) == b"%d" % version


def test_an_answer_that_stays_lost_is_unknown(moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = moto_s3_server.new_bucket()
    plain = Location(f"s3://{bucket}/manifest.json", moto_s3_server.options)
    with fault_proxy(moto_s3_server.url) as proxy:
        losing = _Losing(1, hides=True)
        monkeypatch.setattr(type(proxy), "choose", losing.choose)
        with pytest.raises(ConflictError, match="may or may not have been published"):
            open_store(_through(moto_s3_server, proxy, bucket)).replace(b"1", expected=None)
    assert _data(plain) == b"1"


def test_a_request_that_was_held_back_replaces_nothing_newer(s3_server: Any) -> None:
    bucket = s3_server.new_bucket()
    plain = Location(f"s3://{bucket}/manifest.json", s3_server.options)
    open_store(plain).replace(b"1", expected=None)
    first = open_store(plain).read_revision(max_bytes=MOST)
    with fault_proxy(s3_server.url) as proxy:
        held = proxy.hold_back(lambda method, path: method == "PUT")
        with pytest.raises(ConflictError):
            open_store(_through(s3_server, proxy, bucket)).replace(b"late", expected=first)
        open_store(plain).replace(b"2", expected=first)
        assert held.release() == 412
    assert _data(plain) == b"2"


def test_a_store_without_such_conditions_is_looked_at_before(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NotImplementedThereError(OSError):
        status = 501

    def refuse(*_: object, **conditions: object) -> None:
        raise NotImplementedThereError

    place = Location(f"s3://{moto_s3_server.new_bucket()}/manifest.json", moto_s3_server.options)
    open_store(place).replace(b"1", expected=None)
    first = open_store(place).read_revision(max_bytes=MOST)
    monkeypatch.setattr(S3Object, "replace", refuse)
    open_store(place).replace(b"2", expected=first)
    with pytest.raises(ConflictError):
        open_store(place).replace(b"3", expected=first)
    assert _data(place) == b"2"


def test_a_refusal_is_told(moto_s3_server: Any) -> None:
    place = Location("s3://there-is-no-such-bucket/manifest.json", moto_s3_server.options)
    with pytest.raises((StorageError, ConflictError)):
        open_store(place).replace(b"1", expected=None)
