"""Full disks, key services that go down, sources that change, clocks that are wrong: the run fails, then continues."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import ANY

import pytest

from pipecrypt.errors import KeyServiceError, PipecryptError, StorageError
from pipecrypt.keys.schemes.keystore import KeystoreMasterKey
from pipecrypt.keys.signers import LocalSigner
from pipecrypt.runs import directory_run
from pipecrypt.runs import run as run_module
from pipecrypt.runs.journal.cleaning import clean
from pipecrypt.runs.report.events import Event, FileStarted
from pipecrypt.runs.report.run_id import new_run_id
from pipecrypt.store import local, publication
from tests.doubles.faulty_store import Faults, patched_os
from tests.faults.scenes import SCENES, Shop, commitments, prepare, repeated_keys, write_source

_REPORT_WRITES = 2


class _FullDisk(Faults):
    """From one write on, every one fails."""

    def hits(self, call: str) -> bool:
        return call == "write" and self.calls[call] >= self.at


def _failed(shop: Shop) -> bool:
    try:
        shop.run()
    except StorageError:
        return True
    return False


def _check(shop: Shop) -> None:
    before = commitments(shop.files()) if Path(shop.sink).exists() else {}
    shop.run(resumes=True)
    assert shop.plaintext() == shop.expected()
    if shop.scene.is_signed:
        shop.verify()
    again = shop.run()
    assert (again.files, again.removed, again.signed) == (0, (), ())
    shop.clean()
    assert shop.leftovers() == []
    assert repeated_keys(before, commitments(shop.files())) == []


@pytest.fixture(scope="module", params=["first", "next", "unsigned-next"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return prepare(SCENES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture
def first(tmp_path: Path) -> Shop:
    return prepare(SCENES["first"], tmp_path).at(tmp_path / "sink")


@pytest.fixture
def second(tmp_path: Path) -> Shop:
    return prepare(SCENES["next"], tmp_path).fresh("sink")


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.long)])
def test_the_disk_is_full_from_any_write_on(shop: Shop, step: int) -> None:
    with patched_os(Faults(), publication) as seen:
        shop.fresh(f"counted-{step}").run()
    assert seen.calls["write"] > 10
    for at in range(1, seen.calls["write"] + 1, step):
        full = shop.fresh(f"full-{step}-{at}")
        before = full.seen() if full.scene.is_second and full.scene.is_signed else None
        with patched_os(_FullDisk(at=at, error=errno.ENOSPC), publication):
            failed = _failed(full)
        # Only the report, which comes last, may be missing without a failure.
        assert failed or (at > seen.calls["write"] - _REPORT_WRITES and full.plaintext() == full.expected())
        assert not [name for name in full.files() if name.rpartition("/")[2].startswith(".")]
        if before is not None:
            assert full.seen() in (before, full.expected())
        _check(full)


def test_files_may_not_grow(first: Shop) -> None:
    """A limit of the system, in a process of its own: what it refuses is no fault of ours."""
    code = (
        "import sys; from pathlib import Path; from tests.faults.scenes import *;"
        "Shop(SCENES['first'], Path(sys.argv[1]), sys.argv[2]).run()"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))

    done = subprocess.run(
        [sys.executable, "-c", code, str(first.root), first.sink], preexec_fn=limit, capture_output=True, check=False
    )
    assert b"StorageError" in done.stderr
    assert first.seen() is None
    _check(first)


def _fails_from(call: int) -> Callable[..., bytes]:
    real, calls = LocalSigner.sign, 0

    def sign(self: LocalSigner, message: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise KeyServiceError("the service is down")
        return real(self, message)

    return sign


def _goes_down(shop: Shop, service: type, call: str, replacement: Callable[..., object]) -> bool:
    """Run while a key service fails; say whether the run did, and check what it left."""
    before = shop.seen() if shop.scene.is_second and shop.scene.is_signed else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, call, replacement)
        try:
            shop.run()
        except KeyServiceError:  # exit code 4
            pass
        else:
            return False
    if Path(shop.sink).exists() and shop.scene.is_signed:
        assert shop.seen() == before  # nothing is there, or what was there
    _check(shop)
    return True


def test_the_signing_service_goes_down(shop: Shop) -> None:
    if not shop.scene.is_signed:
        return
    for call in (1, 2, 3):
        assert _goes_down(shop.fresh(f"down-{call}"), LocalSigner, "sign", _fails_from(call))
    assert not _goes_down(shop.fresh("down-never"), LocalSigner, "sign", _fails_from(99))


def test_the_key_service_goes_down(shop: Shop) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise KeyServiceError("the service is down")

    assert _goes_down(shop.fresh("no-wrapping"), KeystoreMasterKey, "generate_key", fail)
    assert not _goes_down(shop.fresh("no-unwrapping"), KeystoreMasterKey, "unwrap_key", fail)  # a writer asks for none


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_changes_while_it_is_encrypted(first: Shop, workers: int) -> None:
    shop = replace(first, scene=replace(first.scene, workers=workers))
    _run_while_sources_change(shop)
    _check(shop)
    assert any("new-day=2.c" in str(email) for email in shop.plaintext())


def _run_while_sources_change(shop: Shop) -> None:
    def change(event: Event) -> None:
        if isinstance(event, FileStarted) and "b.parquet" in event.path and not changed:
            changed.append(event.path)
            write_source(shop.raw, "day=1/b", 90, "parquet", "new")  # as large as before
            write_source(shop.raw, "day=2/c", 30, "parquet", "new")

    changed: list[str] = []
    error = None
    try:
        run_module.run(shop.request(), credentials=shop.credentials, on_event=change)
    except PipecryptError as raised:
        error = raised
    assert error is not None
    assert error.exit_code == 5
    assert shop.seen() is None


def test_without_a_second_look_a_changed_source_is_noticed(first: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "local_fingerprint", lambda status: ANY)
    with pytest.raises(AssertionError):
        _run_while_sources_change(first)


@pytest.mark.parametrize("scene", ["next", "unsigned-next"])
@pytest.mark.parametrize("skew", [timedelta(days=-4000), timedelta(days=4000)])
def test_clocks_that_are_wrong(tmp_path: Path, scene: str, skew: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    _three_runs(prepare(SCENES[scene], tmp_path).fresh("sink"), skew, monkeypatch)


def _three_runs(shop: Shop, skew: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine of the second run be behind or ahead: what it writes is later all the same."""
    with monkeypatch.context() as patch:
        for module in (directory_run, run_module):
            patch.setattr(module, "utc_now", lambda: datetime.now(UTC) + skew)
        shop.run()
        assert shop.plaintext() == shop.expected()
    write_source(shop.raw, "day=4/e", 9, "parquet")
    third = shop.run()  # whose clock is right again
    assert (third.files, third.skipped) == (1, 3)
    names = [name for name in shop.files() if name.endswith("/finished.json")]
    assert len(names) == 3
    assert third.run_id == max(name.split("/")[-2] for name in names)
    _check(shop)


