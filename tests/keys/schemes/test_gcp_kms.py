from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from pipecrypt.crypto.signature import PublicKey
from pipecrypt.errors import (
    AccessError,
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeyServiceError,
    MissingExtraError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes.gcp_kms import GCPKMSService, GCPMasterKey
from pipecrypt.keys.signers import PublicKeys, Signer, SigningService, make_signatures
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.doubles.http_service import HTTPAnswer, HTTPRequest, HTTPService
from tests.keys.fakes.clock import FakeTime
from tests.keys.fakes.gcp_kms import RING, FakeGCPKMS, FakeKey, call_name, refuse
from tests.keys.fakes.gcp_transport import transport_to
from tests.keys.public_halves import export_public_key

HERE = Context(new_dataset_id(), "")
PII = f"gcp-kms://{RING}pii"
NOBODY = Credentials({})
VERSION = "/cryptoKeyVersions/"


@pytest.fixture
def kms() -> FakeGCPKMS:
    return FakeGCPKMS(pii=FakeKey())


@pytest.fixture
def http(kms: FakeGCPKMS) -> Iterator[HTTPService]:
    with HTTPService(kms, call_name) as service:
        yield service


@pytest.fixture
def service(http: HTTPService) -> GCPKMSService:
    patience = FakeTime().patience()
    return GCPKMSService(patience, transport=transport_to(http.url))


def _open(service: GCPKMSService, text: str = PII) -> GCPMasterKey:
    return service.open_key(parse_key_reference(text), NOBODY)


@pytest.mark.parametrize(
    "text",
    ["gcp-kms://projects/p", f"{PII}/", f"{PII}/cryptoKeyVersions/0", f"{PII}/cryptoKeyVersions/x", f"{PII}?a=b",
     f"{PII}#1", PII.replace("pipe-crypt", "123456"), PII.replace("etl", "e%2ftl"), PII.replace("etl", "../etl"),
     f"{PII}?endpoint=https://kms.example", f"{PII}?endpoint=kms", f"{PII}?endpoint=kms.example/x",
     f"{PII}?endpoint=a@kms.example"],
)  # fmt: skip
def test_bad_references(service: GCPKMSService, text: str) -> None:
    with pytest.raises(KeyReferenceError):
        _open(service, text)
    with pytest.raises(KeyReferenceError):
        service.open_signer(parse_key_reference(text), NOBODY)


def test_the_id_has_no_version(service: GCPKMSService) -> None:
    assert _open(service).id == _open(service, f"{PII}{VERSION}1").id == f"gcp-kms/{RING}pii"
    assert _open(service, PII.replace("pipe-crypt", "example.com:pipe-crypt")).id != _open(service).id
    assert f"gcp-kms/{RING}pii" in repr(_open(service))


def test_what_is_sent(service: GCPKMSService, http: HTTPService, kms: FakeGCPKMS) -> None:
    seen: list[dict[str, Any]] = []

    def watch(request: HTTPRequest) -> HTTPAnswer | None:
        seen.append(json.loads(request.body))
        return None

    http.trouble = watch
    master_key = _open(service)
    _, wrapped = master_key.generate_key(HERE)
    master_key.unwrap_key(wrapped, HERE)
    binding = base64.b64encode(HERE.key_binding()).decode()
    assert [members["additionalAuthenticatedData"] for members in seen] == [binding, binding]
    for members, names in zip(seen, (["plaintext"], ["ciphertext"]), strict=True):
        for name in (*names, "additionalAuthenticatedData"):
            assert f"{name}Crc32c" in members
    assert base64.b64decode(seen[1]["ciphertext"]) == wrapped


def test_versions(service: GCPKMSService, kms: FakeGCPKMS) -> None:
    master_key = _open(service)
    key, wrapped = master_key.generate_key(HERE)
    kms.keys[f"{RING}pii"].rotate()
    assert (wrapped[0], master_key.generate_key(HERE)[1][0]) == (1, 2)
    assert _open(service, f"{PII}{VERSION}1").generate_key(HERE)[1][0] == 1
    # Whatever version the reference names, all of them open.
    assert _open(service, f"{PII}{VERSION}2").unwrap_key(wrapped, HERE).same_as(key)
    for state in ("DISABLED", "DESTROYED", "DESTROY_SCHEDULED"):
        kms.keys[f"{RING}pii"].versions[0].state = state
        with pytest.raises(KeyServiceError) as caught:
            master_key.unwrap_key(wrapped, HERE)
        assert "gcloud kms keys versions" in caught.value.hint
    with pytest.raises(KeyNotFoundError):
        _open(service, f"{PII}{VERSION}3").generate_key(HERE)


def test_keys_that_exist_are_wrapped(service: GCPKMSService) -> None:
    key, _ = _open(service).generate_key(HERE)
    master_key = _open(service)
    assert master_key.unwrap_key(master_key.wrap_key(key, HERE), HERE).same_as(key)


@pytest.mark.parametrize(
    "change",
    [{"ciphertextCrc32c": "1"}, {"ciphertextCrc32c": None}, {"verifiedPlaintextCrc32c": False},
     {"verifiedAdditionalAuthenticatedDataCrc32c": False}, {"ciphertext": "AAAA"}, {"ciphertext": ""},
     {"ciphertext": "AAAA" * 2000}, {"name": f"{RING}pii"}, {"name": f"{RING}pii2{VERSION}1"},
     {"name": f"{RING}ops{VERSION}1"}, {"name": ""}, {"name": f"{RING}pii{VERSION}1/x"}],
    ids=str,
)  # fmt: skip
def test_answers_to_encrypt_are_checked(service: GCPKMSService, kms: FakeGCPKMS, change: dict[str, Any]) -> None:
    kms.change = change
    with pytest.raises(KeyServiceError):
        _open(service).generate_key(HERE)


def test_the_version_of_the_answer_is_checked(service: GCPKMSService, kms: FakeGCPKMS) -> None:
    kms.keys[f"{RING}pii"].rotate()
    kms.change = {"name": f"{RING}pii{VERSION}2"}
    with pytest.raises(KeyServiceError):
        _open(service, f"{PII}{VERSION}1").generate_key(HERE)


@pytest.mark.parametrize(
    "change",
    [{"plaintextCrc32c": "1"}, {"plaintextCrc32c": None}, {"plaintext": "AAAA"}, {"plaintext": ""},
     {"plaintext": "A" * 43 + "="}, {"plaintext": "A" * 80_000}],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_answers_to_decrypt_are_checked(service: GCPKMSService, kms: FakeGCPKMS, change: dict[str, Any]) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    kms.change = change
    with pytest.raises(KeyServiceError):
        _open(service).unwrap_key(wrapped, HERE)


def test_what_was_damaged_once_is_asked_again(service: GCPKMSService, http: HTTPService, kms: FakeGCPKMS) -> None:
    def damage(request: HTTPRequest) -> HTTPAnswer | None:
        kms.change = {} if kms.change else {"ciphertextCrc32c": "1", "plaintextCrc32c": "1"}
        return None

    http.trouble = damage
    key, wrapped = _open(service).generate_key(HERE)
    assert _open(service).unwrap_key(wrapped, HERE).same_as(key)
    assert http.calls == {"encrypt": 2, "decrypt": 2}


def test_a_request_that_was_damaged_is_sent_again(service: GCPKMSService, http: HTTPService) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    text = "The checksum in field ciphertext_crc32c did not match the data in field ciphertext."
    answers = [refuse("INVALID_ARGUMENT", text)]
    http.trouble = lambda request: answers.pop() if answers else None
    _open(service).unwrap_key(wrapped, HERE)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 412, 429, 499, 500, 502, 503, 504])
