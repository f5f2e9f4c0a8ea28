from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.statement.envelope import RememberedVersion
from pipecrypt.errors import IntegrityError, RolledBackError

PLACE = "s3://bucket/ü"
SEEN = RememberedVersion("0" * 32, 7, "a" * 64)


@pytest.fixture
def memory(tmp_path: Path) -> VersionMemory:
    return VersionMemory(str(tmp_path / "state" / "deep"))


def _record(memory: VersionMemory) -> Path:
    (record,) = Path(memory.directory, "accepted").iterdir()
    return record


def test_a_place_that_is_not_unicode_is_remembered(memory: VersionMemory) -> None:
    memory.remember("s3://bucket/\udcff", SEEN)
    assert memory.recall("s3://bucket/\udcff") == SEEN


def test_what_was_remembered_is_recalled(memory: VersionMemory) -> None:
    assert memory.recall(PLACE) is None
    memory.remember(PLACE, SEEN)
    assert memory.recall(PLACE) == SEEN
    assert memory.recall("s3://bucket/other") is None

    memory.remember(PLACE, replace(SEEN, version=8))
    assert pickle.loads(pickle.dumps(memory)).recall(PLACE) == replace(SEEN, version=8)  # noqa: S301
    assert oct(_record(memory).parent.stat().st_mode)[-3:] == "700"


def test_a_memory_that_starts_anew(memory: VersionMemory) -> None:
    memory.remember(PLACE, SEEN)
    anew = replace(memory, starts_anew=True)

    assert anew.recall(PLACE) is None
    anew.remember(PLACE, replace(SEEN, version=1))
    assert memory.recall(PLACE) == replace(SEEN, version=1)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b"[" * 100_000, b" " * 20_000])
def test_a_malformed_record_is_not_taken_for_none(memory: VersionMemory, damage: bytes) -> None:
    memory.remember(PLACE, SEEN)
    _record(memory).write_bytes(damage)

    with pytest.raises(IntegrityError):
        memory.recall(PLACE)


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_a_record_that_cannot_be_read_is_not_taken_for_none(memory: VersionMemory, put: Callable[[Path], None]) -> None:
    memory.remember(PLACE, SEEN)
    record = _record(memory)
    record.unlink()
    put(record)

    with pytest.raises(IntegrityError):
        memory.recall(PLACE)


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    memory = VersionMemory(str(tmp_path / "file"))

    with caplog.at_level(logging.WARNING):
        memory.remember("s3://bucket", SEEN)

    assert "s3://bucket" in caplog.text


def test_it_never_goes_backwards(memory: VersionMemory) -> None:
    memory.remember(PLACE, replace(SEEN, version=8))
    memory.remember(PLACE, SEEN)
    assert memory.recall(PLACE) == replace(SEEN, version=8)
    with pytest.raises(RolledBackError):
        memory.remember(PLACE, replace(SEEN, version=8, statement_sha256="b" * 64))
    with pytest.raises(IntegrityError, match="for another reader"):
        memory.remember(PLACE, replace(SEEN, version=9, dataset_id="1" * 32))
    memory.forget(PLACE)
    memory.forget(PLACE)
    assert memory.recall(PLACE) is None


def _remember_many(directory: str, first: int) -> None:
    memory = VersionMemory(directory)
    for version in range(first, 400, 2):
        memory.remember(PLACE, replace(SEEN, version=version))
        known = memory.recall(PLACE)
        assert known is not None
        assert known.version >= version


def test_two_readers_at_once(memory: VersionMemory) -> None:
    processes = [multiprocessing.Process(target=_remember_many, args=(memory.directory, first)) for first in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert memory.recall(PLACE) == replace(SEEN, version=399)


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [_link, os.mkfifo, Path.mkdir])
@pytest.mark.parametrize("name", ["accepted", "accepted.lock"])
def test_what_others_put_into_the_state_directory(
    memory: VersionMemory, caplog: pytest.LogCaptureFixture, tmp_path: Path, put: Callable[[Path], None], name: str
) -> None:
    Path(memory.directory).mkdir(parents=True)
    put(Path(memory.directory, name))
    if (name, put) == ("accepted", Path.mkdir):
        return
    with caplog.at_level(logging.WARNING):
        memory.remember(PLACE, SEEN)
    assert "cannot remember" in caplog.text
    if name == "accepted":
        with pytest.raises(IntegrityError):
            memory.recall(PLACE)
    else:
        assert memory.recall(PLACE) is None


def test_a_record_that_is_a_link(memory: VersionMemory, tmp_path: Path) -> None:
    memory.remember(PLACE, SEEN)
    record = _record(memory)
    record.rename(tmp_path / "record")
    record.symlink_to(tmp_path / "record")
    with pytest.raises(IntegrityError):
        memory.recall(PLACE)


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"PIPECRYPT_STATE_DIR": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_STATE_HOME": "/b", "HOME": "/c"}, "/b/pipecrypt"),
        ({"HOME": "/c"}, "/c/.local/state/pipecrypt"),
        ({"XDG_STATE_HOME": "", "HOME": "/c"}, "/c/.local/state/pipecrypt"),
    ],
)
def test_where_a_user_s_memory_is(environ: dict[str, str], directory: str) -> None:
    assert VersionMemory.of_user(environ) == VersionMemory(directory)


