"""Who has lost the lock of a sink is told so, whatever else it met, and nothing that it sent before appears late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipecrypt.dataset.sign import next_version
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY, MANIFEST_PATH
from pipecrypt.errors import ConflictError, IntegrityError, LockLostError, PipecryptError, StorageError
from pipecrypt.runs.journal.sink_locking import locked_sink
from pipecrypt.store import lease
from pipecrypt.store.lease import LeaseHolder, write_holder
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.process_identity import this_process

MOST = 1000


@pytest.fixture(params=["local", "memory"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    if request.param == "local":
        (tmp_path / "sink").mkdir()
        yield Location(str(tmp_path / "sink"))
        return
    yield Location(f"memory://{tmp_path.name}")
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{tmp_path.name}"):
        fs.rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_LOOK_AGAIN_SECONDS", 0)


def _take_away(sink: Location) -> None:
    process = replace(this_process(), place="another machine")
    holder = LeaseHolder(9, "another run", "f" * 32, process, 10, 0)
    write_holder(sink.child(LOCK_DIRECTORY), holder, overwrite=False)


def _work(sink: Location, met: PipecryptError | None) -> None:
    with locked_sink(sink, "run") as lock:
        lock.state = "version 3 was signed"
        _take_away(sink)
        if met is not None:
            raise met


@pytest.mark.parametrize("met", [None, StorageError("gone"), IntegrityError("changed"), ConflictError("replaced")])
def test_whatever_it_met_it_ends_with_5(sink: Location, met: PipecryptError | None) -> None:
    with pytest.raises(LockLostError) as caught:
        _work(sink, met)
    assert caught.value.exit_code == 5
    assert "version 3 was signed" in caught.value.message
    assert met is None or met.message in caught.value.message
    assert "verify" in caught.value.hint


@pytest.mark.parametrize("met", [StorageError("gone"), IntegrityError("changed")])
def test_what_it_met_stays_while_it_holds_the_lock(sink: Location, met: PipecryptError) -> None:
    with pytest.raises(type(met), match=met.message), locked_sink(sink, "run"):
        raise met


def test_who_cannot_ask_for_long_does_not_know(sink: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise StorageError("no network")

    with locked_sink(sink, "run") as lock, monkeypatch.context() as patch:
        patch.setattr(lease, "numbers", fail)
        lock.check_quickly()
        later = lease._seconds_passed() + 3600
        patch.setattr(lease, "_seconds_passed", lambda: later)
        with pytest.raises(LockLostError, match="no network"):
            lock.check_quickly()


def test_the_statement_of_a_dead_holder_appears_no_more(moto_s3_server: Any) -> None:
    sink = Location(f"s3://{moto_s3_server.new_bucket()}/sink", moto_s3_server.options)
    place = sink.child(MANIFEST_PATH)
    open_store(place).replace(b"{}\n", expected=None)
    seen = {b"{}\n"}
    for takeover in range(next_version.MOST_LINE_FEEDS + 2):
        before = open_store(place).read_revision(max_bytes=MOST)
        next_version.fence(sink)
        with pytest.raises(ConflictError):
            open_store(place).replace(b"late", expected=before)
        found = open_store(place).read_revision(max_bytes=MOST)
        assert found is not None
        assert found.data.rstrip(b"\n") == b"{}"
        assert (found.data in seen) is (takeover >= next_version.MOST_LINE_FEEDS - 1)
        seen.add(found.data)


def test_only_who_takes_over_writes_it_again(moto_s3_server: Any) -> None:
    sink = Location(f"s3://{moto_s3_server.new_bucket()}/sink", moto_s3_server.options)
    place = sink.child(MANIFEST_PATH)
    open_store(place).replace(b"{}\n", expected=None)
    with locked_sink(sink, "run"):
        assert open_store(place).read_revision(max_bytes=MOST) == open_store(place).read_revision(max_bytes=MOST)
        found = open_store(place).read_revision(max_bytes=MOST)
        assert found is not None
        assert found.data == b"{}\n"
    dead = LeaseHolder(1, "dead run", "e" * 32, replace(this_process(), number=2**22 + 1, started="1"), 10, 0)
    write_holder(sink.child(LOCK_DIRECTORY), dead, overwrite=False)
    with locked_sink(sink, "run") as lock:
        assert lock.took_over
        found = open_store(place).read_revision(max_bytes=MOST)
        assert found is not None
        assert found.data == b"{}\n\n"


@pytest.mark.parametrize("spare", [0, 3])
def test_a_statement_that_cannot_be_written_again_stops_who_takes_over(
    moto_s3_server: Any, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    monkeypatch.setattr(next_version, "MAX_ENVELOPE_BYTES", MOST)
    sink = Location(f"s3://{moto_s3_server.new_bucket()}/sink", moto_s3_server.options)
    text = b"x" * (MOST - spare)
    open_store(sink.child(MANIFEST_PATH)).replace(text, expected=None)
    for _ in range(spare):
        next_version.fence(sink)
    before = open_store(sink.child(MANIFEST_PATH)).read_revision(max_bytes=MOST)
    with pytest.raises(ConflictError, match="too large to be written once more"):
        next_version.fence(sink)
    assert open_store(sink.child(MANIFEST_PATH)).read_revision(max_bytes=MOST) == before