def test_every_status_is_an_access_error(service: GCPKMSService, http: HTTPService, status: int) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    refusal = {"error": {"code": status, "message": "geheim", "status": "GEHEIM"}}
    for body in (
        b"",
        b"<html>geheim",
        b"[]",
        b'{"error":"geheim"}',
        json.dumps(refusal).replace("GEHEIM", "X").encode(),
    ):
        http.trouble = lambda request, body=body: HTTPAnswer(  # type: ignore[misc]
            status, body, {"Content-Type": "application/json"}
        )
        for use in (lambda: _open(service).generate_key(HERE), lambda: _open(service).unwrap_key(wrapped, HERE)):
            with pytest.raises(AccessError) as caught:
                use()
            assert "geheim" not in str(caught.value)


def test_only_decrypting_can_find_a_wrong_ciphertext(service: GCPKMSService, http: HTTPService) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    http.trouble = lambda request: refuse("INVALID_ARGUMENT")
    with pytest.raises(IntegrityError):
        _open(service).unwrap_key(wrapped, HERE)
    with pytest.raises(KeyServiceError):
        _open(service).generate_key(HERE)


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += repr(vars(record))


def test_no_key_in_the_logs_of_googles_libraries(service: GCPKMSService) -> None:
    records = Records()
    loggers = [logging.getLogger(name) for name in ("google", "urllib3", "requests", "pipecrypt")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(records)
        logger.setLevel(logging.DEBUG)
    try:
        master_key = _open(service)
        key, wrapped = master_key.generate_key(HERE)
        master_key.unwrap_key(wrapped, HERE)
        with pytest.raises(IntegrityError):
            master_key.unwrap_key(wrapped, Context("", ""))
        logging.getLogger("google").debug("the handler works")
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(records)
            logger.setLevel(level)
    assert "the handler works" in records.text
    key_bytes = bytes(key.expose_key_bytes())
    for form in (base64.b64encode(key_bytes).decode(), key_bytes.hex(), repr(key_bytes)):
        assert form not in records.text


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.kms_v1", None)
    with pytest.raises(MissingExtraError) as caught:
        _open(GCPKMSService())
    assert "pipecrypt[gcp-kms]" in caught.value.hint


def test_missing_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*args: object, **kwargs: object) -> None:
        raise DefaultCredentialsError("geheim")

    monkeypatch.setattr(google.auth, "default", nobody)
    with pytest.raises(KeyServiceError) as caught:
        _open(GCPKMSService())
    assert "gcloud auth" in caught.value.hint
    assert "geheim" not in str(caught.value)


