import base64
import json
import logging
import multiprocessing
import os
import stat
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipecrypt.crypto.kdf import Argon2Parameters, KDFParameters, ScryptParameters, derive_key
from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm
from pipecrypt.errors import (
    ConflictError,
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeystoreError,
    PassphraseError,
    StorageError,
    UsageError,
)
from pipecrypt.keys import keystores as keystore_changing
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key, import_key, read_keys
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes import keystore_document
from pipecrypt.keys.schemes import keystore_document as keystore_seal
from pipecrypt.keys.schemes.keystore import SERVICE, KeystoreMasterKey
from pipecrypt.keys.service import MasterKey
from pipecrypt.keys.session import KeySession
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey
from tests.keys.public_halves import export_public_key

Reference = Callable[[str], str]
PLACE = Context(new_dataset_id(), "a.parquet", ("a",), 0)
CHEAP = Argon2Parameters(salt=bytes(16), memory_kib=8192, iterations=1, lanes=1)


def _create(reference: str, credentials: Credentials, key_type: str = "aes256", **options: Any) -> str:
    return create_key(reference, key_type, credentials, kdf=CHEAP, **options).master_key_id


def _path(reference: str) -> Path:
    return Path(reference.removeprefix("keystore://").partition("#")[0])


def _edit(reference: str, change: Callable[[Any], object]) -> None:
    path = _path(reference)
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def _key_file(folder: Path, name: str = "key") -> Credentials:
    path = folder / name
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    return Credentials({"PIPECRYPT_KEY_FILE": str(path)})


def test_made_used_and_read_again(keystore: Reference, credentials: Credentials) -> None:
    master_key_id = _create(keystore("pii"), credentials)
    with KeySession([keystore("pii")], credentials=credentials, dataset_id=PLACE.dataset_id) as writer:
        key, key_metadata = writer.new_data_key(keystore("pii"), PLACE)
        assert writer.service_calls == 1
    stored = json.loads(key_metadata)["masterKeyID"]
    assert stored == master_key_id
    scheme, name, identity = stored.split("/")
    assert (scheme, name, str(uuid.UUID(identity))) == ("keystore", "pii", identity)
    assert str(_path(keystore("pii"))).encode() not in key_metadata
    with KeySession([keystore("pii")], credentials=credentials) as reader:
        assert reader.open_data_key(key_metadata, PLACE).same_as(key)


def test_a_kek_is_bound_to_its_dataset(keystore: Reference, credentials: Credentials) -> None:
    _create(keystore("pii"), credentials)
    master_key = SERVICE.open_key(parse_key_reference(keystore("pii")), credentials)
    assert isinstance(master_key, MasterKey)
    assert isinstance(master_key, KeystoreMasterKey)
    here, there = Context(PLACE.dataset_id, ""), Context(new_dataset_id(), "")
    key, wrapped = master_key.generate_key(here)
    assert master_key.unwrap_key(wrapped, here).same_as(key)
    for other, context in ((wrapped, there), (wrapped[:-1], here), (b"", here)):
        with pytest.raises(IntegrityError):
            master_key.unwrap_key(other, context)


def test_closing_a_session_wipes_all_versions(keystore: Reference, credentials: Credentials) -> None:
    _create(keystore("pii"), credentials)
    _create(keystore("pii"), credentials, new_version=True)
    session = KeySession([keystore("pii")], credentials=credentials)
    versions = [key for key in session._keyring._master_keys.values() if isinstance(key, KeystoreMasterKey)]
    assert [key._key.bits for key in versions] == [256, 256]
    session.close()
    assert [key._key.bits for key in versions] == [0, 0]


def test_moved_keystore_still_opens(keystore: Reference, credentials: Credentials, tmp_path: Path) -> None:
    _create(keystore("pii"), credentials)
    with KeySession([keystore("pii")], credentials=credentials) as session:
        key, key_metadata = session.new_data_key(keystore("pii"), PLACE)
    _path(keystore("pii")).rename(tmp_path / "moved.json")
    with KeySession([f"keystore://{tmp_path}/moved.json#pii"], credentials=credentials) as session:
        assert session.open_data_key(key_metadata, PLACE).same_as(key)