def test_the_grace_period_goes_by_the_clock_that_cleans(second: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    full = _FullDisk(at=12, error=errno.ENOSPC)
    with patched_os(full, publication), pytest.raises(StorageError):
        second.run()
    left = second.leftovers()
    assert left != []
    for clock in (lambda: datetime.now(UTC) - timedelta(days=99), lambda: datetime.now(UTC)):
        assert clean(second.sink, clock=clock).removed == ()
        assert second.leftovers() == left
    monkeypatch.setattr(directory_run, "utc_now", lambda: datetime.now(UTC) + timedelta(days=99))
    _check(second)


def test_without_tidying_up_a_full_disk_is_noticed(second: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication.LocalPublication, "_discard", lambda self: None)
    with patched_os(_FullDisk(at=5, error=errno.ENOSPC), publication), pytest.raises(StorageError):
        second.run()
    assert [name for name in second.files() if name.rpartition("/")[2].startswith(".")]


def test_without_a_look_at_earlier_runs_a_wrong_clock_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_run, "new_run_id", lambda now, earlier=(): new_run_id(now))
    with pytest.raises((AssertionError, PipecryptError)):
        _three_runs(prepare(SCENES["unsigned-next"], tmp_path).fresh("sink"), timedelta(days=-4000), monkeypatch)
