"""What lies where the keystore lies, and what its file says of itself, decides of nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pipecrypt.crypto.kdf import Argon2Parameters
from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, public_pem
from pipecrypt.errors import DamagedKeystoreError, KeystoreError, PassphraseError, UsageError
from pipecrypt.keys import keystores
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import NewKeystore, create_key, import_key, read_keys, remove_keys
from pipecrypt.keys.schemes import keystore_file
from pipecrypt.keys.schemes.keystore_document import KeystoreDocument
from pipecrypt.keys.signers import export_public_half
from pipecrypt.keys.trust import MAX_TRUSTED_KEYS, TrustedKeys
from pipecrypt.vocabulary.secret import DataKey

CHEAP = Argon2Parameters(salt=bytes(range(16)), memory_kib=8192, iterations=1, lanes=1)
KILLED = """
import os, signal
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
create_key("keystore://./keys.json#more", "aes256", Credentials(os.environ))
"""


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    given = {"PIPECRYPT_PASSPHRASE": "correct horse", "PIPECRYPT_STATE_DIR": str(tmp_path / "state")}
    for name, kind in (("pii", "aes256"), ("sign", "ed25519"), ("bob", "x25519")):
        create_key(f"keystore://./keys.json#{name}", kind, Credentials(given), kdf=CHEAP)
    return given


@pytest.mark.parametrize("change", ["passphrase", "removal", "new key"])
def test_what_a_killed_writer_left_goes_with_the_next_change(environ: dict[str, str], change: str) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, **environ}, check=False)
    assert died.returncode == -signal.SIGKILL
    (left,) = Path.cwd().glob(".keys.json.*")
    assert len(read_keys(str(left), Credentials({**environ, "PIPECRYPT_STATE_DIR": ""})).keys) == 4
    # What somebody else named likewise stays: another keystore's, a directory, a link, other lengths.
    others = [Path(name) for name in (".keys2.json.0123456789abcdef.tmp", ".keys.json.0123.tmp", ".keysXjson.bak")]
    for path in others:
        path.write_text("not ours")
    folder, link = Path(".keys.json.0123456789abcdef.tmp"), Path(".keys.json.fedcba9876543210.tmp")
    folder.mkdir()
    link.symlink_to(others[0])
    if change == "passphrase":
        keystores.change_passphrase(
            Path("keys.json"), Credentials({**environ, "PIPECRYPT_NEW_PASSPHRASE": "battery staple"}), CHEAP
        )
    elif change == "removal":
        remove_keys("keystore://./keys.json#pii", 1, Credentials(environ))
    else:
        create_key("keystore://./keys.json#more", "aes256", Credentials(environ))
    assert not left.exists()
    assert sorted(Path.cwd().glob(".keys*")) == sorted(path.absolute() for path in (*others, folder, link))


def _pem(kind: str) -> str:
    if kind == "mldsa65":
        with DataKey(os.urandom(32)) as seed:
            return public_pem(SignatureAlgorithm.MLDSA65, seed)
    if kind == "p384":
        public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = ec.generate_private_key(ec.SECP384R1()).public_key()
    else:
        bits = int(kind.removeprefix("rsa"))
        modulus = int.from_bytes(os.urandom(bits // 8), "big") | 1 << (bits - 1) | 1
        public = rsa.RSAPublicNumbers(2**63 + 1, modulus).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("kind", ["mldsa65", "p384", "rsa4096", "rsa8192"])
def test_a_public_key_of_another_type_than_its_key_is_refused(environ: dict[str, str], kind: str) -> None:
    path = Path("keys.json")
    document = json.loads(path.read_bytes())
    document["keys"][1]["public_key"] = _pem(kind)
    path.write_text(json.dumps(document))
    nobody = Credentials({"PIPECRYPT_STATE_DIR": ""})
    for use in (
        lambda: TrustedKeys.of(["keystore://./keys.json#sign"], credentials=nobody),
        lambda: export_public_half("keystore://./keys.json#sign", nobody),
    ):
        with pytest.raises(DamagedKeystoreError) as caught:
            use()
        assert "ed25519" in caught.value.message


def test_an_identity_of_another_type_than_its_key_is_refused(environ: dict[str, str]) -> None:
    create_key("keystore://./keys.json#eve", "mlkem768x25519", Credentials(environ))
    path = Path("keys.json")
    document = json.loads(path.read_bytes())
    document["keys"][2]["public_key"] = document["keys"][3]["public_key"]
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedKeystoreError):
        export_public_half("keystore://./keys.json#bob", Credentials({"PIPECRYPT_STATE_DIR": ""}))


def test_keys_whose_verification_is_slow_are_not_trusted() -> None:
    assert PublicKey(_pem("rsa8192")).algorithm is SignatureAlgorithm.RSA_PSS
    for kind in ("rsa8200", "rsa16384"):
        with pytest.raises(UsageError):
            PublicKey(_pem(kind))


def test_a_stranger_who_fills_a_keystore_costs_its_reader_little(environ: dict[str, str]) -> None:
    path = Path("keys.json")
    document = json.loads(path.read_bytes())
    entry = document["keys"][1]
    for number in range(2, MAX_TRUSTED_KEYS + 2):
        seed = DataKey(os.urandom(32))
        public = public_pem(SignatureAlgorithm.ED25519, seed)
        identifier = f"{number:08x}-0000-4000-8000-000000000000"
        document["keys"].append({**entry, "version": number, "id": identifier, "public_key": public})
    path.write_text(json.dumps(document))
    began = time.monotonic()
    with pytest.raises(UsageError) as caught:
        TrustedKeys.of(["keystore://./keys.json#sign"], credentials=Credentials({"PIPECRYPT_STATE_DIR": ""}))
    assert str(MAX_TRUSTED_KEYS) in caught.value.message
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["bob", "sign"])
def test_an_exported_key_and_the_doubt_about_it_come_from_one_read(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whichever of the reads sees another file: a key that nobody proved is not called authenticated."""
    honest = export_public_half(f"keystore://./keys.json#{name}", Credentials(environ)).key_id
    other = Credentials({"PIPECRYPT_PASSPHRASE": "another horse", "PIPECRYPT_STATE_DIR": ""})
    for each, kind in (("sign", "ed25519"), ("bob", "x25519")):
        create_key(f"keystore://./theirs.json#{each}", kind, other, kdf=CHEAP)
    read = keystore_file.read_keystore
    for seen in range(4):
        reads: list[Path] = []

        def swapped(path: Path, at: int = seen, reads: list[Path] = reads) -> KeystoreDocument:
            reads.append(path)
            return read(Path("theirs.json") if len(reads) - 1 == at else path)

        monkeypatch.setattr(keystore_file, "read_keystore", swapped)
        try:
            half = export_public_half(f"keystore://./keys.json#{name}", Credentials(environ))
        except Exception as error:
            assert type(error).__name__ == "PassphraseError"  # noqa: PT017
            continue
        assert (half.key_id, half.authenticated) == (honest, True)
        assert len(reads) == (1 if name == "bob" else 2)  # a signing key is looked for among the identities first


