from __future__ import annotations

import json

import pytest

from pipecrypt.errors import UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keyring import KEKLimits
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.testing import MemoryKeyService
from pipecrypt.vocabulary.context import Context, new_dataset_id

_FILE = Context(new_dataset_id(), "a.parquet")
_PII, _OPS = "memory://pii", "memory://ops"


def _open(memory: MemoryKeyService, limits: KEKLimits | None = None) -> KeySession:
    return KeySession(
        (_PII, _OPS),
        credentials=Credentials({}),
        services={"memory": memory},
        dataset_id=_FILE.dataset_id,
        limits=limits,
    )


def _kek_id(key_metadata: bytes) -> str:
    text: str = json.loads(key_metadata)["keyEncryptionKeyID"]
    return text


def test_it_knows_the_keks_of_its_own_file_only(memory: MemoryKeyService) -> None:
    with _open(memory) as session:
        first, second = FileKeys(session), FileKeys(session)
        assert first.kek_ids == ()
        contexts = [_FILE, *(_FILE.for_column(("a",), batch) for batch in range(3))]
        pii = [first.new_data_key(_PII, context)[1] for context in contexts]
        (_, ops) = second.new_data_key(_OPS, _FILE)

        assert first.kek_ids == (_kek_id(pii[0]),)
        assert second.kek_ids == (_kek_id(ops),)
        first.new_data_key(_OPS, _FILE)
        assert first.kek_ids == tuple(sorted({_kek_id(pii[0]), _kek_id(ops)}))


def test_a_kek_that_is_used_up_is_followed_by_another(memory: MemoryKeyService) -> None:
    with _open(memory, limits=KEKLimits(uses=2)) as session:
        keys = FileKeys(session)
        made = [keys.new_data_key(_PII, _FILE.for_column(("a",), batch))[1] for batch in range(5)]

    assert keys.kek_ids == tuple(sorted({_kek_id(each) for each in made}))
    assert len(keys.kek_ids) == 3


def test_its_keys_are_those_of_the_session(memory: MemoryKeyService) -> None:
    with _open(memory) as session:
        keys = FileKeys(session)
        key, key_metadata = keys.new_data_key(_PII, _FILE)
        with keys.open_data_key(key_metadata, _FILE) as opened:
            assert opened.expose_key_bytes() == key.expose_key_bytes()
        assert keys.master_key_id(_PII) == "memory/pii"


def test_a_key_that_only_opens_files_has_no_master_key(
    memory: MemoryKeyService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("static") / "keys.json"
    path.write_text("{}")
    path.chmod(0o600)
    reference = f"static://{path}"
    with KeySession((reference,), credentials=Credentials({})) as session, pytest.raises(UsageError):
        session.master_key_id(reference)
