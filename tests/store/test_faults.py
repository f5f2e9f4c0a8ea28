# ruff: noqa: PT012 - what fails is the block as a whole
"""What holds when the network fails: files are whole or not there, and what was published is known.

Each suite is run once with trying again switched off, to see that the faults bite.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipecrypt as pc
from pipecrypt.errors import PipecryptError, SinkNotEmptyError, StorageAccessError
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from tests.doubles.fault_proxy import FaultProxy, fault_proxy
from tests.parquet.world import parquet_bytes, sample_table
from tests.reading.world import CREDENTIALS, Keys
from tests.store.test_s3_sink import PART, Bucket, _publish

SHARE = 0.05
FILES = 4


def _through(bucket: Bucket, proxy: FaultProxy, deadline_seconds: float) -> dict[str, Any]:
    transfer = {"part_bytes": PART, "range_bytes": 1 << 20, "deadline_seconds": deadline_seconds}
    return {**bucket.options, "endpoint_url": proxy.url, "transfer": transfer}


def _round_trip(bucket: Bucket, proxy: FaultProxy, deadline_seconds: float, data: bytes) -> int:
    """Publish files and read them back; return how often that failed cleanly."""
    options, failures = _through(bucket, proxy, deadline_seconds), 0
    for number in range(FILES):
        location = Location(f"s3://{bucket.name}/{proxy.seed}/{number}", options)
        try:
            _publish(location, data)
            (source,) = list_sources(location)
            with open_range_source(source) as opened:
                assert bytes(opened.read_range(0, len(data))) == data
        except PipecryptError:
            failures += 1
    return failures


@pytest.mark.parametrize("seed", range(3))
def test_files_are_whole_or_not_there(s3_server: Any, seed: int) -> None:
    bucket, data = Bucket(s3_server), os.urandom(2 * PART + 7)
    with fault_proxy(s3_server.url, seed=seed, share=SHARE) as proxy:
        assert _round_trip(bucket, proxy, 30, data) == 0
    assert sum(proxy.seen.values()) > 0
    assert all(bucket.get(key) == data for key in bucket.names())
    assert len(bucket.names()) == FILES
    assert bucket.uploads() == []


def test_without_trying_again_the_faults_bite(moto_s3_server: Any) -> None:
    bucket, data, failures = Bucket(moto_s3_server), os.urandom(2 * PART + 7), 0
    for seed in range(3):
        with fault_proxy(moto_s3_server.url, seed=seed, share=SHARE) as proxy:
            failures += _round_trip(bucket, proxy, 0, data)
    assert failures > 0
    assert all(bucket.get(key) == data for key in bucket.names())  # and yet none is short


@pytest.mark.parametrize("size", [pytest.param(100, marks=pytest.mark.long), 2 * PART])
def test_a_lost_answer_is_no_conflict(s3_server: Any, size: int) -> None:
    bucket, data = Bucket(s3_server), os.urandom(size)
    with fault_proxy(s3_server.url, lost_creation=1) as proxy:
        _publish(Location(f"s3://{bucket.name}/a", _through(bucket, proxy, 10)), data)
        assert proxy.seen.total() == 1
        with open_store(Location(f"s3://{bucket.name}/b", _through(bucket, proxy, 10))).write(overwrite=False) as late:
            late.write(b"second")
            _publish(bucket.location("b"), b"first")
            proxy.lost_creation = proxy.creations + 1
            with pytest.raises(SinkNotEmptyError):
                late.publish()
    assert bucket.get("a") == data
    assert bucket.get("b") == b"first"
    assert bucket.uploads() == []


def test_a_source_that_changes_is_noticed_by_the_range(moto_s3_server: Any) -> None:
    bucket = Bucket(moto_s3_server)
    _publish(bucket.location("a"), bytes(1000))
    (source,) = list_sources(bucket.location("a"))
    with pytest.raises(PipecryptError) as caught, open_range_source(source) as opened:
        bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"x" * 1000)
        opened.read_range(0, 10)
    assert caught.value.exit_code == 5
    for fingerprint in ("1000-other", "1000-"):
        with (
            pytest.raises(PipecryptError),
            open_range_source(replace(source, fingerprint=fingerprint)) as opened,
        ):
            opened.read_range(0, 10)


@pytest.mark.parametrize("seed", range(2))
def test_encrypting_and_decrypting(moto_s3_server: Any, tmp_path: Path, seed: int) -> None:
    bucket, plain = Bucket(moto_s3_server), parquet_bytes(sample_table(), row_group_size=200)
    for number in range(3):
        bucket.client.put_object(Bucket=bucket.name, Key=f"in/{number}.parquet", Body=plain)
    keys, base = Keys(tmp_path), f"s3://{bucket.name}"
    with fault_proxy(moto_s3_server.url, seed=seed, share=SHARE) as proxy:
        options = _through(bucket, proxy, 30)
        given: dict[str, Any] = {"source_options": options, "sink_options": options, "credentials": CREDENTIALS}
        pc.encrypt(f"{base}/in/", f"{base}/out/", pc.Policy(default=keys.open), **given)
        pc.decrypt(f"{base}/out/", f"{base}/back/", keys=[keys.open], **given)
        assert proxy.seen.total() > 0
    for number in range(3):
        assert bucket.get(f"back/{number}.parquet") == plain
    assert bucket.uploads() == []


def test_http_sources(moto_s3_server: Any) -> None:
    bucket, data = Bucket(moto_s3_server), os.urandom(3000)
    bucket.client.put_object(Bucket=bucket.name, Key="private", Body=data)
    bucket.client.put_object(Bucket=bucket.name, Key="a.bin", Body=data, ACL="public-read")
    with pytest.raises(StorageAccessError):
        list_sources(Location(f"{moto_s3_server.url}/{bucket.name}/private"))
    with fault_proxy(moto_s3_server.url, seed=1, share=0.2) as proxy:
        # Ranges so short that the file is not fetched whole.
        options = {"transfer": {"range_bytes": 1000}}
        (source,) = list_sources(Location(f"{proxy.url}/{bucket.name}/a.bin", options))
        with open_range_source(source) as opened:
            pieces = [bytes(opened.read_range(start, 100)) for start in range(0, 3000, 100)]
        assert proxy.seen.total() > 0
    assert b"".join(pieces) == data
