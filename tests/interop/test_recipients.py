"""Files for recipients, end to end: writers with public keys only, readers with identities, pyarrow among them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import pipecrypt as pc
from pipecrypt.errors import AccessError, KeyNotFoundError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.signers import export_public_half
from tests.crypto.keys import private_pem, public_text

NOBODY = Credentials({})
TABLE = pa.table({"id": range(1000), "email": [f"person{number}@example.org" for number in range(1000)]})


class Place:
    """Some files, an identity in a keystore, and its public half in a file."""

    def __init__(self, root: Path, identity: str, public: str, credentials: Credentials) -> None:
        self.root, self.identity, self.credentials = root, identity, credentials
        self.raw, self.out, self.back = root / "raw", root / "out", root / "back"
        (root / "alice.pub").write_text(public)
        self.recipient = f"recipient://{root}/alice.pub"
        self.raw.mkdir()
        for name in ("a.parquet", "b.parquet", "c.parquet"):
            pq.write_table(TABLE, self.raw / name, row_group_size=300)


@pytest.fixture(params=["mlkem768x25519", "x25519", "pem-x25519", "pem-rsa"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param.startswith("pem-"):
        key = rsa.generate_private_key(65537, 3072) if request.param == "pem-rsa" else X25519PrivateKey.generate()
        (tmp_path / "alice.pem").write_bytes(private_pem(key))
        (tmp_path / "alice.pem").chmod(0o600)
        return Place(tmp_path, f"pem://{tmp_path}/alice.pem", public_text(key), NOBODY)
    credentials = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})
    identity = f"keystore://{tmp_path}/keys.json#alice"
    create_key(identity, request.param, credentials)
    return Place(tmp_path, identity, export_public_half(identity, NOBODY).public_key, credentials)


def test_writers_cannot_read_and_identities_can(place: Place) -> None:
    policy = pc.Policy(columns={"email": place.recipient})
    summary = pc.encrypt(str(place.raw), str(place.out), policy, workers=2, credentials=NOBODY)
    assert summary.service_calls <= 2  # one in each worker that got a file
    path = place.out / "a.parquet"
    assert b"person1@example.org" not in path.read_bytes()

    with pytest.raises(AccessError):
        pc.decrypt(str(path), str(place.root / "no.parquet"), keys=[place.recipient], credentials=NOBODY)
    assert not (place.root / "no.parquet").exists()

    pc.decrypt(str(place.out), str(place.back), keys=[place.identity], workers=2, credentials=place.credentials)
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        assert (place.back / name).read_bytes() == (place.raw / name).read_bytes()

    properties = pc.decryption_properties(keys=[place.identity], credentials=place.credentials)
    assert pq.read_table(path, decryption_properties=properties).equals(TABLE)
    with pc.open(str(path), keys=[place.identity], credentials=place.credentials) as opened:
        assert opened.to_table(columns=["email"]).equals(TABLE.select(["email"]))


def test_another_identity_opens_nothing(place: Place) -> None:
    pc.encrypt(
        str(place.raw), str(place.out), pc.Policy(default=place.recipient, footer="encrypted"), credentials=NOBODY
    )
    other = f"keystore://{place.root}/other.json#bob"
    credentials = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})
    create_key(other, "mlkem768x25519", credentials)
    with pytest.raises(KeyNotFoundError) as caught:
        pc.decrypt(str(place.out / "a.parquet"), str(place.root / "no"), keys=[other], credentials=credentials)
    assert "recipient/" in caught.value.message


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipecrypt", *arguments],
        cwd=folder,
        env={"PIPECRYPT_PASSPHRASE": "correct horse", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_on_the_command_line(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    made = _run(tmp_path, "keys", "new", "keystore://./k.json#alice", "--recipient", "--json")
    assert json.loads(made.stdout)["type"] == "mlkem768x25519"
    public = _run(tmp_path, "keys", "export", "keystore://./k.json#alice", "--public", "--verify")
    (tmp_path / "alice.pub").write_text(public.stdout)

    assert _run(tmp_path, "encrypt", "a.parquet", "s.parquet", "--key", "recipient://./alice.pub").returncode == 0
    refused = _run(tmp_path, "decrypt", "s.parquet", "b.parquet", "--key", "recipient://./alice.pub")
    assert (refused.returncode, "identity" in refused.stderr) == (4, True)
    seen = _run(tmp_path, "inspect", "s.parquet")
    assert json.loads(made.stdout)["master_key_id"] in seen.stdout
    assert _run(tmp_path, "decrypt", "s.parquet", "b.parquet", "--key", "keystore://./k.json#alice").returncode == 0
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "a.parquet").read_bytes()

    for options in (["--type", "x25519"], ["--type", "x25519", "--recipient"]):
        again = _run(tmp_path, "keys", "new", f"keystore://./k.json#b{len(options)}", *options, "--json")
        assert json.loads(again.stdout)["type"] == "x25519"
    for wrong in ("aes256", "ed25519"):
        assert _run(tmp_path, "keys", "new", "keystore://./k.json#c", "--type", wrong, "--recipient").returncode == 2