@pytest.mark.parametrize("counter", [2**53 - 1, 2**53 - 2, 2_000_000_000])
def test_a_planted_record_does_not_end_a_keystore(environ: dict[str, str], counter: int) -> None:
    path = Path("keys.json")
    (record,) = Path("state", "keystores").glob("*.json")
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "counter": counter}))
    with pytest.raises(DamagedKeystoreError):
        create_key("keystore://./keys.json#more", "aes256", Credentials(environ))
    assert keystores.accept_backup(path, Credentials(environ)).counter == 4
    create_key("keystore://./keys.json#more", "aes256", Credentials(environ))
    assert json.loads(path.read_bytes())["counter"] == json.loads(record.read_bytes())["counter"] == 5


def test_an_accepted_backup_is_above_what_was_seen(environ: dict[str, str]) -> None:
    path = Path("keys.json")
    backup = path.read_bytes()
    for name in ("a", "b"):
        create_key(f"keystore://./keys.json#{name}", "aes256", Credentials(environ))
    abandoned = path.read_bytes()
    path.write_bytes(backup)
    assert keystores.accept_backup(path, Credentials(environ)).counter == 6
    path.write_bytes(abandoned)
    with pytest.raises(DamagedKeystoreError):
        read_keys(str(path), Credentials(environ))


