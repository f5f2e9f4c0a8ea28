from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pipecrypt.errors import (
    AccessError,
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeystoreError,
    PassphraseError,
    PolicyError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import check_strengths
from pipecrypt.keys.keystores import create_key, import_key, read_keys
from pipecrypt.keys.schemes.recipient import IdentityMasterKey, RecipientMasterKey
from pipecrypt.keys.service import MasterKey, open_key_reference
from pipecrypt.keys.session import KeySession
from pipecrypt.keys.signers import export_public_half, open_signer
from pipecrypt.testing import MemoryKeyService
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.crypto.keys import private_pem, public_text
from tests.keys.conftest import CHEAP_KDF
from tests.keys.public_halves import read_public_keys

HERE, THERE = Context(new_dataset_id(), ""), Context(new_dataset_id(), "")
NOBODY = Credentials({})
TYPES = ["x25519", "mlkem768x25519"]
Keystore = Callable[[str], str]


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return f"{path}"


def _open(reference: str, credentials: Credentials = NOBODY) -> MasterKey:
    opened = open_key_reference(reference, credentials)
    assert isinstance(opened, MasterKey)
    return opened


def _pair(keystore: Keystore, credentials: Credentials, key_type: str, name: str = "alice") -> tuple[str, str]:
    """Make an identity, and return the references of recipient and identity."""
    identity = keystore(name)
    create_key(identity, key_type, credentials, kdf=CHEAP_KDF)
    path = Path(identity.removeprefix("keystore://").partition("#")[0]).parent / f"{name}.pub"
    _write(path, export_public_half(identity, NOBODY).public_key)
    return f"recipient://{path}", identity


@pytest.mark.parametrize("key_type", TYPES)
def test_only_the_identity_opens(keystore: Keystore, credentials: Credentials, key_type: str) -> None:
    recipient, identity = _pair(keystore, credentials, key_type)
    writer, reader = _open(recipient), _open(identity, credentials)
    assert isinstance(writer, RecipientMasterKey)
    assert isinstance(reader, IdentityMasterKey)
    assert writer.id == reader.id
    assert (
        writer.id
        == read_keys(identity, Credentials({})).keys[0].master_key_id
        == export_public_half(recipient, NOBODY).key_id
    )

    key, wrapped = writer.generate_key(HERE)
    assert reader.unwrap_key(wrapped, HERE).same_as(key)
    with pytest.raises(IntegrityError):
        reader.unwrap_key(wrapped, THERE)
    with pytest.raises(AccessError) as caught:
        writer.unwrap_key(wrapped, HERE)
    assert "keystore://" in caught.value.hint
    assert writer.id.rpartition("/")[2] in caught.value.hint

    # Who holds the identity may write, too.
    key, wrapped = reader.generate_key(HERE)
    assert reader.unwrap_key(wrapped, HERE).same_as(key)


@pytest.mark.parametrize("encrypted", [False, True])
def test_pem_files_are_identities(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, encrypted: bool) -> None:
    for number, private in enumerate((X25519PrivateKey.generate(), rsa_key)):
        pem = private_pem(private, b"secret" if encrypted else None)
        identity = f"pem://{_write(tmp_path / f'{number}.pem', pem)}"
        recipient = f"recipient://{_write(tmp_path / f'{number}.pub', public_text(private))}"
        given = Credentials({"PIPECRYPT_PASSPHRASE": "secret"} if encrypted else {})
        key, wrapped = _open(recipient).generate_key(HERE)
        reader = _open(identity, given)
        assert reader.unwrap_key(wrapped, HERE).same_as(key)
        with pytest.raises(IntegrityError):
            reader.unwrap_key(wrapped, THERE)
        assert export_public_half(identity, given).public_key == public_text(private)
        if encrypted:
            for wrong in (NOBODY, Credentials({"PIPECRYPT_PASSPHRASE": "other"})):
                with pytest.raises(PassphraseError):
                    _open(identity, wrong)


def test_openssl_makes_the_id(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    path = _write(tmp_path / "a.pub", public_text(rsa_key))
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", path, "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert _open(f"recipient://{path}").id == f"recipient/rsa-oaep-256/{hashlib.sha256(der).hexdigest()}"


def test_earlier_versions_still_open(keystore: Keystore, credentials: Credentials) -> None:
    recipient, identity = _pair(keystore, credentials, "mlkem768x25519")
    before = _open(recipient)
    key, wrapped = before.generate_key(HERE)
    create_key(identity, "mlkem768x25519", credentials, new_version=True)
    reader = _open(identity, credentials)
    assert isinstance(reader, IdentityMasterKey)
    (earlier,) = reader.earlier_versions()
    assert earlier.id == before.id != reader.id
    assert earlier.unwrap_key(wrapped, HERE).same_as(key)
    assert export_public_half(identity, NOBODY).key_id == reader.id


def test_a_session_with_both_halves_opens(keystore: Keystore, credentials: Credentials) -> None:
    recipient, identity = _pair(keystore, credentials, "x25519")
    with KeySession([recipient], credentials=NOBODY, dataset_id=HERE.dataset_id) as writer:
        key, key_metadata = writer.new_data_key(recipient, HERE)
        assert recipient.removeprefix("recipient://") not in key_metadata.decode()
        with pytest.raises(KeyNotFoundError):
            writer.open_data_key(key_metadata, HERE)
    for order in ([recipient, identity], [identity, recipient]):
        with KeySession(order, credentials=credentials) as reader:
            assert reader.open_data_key(key_metadata, HERE).same_as(key)
    with KeySession([recipient], credentials=NOBODY) as reader, pytest.raises(AccessError):
        reader.open_data_key(key_metadata, HERE)


def test_a_pin_refuses_another_key(tmp_path: Path, keystore: Keystore, credentials: Credentials) -> None:
    recipient, _ = _pair(keystore, credentials, "mlkem768x25519")
    other, _ = _pair(keystore, credentials, "mlkem768x25519", "mallory")
    pin = _open(recipient).id.rpartition("/")[2]
    for text in (pin, pin.upper()):
        assert _open(f"{recipient}?sha256={text}").id.endswith(pin)
    with pytest.raises(UsageError):
        _open(f"{other}?sha256={pin}")
    for bad in (pin[1:], "x" * 64, ""):
        with pytest.raises(KeyReferenceError):
            _open(f"{recipient}?sha256={bad}")
    with pytest.raises(KeyReferenceError):
        _open(f"{recipient}?sha256={pin}&sha256={pin}")


def test_what_is_no_recipient_is_refused(
    tmp_path: Path, keystore: Keystore, credentials: Credentials, rsa_key: rsa.RSAPrivateKey
) -> None:
    good = public_text(X25519PrivateKey.generate())
    private = private_pem(X25519PrivateKey.generate()).decode()
    low_order = (
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEA" + "A" * 43 + "=\n-----END PUBLIC KEY-----\n"
    )  # the point 0
    for number, text in enumerate(
        (
            "",
            "hello",
            good + good,
            private,
            good + private,
            low_order,
            public_text(Ed25519PrivateKey.generate()),
            public_text(ec.generate_private_key(ec.SECP256R1())),
            public_text(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - that is the point
            good.replace("PUBLIC KEY", "CERTIFICATE"),
            good[:-30],
            good + " " * 2**20,
            b"\xff\xfe" * 50,
        )
    ):
        reference = f"recipient://{_write(tmp_path / f'{number}.pub', text)}"
        with pytest.raises(UsageError) as caught:
            _open(reference)
        assert str(tmp_path) in caught.value.message
        assert private.splitlines()[1] not in f"{caught.value!r} {caught.value.hint}"

    path = _write(tmp_path / "good.pub", f"of alice:\n{good}")
    _open(f"recipient://{path}")
    for bad, error in (
        (f"recipient://{path}#alice", KeyReferenceError),
        (f"recipient://{path}?x=y", KeyReferenceError),
        (f"recipient://{tmp_path}/nobody.pub", KeyNotFoundError),
        (f"recipient://{tmp_path}", UsageError),
    ):
        with pytest.raises(error):
            _open(bad)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    good = public_text(X25519PrivateKey.generate())
    reading, writing = os.pipe()
    os.write(writing, good.encode())
    os.close(writing)
    try:
        assert _open(f"recipient:///dev/fd/{reading}").id.startswith("recipient/x25519/")
    finally:
        os.close(reading)


def test_private_keys_that_exist_are_imported(tmp_path: Path, keystore: Keystore, credentials: Credentials) -> None:
    private = X25519PrivateKey.generate()
    entry = import_key(keystore("alice"), private_pem(private), credentials, kdf=CHEAP_KDF)
    assert (entry.type, entry.public_key) == ("x25519", public_text(private))
    recipient = f"recipient://{_write(tmp_path / 'a.pub', public_text(private))}"
    key, wrapped = _open(recipient).generate_key(HERE)
    assert _open(keystore("alice"), credentials).unwrap_key(wrapped, HERE).same_as(key)


def test_identities_neither_sign_nor_are_trusted(keystore: Keystore, credentials: Credentials) -> None:
    _, identity = _pair(keystore, credentials, "mlkem768x25519")
    with pytest.raises(UsageError):
        open_signer(identity, credentials)
    with pytest.raises(UsageError):
        read_public_keys(identity, credentials=NOBODY)


def test_an_exchanged_public_key_is_noticed_if_asked(keystore: Keystore, credentials: Credentials) -> None:
    _, alice = _pair(keystore, credentials, "mlkem768x25519")
    _, mallory = _pair(keystore, credentials, "mlkem768x25519", "mallory")
    path = Path(alice.removeprefix("keystore://").partition("#")[0])
    mine, hers = (read_keys(each, Credentials({})).keys[0].public_key for each in (alice, mallory))
    assert mine is not None
    assert hers is not None
    assert export_public_half(alice, credentials, prove=True).public_key == mine
    path.write_text(path.read_text().replace(mine.replace("\n", "\\n"), hers.replace("\n", "\\n")))
    assert export_public_half(alice, Credentials({})).public_key == hers  # taken at its word
    assert not export_public_half(alice, Credentials({})).authenticated
    for prove in (False, True):
        with pytest.raises(IntegrityError):
            export_public_half(alice, credentials, prove=prove)
    with pytest.raises(IntegrityError):
        _open(alice, credentials)
    path.write_text(path.read_text().replace(hers.replace("\n", "\\n"), "nonsense"))
    with pytest.raises(KeystoreError):
        read_keys(alice, Credentials({}))


def test_strengths_are_not_mixed(
    tmp_path: Path, keystore: Keystore, credentials: Credentials, rsa_key: rsa.RSAPrivateKey
) -> None:
    strong = [_open(_pair(keystore, credentials, "mlkem768x25519", name)[0]) for name in ("a", "b")]
    identity = _open(_pair(keystore, credentials, "x25519", "c")[1], credentials)
    old = _open(f"recipient://{_write(tmp_path / 'rsa.pub', public_text(rsa_key))}")
    memory = open_key_reference("memory://m", NOBODY, services={"memory": MemoryKeyService()})
    assert isinstance(memory, MasterKey)
    for fine in ([], strong, [identity, old], [*strong, memory], [memory, old]):
        check_strengths(key.id for key in fine)
    for mixed in ([*strong, old], [identity, strong[0]], [old, memory, strong[1]]):
        with pytest.raises(PolicyError):
            check_strengths(key.id for key in mixed)