def test_file_is_private_and_holds_no_key(keystore: Reference, credentials: Credentials) -> None:
    old = os.umask(0)
    try:
        import_key(keystore("pii"), b"K" * 32, credentials, kdf=CHEAP)
    finally:
        os.umask(old)
    path = _path(keystore("pii"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"K" * 4 not in path.read_bytes()
    assert base64.b64encode(b"K" * 32)[:8] not in path.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


def test_default_is_argon2id_and_salted(keystore: Reference, credentials: Credentials) -> None:
    create_key(keystore("pii"), "aes256", credentials)
    protection = json.loads(_path(keystore("pii")).read_bytes())["protection"]
    assert (protection["kdf"], protection["memory_kib"], protection["iterations"]) == ("argon2id", 65536, 3)
    KeySession([keystore("pii")], credentials=credentials).close()


def test_scrypt_keystores_open(keystore: Reference, credentials: Credentials) -> None:
    create_key(keystore("pii"), "aes256", credentials, kdf=ScryptParameters(salt=bytes(16), cost=2**14))
    KeySession([keystore("pii")], credentials=credentials).close()


def test_versions(keystore: Reference, credentials: Credentials) -> None:
    first_id = _create(keystore("pii"), credentials)
    with KeySession([keystore("pii")], credentials=credentials) as session:
        key, old = session.new_data_key(keystore("pii"), PLACE)
    with pytest.raises(ConflictError):
        _create(keystore("pii"), credentials)
    with pytest.raises(UsageError):
        _create(keystore("pii"), credentials, "ed25519", new_version=True)
    with pytest.raises(KeyNotFoundError):
        _create(keystore("other"), credentials, new_version=True)
    ids = [first_id] + [_create(keystore("pii"), credentials, new_version=True) for _ in range(2)]
    assert [entry.version for entry in read_keys(keystore("pii"), Credentials({})).keys] == [1, 2, 3]
    assert [entry.master_key_id for entry in read_keys(keystore("pii"), Credentials({})).keys] == ids
    with KeySession([keystore("pii")], credentials=credentials) as session:
        assert session.open_data_key(old, PLACE).same_as(key)
        assert json.loads(session.new_data_key(keystore("pii"), PLACE)[1])["masterKeyID"] == ids[-1]


def test_refused_keys_leave_the_file_alone(keystore: Reference, credentials: Credentials, tmp_path: Path) -> None:
    with pytest.raises(KeyNotFoundError):
        _create(keystore("pii"), credentials, new_version=True)
    for key_type in ("rsa", "rsa-oaep-256", "x448", ""):
        with pytest.raises(UsageError) as caught:
            _create(keystore("pii"), credentials, key_type)
        assert "mldsa65" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("environ", [{}, {"PIPECRYPT_PASSPHRASE": ""}, {"PIPECRYPT_KEY_FILE": "/none"}])
def test_missing_passphrase_shows_before_any_file(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(PassphraseError):
        _create(f"keystore://{tmp_path}/new/keys.json#pii", Credentials(environ))
    assert list(tmp_path.iterdir()) == []


def test_wrong_passphrase(keystore: Reference, credentials: Credentials, wrong_credentials: Credentials) -> None:
    _create(keystore("pii"), credentials)
    before = _path(keystore("pii")).read_bytes()
    with pytest.raises(PassphraseError):
        KeySession([keystore("pii")], credentials=wrong_credentials)
    with pytest.raises(PassphraseError):
        _create(keystore("ops"), wrong_credentials)
    with pytest.raises(PassphraseError):
        KeySession([keystore("pii")], credentials=Credentials({}))
    assert _path(keystore("pii")).read_bytes() == before


def test_key_file_instead_of_a_passphrase(keystore: Reference, tmp_path: Path, credentials: Credentials) -> None:
    by_file = _key_file(tmp_path)
    _create(keystore("pii"), by_file)
    assert json.loads(_path(keystore("pii")).read_bytes())["protection"] == {"kind": "key-file"}
    KeySession([keystore("pii")], credentials=by_file).close()
    for other in (credentials, Credentials({}), _key_file(tmp_path, "other")):
        with pytest.raises(PassphraseError):
            KeySession([keystore("pii")], credentials=other)


def test_a_keystore_keeps_its_protection(keystore: Reference, tmp_path: Path, credentials: Credentials) -> None:
    _create(keystore("pii"), credentials)
    with pytest.raises(PassphraseError):
        _create(keystore("ops"), _key_file(tmp_path))
    both = Credentials(dict(credentials.environ) | dict(_key_file(tmp_path).environ))
    _create(keystore("ops"), both)
    assert len(read_keys(keystore("ops"), Credentials({})).keys) == 1


def test_a_person_is_asked_twice_for_a_new_keystore_and_once_later(keystore: Reference) -> None:
    asked: list[str] = []

    def answer(label: str) -> str:
        asked.append(label)
        return "correct horse"

    _create(keystore("pii"), Credentials({}, answer))
    assert len(asked) == 2
    with KeySession([keystore("pii")], credentials=Credentials({}, answer)):
        assert len(asked) == 3
    read_keys(keystore("pii"), Credentials({}))
    assert len(asked) == 3


def test_one_derivation_for_all_keys_of_a_keystore(
    keystore: Reference, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [keystore(name) for name in ("a", "b", "c")]
    for name in names:
        _create(name, credentials)
    calls = []
    credentials = Credentials({**credentials.environ, "PIPECRYPT_UNLOCKED_SECONDS": "0"})

    def derive(passphrase: bytes, parameters: KDFParameters) -> DataKey:
        calls.append(1)
        return derive_key(passphrase, parameters)

    monkeypatch.setattr(keystore_seal, "derive_key", derive)
    KeySession(names, credentials=credentials).close()
    assert len(calls) == 1
    assert credentials._derived == {}


def test_listing_needs_no_passphrase(keystore: Reference, credentials: Credentials) -> None:
    moment = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
    _create(keystore("pii"), credentials, clock=lambda: moment)
    _create(keystore("sign"), credentials, "ed25519")
    path = str(_path(keystore("pii")))
    for reference in (path, f"keystore://{path}"):
        entries = read_keys(reference, Credentials({})).keys
        assert [(entry.name, entry.type, entry.version) for entry in entries] == [
            ("pii", "aes256", 1), ("sign", "ed25519", 1),
        ]  # fmt: skip
    assert entries[0].created == "2026-11-24T12:00:00Z"
    assert entries[0].public_key is None
    assert entries[0].key_id is None
    assert entries[1].public_key == export_public_key(keystore("sign"), Credentials({}))
    assert entries[1].key_id == PublicKey(entries[1].public_key).key_id
    with pytest.raises(KeyNotFoundError):
        read_keys(keystore("other"), Credentials({}))


@pytest.mark.parametrize("key_type", ["ed25519", "mldsa65"])
def test_signing_keys(keystore: Reference, credentials: Credentials, key_type: str) -> None:
    _create(keystore("sign"), credentials, key_type)
    assert PublicKey(export_public_key(keystore("sign"), credentials, prove=True)).algorithm is SignatureAlgorithm(
        key_type
    )
    with pytest.raises(UsageError):
        KeySession([keystore("sign")], credentials=credentials)


def test_export_refuses_master_keys_and_exchanged_public_keys(keystore: Reference, credentials: Credentials) -> None:
    for name, key_type in (("pii", "aes256"), ("a", "ed25519"), ("b", "ed25519")):
        _create(keystore(name), credentials, key_type)
    with pytest.raises(UsageError):
        export_public_key(keystore("pii"), credentials)
    other = export_public_key(keystore("b"), credentials)
    _edit(keystore("a"), lambda document: document["keys"][1].update(public_key=other))
    with pytest.raises(IntegrityError):
        export_public_key(keystore("a"), credentials, prove=True)
    _edit(keystore("a"), lambda document: document["keys"][1].update(public_key="no PEM"))
    with pytest.raises(KeystoreError):
        read_keys(keystore("a"), Credentials({}))


def test_import(keystore: Reference, credentials: Credentials) -> None:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for name, data in (("raw", bytes(32)), ("text", base64.b64encode(bytes(32)) + b"\n"), ("sign", pem)):
        import_key(keystore(name), data, credentials, kdf=CHEAP)
    assert [entry.type for entry in read_keys(str(_path(keystore("raw"))), Credentials({})).keys] == [
        "aes256",
        "aes256",
        "ed25519",
    ]
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert export_public_key(keystore("sign"), credentials, prove=True) == public.decode()
    import_key(keystore("raw"), b"K" * 32, credentials, new_version=True)
    for data in (
        b"",
        b"K" * 31,
        b"K" * 33,
        b"00" * 32,
        b"-----BEGIN X-----",
        base64.b64encode(bytes(16)),
        "ü".encode(),
        public,
    ):
        with pytest.raises(UsageError) as caught:
            import_key(keystore("bad"), data, credentials)
        assert "KKK" not in str(caught.value)


def test_equal_master_keys_share_no_wraps_between_names(keystore: Reference, credentials: Credentials) -> None:
    for name in ("a", "b"):
        import_key(keystore(name), b"K" * 32, credentials, kdf=CHEAP)
    with KeySession([keystore("a"), keystore("b")], credentials=credentials) as session:
        _, key_metadata = session.new_data_key(keystore("a"), PLACE)
        document = json.loads(key_metadata)
        document["masterKeyID"] = read_keys(keystore("b"), Credentials({})).keys[0].master_key_id
        with pytest.raises(IntegrityError):
            session.open_data_key(json.dumps(document).encode(), PLACE)


@pytest.mark.parametrize(
    "change",
    [
        lambda keys: keys[0].update(name="ops", version=2),
        lambda keys: keys[0].update(name="renamed"),
        lambda keys: keys[0].update(version=9),
        lambda keys: keys[0].update(created="2020-01-01T00:00:00Z"),
        lambda keys: keys[0].update(id=str(uuid.uuid4())),
        lambda keys: keys[0].update(sealed=keys[1]["sealed"]),
        lambda keys: keys[0].update(sealed=""),
    ],
)
def test_changed_entries_are_noticed(
    keystore: Reference, credentials: Credentials, change: Callable[[Any], object]
) -> None:
    _create(keystore("pii"), credentials)
    _create(keystore("ops"), credentials)
    _edit(keystore("pii"), lambda document: change(document["keys"]))
    with pytest.raises(IntegrityError):
        KeySession(
            [
                f"keystore://{_path(keystore('pii'))}#{entry.name}"
                for entry in read_keys(str(_path(keystore("pii"))), Credentials({})).keys
            ],
            credentials=credentials,
        )


def test_changed_header_does_not_open(keystore: Reference, credentials: Credentials) -> None:
    changes: list[tuple[type[Exception], Callable[[Any], object]]] = [
        (IntegrityError, lambda document: document.update(id=str(uuid.uuid4()))),
        (IntegrityError, lambda document: document.update(verifier="")),
        # These give another key, as another passphrase would.
        (PassphraseError, lambda document: document["protection"].update(iterations=2)),
        (
            PassphraseError,
            lambda document: document["protection"].update(salt=base64.b64encode(b"S" * 16).decode()),
        ),
    ]
    for error, change in changes:
        _path(keystore("pii")).unlink(missing_ok=True)
        _create(keystore("pii"), credentials)
        _edit(keystore("pii"), change)
        with pytest.raises(error):
            KeySession([keystore("pii")], credentials=credentials)


def test_bad_places(keystore: Reference, credentials: Credentials, tmp_path: Path) -> None:
    for reference, error in (
        (f"keystore://{tmp_path}/keys.json", KeyReferenceError),
        (keystore("") , KeyReferenceError),
        (keystore("a/b"), KeyReferenceError),
        (keystore(".a"), KeyReferenceError),
        (keystore("a" * 65), KeyReferenceError),
        (f"keystore://{tmp_path}/keys.json?a=b#pii", KeyReferenceError),
        ("static:///x#pii", UsageError),
        (f"keystore://{tmp_path}#pii", KeystoreError),
    ):  # fmt: skip
        with pytest.raises(error):
            _create(reference, credentials)
    with pytest.raises(KeystoreError):
        KeySession([keystore("pii")], credentials=credentials)
    with pytest.raises(KeystoreError):
        read_keys(keystore("pii"), Credentials({}))
    _create(keystore("pii"), credentials)
    with pytest.raises(KeyNotFoundError) as caught:
        KeySession([keystore("pi")], credentials=credentials)
    assert "pii" in caught.value.hint


def test_links_and_directories(credentials: Credentials, tmp_path: Path) -> None:
    _create(f"keystore://{tmp_path}/deep/er/keys.json#pii", credentials)
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) & 0o077 in (0, 0o055)
    link = tmp_path / "link.json"
    link.symlink_to("deep/er/keys.json")
    _create(f"keystore://{link}#ops", credentials)
    assert link.is_symlink()
    assert len(read_keys(str(tmp_path / "deep/er/keys.json"), Credentials({})).keys) == 2
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(KeystoreError):
        _create(f"keystore://{loop}#ops", credentials)


def test_pipes_do_not_hang(credentials: Credentials, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeystoreError):
        KeySession([f"keystore://{tmp_path}/pipe#pii"], credentials=credentials)


def test_open_keystore_is_warned_about(
    keystore: Reference, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    _create(keystore("pii"), credentials)
    _path(keystore("pii")).chmod(0o644)
    with caplog.at_level(logging.WARNING):
        read_keys(keystore("pii"), Credentials({}))
    assert str(_path(keystore("pii"))) in caplog.text


def test_a_failed_write_leaves_the_old_file(
    keystore: Reference, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    _create(keystore("pii"), credentials)
    before = _path(keystore("pii")).read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "no space left on device")

    for name in ("rename", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StorageError) as caught:
                _create(keystore("ops"), credentials)
        assert "no space left" in str(caught.value)
        assert caught.value.exit_code == 1
    assert _path(keystore("pii")).read_bytes() == before
    assert [entry.name for entry in _path(keystore("pii")).parent.iterdir()] == ["keys.json"]


def _add(reference: str, environ: dict[str, str]) -> None:
    _create(reference, Credentials(environ))


def test_concurrent_writers_lose_nothing(keystore: Reference, credentials: Credentials) -> None:
    names = [f"k{number}" for number in range(12)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(keystore(name), dict(credentials.environ))) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(names)
    assert sorted(entry.name for entry in read_keys(str(_path(keystore("k0"))), Credentials({})).keys) == sorted(names)
    KeySession([keystore(name) for name in names], credentials=credentials).close()


@pytest.mark.parametrize("same_passphrase", [True, False])
def test_a_maker_that_is_overtaken_adds_to_what_is_there(
    keystore: Reference,
    credentials: Credentials,
    wrong_credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
    same_passphrase: bool,
) -> None:
    new_keystore = keystore_seal.new_keystore

    def overtaken(*args: Any) -> object:
        monkeypatch.setattr(keystore_changing, "new_keystore", new_keystore)
        _create(keystore("first"), credentials if same_passphrase else wrong_credentials)
        return new_keystore(*args)

    monkeypatch.setattr(keystore_changing, "new_keystore", overtaken)
    if same_passphrase:
        _create(keystore("second"), credentials)
        KeySession([keystore("first"), keystore("second")], credentials=credentials).close()
    else:
        with pytest.raises(PassphraseError):
            _create(keystore("second"), credentials)
        KeySession([keystore("first")], credentials=wrong_credentials).close()


def test_nothing_is_written_that_could_not_be_read(
    keystore: Reference, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    _create(keystore("pii"), credentials)
    before = _path(keystore("pii")).read_bytes()
    monkeypatch.setattr(keystore_document, "_MAX_KEYS", 1)
    with pytest.raises(KeystoreError):
        _create(keystore("ops"), credentials)
    assert _path(keystore("pii")).read_bytes() == before