def test_a_counter_at_its_end_begins_again(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("keys.json")
    monkeypatch.setattr(keystores, "MAX_COUNTER", 3)
    with pytest.raises(KeystoreError) as caught:
        create_key("keystore://./keys.json#more", "aes256", Credentials(environ))
    assert "accept-backup" in (caught.value.hint or "")
    assert keystores.accept_backup(path, Credentials(environ)).counter == 1
    create_key("keystore://./keys.json#more", "aes256", Credentials(environ))


@pytest.mark.parametrize("name", ["link.json", "folder/keys.json"])
def test_a_link_that_leads_nowhere_makes_nothing_there(environ: dict[str, str], name: str) -> None:
    Path(name.partition("/")[0]).symlink_to("elsewhere/deep")
    with pytest.raises(KeystoreError):
        create_key(f"keystore://./{name}#pii", "aes256", Credentials(environ), kdf=CHEAP)
    assert not Path("elsewhere").exists()


def test_a_pipe_as_key_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    with pytest.raises(PassphraseError):
        Credentials({"PIPECRYPT_KEY_FILE": str(tmp_path / "pipe")}).key_file()
    assert time.monotonic() - began < 5


# ---- a keystore that is gone ----


def _rename(folder: Path) -> None:
    (folder / "keys.json").rename(folder / "away.json")


def _remove(folder: Path) -> None:
    (folder / "keys.json").unlink()


def _lead_nowhere(folder: Path) -> None:
    (folder / "keys.json").rename(folder / "true.json")
    (folder / "keys.json").symlink_to(folder / "none.json")


def _take_directory(folder: Path) -> None:
    """Rename the directory away, and put an empty one in its place."""
    folder.rename(folder.with_name("away"))
    folder.mkdir()


@pytest.mark.parametrize("way", [_rename, _remove, _take_directory, _lead_nowhere])
@pytest.mark.parametrize("makes", ["new", "import"])
def test_no_other_keystore_is_made_where_one_stood(
    tmp_path: Path, way: Callable[[Path], None], makes: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "keys"
    credentials = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse", "PIPECRYPT_STATE_DIR": str(tmp_path / "state")})
    reference = f"keystore://{folder}/keys.json#pii"

    def make(keystore: NewKeystore) -> None:
        if makes == "new":
            create_key(reference, "aes256", credentials, kdf=CHEAP, keystore=keystore)
        else:
            import_key(reference, bytes(32), credentials, kdf=CHEAP, keystore=keystore)

    made: list[Path] = []
    make(NewKeystore(made=made.append))
    assert made == [folder / "keys.json"]
    way(folder)
    (tmp_path / "link").symlink_to(folder)  # however it is spelled
    for spelled in (reference, reference.replace("/keys/", "/link/")):
        with pytest.raises(KeystoreError) as caught:
            create_key(spelled, "aes256", credentials, kdf=CHEAP)
        assert caught.value.exit_code == 4
    with pytest.raises(KeystoreError):
        make(NewKeystore(made=made.append))
    assert len(made) == 1
    if way is not _lead_nowhere:
        assert "is gone" in caught.value.message
        assert "--new-keystore" in caught.value.hint
        assert not (folder / "keys.json").exists()
        make(NewKeystore(replaces_lost=True, made=made.append))
        assert made == [folder / "keys.json"] * 2
    assert "malformed" not in caplog.text


def test_a_planted_record_keeps_nobody_from_making_a_keystore(
    environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = tmp_path / "state" / "keystores"
    (records / "00.json").write_bytes(b"{" * 10_000)
    (records / "11.json").mkdir()
    os.mkfifo(records / "22.json")
    (records / "33.json").symlink_to("/etc/passwd")
    (records / "44.json").write_text(json.dumps({"path": 7}))
    (records / "55.json").write_text(json.dumps({"keystore": "without a path"}))
    assert create_key("keystore://./other.json#pii", "aes256", Credentials(environ), kdf=CHEAP).version == 1
    assert all(str(records / f"{name}.json") in caplog.text for name in ("00", "11", "22", "33", "44"))
    Path("keys.json").unlink()
    with pytest.raises(KeystoreError, match="is gone"):  # and they hide no true one
        create_key("keystore://./keys.json#pii", "aes256", Credentials(environ), kdf=CHEAP)
