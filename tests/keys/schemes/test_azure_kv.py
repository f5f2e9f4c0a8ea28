from __future__ import annotations

import base64
import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError

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
from pipecrypt.keys.schemes.azure_kv import AzureKVService, AzureMasterKey
from pipecrypt.keys.schemes.caller import Patience
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.doubles.http_service import HTTPAnswer, HTTPRequest, HTTPService
from tests.keys.fakes.azure_kv import TOKEN, FakeAzureKV, FakeKey, StaticCredential, ToLoopback, call_name, refuse
from tests.keys.fakes.clock import PATIENT_SECONDS, FakeTime

HERE = Context(new_dataset_id(), "")
PATIENCE = FakeTime().patience()
HOST = "pii-vault.vault.azure.net"
PII = "azure-kv://pii-vault/keys/pii"
NOBODY = Credentials({})


@pytest.fixture
def vault() -> FakeAzureKV:
    return FakeAzureKV(HOST, pii=FakeKey(), hsm=FakeKey("oct-HSM"))


@pytest.fixture
def http(vault: FakeAzureKV) -> Iterator[HTTPService]:
    with HTTPService(vault, call_name) as service:
        yield service


@pytest.fixture
def service(http: HTTPService) -> AzureKVService:
    return AzureKVService(PATIENCE, credential=StaticCredential(), transport=ToLoopback(http.url))


def _open(service: AzureKVService, text: str = PII) -> AzureMasterKey:
    return service.open_key(parse_key_reference(text), NOBODY)


@pytest.mark.parametrize(
    "text",
    ["azure-kv://pii-vault", "azure-kv://pii-vault/keys", "azure-kv://pii-vault/keys/", "azure-kv://pii-vault/secrets/a",
     f"{PII}/", f"{PII}/1", f"{PII}/{'A' * 32}", f"{PII}/{'a' * 32}/x", f"{PII}?a=b", f"{PII}#1",
     "azure-kv://evil.example/keys/pii", "azure-kv://a.b.vault.azure.net/keys/pii", "azure-kv://-a/keys/pii",
     "azure-kv://pii-vault.vault.azure.net.evil.example/keys/pii", "azure-kv://pii-vault:444/keys/pii",
     "azure-kv://pii-vault.vault.azure.net:443/keys/pii", "azure-kv://u@pii-vault/keys/pii",
     "azure-kv:///keys/pii", "azure-kv://pii-vault/keys/a%2fb"],
)  # fmt: skip
def test_bad_references(service: AzureKVService, text: str) -> None:
    with pytest.raises(KeyReferenceError):
        _open(service, text)


@pytest.mark.parametrize(
    ("text", "key_id"),
    [
        (PII, f"azure-kv/{HOST}/keys/pii"),
        ("azure-kv://PII-Vault.vault.azure.net/keys/Pii", f"azure-kv/{HOST}/keys/pii"),
        (f"{PII}/{'0' * 32}", f"azure-kv/{HOST}/keys/pii"),
        ("azure-kv://h.managedhsm.azure.net/keys/a", None),
        ("azure-kv://hsm.managedhsm.azure.net/keys/a", "azure-kv/hsm.managedhsm.azure.net/keys/a"),
        ("azure-kv://a-1.vault.azure.cn/keys/a", "azure-kv/a-1.vault.azure.cn/keys/a"),
    ],
)
def test_ids(service: AzureKVService, text: str, key_id: str | None) -> None:
    if key_id is None:
        with pytest.raises(KeyReferenceError):
            _open(service, text)
    else:
        assert _open(service, text).id == key_id
        assert key_id in repr(_open(service, text))


def test_one_look_and_one_call_for_each_kek(service: AzureKVService, vault: FakeAzureKV) -> None:
    master_key = _open(service)
    assert vault.methods == []
    made = [master_key.generate_key(HERE) for _ in range(2)]
    assert vault.methods == ["GET None", "POST wrapkey", "POST wrapkey"]
    vault.methods.clear()
    assert _open(service).unwrap_key(made[0][1], HERE).same_as(made[0][0])
    assert vault.methods == ["POST unwrapkey"]


