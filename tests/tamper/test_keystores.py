"""Who writes the keystore that a reader trusts, and has not its secret, makes the reader trust nothing of his."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.cli.main import main
from pipecrypt.crypto.kdf import Argon2Parameters
from pipecrypt.errors import DamagedKeystoreError, PassphraseError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key, find_doomed, retire_key
from pipecrypt.keys.signers import export_public_half

CHEAP = Argon2Parameters(salt=bytes(range(16)), memory_kib=8192, iterations=1, lanes=1)
SECRETS = ("PIPECRYPT_PASSPHRASE", "PIPECRYPT_PASSPHRASE_FILE", "PIPECRYPT_KEY_FILE")
KEYS = (("pii", "aes256"), ("signing", "ed25519"), ("ident", "x25519"))


@dataclass(frozen=True)
class Desk:
    """A keystore that a reader trusts, and what another person signed.

    Args:
        folder: of all.
        environ: the reader's: the secret of the keystore, and where it is remembered.
        theirs: the other person's.
    """

    folder: Path
    environ: dict[str, str]
    theirs: dict[str, str]

    @property
    def keystore(self) -> Path:
        return self.folder / "keys.json"

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.environ)

    def reference(self, name: str) -> str:
        return f"keystore://{self.keystore}#{name}"

    @property
    def trust(self) -> list[str]:
        return [self.reference("signing")]

    @property
    def forged(self) -> str:
        return f"{self.folder}/forged/"

    def exchange(self, how: str) -> None:
        """Do what a person can do who writes the file and does not know its secret."""
        theirs = self.folder / "theirs.json"
        if how == "keystore":
            shutil.copy(theirs, self.keystore)
        elif how == "public half":
            document, other = (json.loads(path.read_bytes()) for path in (self.keystore, theirs))
            _entry(document, "signing")["public_key"] = _entry(other, "signing")["public_key"]
            self.keystore.write_text(json.dumps(document))
        else:
            older = self.keystore.read_bytes()
            retire_key(self.reference("signing"), 1, self.credentials)
            self.keystore.write_bytes(older)
        self.keystore.chmod(0o600)


def _entry(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in document["keys"] if each["name"] == name)


@pytest.fixture(params=["passphrase", "key file"])
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    key_file = tmp_path / "key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(bytes(range(32)))
    kinds = [{"PIPECRYPT_PASSPHRASE": "correct horse"}, {"PIPECRYPT_KEY_FILE": str(key_file)}]
    ours, theirs = kinds if request.param == "passphrase" else reversed(kinds)
    desk = Desk(tmp_path, {**ours, "PIPECRYPT_STATE_DIR": str(tmp_path / "state")}, {**theirs, "HOME": str(tmp_path)})
    for name, kind in KEYS:
        create_key(desk.reference(name), kind, desk.credentials, kdf=CHEAP)
        create_key(f"keystore://{tmp_path}/theirs.json#{name}", kind, Credentials(desk.theirs), kdf=CHEAP)
    pq.write_table(pa.table({"email": ["a", "b"]}), tmp_path / "people.parquet")
    their = f"keystore://{tmp_path}/theirs.json"
    policy = pc.Policy(default=f"{their}#pii", sign=f"{their}#signing")
    pc.encrypt(str(tmp_path / "people.parquet"), desk.forged, policy, credentials=Credentials(desk.theirs))
    return desk


USES: dict[str, Callable[[Desk], object]] = {
    "verify": lambda desk: pc.verify(desk.forged, desk.trust, credentials=desk.credentials),
    "decrypt": lambda desk: pc.decrypt(
        desk.forged, f"{desk.folder}/out/", [desk.reference("pii")], trust=desk.trust, credentials=desk.credentials
    ),
    "open": lambda desk: pc.open(
        desk.forged, keys=[desk.reference("pii")], trust=desk.trust, credentials=desk.credentials
    ),
    "grant by trust": lambda desk: pc.grant(
        desk.forged, desk.reference("ident"), [desk.reference("pii")], trust=desk.trust, credentials=desk.credentials
    ),
    "rotate": lambda desk: pc.rotate(
        desk.forged, desk.reference("pii"), desk.reference("ident"), trust=desk.trust, credentials=desk.credentials
    ),
    "export of a signing key": lambda desk: export_public_half(desk.reference("signing"), desk.credentials),
    "export of an identity": lambda desk: export_public_half(desk.reference("ident"), desk.credentials),
    "look at what is to be destroyed": lambda desk: find_doomed(desk.reference("pii"), None, desk.credentials),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("how", ["keystore", "public half", "older file"])
def test_a_program_that_holds_the_secret_is_not_deceived(desk: Desk, use: str, how: str) -> None:
    desk.exchange(how)
    with pytest.raises(PassphraseError if how == "keystore" else DamagedKeystoreError):
        USES[use](desk)


@pytest.mark.parametrize("command", ["verify", "cat", "decrypt", "export", "export recipient"])
@pytest.mark.parametrize("how", ["keystore", "public half", "older file"])
def test_a_command_with_the_secret_in_its_environment_is_not_deceived(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, how: str
) -> None:
    for name, text in desk.environ.items():
        monkeypatch.setenv(name, text)
    desk.exchange(how)
    trust, key = ["--trust", *desk.trust], ["--key", desk.reference("pii")]
    arguments = {
        "verify": ["verify", desk.forged, *trust],
        "cat": ["cat", f"{desk.forged}people.parquet", *key, *trust],
        "decrypt": ["decrypt", desk.forged, f"{desk.folder}/out/", *key, *trust],
        "export": ["keys", "export", desk.trust[0], "--public"],
        "export recipient": ["keys", "export", desk.reference("ident"), "--public"],
    }[command]
    assert main(arguments) == (4 if how == "keystore" else 3)
    assert "PUBLIC KEY" not in capsys.readouterr().out
    assert not (desk.folder / "out").exists()


def test_what_was_signed_under_the_honest_keystore_is_accepted(desk: Desk) -> None:
    policy = pc.Policy(default=desk.reference("pii"), sign=desk.reference("signing"))
    pc.encrypt(f"{desk.folder}/people.parquet", f"{desk.folder}/own/", policy, credentials=desk.credentials)
    own = f"{desk.folder}/own/"
    assert pc.verify(own, desk.trust, credentials=desk.credentials).files == 1
    with pc.open(own, keys=[desk.reference("pii")], trust=desk.trust, credentials=desk.credentials) as dataset:
        assert dataset.to_table().num_rows == 2
    # A secret of the other kind beside the right one is no reason to refuse.
    both = Credentials({**desk.theirs, **desk.environ})
    assert export_public_half(desk.trust[0], both).authenticated


def test_the_keystore_is_not_read_again_after_trust_was_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's own credentials are what proves it, even where the environment has a secret of something else."""
    policy = pc.Policy(default=desk.reference("pii"), sign=desk.reference("signing"))
    own = f"{desk.folder}/own/"
    pc.encrypt(f"{desk.folder}/people.parquet", own, policy, credentials=desk.credentials)
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "of another keystore")
    assert pc.verify(own, desk.trust, credentials=desk.credentials).files == 1
    with pc.open(own, keys=[desk.reference("pii")], trust=desk.trust, credentials=desk.credentials) as dataset:
        assert dataset.to_table().num_rows == 2
