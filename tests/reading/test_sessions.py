"""All calls of a script inside of `with pc.Session(...)` stretch its passphrase once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pytest

import pipecrypt as pc
from pipecrypt.crypto.kdf import Argon2Parameters, derive_key
from pipecrypt.errors import UsageError
from pipecrypt.keys.derived_keys import DERIVED_KEYS
from pipecrypt.keys.held_keys import held_keys_of
from pipecrypt.keys.schemes import keystore_document
from pipecrypt.reading import in_flight
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.world import parquet_bytes
from tests.reading.world import Keys

BATCH = pa.record_batch({"id": [1, 2, 3], "email": ["a", "b", "c"]})


@pytest.fixture
def derivations(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    made: list[int] = []

    def counted(passphrase: bytes, parameters: Argon2Parameters) -> DataKey:
        made.append(1)
        return derive_key(passphrase, parameters)

    monkeypatch.setattr(keystore_document, "derive_key", counted)
    DERIVED_KEYS.wipe()
    yield made
    DERIVED_KEYS.wipe()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "plain.parquet"
    path.write_bytes(parquet_bytes(pa.Table.from_batches([BATCH])))
    return path


def _work(source: Path, key: str, count: int) -> None:
    """Make one of each call."""
    folder, policy = source.parent, pc.Policy(default=key)
    encrypted = folder / f"{count}.parquet"
    pc.encrypt(source, encrypted, policy)
    pc.decrypt(encrypted, folder / f"back-{count}.parquet", keys=[key])
    assert (folder / f"back-{count}.parquet").read_bytes() == source.read_bytes()
    with pc.ParquetWriter(folder / f"written-{count}.parquet", BATCH.schema, policy) as writer:
        writer.write_batch(BATCH)
    assert pc.decrypt_bytes(pc.encrypt_bytes(BATCH, policy), [key]).equals(BATCH)
    with pc.open(encrypted, keys=[key]) as opened:
        assert opened.to_table().to_batches()[0].equals(BATCH)
    fs = pc.PipecryptFileSystem(keys=[key], skip_instance_cache=True)
    assert pd.read_parquet(str(encrypted), filesystem=fs).equals(BATCH.to_pandas())


def test_the_calls_of_a_process_share_what_was_derived(source: Path, keys: Keys, derivations: list[int]) -> None:
    for count in range(3):
        _work(source, keys.open, count)
    assert derivations == [1]


def test_a_session_shares_it_where_the_process_remembers_nothing(
    source: Path, keys: Keys, derivations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_UNLOCKED_SECONDS", "0")
    with pc.Session([keys.open]):
        for count in range(3):
            _work(source, keys.open, count)
    assert derivations == [1]
    pc.encrypt(source, source.parent / "after.parquet", pc.Policy(default=keys.open))
    assert len(derivations) > 1


def test_another_thread_is_given_the_session(
    source: Path, keys: Keys, derivations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_UNLOCKED_SECONDS", "0")
    with pc.Session([keys.open]) as session:
        policy = pc.Policy(default=keys.open)

        def work(count: int) -> None:
            pc.encrypt(source, source.parent / f"{count}.parquet", policy, credentials=session)

        threads = [threading.Thread(target=work, args=(count,)) for count in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert derivations == [1]
    assert len(list(source.parent.glob("?.parquet"))) == 4


def test_batches_leave_no_key_behind_when_the_session_ends(keys: Keys) -> None:
    in_flight._SESSIONS.forget()
    with pc.Session([keys.open]):
        data = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open))
        pc.decrypt_bytes(data, [keys.open])
        sessions = [session for session, _, _ in in_flight._SESSIONS._kept.values()]
        keks = [kek.key for session in sessions for kek in session._writing._keks.values()]
        assert [kek.bits for kek in keks] == [256]
    assert [kek.bits for kek in keks] == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_and_closes_what_was_opened(source: Path, keys: Keys) -> None:
    encrypted = source.parent / "encrypted.parquet"
    pc.encrypt(source, encrypted, pc.Policy(default=keys.open))
    with pc.Session([keys.open]) as session, pc.open(encrypted, keys=[keys.open]) as opened:
        held = held_keys_of(session)
        assert held is not None
        with held.turn:  # as another thread may hold it
            child = os.fork()
            if not child:
                os._exit(_closes_in_child(opened))
            assert os.waitpid(child, 0)[1] == 0


def _closes_in_child(opened: pc.EncryptedDataset) -> int:
    signal.alarm(20)  # ends it where it waits for a lock that no thread holds here
    try:
        opened.close()
    except BaseException:  # the parent tells
        return 1
    return 0


def test_a_file_system_outlives_the_session_and_a_dataset_does_not(source: Path, keys: Keys) -> None:
    encrypted = source.parent / "encrypted.parquet"
    fs = fsspec.filesystem("pipecrypt", keys=[keys.open])
    with pc.Session([keys.open]) as session:
        pc.encrypt(source, encrypted, pc.Policy(default=keys.open))
        opened = pc.open(encrypted, keys=[keys.open])
        assert fs.cat_file(str(encrypted)) == fs.cat_file(str(encrypted))
        assert fs._views._open_keys.credentials is session
    assert pd.read_parquet(str(encrypted), filesystem=fs).equals(BATCH.to_pandas())
    assert not isinstance(fs._views._open_keys.credentials, pc.Session)
    with pytest.raises(UsageError, match="closed"):
        opened.to_table()


def test_a_thread_without_a_session_goes_on_with_what_was_opened(source: Path, keys: Keys) -> None:
    encrypted = source.parent / "encrypted.parquet"
    pc.encrypt(source, encrypted, pc.Policy(default=keys.open))
    fs = pc.PipecryptFileSystem(keys=[keys.open], skip_instance_cache=True)
    with pc.Session([keys.open]):
        view = fs.view(str(encrypted))
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append(fs.view(str(encrypted))))
        thread.start()
        thread.join()
    assert seen == [view]