@pytest.mark.parametrize(("name", "size"), [("pii", 256), ("hsm", 72)])
def test_layout(service: AzureKVService, vault: FakeAzureKV, name: str, size: int) -> None:
    master_key = _open(service, f"azure-kv://pii-vault/keys/{name}")
    key, wrapped = master_key.generate_key(HERE)
    assert len(wrapped) == 1 + 8 + 16 + size
    assert wrapped[9:25].hex() == vault.keys[name].versions[0].id
    assert master_key.unwrap_key(master_key.wrap_key(key, HERE), HERE).same_as(key)


def test_versions(service: AzureKVService, vault: FakeAzureKV) -> None:
    key, wrapped = _open(service).generate_key(HERE)
    vault.keys["pii"].rotate()
    old, new = (version.id for version in vault.keys["pii"].versions)
    assert _open(service).generate_key(HERE)[1][9:25].hex() == new
    assert _open(service, f"{PII}/{old}").generate_key(HERE)[1][9:25].hex() == old
    for text in (PII, f"{PII}/{new}"):
        assert _open(service, text).unwrap_key(wrapped, HERE).same_as(key)
    vault.keys["pii"].versions[0].is_enabled = False
    with pytest.raises(KeyServiceError):
        _open(service).unwrap_key(wrapped, HERE)
    with pytest.raises(KeyServiceError):
        _open(service, f"{PII}/{old}").generate_key(HERE)
    del vault.keys["pii"].versions[0]
    with pytest.raises(KeyNotFoundError):
        _open(service).unwrap_key(wrapped, HERE)
    with pytest.raises(KeyNotFoundError):
        _open(service, f"{PII}/{old}").generate_key(HERE)


def test_nothing_is_wrapped_under_a_disabled_key(service: AzureKVService, vault: FakeAzureKV) -> None:
    # The vault itself would do it, and refuse to unwrap again.
    vault.keys["pii"].versions[0].is_enabled = False
    with pytest.raises(KeyServiceError):
        _open(service).generate_key(HERE)
    assert vault.methods == ["GET None"]


def test_wrapped_keys_of_others_cause_no_call(service: AzureKVService, vault: FakeAzureKV) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    _, foreign = _open(service, "azure-kv://pii-vault/keys/hsm").generate_key(HERE)
    vault.methods.clear()
    for cut in (b"", wrapped[:25], wrapped[:-1], bytes(281), foreign, b"\2" + wrapped[1:], wrapped + bytes(1)):
        with pytest.raises(IntegrityError):
            _open(service).unwrap_key(cut, HERE)
    assert vault.methods == []


def test_a_wrapped_key_of_another_size_is_refused(service: AzureKVService, vault: FakeAzureKV) -> None:
    # Whoever has the public key can wrap anything, with the right digest too.
    master_key = _open(service)
    _, wrapped = master_key.generate_key(HERE)
    message = bytes(16) + hashlib.sha256(master_key._info(HERE)).digest()
    sealed = master_key._ask("wrapkey", wrapped[9:25].hex(), 1, message)
    with pytest.raises(IntegrityError):
        master_key.unwrap_key(wrapped[:25] + sealed, HERE)


@pytest.mark.parametrize("key_type", ["EC", "EC-HSM", "oct", "?"])
def test_other_types_wrap_nothing(service: AzureKVService, vault: FakeAzureKV, key_type: str) -> None:
    vault.change = {"key": {"kid": f"https://{HOST}/keys/pii/{'0' * 32}", "kty": key_type}}
    with pytest.raises(UsageError):
        _open(service).generate_key(HERE)


