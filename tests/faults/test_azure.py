"""Runs on Azure Blob Storage, as Azurite plays it. Opt in: PIPECRYPT_TEST_AZURITE names the program azurite-blob."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipecrypt.errors import ConflictError
from pipecrypt.store.lease import Lease
from tests.faults.scenes import SCENES, Shop, prepare, stop, write_source
from tests.servers.s3_server import free_ports, serving

PROGRAM = os.environ.get("PIPECRYPT_TEST_AZURITE")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="PIPECRYPT_TEST_AZURITE names no program azurite-blob"),
]
ACCOUNT = "pipecrypt"


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 - our own server
    except urllib.error.HTTPError:
        return True
    return True


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    pytest.importorskip("adlfs")
    (port,) = free_ports(1)
    secret, folder = base64.b64encode(os.urandom(64)).decode(), tmp_path / "azurite"
    folder.mkdir()
    monkeypatch.setenv("AZURITE_ACCOUNTS", f"{ACCOUNT}:{secret}")
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    command = [str(PROGRAM), "--silent", "--skipApiVersionCheck", f"--location={folder}", f"--blobPort={port}"]
    with serving(command, log=folder / "log", folder=folder, is_ready=lambda: _answers(url), seconds=30):
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={secret};BlobEndpoint={url};"
        options: dict[str, object] = {"connection_string": text}
        fsspec.filesystem("abfs", **options).mkdir("secure")
        (tmp_path / "shop").mkdir()
        yield prepare(SCENES["first"], tmp_path / "shop").at("abfs://secure/sink", options=options)


def test_a_run_is_resumed_and_repeated(shop: Shop) -> None:
    stop(shop, 2)
    assert shop.run(resumes=True).skipped == 1 + 1
    assert (shop.verify(), shop.plaintext()) == (1, shop.expected())
    write_source(shop.raw, "day=1/b", 40, "parquet", "new")
    next(shop.raw.glob("day=2/c*")).unlink()
    shop.run()
    assert (shop.verify(), shop.plaintext()) == (2, shop.expected())
    assert shop.run().files == 0
    shop.clean()
    assert shop.leftovers() == []


def test_one_run_at_a_time(shop: Shop) -> None:
    place = shop.request().sink.child("_pipecrypt/lock")
    with Lease(place, "another run"), pytest.raises(ConflictError):
        replace(shop).run()
    shop.run()
    assert shop.plaintext() == shop.expected()
