"""A store whose server dies while a run is at work, and comes back with its data: soon, late, or not for this run."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import pytest

from pipecrypt.errors import PipecryptError
from tests.doubles.fault_proxy import fault_proxy
from tests.faults.other_machine import OtherMachine
from tests.faults.scenes import SCENES, Shop, commitments, prepare, repeated_keys, write_source
from tests.servers.s3_server import S3Server, ServerDidNotStart, free_ports
from tests.servers.seaweedfs import seaweedfs

pytest.importorskip("s3fs")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

_MOMENTS = {
    "the first file": r"PUT .*/staged/day=1/b\.parquet",
    "the journal": r"PUT .*/parts-0*2\.jsonl?",
    "the list of files": r"PUT .*/_pipecrypt/files/.*",
    "the statement": r"PUT .*/_pipecrypt/manifest\.json",
    "a file moves": r"PUT .*/sink/day=1/b\.parquet",
    "a file goes": r"DELETE .*/staged/day=1/b\.parquet",
}


class _Server:
    """SeaweedFS that can be killed and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = free_ports(8)
        self._running = ExitStack()
        self.s3: S3Server

    def start(self) -> None:
        self.s3 = self._running.enter_context(seaweedfs(self._folder, ports=self._ports))

    def kill(self) -> None:
        self._running.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    folder = tmp_path / "weed"
    folder.mkdir()
    made = _Server(folder)
    try:
        made.start()
    except ServerDidNotStart as error:
        pytest.skip(f"SeaweedFS: {error}")
    yield made
    made.kill()


def _shop(server: _Server, root: Path) -> tuple[Shop, Counter[object]]:
    """Return a dataset whose sources have changed since its first version, and what that one holds."""
    root.mkdir()
    shop = prepare(SCENES["first"], root).at(f"s3://{server.s3.new_bucket()}/sink", options=server.s3.options)
    shop.run()
    first = shop.expected()
    write_source(shop.raw, "day=1/b", 40, "parquet", "new")
    write_source(shop.raw, "day=3/d", 20, "parquet")
    next(shop.raw.glob("day=2/c*")).unlink()
    return shop, first


def _kill_the_server(shop: Shop, server: _Server, moment: str, *, deadline_seconds: int, back_after: float) -> int:
    """Kill the server when a request comes, before or after it is carried out; return the exit code of the run."""
    wanted = re.compile(_MOMENTS[moment] + r"(\?.*)?$")
    with fault_proxy(server.s3.url) as proxy:
        held = proxy.hold_back(
            lambda method, path: wanted.search(f"{method} {unquote(path)}") is not None, cuts_off=False
        )
        options = {**shop.options, "endpoint_url": proxy.url, "transfer": {"deadline_seconds": deadline_seconds}}
        run = OtherMachine(shop.at(shop.sink, options=options), "run")
        back = threading.Timer(back_after, server.start)
        try:
            assert held.wait(30), run.outcome()
            server.kill()
            back.start()
            held.release(1)
            code, text = run.outcome()
        finally:
            run.end()
            back.join()
    assert code in {0, 1, 5}, text
    return code


def _check(shop: Shop, first: Counter[object]) -> None:
    """Whoever reads is given one of the versions; what is left is named, and done by the next run."""
    before = commitments(shop.files())
    assert shop.seen() in (first, shop.expected())
    shop.run(resumes=True)
    assert (shop.verify(), shop.plaintext()) == (2, shop.expected())
    assert shop.run().files == 0
    shop.clean()
    assert shop.leftovers() == []
    assert repeated_keys(before, commitments(shop.files())) == []


@pytest.mark.parametrize("moment", _MOMENTS)
def test_a_server_that_comes_back_at_once(server: _Server, tmp_path: Path, moment: str) -> None:
    shop, first = _shop(server, tmp_path / "shop")
    code = _kill_the_server(shop, server, moment, deadline_seconds=60, back_after=1)
    assert code == 0 or moment == "the statement"
    assert code != 0 or shop.verify() == 2
    _check(shop, first)


@pytest.mark.parametrize("moment", _MOMENTS)
def test_a_server_that_comes_back_too_late_for_this_run(server: _Server, tmp_path: Path, moment: str) -> None:
    shop, first = _shop(server, tmp_path / "shop")
    assert _kill_the_server(shop, server, moment, deadline_seconds=2, back_after=20) != 0
    _check(shop, first)


def test_a_server_that_is_not_there_is_told(server: _Server, tmp_path: Path) -> None:
    shop, first = _shop(server, tmp_path / "shop")
    server.kill()
    started = time.monotonic()
    with pytest.raises(PipecryptError) as caught:
        shop.at(shop.sink, options={**shop.options, "transfer": {"deadline_seconds": 5}}).run()
    assert caught.value.exit_code == 1
    assert time.monotonic() - started < 60
    server.start()
    shop.run()
    _check(shop, first)
