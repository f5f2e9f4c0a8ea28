from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipecrypt.crypto.signature import PublicKey
from pipecrypt.errors import (
    AccessError,
    KeyNotFoundError,
    KeyReferenceError,
    KeyServiceError,
    KeystoreError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes.caller import Patience
from pipecrypt.keys.schemes.vault import VaultAddress, VaultMasterKey, VaultPlace, VaultService, locate_vault_key
from pipecrypt.keys.signers import Signer, SigningService, make_signatures
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.doubles.http_service import HTTPAnswer, HTTPService
from tests.keys.fakes.clock import FakeTime
from tests.keys.fakes.vault import TOKEN, FakeKey, FakeVault, call_name
from tests.keys.public_halves import export_public_key

HERE = Context(new_dataset_id(), "")
QUICK = VaultService(FakeTime().patience())
WITH_TOKEN = Credentials({"VAULT_TOKEN": TOKEN})


@pytest.fixture
def vault() -> FakeVault:
    return FakeVault(pii=FakeKey(), derived=FakeKey(is_derived=True))


@pytest.fixture
def http(vault: FakeVault) -> Iterator[HTTPService]:
    with HTTPService(vault, call_name) as service:
        yield service


def _text(http: HTTPService, name: str, options: str = "") -> str:
    return f"{http.url.replace('http', 'vault')}/transit/{name}?tls=off{options}"


def _open(http: HTTPService, name: str = "pii", credentials: Credentials = WITH_TOKEN) -> VaultMasterKey:
    return QUICK.open_key(parse_key_reference(_text(http, name)), credentials)


def _locate(text: str, **environ: str) -> VaultPlace:
    return locate_vault_key(parse_key_reference(text), environ)


@pytest.mark.parametrize(
    ("text", "address", "path", "key_id"),
    [
        ("vault://v.example/transit/pii", VaultAddress(host="v.example", port=8200, tls=True),
         "transit/decrypt/pii", "vault/v.example/transit/pii"),
        ("vault://V.example:443/team/a/pii", VaultAddress(host="v.example", port=443, tls=True),
         "team/a/decrypt/pii", "vault/v.example:443/team/a/pii"),
        ("vault://[::1]/transit/pii?tls=off", VaultAddress(host="::1", port=8200, tls=False),
         "transit/decrypt/pii", "vault/[::1]/transit/pii"),
        ("vault://v.example/transit/pii?address=https://127.0.0.1:8201",
         VaultAddress(host="127.0.0.1", port=8201, tls=True), "transit/decrypt/pii", "vault/v.example/transit/pii"),
        ("vault://v.example/transit/pii?address=http://localhost:8201",
         VaultAddress(host="localhost", port=8201, tls=False), "transit/decrypt/pii", "vault/v.example/transit/pii"),
        ("vault://v.example/transit/pii?namespace=a/b", VaultAddress(host="v.example", port=8200, tls=True),
         "transit/decrypt/pii", "vault/v.example/a/b/transit/pii"),
    ],
)  # fmt: skip
def test_references(text: str, address: VaultAddress, path: str, key_id: str) -> None:
    place = _locate(text)
    assert (place.address, place.path("decrypt"), place.id) == (address, path, key_id)


@pytest.mark.parametrize(
    "text",
    ["vault://host", "vault://host/pii", "vault:///transit/pii", "vault://host/transit/", "vault://host//pii",
     "vault://host/transit/../sys/pii", "vault://host/transit/..", "vault://host/tran%20sit/pii", "vault://host/a/b?c=d",
     "vault://host/a/b#c", "vault://host:0/a/b", "vault://host:70000/a/b", "vault://host/a/b?tls=no",
     "vault://host/a/b?tls=off", "vault://127.0.0.1.example/a/b?tls=off", "vault://u@host/a/b",
     "vault://host/a/b?namespace=..", "vault://host/a/b?namespace=a%0db", "vault://host/a/b?namespace=a/../b",
     "vault://host/a/b%3Fc"],
)  # fmt: skip
def test_bad_references(text: str) -> None:
    with pytest.raises(KeyReferenceError):
        _locate(text)


@pytest.mark.parametrize(
    "address", ["http://v.example", "v.example", "ftp://v.example", "https://", "https://v.example/ui", "https://u@v:1",
                "https://v:x", "https://[::1", "https://v?a=b"],
)  # fmt: skip
def test_bad_addresses(address: str) -> None:
    with pytest.raises(UsageError):
        _locate("vault:///transit/pii", VAULT_ADDR=address)
    with pytest.raises(UsageError):
        _locate(f"vault://host/transit/pii?address={address.replace('?', '%3F')}")


def test_the_environment_names_server_and_namespace() -> None:
    place = _locate("vault:///transit/pii", VAULT_ADDR="https://v.example", VAULT_NAMESPACE="a/")
    assert place.address == VaultAddress(host="v.example", port=443, tls=True)
    assert place.id == "vault/v.example:443/a/transit/pii"
    assert _locate("vault:///transit/pii", VAULT_ADDR="http://127.0.0.1:8200").id == "vault/127.0.0.1/transit/pii"
    openbao = _locate("vault:///transit/pii", VAULT_ADDR="https://v.example", BAO_ADDR="https://b.example:8200")
    assert openbao.address.host == "b.example"
    # What the reference names goes before what the environment names.
    assert _locate("vault://w.example/transit/pii", VAULT_ADDR="https://v.example").address.host == "w.example"
    with pytest.raises(KeyReferenceError):
        _locate("vault:///transit/pii?tls=off", VAULT_ADDR="https://v.example")


def test_the_namespace_is_sent(http: HTTPService, vault: FakeVault) -> None:
    QUICK.open_key(parse_key_reference(_text(http, "pii", "&namespace=a/b")), WITH_TOKEN)
    _open(http)
    assert vault.namespaces == ["a/b", ""]


def test_the_token_comes_from_the_environment_or_from_its_file(http: HTTPService, tmp_path: Path) -> None:
    (tmp_path / ".vault-token").write_text(TOKEN + "\n")
    (tmp_path / ".vault-token").chmod(0o600)
    for environ in (
        {"BAO_TOKEN": TOKEN, "VAULT_TOKEN": "another"},
        {"HOME": str(tmp_path)},
        {"HOME": str(tmp_path), "VAULT_TOKEN": ""},
    ):
        assert _open(http, credentials=Credentials(environ)).generate_key(HERE)[0].bits == 256


def test_missing_and_malformed_tokens(http: HTTPService, tmp_path: Path) -> None:
    for environ in (
        {},
        {"HOME": str(tmp_path)},
        {"VAULT_TOKEN": "secret\r\nX-Evil: 1"},
        {"VAULT_TOKEN": "geheim\u00e9"},
        {"VAULT_TOKEN": "s" * 9000},
    ):
        with pytest.raises(KeyServiceError) as caught:
            _open(http, credentials=Credentials(environ))
        assert "secret" not in str(caught.value)
    (tmp_path / ".vault-token").mkdir()
    with pytest.raises(KeystoreError):
        _open(http, credentials=Credentials({"HOME": str(tmp_path)}))


@pytest.mark.parametrize("name", ["pii", "derived"])
def test_old_versions_open_after_a_rotation(http: HTTPService, vault: FakeVault, name: str) -> None:
    master_key = _open(http, name)
    key, wrapped = master_key.generate_key(HERE)
    vault.keys[name].rotate()
    _, newer = master_key.generate_key(HERE)
    assert (wrapped[:9], newer[:9]) == (b"vault:v1:", b"vault:v2:")
    assert master_key.unwrap_key(wrapped, HERE).same_as(key)
    vault.keys[name].min_decryption_version = 2
    with pytest.raises(KeyServiceError):
        master_key.unwrap_key(wrapped, HERE)
    master_key.unwrap_key(newer, HERE)


@pytest.mark.parametrize("name", ["pii", "derived"])
def test_keys_that_exist_are_wrapped(http: HTTPService, name: str) -> None:
    key, _ = _open(http).generate_key(HERE)
    master_key = _open(http, name)
    assert master_key.unwrap_key(master_key.wrap_key(key, HERE), HERE).same_as(key)


def test_each_kind_of_key_is_asked_in_its_own_way(http: HTTPService) -> None:
    for name, operation in (("pii", "encrypt"), ("derived", "datakey/plaintext")):
        http.calls.clear()
        _open(http, name).generate_key(HERE)
        assert list(http.calls) == [operation]


def test_servers_that_ignore_associated_data_are_refused(http: HTTPService, vault: FakeVault) -> None:
    vault.knows_associated_data = False
    with pytest.raises(KeyServiceError):
        _open(http).generate_key(HERE)
    _open(http, "derived").generate_key(HERE)


@pytest.mark.parametrize("key_type", ["ed25519", "rsa-2048", "aes128-gcm96", "hmac"])
def test_other_types_wrap_nothing(http: HTTPService, vault: FakeVault, key_type: str) -> None:
    vault.keys["other"] = FakeKey(type=key_type)
    with pytest.raises(UsageError):
        _open(http, "other")


def test_unknown_and_deleted_keys(http: HTTPService, vault: FakeVault) -> None:
    with pytest.raises(KeyNotFoundError):
        _open(http, "nobody")
    master_key = _open(http, "derived")
    _, wrapped = master_key.generate_key(HERE)
    del vault.keys["derived"]
    with pytest.raises(KeyNotFoundError):
        master_key.unwrap_key(wrapped, HERE)
    with pytest.raises(KeyNotFoundError):
        master_key.generate_key(HERE)


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 405, 412, 429, 473, 500, 501, 502, 503, 504])
def test_every_status_is_an_access_error(http: HTTPService, status: int) -> None:
    master_key = _open(http)
    elsewhere = {"Location": "http://127.0.0.1:9/v1/transit/encrypt/pii", "Retry-After": "0"}
    for body in (b"", b'{"errors":["something secret"]}', b'{"errors":[1]}', b"<html>", bytes(300_000)):
        http.trouble = lambda request, body=body: HTTPAnswer(status, body, elsewhere)  # type: ignore[misc]
        with pytest.raises(AccessError) as caught:
            master_key.generate_key(HERE)
        assert "secret" not in str(caught.value)


