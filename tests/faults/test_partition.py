"""A writer that a network cuts off, or that is stopped, and comes back when another one has gone on in its place.

A proxy before the store keeps one request of it and drops all others; the lease runs out, a second run takes over and
publishes, then the request is let through. Whatever it was, the dataset is that of the second run, and the first one
ends with exit code 5. Each protection is switched off once, to see that the suite notices.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.errors import ConflictError, PipecryptError, VerificationError
from pipecrypt.runs.directory_run import DirectoryRun
from pipecrypt.runs.journal import sink_locking
from tests.doubles.fault_proxy import FaultProxy, HeldRequest, fault_proxy
from tests.faults.other_machine import OtherMachine, act, beat_each_second
from tests.faults.scenes import SCENES, Shop, commitments, prepare, repeated_keys, write_source
from tests.servers.s3_server import S3Server

pytest.importorskip("s3fs")

LOST = 5
REFUSED, GONE = 412, 404
# What is held back, and what the second run then does. A dataset in its first version is continued as it is, or written
# anew; of the next version, files wait in a directory of their own.
MANIFEST = r"PUT .*/_pipecrypt/manifest\.json"
PLACES = r"/sink/(a|day=\d/[a-d])\.parquet"
STAGED = r"PUT .*/staged/day=3/d\.parquet"
COPY = rf"PUT .*{PLACES}"
REMOVAL_OF_STAGED = r"DELETE .*/staged/day=1/b\.parquet"
REMOVAL = rf"DELETE .*{PLACES}"
LIST = r"PUT .*/_pipecrypt/files/.*"
JOURNAL = r"PUT .*/parts-00000002\.jsonl?|PUT .*/parts-0*1\.json.*"
FINISHED = r"PUT .*/finished\.json"
BEAT = r"PUT .*/_pipecrypt/lock/1\.json"


@dataclass(frozen=True)
class Network:
    """A store, and a proxy before it for the first writer.

    Args:
        shop: which the second writer and readers see.
        cut: the same, as the first writer sees it.
        proxy: between that one and the store.
        statuses: what the store answered to requests that were held back.
    """

    shop: Shop
    cut: Shop
    proxy: FaultProxy
    statuses: list[int | None] = field(default_factory=list)

    def hold(self, pattern: str) -> HeldRequest:
        """Keep the next request of that kind, and drop all others from then on."""
        wanted = re.compile(pattern + r"(\?.*)?$")
        return self.proxy.hold_back(lambda method, path: wanted.search(f"{method} {unquote(path)}") is not None)


@pytest.fixture(autouse=True)
def _fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_locking, "Lease", sink_locking.Lease)
    beat_each_second()


@contextmanager
def _network(server: S3Server, root: Path, *, is_second: bool) -> Iterator[Network]:
    root.mkdir()
    shop = prepare(SCENES["first"], root).at(f"s3://{server.new_bucket()}/sink", options=server.options)
    if is_second:
        shop.run()
        _change(shop)
    with fault_proxy(server.url) as proxy:
        options = {**server.options, "endpoint_url": proxy.url, "transfer": {"deadline_seconds": 6}}
        yield Network(shop, shop.at(shop.sink, options=options), proxy)


def _change(shop: Shop) -> None:
    write_source(shop.raw, "day=1/b", 40, "parquet", "new")
    write_source(shop.raw, "day=3/d", 20, "parquet")
    next(shop.raw.glob("day=2/c*")).unlink()


def _change_again(shop: Shop) -> None:
    """Let the second run write what the first one did not."""
    write_source(shop.raw, "day=1/b", 50, "parquet", "newest")
    write_source(shop.raw, "day=2/c", 10, "parquet", "back")


def _check(shop: Shop, *, late: str = "") -> None:
    """The dataset is whole and is the second run's; nothing is left to do, nor left over.

    Args:
        shop: with the dataset.
        late: a file that the first run staged after the second one had ended: it is named until it is cleaned away.
    """
    before = commitments(shop.files())
    if late:
        with pytest.raises(VerificationError) as refused:
            shop.verify()
        findings = [(each.kind, each.path.rpartition("/staged/")[2]) for each in refused.value.report.findings]
        assert findings == [(FindingKind.LEFT_OVER, late)]
    else:
        assert shop.verify() >= 1
    assert shop.plaintext() == shop.expected()
    again = shop.run()
    assert (again.files, again.removed, again.signed) == (0, (), ())
    shop.clean()
    assert shop.leftovers() == []
    assert shop.verify() >= 1
    assert shop.plaintext() == shop.expected()
    assert repeated_keys(before, commitments(shop.files())) == []


def _trial(network: Network, pattern: str, second: str, *, sabotage: str = "", changes: bool = True) -> int | None:
    """Hold a request of one run back while another one goes on; return what the store answered to it in the end."""
    held = network.hold(pattern)
    first = OtherMachine(network.cut, "run", sabotage=sabotage)
    try:
        assert held.wait(30), f"{pattern} never came: {first.outcome()}"
        if changes:
            _change_again(network.shop)
        act(network.shop, second)
        status = held.release()
        code, text = first.outcome()
    finally:
        held.release()
        first.end()
    assert code == LOST, text
    assert text.startswith(("LockLostError", "ConflictError")), text
    _check(network.shop, late="day=3/d.parquet" if (pattern, status) == (STAGED, 200) else "")
    return status


@pytest.mark.parametrize(("second", "trials"), [("overwrite", 1), pytest.param("resume", 5, marks=pytest.mark.long)])
def test_a_statement_that_was_held_back(seaweedfs_server: Any, tmp_path: Path, second: str, trials: int) -> None:
    for trial in range(trials):
        with _network(seaweedfs_server, tmp_path / str(trial), is_second=True) as network:
            assert _trial(network, MANIFEST, second) == REFUSED


@pytest.mark.long
@pytest.mark.parametrize("second", ["overwrite", "resume"])
def test_a_first_statement_that_was_held_back(seaweedfs_server: Any, tmp_path: Path, second: str) -> None:
    with _network(seaweedfs_server, tmp_path / "shop", is_second=False) as network:
        assert _trial(network, MANIFEST, second) == REFUSED


def test_a_copy_to_a_place_that_was_held_back(seaweedfs_server: Any, tmp_path: Path) -> None:
    with _network(seaweedfs_server, tmp_path / "shop", is_second=True) as network:
        assert _trial(network, COPY, "run") in {REFUSED, GONE}


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("pattern", "second"),
    [
        *(
            (COPY, "overwrite"),
            (COPY, "resume"),
            (REMOVAL_OF_STAGED, "run"),
            (REMOVAL, "resume"),
            (REMOVAL, "overwrite"),
        ),
        *((STAGED, "resume"), (STAGED, "overwrite"), (LIST, "resume"), (LIST, "overwrite"), (JOURNAL, "resume")),
        *((FINISHED, "run"), (BEAT, "overwrite"), (BEAT, "resume")),
    ],
)
def test_any_request_that_was_held_back(seaweedfs_server: Any, tmp_path: Path, pattern: str, second: str) -> None:
    with _network(seaweedfs_server, tmp_path / "shop", is_second=True) as network:
        _trial(network, pattern, second)


def _release_at_work(network: Network, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Let a statement through when the second run has begun its work; return what the store answered."""
    held, seen = network.hold(MANIFEST), []
    first, real = OtherMachine(network.cut, "run"), DirectoryRun.begin

    def begin(run: DirectoryRun) -> None:
        seen.append(held.release())
        real(run)

    try:
        assert held.wait(30)
        _change_again(network.shop)
        with monkeypatch.context() as patch:
            patch.setattr(DirectoryRun, "begin", begin)
            act(network.shop, "resume")
        assert first.outcome()[0] == LOST
    finally:
        held.release()
        first.end()
        network.statuses.extend(seen)
    return seen[0]


