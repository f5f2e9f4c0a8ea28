"""Files under a master key in a token, end to end: several workers, and plain pyarrow."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import PassphraseError
from pipecrypt.keys.credentials import Credentials
from tests.keys.softhsm import OTHER_PIN, TOKEN, log_out, softhsm

TABLE = pa.table({"id": range(1000), "email": [f"person{number}@example.org" for number in range(1000)]})


def test_workers_and_readers_log_in_themselves(tmp_path: Path) -> None:
    tokens = softhsm()
    tokens.make_key("files", b"\x90")
    reference = f"pkcs11:token={TOKEN};object=files"
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        pq.write_table(TABLE, tmp_path / "raw" / name, row_group_size=300)

    policy = pc.Policy(columns={"email": reference})
    summary = pc.encrypt(
        str(tmp_path / "raw"), str(tmp_path / "out"), policy, workers=2, credentials=tokens.credentials
    )
    assert summary.service_calls <= 2  # one in each worker that got a file
    path = tmp_path / "out" / "a.parquet"
    assert b"person1@example.org" not in path.read_bytes()
    assert tokens.module.encode() not in path.read_bytes()

    pc.decrypt(
        str(tmp_path / "out"), str(tmp_path / "back"), keys=[reference], workers=2, credentials=tokens.credentials
    )
    assert (tmp_path / "back" / "a.parquet").read_bytes() == (tmp_path / "raw" / "a.parquet").read_bytes()
    properties = pc.decryption_properties(keys=[reference], credentials=tokens.credentials)
    assert pq.read_table(path, decryption_properties=properties).equals(TABLE)

    wrong = Credentials(tokens.environ | {"PIPECRYPT_PKCS11_PIN": OTHER_PIN})
    log_out()
    with pytest.raises(PassphraseError):
        pc.decrypt(str(path), str(tmp_path / "no"), keys=[reference], credentials=wrong)
    assert not (tmp_path / "no").exists()
    log_out()
    tokens.destroy("files")