def test_a_server_that_asks_for_time_is_given_it(http: HTTPService) -> None:
    waits: list[float] = []
    service = VaultService(Patience(sleep=waits.append, chance=lambda: 0.0))
    master_key = service.open_key(parse_key_reference(_text(http, "pii")), WITH_TOKEN)
    answers = [HTTPAnswer(429, headers={"Retry-After": text}) for text in ("2", "soon", "999999", "")]
    http.trouble = lambda request: answers.pop(0) if answers else None
    master_key.generate_key(HERE)
    assert waits == pytest.approx([2.05, 0.1, 0.2, 0.4])


def test_errors_name_the_key_and_repr_no_secret(http: HTTPService, vault: FakeVault) -> None:
    master_key = _open(http)
    vault.denied = True
    with pytest.raises(KeyServiceError) as caught:
        master_key.generate_key(HERE)
    assert "/transit/pii" in str(caught.value)
    assert TOKEN not in repr(master_key) + repr(master_key._server)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("vault.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    path = tmp_path / "vault.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"data":{"type":"aes256-gcm96","derived":true}}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_certificates_are_checked(tls_port: int, certificate: Path) -> None:
    reference = parse_key_reference(f"vault://127.0.0.1:{tls_port}/transit/pii")
    trusted = {"VAULT_TOKEN": TOKEN, "VAULT_CACERT": str(certificate), "VAULT_TLS_SERVER_NAME": "vault.example"}
    assert QUICK.open_key(reference, Credentials(trusted)).id == f"vault/127.0.0.1:{tls_port}/transit/pii"
    for name in ("VAULT_CACERT", "VAULT_TLS_SERVER_NAME"):
        environ = {key: value for key, value in trusted.items() if key != name}
        with pytest.raises(KeyServiceError) as caught:
            QUICK.open_key(reference, Credentials({**environ, "VAULT_SKIP_VERIFY": "true"}))
        assert "certificate" in str(caught.value)


