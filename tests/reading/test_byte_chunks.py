"""pyarrow, which nobody here wrote, reads a file of chunks as a table of one binary column."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import KeyNotFoundError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.policy import EncryptionPolicy, KeyScope
from pipecrypt.reading.pyarrow_keys import decryption_properties
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.blob_world import CHUNK, ROW_GROUP, ZSTD, restore, seal, show, some_bytes

CREDENTIALS = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> str:
    reference = f"keystore://{tmp_path_factory.mktemp('keys')}/keys.json"
    for name in ("pii", "other"):
        create_key(f"{reference}#{name}", "aes256", CREDENTIALS)
    return reference


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("scope", KeyScope)
@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * ROW_GROUP + 7])
def test_pyarrow_reads_chunks(tmp_path: Path, keystore: str, compressed: bool, scope: KeyScope, size: int) -> None:
    data, policy = some_bytes(size), EncryptionPolicy(default=f"{keystore}#pii", data_keys=scope)
    context = Context(new_dataset_id(), "x.bin")
    with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
        sealed, _ = seal(data, session, policy=policy, context=context, codec=ZSTD if compressed else None)
        assert session.service_calls == 1
        assert restore(sealed, session) == show(sealed, session) == data
    path = tmp_path / "x.parquet"
    path.write_bytes(sealed)
    properties = decryption_properties([f"{keystore}#pii"], credentials=CREDENTIALS)
    table = pq.read_table(path, decryption_properties=properties)
    assert table.schema.equals(pa.schema([pa.field("chunk", pa.binary(), nullable=False)]))
    assert table["chunk"].to_pylist() == [data[at : at + CHUNK] for at in range(0, size, CHUNK)]


def test_another_key_of_the_keystore_opens_nothing(keystore: str) -> None:
    policy = EncryptionPolicy(default=f"{keystore}#pii")
    with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
        sealed, _ = seal(b"abc", session, policy=policy)
    with KeySession([f"{keystore}#other"], credentials=CREDENTIALS) as session:
        for read in (restore, show):
            with pytest.raises(KeyNotFoundError):
                read(sealed, session)
