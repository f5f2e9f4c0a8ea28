import json
import logging
from pathlib import Path

import pytest

from pipecrypt.crypto.aead import seal
from pipecrypt.errors import FormatError, IntegrityError, KeyReferenceError, KeystoreError, UnsupportedError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes.static import SERVICE, StaticKeys
from pipecrypt.keys.service import ExplicitKeys, MasterKey
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.secret import DataKey

MASTER = b"0123456789012345"


def _open(path: Path) -> StaticKeys:
    return SERVICE.open_key(parse_key_reference(f"static://{path}"), Credentials({}))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"kf": encode_base64(MASTER), "ключ": encode_base64(bytes(32))}))
    path.chmod(0o600)
    return path


def test_is_an_explicit_key_and_no_master_key(listed: Path) -> None:
    keys = _open(listed)
    assert isinstance(keys, ExplicitKeys)
    assert not isinstance(keys, MasterKey)


def test_unwraps_plain_and_local_forms(listed: Path) -> None:
    keys = _open(listed)
    wrapped = encode_base64(seal(DataKey(MASTER), b"D" * 32, b"kf"))
    local = json.dumps({"masterKeyVersion": "NO_VERSION", "encryptedKey": wrapped})
    for text in (wrapped, local):
        key = keys.unwrap_named(text, "kf")
        assert key is not None
        assert key.expose_key_bytes() == b"D" * 32
    assert keys.unwrap_named(wrapped, "kx") is None
    assert keys.unwrap_named(wrapped, "\ud800") is None
    with pytest.raises(IntegrityError):
        keys.unwrap_named(wrapped, "ключ")
    with pytest.raises(UnsupportedError):
        keys.unwrap_named(local.replace("NO_VERSION", "v1"), "kf")


@pytest.mark.parametrize("text", ["", "?", "{", "{}", "[]", '{"masterKeyVersion":"NO_VERSION"}', "{\ud800}"])
def test_hostile_wrapped_keys(listed: Path, text: str) -> None:
    with pytest.raises((FormatError, IntegrityError)):
        _open(listed).unwrap_named(text, "kf")


def test_what_was_wrapped_has_to_be_a_key(listed: Path) -> None:
    with pytest.raises(FormatError):
        _open(listed).unwrap_named(encode_base64(seal(DataKey(MASTER), b"D" * 5, b"kf")), "kf")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a":1}', '{"a":"?"}', '{"a":"AAAA"}', '{"a":""}', '{"hex:zz":"MDEyMzQ1Njc4OTAxMjM0NQ=="}',
     '{"a":"MDEyMzQ1Njc4OTAxMjM0NQ==","a":"MDEyMzQ1Njc4OTAxMjM0NQ=="}', '{"a":"0123456789012345"}',
     '{"a":"MDEyMzQ1Njc4OTAxMjM0NQ==","hex:61":"MDEyMzQ1Njc4OTAxMjM0NQ=="}'],
)  # fmt: skip
def test_malformed_lists_are_refused_without_quoting_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(KeystoreError) as caught:
        _open(path)
    assert "MDEy" not in str(caught.value)


def test_bad_references(tmp_path: Path, listed: Path) -> None:
    for text, error in (
        (f"static://{tmp_path}/none", KeystoreError), (f"static://{tmp_path}", KeystoreError),
        (f"static://{listed}#kf", KeyReferenceError), (f"static://{listed}?a=b", KeyReferenceError),
    ):  # fmt: skip
        with pytest.raises(error):
            SERVICE.open_key(parse_key_reference(text), Credentials({}))


def test_an_open_list_is_warned_about(listed: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        _open(listed)
    assert str(listed) in caplog.text


def test_wiped(listed: Path) -> None:
    keys = _open(listed)
    keys.wipe()
    assert keys.unwrap_named("", "kf") is None
