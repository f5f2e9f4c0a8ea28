import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipecrypt.crypto.signature import PrivateKey, PublicKey, Signature
from pipecrypt.errors import (
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeyServiceError,
    KeystoreError,
    PassphraseError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import Wipeable, open_key_reference
from pipecrypt.keys.signers import LocalSigner, PublicKeys, Signer, SigningService, make_signatures, open_signer
from tests.crypto.keys import private_pem, public_text
from tests.keys.conftest import CHEAP_KDF
from tests.keys.public_halves import export_public_key, read_public_keys

Reference = Callable[[str], str]
NOBODY = Credentials({})


class FakeService:
    """A key service far away whose keys sign: what it does is what the test says."""

    def __init__(self, signer: Signer | Exception, public: tuple[str, ...] | Exception = ()) -> None:
        self._signer = signer
        self._public = public

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> Signer:
        if isinstance(self._signer, Exception):
            raise self._signer
        return self._signer

    def public_keys(self, reference: KeyReference) -> tuple[str, ...]:
        if isinstance(self._public, Exception):
            raise self._public
        return self._public


class FakeSigner:
    """A signer that shows one key, and signs as `sign` does."""

    def __init__(self, public_key_pem: str, sign: Callable[[bytes], bytes]) -> None:
        self.public_key_pem = public_key_pem
        self._sign = sign

    @property
    def key_id(self) -> str:
        return PublicKey(self.public_key_pem).key_id

    def sign(self, message: bytes) -> bytes:
        return self._sign(message)


def _local() -> LocalSigner:
    return LocalSigner(PrivateKey.from_pem(private_pem(Ed25519PrivateKey.generate())))


def _pem_file(folder: Path, pem: bytes, mode: int = 0o600) -> str:
    path = folder / "key.pem"
    path.write_bytes(pem)
    path.chmod(mode)
    return f"pem://{path}"


@pytest.mark.parametrize("key_type", ["ed25519", "mldsa65"])
def test_a_keystore_signs_with_the_newest_version(keystore: Reference, credentials: Credentials, key_type: str) -> None:
    for new_version in (False, True):
        entry = create_key(keystore("sign"), key_type, credentials, new_version=new_version, kdf=CHEAP_KDF)
    signer = open_signer(keystore("sign"), credentials)
    assert isinstance(signer, Signer)
    assert signer.key_id == entry.key_id == PublicKey(signer.public_key_pem).key_id
    PublicKey(signer.public_key_pem).verify(b"message", signer.sign(b"message"))
    assert entry.public_key is not None
    PublicKey(entry.public_key).verify(b"message", signer.sign(b"message"))
    assert signer.key_id in repr(signer)
    assert isinstance(signer, Wipeable)
    signer.wipe()
    with pytest.raises(RuntimeError):
        signer.sign(b"message")


def test_public_keys_of_a_keystore_need_no_passphrase(keystore: Reference, credentials: Credentials) -> None:
    ids = [
        create_key(keystore("sign"), "ed25519", credentials, new_version=version > 0, kdf=CHEAP_KDF).key_id
        for version in range(3)
    ]
    assert [public.key_id for public in read_public_keys(keystore("sign"), credentials=NOBODY)] == ids
    assert PublicKey(export_public_key(keystore("sign"), NOBODY)).key_id == ids[-1]
    assert PublicKey(export_public_key(keystore("sign"), credentials, prove=True)).key_id == ids[-1]
    with pytest.raises(PassphraseError):
        export_public_key(keystore("sign"), NOBODY, prove=True)
    with pytest.raises(PassphraseError):
        open_signer(keystore("sign"), NOBODY)


def test_a_keystore_refuses_what_does_not_sign(
    keystore: Reference, credentials: Credentials, wrong_credentials: Credentials
) -> None:
    create_key(keystore("pii"), "aes256", credentials, kdf=CHEAP_KDF)
    create_key(keystore("sign"), "ed25519", credentials, kdf=CHEAP_KDF)
    for reference, given, error in (
        (keystore("pii"), credentials, UsageError),
        (keystore("other"), credentials, KeyNotFoundError),
        (keystore("sign"), wrong_credentials, PassphraseError),
        (keystore("sign").partition("#")[0], credentials, KeyReferenceError),
        (keystore("sign").replace("keys.json", "none.json"), credentials, KeystoreError),
        ("static:///x.json", credentials, UsageError),
        ("nothing://x", credentials, KeyReferenceError),
        ("no reference", credentials, KeyReferenceError),
    ):
        with pytest.raises(error):
            open_signer(reference, given)
    for reference in (keystore("pii"), "static:///x.json", "pem:///x.pem"):
        with pytest.raises(UsageError):
            read_public_keys(reference, credentials=NOBODY)


def test_a_changed_keystore_signs_nothing(keystore: Reference, credentials: Credentials) -> None:
    create_key(keystore("a"), "ed25519", credentials, kdf=CHEAP_KDF)
    create_key(keystore("b"), "ed25519", credentials, kdf=CHEAP_KDF)
    path = Path(keystore("a").removeprefix("keystore://").partition("#")[0])
    a, b = (export_public_key(keystore(name), NOBODY) for name in "ab")
    path.write_text(path.read_text().replace(a.replace("\n", "\\n"), b.replace("\n", "\\n")))
    assert export_public_key(keystore("a"), NOBODY) == b  # nothing proves it
    with pytest.raises(IntegrityError):
        open_signer(keystore("a"), credentials)


@pytest.mark.parametrize("password", [None, b"correct horse"])
def test_pem_files_sign(tmp_path: Path, credentials: Credentials, password: bytes | None) -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    reference = _pem_file(tmp_path, private_pem(private, password))
    signer = open_signer(reference, credentials if password else NOBODY)
    assert signer.public_key_pem == public_text(private)
    PublicKey(public_text(private)).verify(b"message", signer.sign(b"message"))
    assert export_public_key(reference, credentials) == public_text(private)


def test_encrypted_pem_asks_for_its_passphrase(tmp_path: Path, wrong_credentials: Credentials) -> None:
    reference = _pem_file(tmp_path, private_pem(Ed25519PrivateKey.generate(), b"word"))
    asked: list[str] = []

    def prompt(label: str) -> str:
        asked.append(label)
        return "word"

    open_signer(reference, Credentials({}, prompt))
    assert asked == [f"passphrase for {reference}"]
    for given in (NOBODY, wrong_credentials):
        with pytest.raises(PassphraseError):
            open_signer(reference, given)


def test_pem_references_that_are_none(tmp_path: Path, credentials: Credentials) -> None:
    good = _pem_file(tmp_path, private_pem(Ed25519PrivateKey.generate()))
    (tmp_path / "empty.pem").touch()
    (tmp_path / "long.pem").write_bytes((tmp_path / "key.pem").read_bytes() + b" " * 100_000)
    (tmp_path / "public.pem").write_text(export_public_key(good, credentials))
    for reference, error in (
        (f"{good}#name", KeyReferenceError),
        (f"{good}?a=b", KeyReferenceError),
        (f"pem://{tmp_path}/none.pem", KeyNotFoundError),
        (f"pem://{tmp_path}", KeystoreError),
        (f"pem://{tmp_path}/empty.pem", UsageError),
        (f"pem://{tmp_path}/long.pem", UsageError),
        (f"pem://{tmp_path}/public.pem", UsageError),
    ):
        with pytest.raises(error) as caught:
            open_signer(reference, credentials)
        assert str(tmp_path) in str(caught.value)


def test_a_pem_key_encrypts_nothing(tmp_path: Path, credentials: Credentials) -> None:
    with pytest.raises(UsageError):
        open_key_reference(_pem_file(tmp_path, private_pem(Ed25519PrivateKey.generate())), credentials)


def test_a_pem_file_open_to_others_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pem = private_pem(Ed25519PrivateKey.generate())
    with caplog.at_level(logging.WARNING):
        open_signer(_pem_file(tmp_path, pem), NOBODY)
        assert not caplog.records
        open_signer(_pem_file(tmp_path, pem, 0o644), NOBODY)
    assert "key.pem" in caplog.text
    assert pem.decode().splitlines()[1][:20] not in caplog.text


def test_signers_are_not_copied() -> None:
    for copier in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            copier(_local())


def test_several_signatures_of_one_message() -> None:
    signers = [
        _local(),
        _local(),
        LocalSigner(PrivateKey.from_pem(private_pem(ec.generate_private_key(ec.SECP256R1())))),
    ]
    signatures = make_signatures(signers, b"message")
    assert [signature.key_id for signature in signatures] == [signer.key_id for signer in signers]
    for signer, signature in zip(signers, signatures, strict=True):
        PublicKey(signer.public_key_pem).verify(b"message", signature.value)
    assert PublicKey(signers[2].public_key_pem).algorithm == "ecdsa-p256"
    for wrong in ([], [signers[0], signers[1], signers[0]]):
        with pytest.raises(UsageError):
            make_signatures(wrong, b"message")


def test_a_service_that_answers_nonsense_is_found_out() -> None:
    good, other = _local(), _local()

    def fail(message: bytes) -> bytes:
        raise ValueError("a secret")

    for sign in (other.sign, lambda message: b"", lambda message: good.sign(b"another"), fail):
        with pytest.raises(KeyServiceError) as caught:
            make_signatures([FakeSigner(good.public_key_pem, sign)], b"message")
        assert "a secret" not in str(caught.value)
    assert make_signatures([FakeSigner(good.public_key_pem, good.sign)], b"message") == (
        Signature(good.key_id, good.sign(b"message")),
    )


def test_a_service_of_a_plug_in(credentials: Credentials) -> None:
    signer = _local()
    service = FakeService(signer, (_local().public_key_pem, signer.public_key_pem))
    assert isinstance(service, SigningService)
    assert isinstance(service, PublicKeys)
    services = {"far": service}
    assert open_signer("far://key", credentials, services=services) is signer
    assert read_public_keys("far://key", services=services, credentials=NOBODY)[-1] == PublicKey(signer.public_key_pem)
    assert export_public_key("far://key", credentials, services=services) == signer.public_key_pem


def test_foreign_errors_are_mapped_and_not_repeated(credentials: Credentials) -> None:
    for error, mapped in ((ValueError("a secret"), KeyServiceError), (KeyNotFoundError("x"), KeyNotFoundError)):
        services = {"far": FakeService(error, error)}
        for call in (
            lambda: open_signer("far://key", credentials, services=services),  # noqa: B023 - called at once
            lambda: read_public_keys("far://key", services=services, credentials=NOBODY),  # noqa: B023 - called at once
        ):
            with pytest.raises(mapped) as caught:
                call()
            assert "a secret" not in str(caught.value)
    with pytest.raises(UsageError):
        read_public_keys("far://key", services={"far": FakeService(_local(), ("no PEM",))}, credentials=NOBODY)