@pytest.mark.parametrize(
    "kid",
    ["", "x", f"https://{HOST}/keys/pii", f"https://{HOST}/keys/ops/VERSION", f"http://{HOST}/keys/pii/VERSION",
     "https://other.vault.azure.net/keys/pii/VERSION", f"https://{HOST}/keys/pii/{'0' * 32}",
     f"https://{HOST}/keys/pii/VERSION/x", f"https://{HOST}:444/keys/pii/VERSION"],
)  # fmt: skip
def test_who_answers_is_checked(service: AzureKVService, vault: FakeAzureKV, kid: str) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    writer = _open(service)
    writer.generate_key(HERE)
    vault.change = {"kid": kid.replace("VERSION", vault.keys["pii"].versions[0].id)}
    for use in (lambda: writer.generate_key(HERE), lambda: _open(service).unwrap_key(wrapped, HERE)):
        with pytest.raises(KeyServiceError):
            use()


def test_spellings_of_the_same_key_are_accepted(service: AzureKVService, vault: FakeAzureKV) -> None:
    key, wrapped = _open(service).generate_key(HERE)
    version = vault.keys["pii"].versions[0].id
    for kid in (f"https://PII-Vault.vault.azure.net/keys/PII/{version}", f"https://{HOST}:443/keys/pii/{version}"):
        vault.change = {"kid": kid}
        assert _open(service).unwrap_key(wrapped, HERE).same_as(key)


@pytest.mark.parametrize(
    "change",
    [{"key": None}, {"key": {}}, {"attributes": None}, {"attributes": {}}, {"key": {"kty": "RSA"}},
     {"key": {"kid": f"https://{HOST}/keys/ops/{'0' * 32}", "kty": "RSA"}}, {"key": {"kid": "x", "kty": "RSA"}},
     {"attributes": {"enabled": "?"}}],
    ids=str,
)  # fmt: skip
def test_descriptions_are_checked(service: AzureKVService, vault: FakeAzureKV, change: dict[str, Any]) -> None:
    vault.change = change
    with pytest.raises(KeyServiceError):
        _open(service).generate_key(HERE)


def test_another_version_than_the_named_one_is_refused(service: AzureKVService, vault: FakeAzureKV) -> None:
    named = vault.keys["pii"].versions[0].id
    vault.change = {"key": {"kid": f"https://{HOST}/keys/pii/{'0' * 32}", "kty": "RSA"}}
    with pytest.raises(KeyServiceError):
        _open(service, f"{PII}/{named}").generate_key(HERE)


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 405, 409, 429, 500, 502, 503, 504])
def test_every_status_is_an_access_error(service: AzureKVService, http: HTTPService, status: int) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    elsewhere = {"Location": "https://evil.vault.azure.net/", "Content-Type": "application/json"}
    for body in (
        b"",
        b"<html>geheim",
        b"[]",
        b'{"error":"geheim"}',
        b'{"error":{"code":"X","message":"geheim"}}',
        b'{"error":{"code":"X","innererror":{"code":"Y"},"message":"geheim"}}',
        b"x" * 100_000,
    ):
        http.trouble = lambda request, body=body: HTTPAnswer(status, body, elsewhere)  # type: ignore[misc]
        for use in (lambda: _open(service).generate_key(HERE), lambda: _open(service).unwrap_key(wrapped, HERE)):
            with pytest.raises(AccessError) as caught:
                use()
            assert "geheim" not in str(caught.value)


def test_only_unwrapping_can_find_a_wrong_ciphertext(service: AzureKVService, http: HTTPService) -> None:
    _, wrapped = _open(service).generate_key(HERE)
    http.trouble = lambda request: refuse(400, "BadParameter")
    with pytest.raises(IntegrityError):
        _open(service).unwrap_key(wrapped, HERE)
    with pytest.raises(KeyServiceError):
        _open(service).generate_key(HERE)