@pytest.mark.long
def test_a_statement_that_comes_while_the_second_run_is_at_work(
    seaweedfs_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before that run has published: the statement that it would replace was written once more."""
    with _network(seaweedfs_server, tmp_path / "shop", is_second=True) as network:
        assert _release_at_work(network, monkeypatch) == REFUSED
        _check(network.shop)


@pytest.mark.parametrize("pattern", [MANIFEST, pytest.param(COPY, marks=pytest.mark.long)])
@pytest.mark.parametrize("second", [pytest.param("overwrite", marks=pytest.mark.long)])
def test_a_writer_that_was_stopped(seaweedfs_server: Any, tmp_path: Path, pattern: str, second: str) -> None:
    """The process is stopped with a request on its way, and goes on when the other run is done."""
    with _network(seaweedfs_server, tmp_path / "shop", is_second=True) as network:
        held = network.hold(pattern)
        held.cuts_off = False
        first = OtherMachine(network.cut, "run")
        try:
            assert held.wait(30)
            first.process.send_signal(signal.SIGSTOP)
            _change_again(network.shop)
            act(network.shop, second)
            held.release()
            first.process.send_signal(signal.SIGCONT)
            code, text = first.outcome()
        finally:
            held.release()
            first.end()
        assert code == LOST, text
        _check(network.shop)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_writer_that_is_stopped_at_any_moment(seaweedfs_server: Any, tmp_path: Path) -> None:
    codes = []
    for trial in range(6):
        with _network(seaweedfs_server, tmp_path / str(trial), is_second=True) as network:
            first = OtherMachine(network.cut, "run")
            try:
                time.sleep(2 + trial * 0.25)
                first.process.send_signal(signal.SIGSTOP)
                with contextlib.suppress(ConflictError):  # it has not begun, or has not finished
                    act(network.shop, "run")
                act(network.shop, "resume")
                first.process.send_signal(signal.SIGCONT)
                codes.append(first.outcome())
            finally:
                first.end()
            network.shop.run(resumes=True)
            _check(network.shop)
    assert {code for code, _ in codes} <= {0, LOST}, codes


@pytest.mark.long
def test_without_conditions_it_is_missed(seaweedfs_server: Any, tmp_path: Path) -> None:
    with (
        _network(seaweedfs_server, tmp_path / "shop", is_second=True) as network,
        pytest.raises((AssertionError, PipecryptError)),
    ):
        _trial(network, MANIFEST, "overwrite", sabotage="no conditions")


@pytest.mark.long
def test_without_writing_the_statement_once_more_it_is_missed(
    seaweedfs_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_locking, "fence", lambda sink: None)
    with _network(seaweedfs_server, tmp_path / "shop", is_second=True) as network:
        with pytest.raises(ConflictError):  # the second run finds the first one's version when it publishes
            _release_at_work(network, monkeypatch)
        assert network.statuses == [200]
        with pytest.raises(PipecryptError):  # of which it has replaced a file
            network.shop.verify()
