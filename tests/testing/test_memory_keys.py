from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyReferenceError, KeyServiceError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.service import MasterKey
from pipecrypt.testing import MemoryCall, MemoryKeyService, MemoryMasterKey, use_memory_keys
from pipecrypt.vocabulary.context import Context

HERE, THERE = Context("0" * 32, ""), Context("1" * 32, "")


@pytest.fixture
def memory() -> MemoryKeyService:
    return MemoryKeyService()


def _open(memory: MemoryKeyService, name: str = "a") -> MemoryMasterKey:
    return memory.open_key(parse_key_reference(f"memory://{name}"), Credentials({}))


def test_behaves_as_a_key_service(memory: MemoryKeyService) -> None:
    master_key = _open(memory)
    assert isinstance(master_key, MasterKey)
    key, wrapped = master_key.generate_key(HERE)
    assert _open(memory).unwrap_key(wrapped, HERE).same_as(key)
    for other, context in ((_open(memory, "b"), HERE), (master_key, THERE)):
        with pytest.raises(IntegrityError):
            other.unwrap_key(wrapped, context)
    assert memory.calls[:2] == [MemoryCall("generate", "memory/a", HERE), MemoryCall("unwrap", "memory/a", HERE)]


def test_fails_on_command(memory: MemoryKeyService) -> None:
    memory.fail()
    with pytest.raises(KeyServiceError):
        _open(memory).generate_key(HERE)
    assert len(memory.calls) == 1
    with pytest.raises(KeyNotFoundError):
        _open(MemoryKeyService(names=frozenset({"a"})), "b")


def test_a_test_of_a_user_encrypts_and_decrypts_without_a_keystore(tmp_path: Path) -> None:
    source, sealed, plain = (str(tmp_path / f"{name}.parquet") for name in ("source", "sealed", "plain"))
    pq.write_table(pa.table({"email": ["a@example.com"]}), source)
    with use_memory_keys(["pii"]) as service:
        pc.encrypt(source, sealed, pc.Policy(columns={"email": "memory://pii"}))
        assert {call.operation for call in service.calls} == {"generate"}
        pc.decrypt(sealed, plain, keys=["memory://pii"], trust=pc.Trust(verify="off"))
        service.fail()
        with pytest.raises(KeyServiceError):
            pc.decrypt(sealed, plain, keys=["memory://pii"], trust=pc.Trust(verify="off"), overwrite=True)
    assert pq.read_table(plain).to_pydict() == {"email": ["a@example.com"]}
    with pytest.raises(KeyReferenceError):
        pc.decrypt(sealed, plain, keys=["memory://pii"], trust=pc.Trust(verify="off"), overwrite=True)