def test_unreadable_certificates(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("VAULT_CACERT", "VAULT_CAPATH", "VAULT_CLIENT_CERT"):
        for path in (tmp_path / "empty.pem", tmp_path / "none.pem"):
            if name != "VAULT_CAPATH":  # which OpenSSL reads when it is needed
                with pytest.raises(KeyServiceError):
                    QUICK.open_key(
                        parse_key_reference("vault://127.0.0.1:9/transit/pii"),
                        Credentials({"VAULT_TOKEN": TOKEN, name: str(path)}),
                    )


def test_a_server_without_tls_is_not_spoken_to(http: HTTPService) -> None:
    with pytest.raises(KeyServiceError):
        QUICK.open_key(parse_key_reference(_text(http, "pii").replace("?tls=off", "")), WITH_TOKEN)
    assert not http.calls


@pytest.mark.parametrize("key_type", ["ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-2048"])
def test_signs_with_the_newest_version(http: HTTPService, vault: FakeVault, key_type: str) -> None:
    vault.keys["sign"] = FakeKey(type=key_type)
    assert isinstance(QUICK, SigningService)
    ids = set()
    for _ in range(2):
        signer = QUICK.open_signer(parse_key_reference(_text(http, "sign")), WITH_TOKEN)
        assert isinstance(signer, Signer)
        PublicKey(signer.public_key_pem).verify(b"message", signer.sign(b"message"))
        assert make_signatures([signer], b"")[0].key_id == signer.key_id
        assert signer.key_id in repr(signer)
        ids.add(signer.key_id)
        vault.keys["sign"].rotate()
    assert len(ids) == 2
    # A signer that was opened before the rotation goes on with its own version.
    PublicKey(signer.public_key_pem).verify(b"message", signer.sign(b"message"))
    exported = export_public_key(_text(http, "sign"), WITH_TOKEN, services={"vault": QUICK})
    assert exported != signer.public_key_pem


def test_what_signs_nothing(http: HTTPService, vault: FakeVault) -> None:
    vault.keys["both"] = FakeKey(type="ed25519", is_derived=True)
    for name in ("pii", "derived", "both"):
        with pytest.raises(UsageError):
            QUICK.open_signer(parse_key_reference(_text(http, name)), WITH_TOKEN)
    with pytest.raises(KeyNotFoundError):
        QUICK.open_signer(parse_key_reference(_text(http, "nobody")), WITH_TOKEN)


@pytest.mark.parametrize(
    "body",
    [b'{"data":{"signature":"vault:v2:AAAA"}}', b'{"data":{"signature":"vault:v1:A"}}', b'{"data":{}}',
     b'{"data":{"signature":"AAAA"}}', b'{"data":{"signature":1}}'],
)  # fmt: skip
def test_garbage_in_the_place_of_signatures(http: HTTPService, vault: FakeVault, body: bytes) -> None:
    vault.keys["sign"] = FakeKey(type="ecdsa-p256")
    signer = QUICK.open_signer(parse_key_reference(_text(http, "sign")), WITH_TOKEN)
    http.trouble = lambda request: HTTPAnswer(200, body)
    with pytest.raises(KeyServiceError):
        signer.sign(b"message")


@pytest.mark.parametrize(
    "body",
    [b'{"data":{"type":"ecdsa-p256","derived":false,"latest_version":2,"keys":{"1":{"public_key":""}}}}',
     b'{"data":{"type":"ecdsa-p256","derived":false,"latest_version":1,"keys":{"1":{"public_key":"x"}}}}',
     b'{"data":{"type":"ecdsa-p256","derived":false,"latest_version":1,"keys":{"1":{}}}}',
     b'{"data":{"type":"ed25519","derived":false,"latest_version":1,"keys":{"1":{"public_key":"AAAA"}}}}',
     b'{"data":{"type":"ed25519","derived":false,"latest_version":1,"keys":{"1":{"public_key":"?"}}}}',
     b'{"data":{"type":"ed25519","derived":false,"keys":{"1":{"public_key":"AAAA"}}}}',
     b'{"data":{"type":"ed25519"}}'],
)  # fmt: skip
def test_garbage_in_the_place_of_public_keys(http: HTTPService, body: bytes) -> None:
    http.handler = lambda request: HTTPAnswer(200, body)
    with pytest.raises(KeyServiceError):
        QUICK.open_signer(parse_key_reference(_text(http, "sign")), WITH_TOKEN)


def test_a_connection_that_ends_is_an_access_error(http: HTTPService) -> None:
    master_key = _open(http)
    http.trouble = lambda request: HTTPAnswer(0)
    with pytest.raises(PipecryptError) as caught:
        master_key.generate_key(HERE)
    assert caught.value.exit_code == 4
