"""The transit engine of Vault as its documentation and source describe it, as far as pipecrypt asks for it.

Real cryptography, one mount, tokens without policies. Errors have the status and the English text that Vault gives.
"""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.doubles.http_service import HTTPAnswer, HTTPRequest

TOKEN = "hvs.CAESIJ-not-a-real-token"  # noqa: S105
_PATH = re.compile(r"/v1/transit/(keys|datakey/plaintext|encrypt|decrypt|rewrap|sign)/(\w[\w.-]*)")
_FIELDS = {
    "datakey/plaintext": {"bits", "context", "key_version", "nonce"},
    "encrypt": {"plaintext", "context", "associated_data", "key_version", "nonce", "type"},
    "decrypt": {"ciphertext", "context", "associated_data", "nonce"},
    "rewrap": {"ciphertext", "context", "key_version", "nonce"},
    "sign": {
        "input", "context", "hash_algorithm", "key_version", "prehashed", "signature_algorithm",
        "marshaling_algorithm", "salt_length",
    },
}  # fmt: skip
_HASHES = {"sha2-256": hashes.SHA256(), "sha2-384": hashes.SHA384()}


class RefusalError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass
class FakeKey:
    type: str = "aes256-gcm96"
    is_derived: bool = False
    versions: list[Any] = field(default_factory=list)
    min_decryption_version: int = 1
    is_soft_deleted: bool = False

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self) -> None:
        self.versions.append(_new_key(self.type))


def _new_key(key_type: str) -> Any:
    if key_type.startswith("rsa-"):
        return rsa.generate_private_key(65537, int(key_type.removeprefix("rsa-")))
    if key_type.startswith("ecdsa-"):
        return ec.generate_private_key({"ecdsa-p256": ec.SECP256R1(), "ecdsa-p384": ec.SECP384R1()}[key_type])
    return Ed25519PrivateKey.generate() if key_type == "ed25519" else os.urandom(32)


class FakeVault:
    """A handler for an HTTPService.

    Args:
        keys: by their names.
        denied: token holders may do nothing.
        knows_associated_data: False as before Vault 1.13.
    """

    def __init__(self, **keys: FakeKey) -> None:
        self.keys = keys
        self.denied = False
        self.knows_associated_data = True
        self.namespaces: list[str] = []

    def __call__(self, request: HTTPRequest) -> HTTPAnswer:
        try:
            return _json(200, self._answer(request))
        except RefusalError as refusal:
            return _json(refusal.status, {"errors": [refusal.text] if refusal.text else []})

    def _answer(self, request: HTTPRequest) -> dict[str, Any]:
        assert request.headers["x-vault-request"] == "true"
        self.namespaces.append(request.headers.get("x-vault-namespace", ""))
        if request.headers.get("x-vault-token") != TOKEN or self.denied:
            raise RefusalError(403, "1 error occurred:\n\t* permission denied\n\n")
        match = _PATH.fullmatch(request.path)
        if match is None:
            raise RefusalError(404, f'no handler for route "{request.path}". route entry not found.')
        operation, name = match.groups()
        key = self.keys.get(name)
        if operation == "keys":
            assert request.method == "GET"
            if key is None:
                raise RefusalError(404, "")
            return {"data": _describe(name, key)}
        assert request.method == "POST"
        if key is None:
            # What a token gets that may update, but not create.
            raise RefusalError(403 if operation == "encrypt" else 400, "encryption key not found")
        members = json.loads(request.body)
        known = _FIELDS[operation] - (set() if self.knows_associated_data else {"associated_data"})
        ignored = sorted(set(members) - known)
        data = _OPERATIONS[operation](key, {name: members[name] for name in members if name in known})
        warnings = [f"Endpoint ignored these unrecognized parameters: {ignored}"] if ignored else None
        return {"request_id": "0", "data": data, "warnings": warnings}


def _describe(name: str, key: FakeKey) -> dict[str, Any]:
    versions = {str(number): _public(version) for number, version in enumerate(key.versions, start=1)}
    return {
        "name": name,
        "type": key.type,
        "derived": key.is_derived,
        "latest_version": len(key.versions),
        "min_decryption_version": key.min_decryption_version,
        "keys": versions,
    }