@pytest.mark.parametrize("environ", [{}, {"PIPECRYPT_STATE_DIR": "", "HOME": "/c"}])
def test_no_memory(environ: dict[str, str]) -> None:
    assert VersionMemory.of_user(environ) is None


def test_when_a_version_was_last_found_is_remembered_too(tmp_path: Path) -> None:
    memory = VersionMemory(str(tmp_path))
    memory.remember("a", SEEN)
    (record,) = (tmp_path / "accepted").iterdir()
    kept = memory.recall("a")
    assert kept is not None
    assert kept.accepted is not None
    document = json.loads(record.read_bytes())
    for old in (
        {**document, "accepted": "2026-01-01T00:00:00Z"},
        {k: v for k, v in document.items() if k != "accepted"},
    ):
        record.write_text(json.dumps(old))
        memory.remember("a", SEEN)
        assert json.loads(record.read_bytes())["accepted"] >= document["accepted"]
    record.write_text(json.dumps({**document, "accepted": "soon"}))
    with pytest.raises(IntegrityError, match="is not a time"):
        memory.recall("a")


def _later(memory: VersionMemory, **ahead: int) -> None:
    document = json.loads(_record(memory).read_bytes())
    document["accepted"] = f"{datetime.now(UTC) + timedelta(**ahead):%Y-%m-%dT%H:%M:%SZ}"
    _record(memory).write_text(json.dumps(document))


def test_a_record_from_the_future_is_named_and_replaced_on_request(memory: VersionMemory) -> None:
    memory.remember(PLACE, SEEN)
    _later(memory, days=3650)
    for use in (lambda: memory.recall(PLACE), lambda: memory.remember(PLACE, replace(SEEN, version=8))):
        with pytest.raises(IntegrityError, match="in the future by the clock of this machine") as caught:
            use()
        assert str(_record(memory)) in caught.value.message
        assert "verify --forget" in caught.value.hint
    replace(memory, starts_anew=True).remember(PLACE, SEEN)
    assert memory.recall(PLACE) == SEEN


def test_a_writer_that_accepts_the_future_holds_to_a_record_from_there_and_mends_it(memory: VersionMemory) -> None:
    memory.remember(PLACE, SEEN)
    _later(memory, days=3)
    told = replace(memory, accept_future_statement=True)
    recalled = told.recall(PLACE)
    assert recalled == SEEN
    assert recalled.accepted is not None
    assert recalled.accepted <= datetime.now(UTC)
    with pytest.raises(RolledBackError):
        told.remember(PLACE, replace(SEEN, statement_sha256="b" * 64))
    told.remember(PLACE, SEEN)
    assert memory.recall(PLACE) == SEEN


def test_a_clock_that_was_a_little_ahead_counts_as_now(memory: VersionMemory) -> None:
    memory.remember(PLACE, SEEN)
    _later(memory, minutes=5)
    recalled = memory.recall(PLACE)
    assert recalled is not None
    assert recalled.accepted is not None
    assert recalled.accepted <= datetime.now(UTC)


def _full(path: Path) -> None:
    path.mkdir()
    (path / "precious").write_text("mine")


_PLANTED: dict[str, Callable[[Path], None]] = {
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "link to a directory": lambda path: path.symlink_to(path.parents[3] / "victim"),
    "pipe": os.mkfifo,
    "directory": Path.mkdir,
    "full directory": _full,
}


@pytest.mark.parametrize("forgets", [True, False])
@pytest.mark.parametrize("what", _PLANTED)
def test_what_lies_in_the_place_of_a_record_goes_with_forgetting(
    memory: VersionMemory, tmp_path: Path, what: str, forgets: bool
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_text("mine")
    memory.remember(PLACE, SEEN)
    record = _record(memory)
    record.unlink()
    _PLANTED[what](record)
    with pytest.raises(IntegrityError, match=f"it is a {what.split()[-1 if 'full' in what else 0]}, not a file"):
        memory.recall(PLACE)

    def start_anew() -> None:
        if forgets:
            assert memory.forget(PLACE)
        replace(memory, starts_anew=True).remember(PLACE, SEEN)

    if what == "full directory":
        with pytest.raises(IntegrityError, match="a directory is in the place of") as caught:
            start_anew()
        assert str(record) in caught.value.message
        assert (record / "precious").read_text() == "mine"
    else:
        start_anew()
        assert memory.recall(PLACE) == SEEN
    assert (tmp_path / "victim" / "precious").read_text() == "mine"
