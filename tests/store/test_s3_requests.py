"""Which requests the reads and writes of objects take, and that nothing is lost where one of them is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pipecrypt.errors import ConflictError, SinkNotEmptyError
from pipecrypt.store import s3_object
from pipecrypt.store.filesystem import open_filesystem
from pipecrypt.store.lease import LeaseHolder, read_holder, write_holder
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.process_identity import this_process
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.retry import TruncatedError
from tests.doubles.fault_proxy import fault_proxy
from tests.store.test_s3_sink import Bucket

_SMALL = 1000
_MODEST = 600_000  # more than what is always fetched whole


@contextmanager
def _asked(server: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a proxy, and the methods and ranges that it is asked for."""
    asked: list[str] = []

    def note(method: str, path: str, headers: Mapping[str, str]) -> None:
        asked.append(f"{method} {headers.get('Range', '')}".strip())

    with fault_proxy(server.url) as proxy:
        proxy.on_request = note
        yield proxy.url, asked


def _pinned(bucket: Bucket, size: int) -> SourceFile:
    bucket.client.put_object(Bucket=bucket.name, Key="a", Body=bytes(size))
    (source,) = list_sources(bucket.location("a"))
    return source


def _through(source: SourceFile, url: str) -> SourceFile:
    options = {**source.location.options, "endpoint_url": url}
    return replace(source, location=Location(source.location.url, options))


def test_a_small_object_takes_one_request_however_it_is_read(moto_s3_server: Any) -> None:
    source = _pinned(Bucket(moto_s3_server), _SMALL)
    with _asked(moto_s3_server) as (url, asked):
        with open_range_source(_through(source, url)) as file:
            assert bytes(file.read_range(0, 4)) == bytes(4)
            assert [bytes(each) for each in file.read_many([(10, 5), (900, 100)])] == [bytes(5), bytes(100)]
            out = bytearray(7)
            file.read_into(20, memoryview(out))
        assert asked == ["GET bytes=0-999"]


def test_a_modest_object_takes_one_request_where_all_of_it_is_read(moto_s3_server: Any) -> None:
    source = _pinned(Bucket(moto_s3_server), _MODEST)
    with _asked(moto_s3_server) as (url, asked):
        with open_range_source(_through(source, url), reads_all=True) as file:
            assert len(file.read_range(0, 4)) == 4
            assert len(file.read_range(4, _MODEST - 4)) == _MODEST - 4
        assert asked == [f"GET bytes=0-{_MODEST - 1}"]
        asked.clear()
        with open_range_source(_through(source, url)) as file:
            file.read_range(0, 4)
        assert asked == ["GET bytes=0-3"]


def test_an_answer_of_another_object_is_refused_where_the_condition_is_ignored(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(moto_s3_server)
    source, get = _pinned(bucket, _MODEST), s3_object._get

    async def ignoring(fs: Any, arguments: dict[str, Any], out: memoryview) -> Any:
        return await get(fs, {name: value for name, value in arguments.items() if name != "IfMatch"}, out)

    monkeypatch.setattr(s3_object, "_get", ignoring)
    with pytest.raises(ConflictError), open_range_source(source) as file:  # noqa: PT012 - the block is what is tested
        file.read_range(0, 10)
        bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"x" * _MODEST)
        file.read_range(10, 10)


def test_a_store_that_names_no_tag_is_looked_at(moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(moto_s3_server)
    source, get = _pinned(bucket, _SMALL), s3_object._get

    async def silent(fs: Any, arguments: dict[str, Any], out: memoryview) -> None:
        await get(fs, arguments, out)

    monkeypatch.setattr(s3_object, "_get", silent)
    with open_range_source(source) as file:
        assert bytes(file.read_range(0, 4)) == bytes(4)
    with pytest.raises(ConflictError), open_range_source(source) as file:  # noqa: PT012 - the block is what is tested
        file.read_range(0, 4)
        bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"x" * _SMALL)


def test_a_free_place_is_not_looked_at_and_nothing_is_replaced(moto_s3_server: Any) -> None:
    bucket = Bucket(moto_s3_server)
    with _asked(moto_s3_server) as (url, asked):
        store = open_store(Location(bucket.location("").url, {**bucket.options, "endpoint_url": url}))
        with store.write("b", overwrite=False, is_free=True) as sink:
            sink.write(b"one")
            sink.publish()
        assert asked == ["PUT"]
        for overwrite in (False, True):
            with (  # noqa: PT012 - the block is what is tested
                pytest.raises(ConflictError if overwrite else SinkNotEmptyError),
                store.write("b", overwrite=overwrite, is_free=True) as sink,
            ):
                sink.write(b"another")
                sink.publish()
    assert bucket.get("b") == b"one"


def test_an_empty_directory_takes_one_listing(moto_s3_server: Any) -> None:
    bucket = Bucket(moto_s3_server)
    with _asked(moto_s3_server) as (url, asked):
        store = open_store(Location(bucket.location("").url, {**bucket.options, "endpoint_url": url}))
        assert list(store.list("nothing")) == []
        assert asked == ["GET"]


def test_a_lock_is_taken_without_a_look_where_writers_are_kept_apart(s3_server: Any) -> None:
    bucket = Bucket(s3_server)
    holder = LeaseHolder(1, "one", "a" * 32, this_process(), 10, 0)
    with _asked(s3_server) as (url, asked):
        options = {**bucket.location("lock").options, "endpoint_url": url}
        directory = Location(bucket.location("lock").url, options)
        write_holder(directory, holder, overwrite=False, is_free=True)
        assert asked == ["PUT"]
    with pytest.raises(SinkNotEmptyError):  # whoever comes a moment later is refused by the store
        write_holder(bucket.location("lock"), replace(holder, write_id="b" * 32), overwrite=False, is_free=True)
    assert read_holder(bucket.location("lock"), 1) == holder


def test_an_answer_that_comes_late_touches_no_memory(moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory may hold other bytes by then, which would be encrypted in place of the right ones."""
    kept: list[memoryview] = []

    async def goes_on(fs: Any, arguments: Mapping[str, Any], out: memoryview) -> None:
        kept.append(out)
        raise TimeoutError

    monkeypatch.setattr(s3_object, "_get", goes_on)
    target = s3_object.S3Object(open_filesystem(Bucket(moto_s3_server).location("a")))
    memory = bytearray(4)
    with pytest.raises(TimeoutError):
        target.get(0, memoryview(memory), None)
    with pytest.raises(ValueError, match="released"):
        kept[0][:] = b"late"
    assert memory == bytes(4)


@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_range_of_another_length_is_not_taken(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch, surplus: int
) -> None:
    remote = open_filesystem(_pinned(Bucket(moto_s3_server), _SMALL).location)
    call = remote.fs._call_s3

    async def another_range(method: str, **arguments: Any) -> Any:
        return await call(method, **{**arguments, "Range": f"bytes=0-{99 + surplus}"})

    monkeypatch.setattr(remote.fs, "_call_s3", another_range)
    with pytest.raises(TruncatedError):
        s3_object.S3Object(remote).get(0, memoryview(bytearray(100)), None)
