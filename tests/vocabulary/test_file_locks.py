"""Locks are waited for with an end, whoever holds them."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipecrypt.errors import ConflictError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.schemes import keystore_file
from pipecrypt.keys.session import KeySession
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary import state
from pipecrypt.vocabulary.state import take_lock


@contextmanager
def held(*paths: Path) -> Iterator[None]:
    """As a process that was stopped holds locks: for ever."""
    descriptors = [os.open(path, os.O_RDONLY) for path in paths]
    for descriptor in descriptors:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("wait_seconds", [0, 0.3])
def test_waiting_has_an_end(tmp_path: Path, descriptor: int, wait_seconds: float) -> None:
    waited: list[float] = []
    with held(tmp_path), pytest.raises(ConflictError, match="another process holds the lock of it") as caught:
        take_lock(descriptor, "it", wait_seconds=wait_seconds, sleep=waited.append)
    assert caught.value.exit_code == 5
    assert "let it go on or end it" in caught.value.hint
    assert wait_seconds <= sum(waited) <= wait_seconds + 0.1
    take_lock(descriptor, "it", wait_seconds=0)


def test_a_lock_that_is_let_go_is_taken(tmp_path: Path, descriptor: int) -> None:
    with held(tmp_path):
        holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    take_lock(descriptor, "it", sleep=lambda _: fcntl.flock(holder, fcntl.LOCK_UN))
    with pytest.raises(ConflictError):
        take_lock(holder, "it", wait_seconds=0)
    os.close(holder)


def test_a_file_system_without_locks_is_told(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(state.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="no locks"):
        take_lock(descriptor, "it")


def _replace(place: Location, sleep: Callable[[float], None]) -> None:
    open_store(place).replace_exclusively(lambda _: b"new", max_bytes=10, sleep=sleep)


def _hold(place: Location, sleep: Callable[[float], None]) -> None:
    with open_store(place.above).holding(place, sleep):
        raise AssertionError


@pytest.mark.parametrize("use", [_replace, _hold])
def test_a_stopped_command_keeps_no_other_waiting(
    tmp_path: Path, use: Callable[[Location, Callable[[float], None]], None]
) -> None:
    waited: list[float] = []
    with held(tmp_path), pytest.raises(ConflictError):
        use(Location(str(tmp_path / "grants.json")), waited.append)
    assert sum(waited) < 20
    assert not (tmp_path / "grants.json").exists()


@pytest.fixture
def keystore(tmp_path: Path) -> tuple[str, Credentials]:
    (tmp_path / "machine.key").write_bytes(bytes(range(32)))
    (tmp_path / "keys").mkdir()
    state = str(tmp_path / "state")
    credentials = Credentials({"PIPECRYPT_KEY_FILE": str(tmp_path / "machine.key"), "PIPECRYPT_STATE_DIR": state})
    reference = f"keystore://{tmp_path}/keys/keys.json#pii"
    create_key(reference, "aes256", credentials)
    return reference, credentials


def test_a_stopped_writer_of_a_keystore_keeps_no_other_waiting(
    tmp_path: Path, keystore: tuple[str, Credentials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystore_file, "_LOCK_SECONDS", 0.1)
    reference, credentials = keystore
    with held(tmp_path / "keys"), pytest.raises(ConflictError, match="keys"):
        create_key(reference, "aes256", credentials, new_version=True)
    create_key(reference, "aes256", credentials, new_version=True)


def test_a_stopped_reader_of_a_keystore_keeps_no_other_from_reading(
    tmp_path: Path,
    keystore: tuple[str, Credentials],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(state, "_LOCK_SECONDS", 0.1)
    reference, credentials = keystore
    (record,) = (tmp_path / "state" / "keystores").iterdir()
    record.unlink()  # so that there is something to remember
    began = time.monotonic()
    with (
        held(tmp_path / "state" / "keystores", tmp_path / "state" / "keystores.lock"),
        caplog.at_level(logging.WARNING),
    ):
        KeySession([reference], credentials=credentials).close()
    assert time.monotonic() - began < 10
    assert "cannot remember keystore" in caplog.text
    assert "another process holds the lock" in caplog.text
