"""Google Cloud KMS as its REST reference describes it, as far as pipecrypt asks for it. Real cryptography."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipecrypt.keys.schemes.gcp_kms import crc32c
from tests.doubles.http_service import HTTPAnswer, HTTPRequest

RING = "projects/pipe-crypt/locations/europe-west3/keyRings/etl/cryptoKeys/"
_PATH = re.compile(r"/v1/(projects/.*?/cryptoKeys/[\w-]+)(?:/cryptoKeyVersions/(\d+))?(?::(\w+)|(/publicKey))")
# The numbers of CryptoKeyVersion.CryptoKeyVersionAlgorithm.
ALGORITHMS = {
    "EC_SIGN_P256_SHA256": 12,
    "EC_SIGN_P384_SHA384": 13,
    "EC_SIGN_ED25519": 40,
    "RSA_SIGN_PSS_2048_SHA256": 2,
    "RSA_SIGN_PKCS1_2048_SHA256": 5,
}
_STATUS = {
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "RESOURCE_EXHAUSTED": 429,
}


class RefusalError(Exception):
    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass
class FakeVersion:
    secret: Any
    state: str = "ENABLED"


@dataclass
class FakeKey:
    algorithm: str = "GOOGLE_SYMMETRIC_ENCRYPTION"
    versions: list[FakeVersion] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self) -> None:
        self.versions.append(FakeVersion(_new_key(self.algorithm)))


def _new_key(algorithm: str) -> Any:
    if algorithm.startswith("RSA"):
        return rsa.generate_private_key(65537, 2048)
    if algorithm.startswith("EC_SIGN_P"):
        return ec.generate_private_key(ec.SECP256R1() if "P256" in algorithm else ec.SECP384R1())
    return Ed25519PrivateKey.generate() if algorithm == "EC_SIGN_ED25519" else os.urandom(32)


class FakeGCPKMS:
    """A handler for an HTTPService.

    Args:
        keys: by the last part of their names.
        denied: this identity may do nothing.
        change: is given every answer before it goes out.
    """

    def __init__(self, **keys: FakeKey) -> None:
        self.keys = {RING + name: key for name, key in keys.items()}
        self.denied = False
        self.change: dict[str, Any] = {}

    def __call__(self, request: HTTPRequest) -> HTTPAnswer:
        try:
            return _json(200, self._answer(request) | self.change)
        except RefusalError as refusal:
            return refuse(refusal.status, refusal.text)

    def _answer(self, request: HTTPRequest) -> dict[str, Any]:
        match = _PATH.fullmatch(urlsplit(request.path).path)
        assert match is not None, request.path
        name, number, method, public = match.groups()
        if self.denied:
            raise RefusalError("PERMISSION_DENIED", f"Permission denied on resource '{name}' (or it may not exist).")
        key = self.keys.get(name)
        if key is None:
            raise RefusalError("NOT_FOUND", f"CryptoKey {name} not found.")
        version = int(number or len(key.versions))
        if version > len(key.versions):
            raise RefusalError("NOT_FOUND", "CryptoKeyVersion not found.")
        if public is not None:
            return _public(name, version, key)
        members = json.loads(request.body)
        return _METHODS[method](name, version, key, members)


def _encrypt(name: str, version: int, key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    plaintext, associated_data = _checked(members, "plaintext"), _checked(members, "additionalAuthenticatedData")
    secret, nonce = _enabled(name, version, key), os.urandom(12)
    ciphertext = bytes([version]) + nonce + AESGCM(secret).encrypt(nonce, plaintext, associated_data)
    return {
        "name": f"{name}/cryptoKeyVersions/{version}",
        "ciphertext": _base64(ciphertext),
        "ciphertextCrc32c": str(crc32c(ciphertext)),
        "verifiedPlaintextCrc32c": "plaintextCrc32c" in members,
        "verifiedAdditionalAuthenticatedDataCrc32c": "additionalAuthenticatedDataCrc32c" in members,
        "protectionLevel": "SOFTWARE",
    }


def _decrypt(name: str, version: int, key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    ciphertext, associated_data = _checked(members, "ciphertext"), _checked(members, "additionalAuthenticatedData")
    version = ciphertext[0]
    if not 1 <= version <= len(key.versions):
        raise RefusalError("INVALID_ARGUMENT", "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
    secret = _enabled(name, version, key)
    try:
        plaintext = AESGCM(secret).decrypt(ciphertext[1:13], ciphertext[13:], associated_data)
    except (InvalidTag, ValueError):
        raise RefusalError("INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.") from None
    return {
        "plaintext": _base64(plaintext),
        "plaintextCrc32c": str(crc32c(plaintext)),
        "usedPrimary": version == len(key.versions),
    }


def _sign(name: str, version: int, key: FakeKey, members: dict[str, Any]) -> dict[str, Any]:
    private = _enabled(name, version, key)
    if isinstance(private, Ed25519PrivateKey):
        signature, verified = private.sign(_checked(members, "data")), "verifiedDataCrc32c"
    else:
        ((hash_name, encoded),) = members["digest"].items()
        digest = base64.b64decode(encoded, validate=True)
        assert int(members["digestCrc32c"]) == crc32c(digest)
        algorithm = utils.Prehashed({"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}[hash_name])
        verified = "verifiedDigestCrc32c"
        if isinstance(private, ec.EllipticCurvePrivateKey):
            signature = private.sign(digest, ec.ECDSA(algorithm))
        else:
            signature = private.sign(digest, padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32), algorithm)
    return {
        "signature": _base64(signature),
        "signatureCrc32c": str(crc32c(signature)),
        verified: True,
        "name": f"{name}/cryptoKeyVersions/{version}",
    }


def _public(name: str, version: int, key: FakeKey) -> dict[str, Any]:
    secret = _enabled(name, version, key)
    if isinstance(secret, bytes):
        raise RefusalError("FAILED_PRECONDITION", "The key is not an asymmetric key.")
    pem = secret.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "pem": pem.decode(),
        "algorithm": ALGORITHMS[key.algorithm],
        "pemCrc32c": str(crc32c(pem)),
        "name": f"{name}/cryptoKeyVersions/{version}",
    }


_METHODS = {"encrypt": _encrypt, "decrypt": _decrypt, "asymmetricSign": _sign}


def _enabled(name: str, version: int, key: FakeKey) -> Any:
    found = key.versions[version - 1]
    if found.state != "ENABLED":
        text = f"{name}/cryptoKeyVersions/{version} is not enabled, current state is: {found.state}."
        raise RefusalError("FAILED_PRECONDITION", text)
    return found.secret


def _checked(members: dict[str, Any], name: str) -> bytes:
    data = base64.b64decode(members.get(name, ""), validate=True)
    checksum = members.get(f"{name}Crc32c")
    if checksum is not None and int(checksum) != crc32c(data):
        raise RefusalError("INVALID_ARGUMENT", f"The checksum in field {name}_crc32c did not match the data.")
    return data


def call_name(request: HTTPRequest) -> str | None:
    match = _PATH.fullmatch(urlsplit(request.path).path)
    return None if match is None else match[3]


def refuse(status: str, text: str = "no") -> HTTPAnswer:
    code = _STATUS[status]
    return _json(code, {"error": {"code": code, "message": text, "status": status}})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(status: int, members: dict[str, Any]) -> HTTPAnswer:
    return HTTPAnswer(status, json.dumps(members).encode(), {"Content-Type": "application/json; charset=UTF-8"})
