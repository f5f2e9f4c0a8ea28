"""Azure Key Vault and Managed HSM as their REST reference describes them, as far as pipecrypt asks. Real cryptography.

As with the real service: whoever comes without a token is challenged; a disabled key still wraps and no longer unwraps.
"""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.doubles.http_service import HTTPAnswer, HTTPRequest

TOKEN = "eyJ0-not-a-real-token"  # noqa: S105
_PATH = re.compile(r"/keys/([^/]+)(?:/([0-9a-f]{32}))?(?:/(wrapkey|unwrapkey))?")
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class RefusalError(Exception):
    def __init__(self, status: int, code: str, inner: str | None = None) -> None:
        super().__init__(code)
        self.answer = refuse(status, code, inner)


@dataclass
class FakeVersion:
    secret: Any
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    is_enabled: bool = True


@dataclass
class FakeKey:
    type: str = "RSA"
    versions: list[FakeVersion] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self) -> None:
        secret = os.urandom(32) if self.type == "oct-HSM" else rsa.generate_private_key(65537, 2048)
        self.versions.append(FakeVersion(secret))


class FakeAzureKV:
    """A handler for an HTTPService.

    Args:
        host: what the vault calls itself in key ids.
        keys: by their names.
        denied: this identity may do nothing.
        change: is put into every answer before it goes out.
    """

    def __init__(self, host: str, **keys: FakeKey) -> None:
        self.host = host
        self.keys = keys
        self.denied = False
        self.change: dict[str, Any] = {}
        self.methods: list[str] = []

    def __call__(self, request: HTTPRequest) -> HTTPAnswer:
        try:
            return _json(200, self._answer(request) | self.change)
        except RefusalError as refusal:
            return refusal.answer

    def _answer(self, request: HTTPRequest) -> dict[str, Any]:
        parts = urlsplit(request.path)
        assert parse_qs(parts.query)["api-version"] == ["7.4"]
        if "authorization" not in request.headers:
            raise _challenge(self.host)
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        match = _PATH.fullmatch(parts.path)
        assert match is not None, parts.path
        name, version_id, operation = match.groups()
        self.methods.append(f"{request.method} {operation}")
        if self.denied:
            raise RefusalError(403, "Forbidden", "ForbiddenByRbac")
        key = self.keys.get(name.lower())
        found = [each for each in key.versions if version_id in {None, each.id}] if key is not None else []
        if key is None or not found:
            raise RefusalError(404, "KeyNotFound")
        kid = f"https://{self.host}/keys/{name}/{found[-1].id}"
        if operation is None:
            assert request.method == "GET"
            return {
                "key": {"kid": kid, "kty": key.type, "key_ops": ["wrapKey", "unwrapKey"]},
                "attributes": {"enabled": found[-1].is_enabled},
            }
        assert request.method == "POST"
        members = json.loads(request.body)
        value = _OPERATIONS[operation](found[-1], members["alg"], _decode(members["value"]))
        return {"kid": kid, "value": _encode(value)}


class ToLoopback(RequestsTransport):
    """A transport of azure.core whose requests all go to one server on this machine."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def send(self, request: Any, **kwargs: Any) -> Any:
        wanted = request.url
        parts = urlsplit(wanted)
        request.url = f"{self._url}{parts.path}?{parts.query}"
        request.headers["Connection"] = "close"  # else a server that stopped would go on to answer
        try:
            return super().send(request, **kwargs)
        finally:
            request.url = wanted


class StaticCredential:
    """A credential of azure.identity's kind that asks nobody."""

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        return AccessToken(TOKEN, 2**33)


def _wrap(version: FakeVersion, algorithm: str, value: bytes) -> bytes:
    if isinstance(version.secret, bytes):
        _require(algorithm == "A256KW")
        return keywrap.aes_key_wrap(version.secret, value)
    _require(algorithm == "RSA-OAEP-256")
    wrapped: bytes = version.secret.public_key().encrypt(value, _OAEP)
    return wrapped


def _unwrap(version: FakeVersion, algorithm: str, value: bytes) -> bytes:
    if not version.is_enabled:
        raise RefusalError(403, "Forbidden", "KeyDisabled")
    try:
        if isinstance(version.secret, bytes):
            _require(algorithm == "A256KW")
            return keywrap.aes_key_unwrap(version.secret, value)
        _require(algorithm == "RSA-OAEP-256")
        plaintext: bytes = version.secret.decrypt(value, _OAEP)
        return plaintext
    except (ValueError, keywrap.InvalidUnwrap):
        raise RefusalError(400, "BadParameter") from None


_OPERATIONS = {"wrapkey": _wrap, "unwrapkey": _unwrap}


def _require(is_right: bool) -> None:
    if not is_right:
        raise RefusalError(400, "BadParameter")


def _challenge(host: str) -> RefusalError:
    refusal = RefusalError(401, "Unauthorized")
    resource = f"https://{host.partition('.')[2]}"
    challenge = f'Bearer authorization="https://login.microsoftonline.com/0", resource="{resource}"'
    refusal.answer = HTTPAnswer(401, b"", {"WWW-Authenticate": challenge})
    return refusal


def call_name(request: HTTPRequest) -> str | None:
    """What is counted: wrapping and unwrapping, with a token."""
    match = _PATH.fullmatch(urlsplit(request.path).path)
    return None if match is None or "authorization" not in request.headers else match[3]


def refuse(status: int, code: str, inner: str | None = None) -> HTTPAnswer:
    error: dict[str, Any] = {"code": code, "message": "English text"}
    return _json(status, {"error": error | ({"innererror": {"code": inner}} if inner else {})})


def _json(status: int, members: dict[str, Any]) -> HTTPAnswer:
    return HTTPAnswer(status, json.dumps(members).encode(), {"Content-Type": "application/json; charset=utf-8"})


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