def test_a_vault_that_asks_for_time_is_given_it(http: HTTPService) -> None:
    waits: list[float] = []
    # A try that a busy machine cuts short would be one more wait.
    patience = Patience(
        connect_seconds=PATIENT_SECONDS,
        answer_seconds=PATIENT_SECONDS,
        clock=lambda: 0.0,
        sleep=waits.append,
        chance=lambda: 0.0,
    )
    service = AzureKVService(patience, credential=StaticCredential(), transport=ToLoopback(http.url))
    answers = [HTTPAnswer(429, b"", {"Retry-After": text}) for text in ("2", "soon", "999999")]
    http.trouble = lambda request: answers.pop(0) if answers else None
    _open(service).generate_key(HERE)
    assert waits == pytest.approx([2.05, 0.1, 0.2])


def test_no_token_is_shown_to_who_asks_for_another_audience(service: AzureKVService, http: HTTPService) -> None:
    seen: list[HTTPRequest] = []

    def other_audience(request: HTTPRequest) -> HTTPAnswer:
        seen.append(request)
        challenge = 'Bearer authorization="https://login.microsoftonline.com/0", resource="https://evil.example"'
        return HTTPAnswer(401, b"", {"WWW-Authenticate": challenge})

    http.handler = other_audience
    with pytest.raises(KeyServiceError):
        _open(service, "azure-kv://never-seen/keys/pii").generate_key(HERE)
    assert seen
    assert all("authorization" not in request.headers and request.body == b"" for request in seen)


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + repr(vars(record))


def test_no_key_in_the_logs_of_azures_libraries(service: AzureKVService) -> None:
    records = Records()
    loggers = [logging.getLogger(name) for name in ("azure", "msal", "urllib3", "pipecrypt")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(records)
        logger.setLevel(logging.DEBUG)
    try:
        master_key = _open(service)
        key, wrapped = master_key.generate_key(HERE)
        master_key.unwrap_key(wrapped, HERE)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(records)
            logger.setLevel(level)
    assert "wrapkey" in records.text
    key_bytes = bytes(key.expose_key_bytes())
    # Of three bytes each, base64 has the same text wherever they stand.
    for form in (base64.urlsafe_b64encode(key_bytes[:30]).decode(), key_bytes.hex(), repr(key_bytes), TOKEN):
        assert form not in records.text


def test_what_is_sent(service: AzureKVService, http: HTTPService) -> None:
    seen: list[dict[str, str]] = []

    def watch(request: HTTPRequest) -> HTTPAnswer | None:
        seen.append(json.loads(request.body))
        return None

    http.trouble = watch
    key, wrapped = _open(service).generate_key(HERE)
    _open(service).unwrap_key(wrapped, HERE)
    assert [members["alg"] for members in seen] == ["RSA-OAEP-256", "RSA-OAEP-256"]
    sent = base64.urlsafe_b64decode(seen[0]["value"] + "==")
    assert len(sent) == 64
    assert sent[:32] == key.expose_key_bytes()


@pytest.mark.parametrize("missing", ["azure.identity", "azure.keyvault.keys"])
def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError) as caught:
        _open(AzureKVService())
    assert "pipecrypt[azure-kv]" in caught.value.hint


class NoCredential:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def get_token(self, *scopes: str, **kwargs: Any) -> object:
        raise self._error


@pytest.mark.parametrize("kind", [CredentialUnavailableError, ClientAuthenticationError])
def test_missing_credentials(http: HTTPService, kind: type[Exception]) -> None:
    service = AzureKVService(PATIENCE, credential=NoCredential(kind("geheim")), transport=ToLoopback(http.url))
    with pytest.raises(KeyServiceError) as caught:
        _open(service).generate_key(HERE)
    assert "az login" in caught.value.hint
    assert "geheim" not in str(caught.value)


def test_the_default_credential_is_asked_for_nothing_when_a_key_is_opened() -> None:
    assert _open(AzureKVService()).id == f"azure-kv/{HOST}/keys/pii"
