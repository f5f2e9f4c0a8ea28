from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipecrypt.crypto.signature import PublicKey
from pipecrypt.errors import (
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
    MissingExtraError,
    PassphraseError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes import pkcs11
from pipecrypt.keys.schemes.pkcs11 import SERVICE, TokenMasterKey, parse_token_key
from pipecrypt.keys.session import KeySession
from pipecrypt.keys.signers import export_public_half, make_signatures, open_signer
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.keys.softhsm import OTHER_PIN, PIN, REPLICA, TOKEN, TWINS, Tokens, log_out, softhsm

HERE, THERE = Context(new_dataset_id(), ""), Context(new_dataset_id(), "")
PII = f"pkcs11:token={TOKEN};object=pii"


@pytest.fixture(scope="module")
def keys() -> Iterator[Tokens]:
    tokens = softhsm()
    tokens.make_key("pii", b"\x01")
    tokens.make_key("bare")
    tokens.make_key("double", b"\x10")
    tokens.make_key("double", b"\x11")
    tokens.make_key("one", b"\x20")
    tokens.make_key("other", b"\x20")
    tokens.make_key("small", b"\x30", bits=128)
    yield tokens
    for label in ("pii", "bare", "double", "one", "other", "small"):
        tokens.destroy(label)


@pytest.fixture(autouse=True)
def no_login_is_left() -> Iterator[None]:
    log_out()
    yield
    assert not pkcs11._LOGINS


def _open(tokens: Tokens, reference: str, **environ: str) -> TokenMasterKey:
    return SERVICE.open_key(parse_key_reference(reference), Credentials(tokens.environ | environ))


def test_the_id_names_token_and_key(keys: Tokens) -> None:
    for reference, form in (
        (PII, r"pkcs11/[0-9a-f]{16}/01"),
        (f"pkcs11:token={TOKEN};id=%01", r"pkcs11/[0-9a-f]{16}/01"),
        (f"pkcs11:token={TOKEN};object=bare", r"pkcs11/[0-9a-f]{16}/label/bare"),
    ):
        master_key = _open(keys, reference)
        assert re.fullmatch(form, master_key.id)
        serial = master_key.id.split("/")[1]
        again = _open(keys, reference.replace(f"token={TOKEN}", f"serial={serial}"))
        assert again.id == master_key.id
        assert repr(again) == f"<TokenMasterKey {again.id}>"
        master_key.wipe()
        again.wipe()


def test_a_pin_in_a_file(keys: Tokens, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text(f"{PIN}\n")
    (tmp_path / "pin").chmod(0o600)
    reference = parse_key_reference(f"{PII}?pin-source=file:{tmp_path}/pin&module-path={keys.module}")
    master_key = SERVICE.open_key(reference, Credentials({}))
    key, wrapped = master_key.generate_key(HERE)
    assert master_key.unwrap_key(wrapped, HERE).same_as(key)
    master_key.wipe()


def test_the_passphrase_of_a_keystore_is_no_pin(keys: Tokens) -> None:
    with pytest.raises(PassphraseError):
        SERVICE.open_key(
            parse_key_reference(PII), Credentials({"PIPECRYPT_PKCS11_MODULE": keys.module, "PIPECRYPT_PASSPHRASE": PIN})
        )


def test_a_person_is_asked_once(keys: Tokens) -> None:
    asked: list[str] = []

    def answer(label: str) -> str:
        asked.append(label)
        return PIN

    credentials = Credentials({"PIPECRYPT_PKCS11_MODULE": keys.module}, answer)
    references = [PII, f"pkcs11:token={TOKEN};object=bare"]
    with KeySession(references, credentials=credentials, dataset_id=HERE.dataset_id):
        assert asked == [f"PIN of token {TOKEN}"]


def test_one_login_serves_all_keys_of_a_process(keys: Tokens) -> None:
    first, second = _open(keys, PII), _open(keys, f"pkcs11:token={TOKEN};object=bare")
    assert len(pkcs11._LOGINS) == 1
    key, wrapped = first.generate_key(HERE)
    first.wipe()
    with pytest.raises(RuntimeError):
        first.generate_key(HERE)
    with pytest.raises(IntegrityError):
        second.unwrap_key(wrapped, HERE)
    third = _open(keys, PII)
    assert third.unwrap_key(wrapped, HERE).same_as(key)
    for opened in (second, third, third):
        opened.wipe()


def test_a_wrong_pin_costs_no_try_while_logged_in(keys: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with pytest.raises(PassphraseError):
            _open(keys, PII, PIPECRYPT_PKCS11_PIN=OTHER_PIN)
    master_key = _open(keys, PII)
    monkeypatch.setattr(pkcs11, "_log_in", _must_not_be_called)
    with pytest.raises(PassphraseError):
        _open(keys, PII, PIPECRYPT_PKCS11_PIN=OTHER_PIN)
    master_key.wipe()


def test_the_last_try_is_a_persons(keys: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    p11 = pkcs11._package()
    wanted = parse_token_key(parse_key_reference(PII), key_type="secret-key")
    for name in ("USER_PIN_LOCKED", "USER_PIN_FINAL_TRY"):
        token = SimpleNamespace(flags=p11.TokenFlag.LOGIN_REQUIRED | p11.TokenFlag[name], open=_must_not_be_called)
        with pytest.raises(PassphraseError):
            pkcs11._log_in(token, wanted, keys.credentials)


def test_tokens_without_a_pin_and_with_a_pin_pad(keys: Tokens) -> None:
    p11 = pkcs11._package()
    wanted = parse_token_key(parse_key_reference(PII), key_type="secret-key")
    pad = p11.TokenFlag.LOGIN_REQUIRED | p11.TokenFlag.PROTECTED_AUTHENTICATION_PATH
    for flags, expected in ((p11.TokenFlag(0), {}), (pad, {"user_pin": p11.PROTECTED_AUTH})):
        token = SimpleNamespace(flags=flags, open=lambda **options: options)
        login = pkcs11._log_in(token, wanted, Credentials({}))
        assert (login.session, login.pin) == (expected, None)


def test_another_login_of_the_process_is_used(keys: Tokens) -> None:
    token = pkcs11._package().lib(keys.module).get_token(token_label=TOKEN)
    with token.open(user_pin=PIN):
        master_key = _open(keys, PII)
        key, wrapped = master_key.generate_key(HERE)
        assert master_key.unwrap_key(wrapped, HERE).same_as(key)
        master_key.wipe()


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        (f"pkcs11:token={TOKEN};object=double", UsageError),
        (f"pkcs11:token={TOKEN};object=one", UsageError),  # another key has its CKA_ID, so its id would name both
        (f"pkcs11:token={TOKEN};object=small", UsageError),
        (f"pkcs11:token={TOKEN};object=nobody", KeyNotFoundError),
        (f"pkcs11:token={TOKEN};object=pii;id=%02", KeyNotFoundError),
        ("pkcs11:token=none;object=pii", KeyNotFoundError),
        (f"pkcs11:token={TOKEN};serial=0;object=pii", KeyNotFoundError),
        (f"pkcs11:token={TOKEN};manufacturer=x;object=pii", KeyNotFoundError),
        (f"pkcs11:token={TWINS};object=pii", UsageError),
    ],
)
def test_what_is_not_there_or_unclear_is_refused(keys: Tokens, reference: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        _open(keys, reference)


def test_one_of_several_versions_by_its_id(keys: Tokens) -> None:
    ids = set()
    for number in (b"\x10", b"\x11"):
        master_key = _open(keys, f"pkcs11:token={TOKEN};object=double;id=%{number.hex()}")
        ids.add(master_key.id)
        master_key.wipe()
    assert len(ids) == 2


def test_a_module_has_to_be_named_and_there(keys: Tokens, tmp_path: Path) -> None:
    (tmp_path / "no.so").write_bytes(b"no library")
    for module, error in (
        ("", UsageError),
        ("libsofthsm2.so", UsageError),
        (f"{tmp_path}/none.so", KeyServiceError),
        (f"{tmp_path}/no.so", KeyServiceError),
    ):
        with pytest.raises(error):
            _open(keys, PII, PIPECRYPT_PKCS11_MODULE=module)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(MissingExtraError) as caught:
        SERVICE.open_key(parse_key_reference(PII), Credentials({"PIPECRYPT_PKCS11_MODULE": "/x.so"}))
    assert "pipecrypt[pkcs11]" in caught.value.hint
    code = "import sys; sys.modules['pkcs11'] = None; import pipecrypt.keys.schemes.pkcs11"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_replica_under_another_serial_number(keys: Tokens) -> None:
    keys.import_key("shared", b"\x40", bytes(range(32)))
    keys.import_key("shared", b"\x40", bytes(range(32)), token=REPLICA)
    original = _open(keys, f"pkcs11:token={TOKEN};object=shared")
    key, wrapped = original.generate_key(HERE)
    plain = _open(keys, f"pkcs11:token={REPLICA};object=shared")
    assert plain.id != original.id
    with pytest.raises(IntegrityError):
        plain.unwrap_key(wrapped, HERE)
    replica = _open(keys, f"pkcs11:token={REPLICA};object=shared?pipecrypt-id={original.id}")
    assert replica.id == original.id
    assert replica.unwrap_key(wrapped, HERE).same_as(key)
    for opened in (original, plain, replica):
        opened.wipe()
    keys.destroy("shared")


def test_a_key_that_may_not_encrypt(keys: Tokens) -> None:
    p11 = pkcs11._package()
    keys.make_key("wraps", b"\x50", capabilities=p11.MechanismFlag.WRAP)
    master_key = _open(keys, f"pkcs11:token={TOKEN};object=wraps")
    for use in (lambda: master_key.generate_key(HERE), lambda: master_key.unwrap_key(bytes(60), HERE)):
        with pytest.raises(KeyServiceError):
            use()
    master_key.wipe()
    keys.destroy("wraps")


def _must_not_be_called(*_: Any, **__: Any) -> None:
    raise AssertionError("the token was asked")


class _Failing:
    """A key of a token that answers everything with one error."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def encrypt(self, *_: Any, **__: Any) -> bytes:
        raise self._error

    decrypt = sign = encrypt


class _Forgetful:
    """A key of a token that has lost its key: it seals and opens nothing that it sealed."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def encrypt(self, plaintext: bytes, **_: Any) -> bytes:
        return plaintext + bytes(16)

    def decrypt(self, *_: Any, **__: Any) -> bytes:
        raise self._error


def test_a_failing_token_is_no_changed_data(keys: Tokens) -> None:
    p11 = pkcs11._package()
    master_key = _open(keys, PII)
    for key in (
        _Failing(p11.GeneralError),
        _Failing(p11.DeviceError),
        _Failing(p11.FunctionFailed),
        _Forgetful(p11.GeneralError),
        _Forgetful(p11.EncryptedDataInvalid),
    ):
        broken = TokenMasterKey(master_key._session, key, master_key.id)
        with pytest.raises(KeyServiceError):
            broken.unwrap_key(bytes(60), HERE)
    with pytest.raises(KeyServiceError):
        TokenMasterKey(master_key._session, _Failing(p11.DeviceMemory), "x").generate_key(HERE)
    master_key.wipe()


def test_a_lost_session_is_logged_in_anew(keys: Tokens) -> None:
    p11 = pkcs11._package()
    lost = _open(keys, PII)
    broken = TokenMasterKey(lost._session, _Failing(p11.SessionHandleInvalid), lost.id)
    with pytest.raises(KeyServiceError):
        broken.generate_key(HERE)
    assert not pkcs11._LOGINS
    again = _open(keys, PII)
    again.generate_key(HERE)
    again.wipe()
    lost.wipe()


@pytest.mark.parametrize("kind", ["secp256r1", "secp384r1", "rsa"])
def test_signing_keys(keys: Tokens, kind: str) -> None:
    label = f"sign-{kind}"
    if kind == "rsa":
        keys.make_rsa_pair(label, b"\x60")
    else:
        keys.make_ec_pair(label, b"\x61", kind)
    reference = f"pkcs11:token={TOKEN};object={label};type=private"
    signer = open_signer(reference, keys.credentials)
    (signature,) = make_signatures([signer], b"message")
    public_key = PublicKey(signer.public_key_pem)
    public_key.verify(b"message", signature.value)
    with pytest.raises(IntegrityError):
        public_key.verify(b"another", signature.value)
    assert signature.key_id == public_key.key_id == signer.key_id
    assert repr(signer) == f"<ServiceSigner {signer.key_id}>"
    signer.wipe()  # type: ignore[attr-defined]
    assert export_public_half(reference, keys.credentials).public_key == public_key.pem

    keys.destroy(label, only=pkcs11._package().ObjectClass.PUBLIC_KEY)
    with pytest.raises(KeyNotFoundError):
        open_signer(reference, keys.credentials)
    keys.destroy(label)


def test_a_curve_that_signs_nothing_here(keys: Tokens) -> None:
    keys.make_ec_pair("odd", b"\x70", "secp521r1")
    with pytest.raises(UsageError):
        open_signer(f"pkcs11:token={TOKEN};object=odd", keys.credentials)
    keys.destroy("odd")


def test_processes_take_turns_but_nobody_can_hold_all_up(
    keys: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(keys.module, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with ThreadPoolExecutor() as pool:
            opening = pool.submit(_open, keys, PII)
            with pytest.raises(TimeoutError):
                opening.result(timeout=0.3)
            fcntl.flock(held, fcntl.LOCK_UN)
            opening.result(timeout=60).wipe()
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(pkcs11, "_TURN_SECONDS", 0.05)
        _open(keys, PII).wipe()

    reading, writing = os.pipe()  # cannot be locked on every system, and is no module anywhere
    with pkcs11._take_turns(f"/dev/fd/{reading}"):
        os.close(writing)
    os.close(reading)


_FORK = """
import os, sys
from pipecrypt.vocabulary.context import Context
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.schemes.pkcs11 import SERVICE
from pipecrypt.keys.reference import parse_key_reference

def use():
    return SERVICE.open_key(parse_key_reference(sys.argv[1]), Credentials.from_environment())

here = Context("0" * 32, "")
held = use()
key, wrapped = held.generate_key(here)
child = os.fork()
if not child:
    os._exit(0 if use().unwrap_key(wrapped, here).same_as(key) else 9)
_, status = os.waitpid(child, 0)
assert held.unwrap_key(wrapped, here).same_as(key)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_logs_in_itself(keys: Tokens) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK, PII], env=os.environ | keys.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
