"""One batch as bytes and back: equal, self-contained, with keys of its own, and refused when changed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import (
    AccessError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    NotEncryptedError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.reading import in_flight
from tests.parquet.world import parquet_bytes
from tests.reading.world import CREDENTIALS, Keys

BATCH = pa.record_batch({"id": [1, 2, 3], "email": ["PLANTED-a", None, "PLANTED-c"]})


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    yield Keys(tmp_path)
    in_flight.forget_sessions()


def test_there_and_back(keys: Keys) -> None:
    for policy in (
        pc.Policy(default=keys.open),
        pc.Policy(default=keys.open, footer="encrypted"),
        pc.Policy(columns={"email": keys.open}, data_keys="file"),
        pc.Policy(default=keys.open, uniform=True),
    ):
        data = pc.encrypt_bytes(BATCH, policy, credentials=CREDENTIALS)
        assert b"PLANTED" not in data
        back = pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS)
        assert isinstance(back, pa.RecordBatch)
        assert back.equals(BATCH)
        properties = pc.decryption_properties(keys=[keys.open], credentials=CREDENTIALS)
        assert pq.read_table(io.BytesIO(data), decryption_properties=properties).to_batches()[0].equals(BATCH)


def test_tables_frames_and_nothing(keys: Keys) -> None:
    policy = pc.Policy(default=keys.open, batch_rows=2)
    for value in (
        pa.Table.from_batches([BATCH, BATCH]),
        pd.DataFrame({"id": [1], "email": ["x"]}),
        pl.DataFrame({"id": [1], "email": ["x"]}),
        BATCH.slice(0, 0),
    ):
        back = pc.decrypt_bytes(
            pc.encrypt_bytes(value, policy, credentials=CREDENTIALS), [keys.open], credentials=CREDENTIALS
        )
        expected = pl.DataFrame(pa.table(BATCH.slice(0, 0)) if value is BATCH else value)
        assert pl.DataFrame(pa.Table.from_batches([back])).equals(expected)


def test_many_batches_make_one_call_and_new_keys_each(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[KeySession] = []
    make = KeySession.__init__

    def remember(self: KeySession, *arguments: object, **options: object) -> None:
        make(self, *arguments, **options)  # type: ignore[arg-type]
        sessions.append(self)

    monkeypatch.setattr(KeySession, "__init__", remember)
    policy = pc.Policy(default=keys.open)
    sealed = [pc.encrypt_bytes(BATCH, policy, credentials=CREDENTIALS) for _ in range(50)]
    for data in sealed:
        pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS)
    assert [session.service_calls for session in sessions] == [1, 1]
    assert len(set(sealed)) == 50


def test_from_several_threads(keys: Keys) -> None:
    policy, failures = pc.Policy(default=keys.open), list[BaseException]()

    def work() -> None:
        try:
            for _ in range(20):
                data = pc.encrypt_bytes(BATCH, policy, credentials=CREDENTIALS)
                assert pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS).equals(BATCH)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_environment_decides_which_keys_open(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", CREDENTIALS.environ["PIPECRYPT_PASSPHRASE"])
    data = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open))
    assert pc.decrypt_bytes(data, [keys.open]).equals(BATCH)
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "wrong")
    with pytest.raises(AccessError):
        pc.decrypt_bytes(data, [keys.open])


def test_a_changed_or_missing_byte_never_gives_another_batch(keys: Keys) -> None:
    data = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open, footer="encrypted"), credentials=CREDENTIALS)
    noticed = 0
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        try:
            # What remains are bytes that name no value, such as members of the key material that nobody needs.
            assert pc.decrypt_bytes(changed, [keys.open], credentials=CREDENTIALS).equals(BATCH)
        except PipecryptError:
            noticed += 1
    assert noticed > len(data) * 0.9
    for length in range(0, len(data), 7):
        with pytest.raises((FormatError, IntegrityError)):
            pc.decrypt_bytes(data[:length], [keys.open], credentials=CREDENTIALS)


def test_what_cannot_be(keys: Keys) -> None:
    data = pc.encrypt_bytes(BATCH, pc.Policy(columns={"email": keys.secret}), credentials=CREDENTIALS)
    with pytest.raises(KeyNotFoundError):
        pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS)
    with pytest.raises(NotEncryptedError):
        pc.decrypt_bytes(parquet_bytes(pa.table(BATCH)), [keys.open], credentials=CREDENTIALS)
    with pytest.raises(FormatError):
        pc.decrypt_bytes(b"no", [keys.open], credentials=CREDENTIALS)
    with pytest.raises(UsageError):
        pc.encrypt_bytes(b"no batch", pc.Policy(default=keys.open), credentials=CREDENTIALS)
    with pytest.raises(UsageError):
        pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open, mode="chunks"), credentials=CREDENTIALS)
    with pytest.raises(UsageError):
        pc.encrypt_bytes(BATCH, keys.open, credentials=CREDENTIALS)  # type: ignore[arg-type]


def test_sessions_are_few_and_wiped(keys: Keys) -> None:
    policy = pc.Policy(default=keys.open)
    for _ in range(12):
        credentials = type(CREDENTIALS)(CREDENTIALS.environ)
        data = pc.encrypt_bytes(BATCH, policy, credentials=credentials)
    assert len(in_flight._SESSIONS._kept) == 8
    assert pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS).equals(BATCH)
    in_flight.forget_sessions()
    assert len(in_flight._SESSIONS._kept) == 0


def test_a_forked_process_begins_anew(keys: Keys) -> None:
    script = f"""
import os, re, threading, pyarrow as pa, pipecrypt as pc
from pipecrypt.reading import in_flight
batch, policy = pa.record_batch({{"id": [1]}}), pc.Policy(default={keys.open!r})
kek = lambda: re.search(rb'"wrappedKEK" *: *"([^"]+)"', pc.encrypt_bytes(batch, policy))[1]
first = kek()
assert kek() == first
lock = in_flight._SESSIONS._lock
threading.Thread(target=lock.acquire).start()  # and it is still held when this process forks
child = os.fork()
if not child:
    os._exit(0 if kek() != first else 1)
status = os.waitpid(child, 0)[1]
lock.release()
assert status == 0 and kek() == first
"""
    environ = {**os.environ, **CREDENTIALS.environ}
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, env=environ, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_bytes_of_a_batch_are_not_signed(keys: Keys) -> None:
    policy = pc.Policy(default=keys.open, sign="pem:///signing.pem")
    with pytest.raises(UsageError):
        pc.encrypt_bytes(pa.table({"a": [1]}), policy, credentials=CREDENTIALS)
