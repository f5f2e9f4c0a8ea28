"""Forged files and messages use up what is theirs: they cost few calls, and deny nobody else a key."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipecrypt.crypto.kdf import Argon2Parameters
from pipecrypt.errors import IntegrityError, KeyServiceError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keyring import KEKLimits
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.testing import MemoryKeyService
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.documents import decode_base64, encode_base64

PII, OPS = "memory://pii", "memory://ops"
DATASET = new_dataset_id()
EMAIL = Context(DATASET, "a.parquet").for_column(("email",), 0)


def _session(memory: MemoryKeyService, *references: str, now: list[float] | None = None) -> KeySession:
    clock = now or [0.0]
    return KeySession(
        references or (PII,), credentials=Credentials({}), services={"memory": memory}, clock=lambda: clock[0]
    )


def _honest(memory: MemoryKeyService, reference: str = PII) -> bytes:
    with _session(memory, reference) as writer:
        key, key_metadata = writer.new_data_key(reference, EMAIL)
        key.wipe()
        return key_metadata


def _forged(key_metadata: bytes, *, dataset_id: str = DATASET) -> bytes:
    """Return key metadata with a KEK that nobody wrapped, of whichever dataset the attacker likes."""
    document = json.loads(key_metadata)
    size = len(decode_base64(document["wrappedKEK"].rpartition(".")[2]))
    document["wrappedKEK"] = f"pc1.{dataset_id}.{encode_base64(os.urandom(size))}"
    return json.dumps(document).encode()


def _open(session: KeySession, key_metadata: bytes, file: FileKeys | None = None) -> None:
    keys = file or FileKeys(session)
    keys.open_data_key(key_metadata, EMAIL).wipe()


def _fails(session: KeySession, key_metadata: bytes, file: FileKeys | None = None) -> type[Exception]:
    with pytest.raises((IntegrityError, KeyServiceError)) as caught:
        _open(session, key_metadata, file)
    return caught.type


@pytest.mark.parametrize(("keks", "messages"), [(1, 1000), (40, 100), pytest.param(40, 1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("own_datasets", [False, True])
def test_forged_messages_deny_nobody(memory: MemoryKeyService, keks: int, messages: int, own_datasets: bool) -> None:
    seen, unseen = _honest(memory), _honest(memory)
    with _session(memory) as reader:
        _open(reader, seen)
        for _ in range(messages):
            file = FileKeys(reader)
            dataset_id = new_dataset_id() if own_datasets else DATASET
            for _ in range(keks):
                _fails(reader, _forged(seen, dataset_id=dataset_id), file)
        # 16 for each of the first four, or one for each of the first 64; then one for each.
        assert reader.service_calls - 1 <= 64 + messages
        before = reader.service_calls
        _open(reader, seen)
        assert reader.service_calls == before, "what was proven is not asked for again"
        _open(reader, unseen)
        assert reader.service_calls == before + 1


def test_one_file_costs_sixteen_calls_however_many_keks_it_names(memory: MemoryKeyService) -> None:
    honest = _honest(memory)
    with _session(memory) as reader:
        file = FileKeys(reader)
        errors = [_fails(reader, _forged(honest), file) for _ in range(10_000)]
        assert errors == [IntegrityError] * 16 + [KeyServiceError] * (10_000 - 16)
        assert reader.service_calls == 16
        assert _fails(reader, honest, file) is KeyServiceError, "its honest keys go with it"
        _open(reader, honest)


def test_the_same_forgery_again_costs_no_call_for_a_while(memory: MemoryKeyService) -> None:
    forged, now = _forged(_honest(memory)), [0.0]
    with _session(memory, now=now) as reader:
        for _ in range(1000):
            assert _fails(reader, forged) is IntegrityError
        assert reader.service_calls == 1
        now[0] = 60.0
        _fails(reader, forged)
        assert reader.service_calls == 2


def test_a_flood_against_one_master_key_is_none_against_another(memory: MemoryKeyService) -> None:
    pii, ops = _honest(memory), _honest(memory, OPS)
    with _session(memory, PII, OPS) as reader:
        for _ in range(100):
            _fails(reader, _forged(pii))
        file = FileKeys(reader)
        for _ in range(15):
            assert _fails(reader, _forged(ops), file) is IntegrityError
        _open(reader, ops, file)


def test_a_flood_is_over_after_an_hour(memory: MemoryKeyService) -> None:
    honest, now = _honest(memory), [0.0]
    with _session(memory, now=now) as reader:
        for _ in range(KEKLimits().wrong_in_all):
            _fails(reader, _forged(honest))
        file = FileKeys(reader)
        assert [_fails(reader, _forged(honest), file) for _ in range(2)] == [IntegrityError, KeyServiceError]
        now[0] = 3600.0
        assert [_fails(reader, _forged(honest), file) for _ in range(2)] == [IntegrityError] * 2


def test_what_opens_here_is_never_refused(tmp_path: Path) -> None:
    kdf = Argon2Parameters(salt=bytes(16), memory_kib=8192, iterations=1, lanes=1)
    credentials = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})
    for name, kind in (("pii", "aes256"), ("bob", "x25519")):
        reference = f"keystore://{tmp_path}/keys.json#{name}"
        create_key(reference, kind, credentials, kdf=kdf)
        with KeySession([reference], credentials=credentials, dataset_id=DATASET) as session:
            key, honest = session.new_data_key(reference, EMAIL)
            key.wipe()
            file = FileKeys(session)
            assert {_fails(session, _forged(honest), file) for _ in range(200)} == {IntegrityError}
            _open(session, honest, file)