def _public(version: Any) -> Any:
    if isinstance(version, bytes):
        return 1_700_000_000
    if isinstance(version, Ed25519PrivateKey):
        return {"name": "ed25519", "public_key": _base64(version.public_key().public_bytes_raw())}
    pem = version.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {"name": "", "public_key": pem.decode()}


def _datakey(key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    plaintext = os.urandom(members.get("bits", 256) // 8)
    return {**_seal(key, plaintext, members), "plaintext": _base64(plaintext)}


def _encrypt(key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    return _seal(key, base64.b64decode(members["plaintext"], validate=True), members)


def _decrypt(key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    return {"plaintext": _base64(_open(key, members))}


def _rewrap(key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    return _seal(key, _open(key, members), members)


def _seal(key: FakeKey, plaintext: bytes, members: dict[str, Any]) -> dict[str, Any]:
    _check(key)
    version = len(key.versions)
    nonce = os.urandom(12)
    sealed = AESGCM(_derived(key, version, members)).encrypt(nonce, plaintext, _associated(members))
    return {"ciphertext": f"vault:v{version}:{_base64(nonce + sealed)}", "key_version": version}


def _open(key: FakeKey, members: dict[str, Any]) -> bytes:
    _check(key)
    match = re.fullmatch(r"vault:v(\d+):(.*)", members["ciphertext"])
    if match is None:
        raise RefusalError(400, "invalid ciphertext: no prefix")
    version = int(match[1])
    if version > len(key.versions):
        raise RefusalError(400, "invalid ciphertext: version is too new")
    if version < key.min_decryption_version:
        raise RefusalError(400, "ciphertext or signature version is disallowed by policy (too old)")
    try:
        sealed = base64.b64decode(match[2], validate=True)
        return AESGCM(_derived(key, version, members)).decrypt(sealed[:12], sealed[12:], _associated(members))
    except ValueError:
        raise RefusalError(400, "invalid ciphertext: could not decode base64") from None
    except InvalidTag:
        raise RefusalError(400, "cipher: message authentication failed") from None


def _check(key: FakeKey) -> None:
    if key.is_soft_deleted:
        raise RefusalError(400, "refusing to use soft-deleted key")
    if not isinstance(key.versions[0], bytes):
        raise RefusalError(400, f"message encryption not supported for key type {key.type}")


def _derived(key: FakeKey, version: int, members: dict[str, Any]) -> bytes:
    if not key.is_derived:
        return bytes(key.versions[version - 1])  # and a context is ignored
    if not members.get("context"):
        raise RefusalError(400, "missing 'context' for key derivation; the key was created using a derived key")
    context = base64.b64decode(members["context"], validate=True)
    return HKDF(hashes.SHA256(), 32, salt=None, info=context).derive(key.versions[version - 1])


def _associated(members: dict[str, Any]) -> bytes:
    return base64.b64decode(members.get("associated_data", ""), validate=True)


def _sign(key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    version = members.get("key_version") or len(key.versions)
    message = base64.b64decode(members["input"], validate=True)
    private = key.versions[version - 1]
    if isinstance(private, Ed25519PrivateKey):
        value = private.sign(message)
    else:
        assert members["prehashed"] is True
        algorithm = _HASHES[members.get("hash_algorithm", "sha2-256")]
        value = _sign_digest(private, message, algorithm, members)
    return {"signature": f"vault:v{version}:{_base64(value)}", "key_version": version}


def _sign_digest(private: Any, digest: bytes, algorithm: hashes.HashAlgorithm, members: dict[str, Any]) -> bytes:
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(digest, ec.ECDSA(utils.Prehashed(algorithm)))
    salt = algorithm.digest_size if members.get("salt_length") == "hash" else padding.PSS.MAX_LENGTH
    pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=salt)
    signed: bytes = private.sign(digest, pss, utils.Prehashed(algorithm))
    return signed


_OPERATIONS = {
    "datakey/plaintext": _datakey,
    "encrypt": _encrypt,
    "decrypt": _decrypt,
    "rewrap": _rewrap,
    "sign": _sign,
}


def call_name(request: HTTPRequest) -> str | None:
    """What is counted: everything but looking at a key."""
    match = _PATH.fullmatch(request.path)
    return None if match is None or match[1] == "keys" else match[1]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(status: int, members: dict[str, Any]) -> HTTPAnswer:
    return HTTPAnswer(status, json.dumps(members).encode(), {"Content-Type": "application/json"})