def test_an_endpoint_takes_googles_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415

    monkeypatch.setattr(google.auth, "default", lambda *args, **kwargs: (AnonymousCredentials(), None))
    opened = _open(GCPKMSService(), f"{PII}?endpoint=kms.example.com")
    assert opened._client._client.api_endpoint == "kms.example.com"
    assert "kms.example.com" not in opened.id


@pytest.mark.parametrize(("retryable", "tries"), [(False, 1), (True, 2)])
def test_credentials_that_are_refused(service: GCPKMSService, http: HTTPService, retryable: bool, tries: int) -> None:
    master_key = _open(service)
    made = 0

    def refuse_once(**kwargs: object) -> None:
        nonlocal made
        made += 1
        raise RefreshError("geheim", retryable=retryable)

    master_key._client._client = type("Client", (), {"encrypt": staticmethod(refuse_once)})()
    with pytest.raises(KeyServiceError) as caught:
        master_key.generate_key(HERE)
    assert made >= tries
    assert (made == 1) is not retryable
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "algorithm", ["EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384", "EC_SIGN_ED25519", "RSA_SIGN_PSS_2048_SHA256"]
)
def test_signs_with_the_version_that_is_named(service: GCPKMSService, kms: FakeGCPKMS, algorithm: str) -> None:
    kms.keys[f"{RING}sign"] = FakeKey(algorithm)
    kms.keys[f"{RING}sign"].rotate()
    assert isinstance(service, SigningService)
    assert isinstance(service, PublicKeys)
    ids = set()
    for version in (1, 2):
        text = f"gcp-kms://{RING}sign{VERSION}{version}"
        signer = service.open_signer(parse_key_reference(text), NOBODY)
        assert isinstance(signer, Signer)
        PublicKey(signer.public_key_pem).verify(b"message", signer.sign(b"message"))
        assert make_signatures([signer], b"")[0].key_id == signer.key_id
        assert export_public_key(text, NOBODY, services={"gcp-kms": service}) == signer.public_key_pem
        assert signer.key_id in repr(signer)
        ids.add(signer.key_id)
    assert len(ids) == 2


def test_what_signs_nothing(service: GCPKMSService, kms: FakeGCPKMS) -> None:
    kms.keys[f"{RING}sign"] = FakeKey("EC_SIGN_P256_SHA256")
    kms.keys[f"{RING}pkcs1"] = FakeKey("RSA_SIGN_PKCS1_2048_SHA256")
    for text, error in (
        (f"gcp-kms://{RING}sign", UsageError),
        (f"gcp-kms://{RING}pkcs1{VERSION}1", UsageError),
        (f"{PII}{VERSION}1", KeyServiceError),
        (f"gcp-kms://{RING}nobody{VERSION}1", KeyNotFoundError),
    ):
        with pytest.raises(error):
            service.open_signer(parse_key_reference(text), NOBODY)


@pytest.mark.parametrize(
    "change", [{"pem": "x"}, {"pemCrc32c": "1"}, {"name": f"{RING}sign{VERSION}2"}, {"pem": "x" * 10_000},
               {"pem": "x", "pemCrc32c": "2839306131"}, {"algorithm": 13}],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_public_keys_are_checked(service: GCPKMSService, kms: FakeGCPKMS, change: dict[str, Any]) -> None:
    kms.keys[f"{RING}sign"] = FakeKey("EC_SIGN_P256_SHA256")
    kms.change = change
    with pytest.raises(KeyServiceError):
        service.open_signer(parse_key_reference(f"gcp-kms://{RING}sign{VERSION}1"), NOBODY)


@pytest.mark.parametrize(
    "change", [{"signature": ""}, {"signature": "AAAA"}, {"signatureCrc32c": "1"}, {"verifiedDigestCrc32c": False},
               {"name": f"{RING}pii{VERSION}1"}, {"signature": "AAAA" * 1000}],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_signatures_are_checked(service: GCPKMSService, kms: FakeGCPKMS, change: dict[str, Any]) -> None:
    kms.keys[f"{RING}sign"] = FakeKey("EC_SIGN_P256_SHA256")
    signer = service.open_signer(parse_key_reference(f"gcp-kms://{RING}sign{VERSION}1"), NOBODY)
    kms.change = change
    with pytest.raises(KeyServiceError):
        signer.sign(b"message")
