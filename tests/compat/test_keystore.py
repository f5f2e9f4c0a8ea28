"""Keystores that release 0.1.0 wrote open for ever, with what they sealed and signed then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import accept_backup
from pipecrypt.keys.session import KeySession
from pipecrypt.keys.signers import open_signer, read_version_keys
from pipecrypt.vocabulary.context import Context

_GOLDEN = Path(__file__).parent / "keystore-1"
_CONTEXT = Context("00112233445566778899aabbccddeeff", "a.parquet", ("email",), 0)
_SECRETS = {
    "passphrase": {"PIPECRYPT_PASSPHRASE": "x1"},  # shorter than new ones may be
    "scrypt": {"PIPECRYPT_PASSPHRASE": "correct horse"},
    "key-file": {},
}


@pytest.mark.parametrize("name", _SECRETS)
@pytest.mark.parametrize("is_sealed", [False, True], ids=["as it was", "after its first change"])
def test_an_old_keystore_opens(name: str, is_sealed: bool, tmp_path: Path) -> None:
    for file in (f"{name}.json", "key-file.txt"):
        shutil.copy(_GOLDEN / file, tmp_path)
        (tmp_path / file).chmod(0o600)
    credentials = Credentials(_SECRETS[name] or {"PIPECRYPT_KEY_FILE": str(tmp_path / "key-file.txt")})
    if is_sealed:
        accept_backup(tmp_path / f"{name}.json", credentials)
        assert json.loads((tmp_path / f"{name}.json").read_bytes())["pipecrypt_keystore"] == 2
    expected = json.loads((_GOLDEN / "expected.json").read_bytes())[name]
    place = f"keystore://{tmp_path}/{name}.json"
    with KeySession([f"{place}#{key}" for key in ("pii", "bob", "carol")], credentials=credentials) as session:
        for key in ("pii_version_1", "pii_version_2", "bob", "carol"):
            with session.open_data_key(expected[key]["key_metadata"].encode(), _CONTEXT) as opened:
                assert opened.expose_key_bytes().hex() == expected[key]["data_key"]
    old, new = read_version_keys(f"{place}#signing", credentials=credentials).keys
    assert old.key.key_id == expected["signing_version_1"]["key_id"]
    old.key.verify(b"golden", bytes.fromhex(expected["signing_version_1"]["signature_of_golden"]))
    signer = open_signer(f"{place}#signing", credentials)
    new.key.verify(b"golden", signer.sign(b"golden"))
    assert open_signer(f"{place}#release", credentials).sign(b"golden")


def test_every_golden_keystore_is_opened() -> None:
    assert {path.stem for path in _GOLDEN.glob("*.json")} == {*_SECRETS, "expected"}
