"""Verification on an object store: s3fs against moto's server. Skipped where those are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.errors import NotTrustedError, SourceNotFoundError, VerificationError
from tests.dataset.world import NAMES, SignedWorld, sign_file

s3fs = pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield {"endpoint_url": f"http://{host}:{port}"}
    running.stop()


def test_an_object_store(signed_world: SignedWorld, dataset: Path, options: dict[str, object]) -> None:
    store = s3fs.S3FileSystem(**options)
    store.mkdir("verified")
    for path in dataset.rglob("*"):
        if path.is_file():
            store.pipe_file(f"verified/orders/{path.relative_to(dataset).as_posix()}", path.read_bytes())
    place, trust = "s3://verified/orders", [str(signed_world.public_key)]
    report = pc.verify(place, trust, workers=4, storage_options=options)
    assert (report.files, report.root) == (3, place)
    keys, credentials = [signed_world.key], signed_world.credentials
    assert pc.verify(f"{place}/", trust, keys=keys, credentials=credentials, storage_options=options).tags_checked
    for part in (f"{place}/day=1", f"{place}/{NAMES[1]}"):
        assert pc.verify(part, trust, storage_options=options).files == 1
    assert pc.verify(place, trust, files=["day=*/*"], storage_options=options).files == 2

    store.rm_file(f"verified/orders/{NAMES[0]}")
    store.pipe_file("verified/orders/.extra", b"")
    # Not by `pipe_file`, of which older versions leave the slash out.
    store.call_s3("put_object", Bucket="verified", Key="orders/marker/", Body=b"")
    store.pipe_file(f"verified/orders/{NAMES[2]}", b"words")
    with pytest.raises(VerificationError) as caught:
        pc.verify(place, trust, storage_options=options)
    assert {(each.kind, each.path) for each in caught.value.report.findings} == {
        (FindingKind.MISSING, NAMES[0]),
        (FindingKind.EXTRA, ".extra"),
        (FindingKind.TRUNCATED, NAMES[2]),
    }
    with pytest.raises(NotTrustedError):
        pc.verify("s3://verified", trust, storage_options=options)
    with pytest.raises(SourceNotFoundError):
        pc.verify("s3://verified/nothing", trust, storage_options=options)


def test_a_single_object(signed_world: SignedWorld, dataset: Path, options: dict[str, object]) -> None:
    store = s3fs.S3FileSystem(**options)
    store.mkdir("single")
    sign_file(dataset / NAMES[0])
    for name in (NAMES[0], NAMES[0] + ".sig.json"):
        store.pipe_file(f"single/{name}", (dataset / name).read_bytes())

    assert pc.verify(f"s3://single/{NAMES[0]}", [str(signed_world.public_key)], storage_options=options).files == 1
