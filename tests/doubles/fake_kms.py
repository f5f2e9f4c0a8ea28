"""AWS KMS on this machine for tests, in its JSON protocol (application/x-amz-json-1.1). It guards nothing real.

It keeps to the API reference where emulators do not: the state of a key, the whole encryption context, KeyId in
Decrypt, signatures of digests, multi-Region keys, ReEncrypt. No signature of a request
is checked. `http_service` speaks HTTP.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pipecrypt.crypto.aead import open_sealed, random_bytes, seal
from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey
from tests.doubles.http_service import HTTPAnswer, HTTPRequest, HTTPService

__all__ = ["ACCOUNT", "FakeKMS", "KMSAnswerError", "kms_action", "kms_error", "start_fake_kms"]

ACCOUNT: Final = "111122223333"
_TARGET: Final = "TrentService."
_TYPE: Final = "application/x-amz-json-1.1"
_WRAPPED_KEY_ID_BYTES: Final = 36
_CURVES: Final = {"ECC_NIST_P256": ec.SECP256R1(), "ECC_NIST_P384": ec.SECP384R1()}
_HASHES: Final = {"256": hashes.SHA256(), "384": hashes.SHA384()}
_Parameters: TypeAlias = Mapping[str, Any]
_Private: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class KMSAnswerError(Exception):
    """An error that goes over the wire.

    Args:
        code: such as `NotFoundException`.
        message: for people.
    """

    def __init__(self, code: str, message: str = "") -> None:
        """Keep them."""
        super().__init__(code)
        self.code = code
        self.message = message


@dataclass(slots=True, kw_only=True)
class _Key:
    id: str
    spec: str
    regions: set[str]
    secret: DataKey | None
    private: _Private | None
    state: str = "Enabled"

    @property
    def usage(self) -> str:
        return "ENCRYPT_DECRYPT" if self.private is None else "SIGN_VERIFY"

    def arn(self, region: str) -> str:
        return f"arn:aws:kms:{region}:{ACCOUNT}:key/{self.id}"


@dataclass(slots=True)
class FakeKMS:
    """The keys of one account in all its regions.

    Args:
        aliases: key id by alias name, such as `alias/pii`, in every region.
        denied: actions that this identity may not do.
    """

    aliases: dict[str, str] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    _keys: dict[str, _Key] = field(default_factory=dict, repr=False)

    def add_key(self, *regions: str, spec: str = "SYMMETRIC_DEFAULT", alias: str | None = None) -> str:
        """Make a key and return its ARN in the first region; in several regions, a multi-Region key.

        Args:
            regions: where it is.
            spec: SYMMETRIC_DEFAULT, ECC_NIST_P256, ECC_NIST_P384, RSA_2048 or RSA_3072.
            alias: a name for it, without `alias/`.
        """
        key_id = f"mrk-{uuid.uuid4().hex}" if len(regions) > 1 else str(uuid.uuid4())
        private = None if spec == "SYMMETRIC_DEFAULT" else _private_key(spec)
        secret = DataKey(random_bytes(DATA_KEY_BYTES)) if private is None else None
        self._keys[key_id] = _Key(id=key_id, spec=spec, regions=set(regions), secret=secret, private=private)
        if alias is not None:
            self.aliases[f"alias/{alias}"] = key_id
        return self._keys[key_id].arn(regions[0])

    def set_state(self, arn: str, state: str) -> None:
        """Set the state of a key: Enabled, Disabled, PendingDeletion and so on."""
        self._keys[arn.rpartition("/")[2]].state = state

    def handle(self, request: HTTPRequest) -> HTTPAnswer:
        """Answer one request."""
        try:
            action = kms_action(request)
            act = self._actions().get(action or "")
            if action is None or act is None:
                raise KMSAnswerError("UnknownOperationException")
            if action in self.denied:
                raise KMSAnswerError(
                    "AccessDeniedException", f"User: nobody is not authorized to perform: kms:{action}"
                )
            body = json.dumps(act(json.loads(request.body), _region(request))).encode()
            return HTTPAnswer(200, body, {"Content-Type": _TYPE, "x-amzn-RequestId": str(uuid.uuid4())})
        except KMSAnswerError as error:
            return kms_error(error.code, error.message)

    def _actions(self) -> Mapping[str, Callable[[_Parameters, str], Mapping[str, object]]]:
        return {
            "Decrypt": self._decrypt,
            "DescribeKey": self._describe_key,
            "Encrypt": self._encrypt,
            "GenerateDataKey": self._generate_data_key,
            "GetPublicKey": self._get_public_key,
            "ReEncrypt": self._re_encrypt,
            "Sign": self._sign,
        }

    def _describe_key(self, asked: _Parameters, region: str) -> Mapping[str, object]:
        key = self._find(asked["KeyId"], region)
        described = {"KeyId": key.id, "Arn": key.arn(region), "AWSAccountId": ACCOUNT}
        return {"KeyMetadata": described | {"KeyState": key.state, "KeyUsage": key.usage, "KeySpec": key.spec}}

    def _generate_data_key(self, asked: _Parameters, region: str) -> Mapping[str, object]:
        key = self._usable(asked["KeyId"], region, "ENCRYPT_DECRYPT")
        data_key = random_bytes(DATA_KEY_BYTES)
        wrapped = _wrap(key, data_key, asked.get("EncryptionContext", {}))
        return {"KeyId": key.arn(region), "Plaintext": _encode(data_key), "CiphertextBlob": _encode(wrapped)}

    def _encrypt(self, asked: _Parameters, region: str) -> Mapping[str, object]:
        key = self._usable(asked["KeyId"], region, "ENCRYPT_DECRYPT")
        wrapped = _wrap(key, base64.b64decode(asked["Plaintext"]), asked.get("EncryptionContext", {}))
        return {"KeyId": key.arn(region), "CiphertextBlob": _encode(wrapped), "EncryptionAlgorithm": key.spec}

    def _decrypt(self, asked: _Parameters, region: str) -> Mapping[str, object]:
        key = self._usable(asked["KeyId"], region, "ENCRYPT_DECRYPT")
        data_key = _unwrap(key, base64.b64decode(asked["CiphertextBlob"]), asked.get("EncryptionContext", {}))
        return {"KeyId": key.arn(region), "Plaintext": _encode(data_key), "EncryptionAlgorithm": key.spec}

    def _re_encrypt(self, asked: _Parameters, region: str) -> Mapping[str, object]:
        source = self._usable(asked["SourceKeyId"], region, "ENCRYPT_DECRYPT")
        target = self._usable(asked["DestinationKeyId"], region, "ENCRYPT_DECRYPT")
        wrapped = base64.b64decode(asked["CiphertextBlob"])
        data_key = _unwrap(source, wrapped, asked.get("SourceEncryptionContext", {}))
        rewrapped = _wrap(target, data_key, asked.get("DestinationEncryptionContext", {}))
        named = {"SourceKeyId": source.arn(region), "KeyId": target.arn(region)}
        return named | {"CiphertextBlob": _encode(rewrapped)}

    def _get_public_key(self, asked: _Parameters, region: str) -> Mapping[str, object]:
        key = self._find(asked["KeyId"], region)
        if key.private is None:
            raise KMSAnswerError("UnsupportedOperationException")
        der = key.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {"KeyId": key.arn(region), "KeyUsage": key.usage, "KeySpec": key.spec, "PublicKey": _encode(der)}

    def _sign(self, asked: _Parameters, region: str) -> Mapping[str, object]:
        key = self._usable(asked["KeyId"], region, "SIGN_VERIFY")
        message, algorithm = base64.b64decode(asked["Message"]), str(asked["SigningAlgorithm"])
        digest = Prehashed(_HASHES[algorithm[-3:]])
        if asked["MessageType"] != "DIGEST" or len(message) != digest.digest_size:
            raise KMSAnswerError("ValidationException")
        if isinstance(key.private, ec.EllipticCurvePrivateKey):
            signature = key.private.sign(message, ec.ECDSA(digest))
        else:
            assert key.private is not None
            salted = padding.PSS(padding.MGF1(_HASHES[algorithm[-3:]]), salt_length=digest.digest_size)
            signature = key.private.sign(message, salted, digest)
        return {"KeyId": key.arn(region), "Signature": _encode(signature), "SigningAlgorithm": algorithm}

    def _find(self, name: str, region: str) -> _Key:
        prefix = f"arn:aws:kms:{region}:{ACCOUNT}:"
        name = name.removeprefix(prefix).removeprefix("key/")
        key = self._keys.get(self.aliases.get(name, name))
        if key is None or region not in key.regions:
            raise KMSAnswerError("NotFoundException", f"{name} does not exist")
        return key

    def _usable(self, name: str, region: str, usage: str) -> _Key:
        key = self._find(name, region)
        if key.usage != usage:
            raise KMSAnswerError("InvalidKeyUsageException")
        if key.state == "Disabled":
            raise KMSAnswerError("DisabledException", f"{key.arn(region)} is disabled.")
        if key.state != "Enabled":
            raise KMSAnswerError("KMSInvalidStateException", f"{key.arn(region)} is {key.state}.")
        return key


def start_fake_kms(kms: FakeKMS) -> HTTPService:
    """Return a server of `kms`, which a `with` block serves; its calls are counted by action."""
    return HTTPService(kms.handle, kms_action)


def kms_action(request: HTTPRequest) -> str | None:
    """Return the action that a request asks for, such as `GenerateDataKey`, or None."""
    target = request.headers.get("x-amz-target", "")
    return target.removeprefix(_TARGET) if target.startswith(_TARGET) else None


def kms_error(code: str, message: str = "", *, status: int = 400) -> HTTPAnswer:
    """Return an error as AWS KMS sends it."""
    body = json.dumps({"__type": code, "message": message}).encode()
    return HTTPAnswer(status, body, {"Content-Type": _TYPE, "x-amzn-RequestId": str(uuid.uuid4())})


def _region(request: HTTPRequest) -> str:
    # Authorization: AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/kms/aws4_request, ...
    return request.headers.get("authorization", "").partition("Credential=")[2].split("/")[2]


def _wrap(key: _Key, data_key: bytes, bound: Mapping[str, str]) -> bytes:
    assert key.secret is not None
    return key.id.encode() + seal(key.secret, data_key, _aad(key, bound))


def _unwrap(key: _Key, wrapped: bytes, bound: Mapping[str, str]) -> bytes:
    assert key.secret is not None
    key_id, sealed = wrapped[:_WRAPPED_KEY_ID_BYTES], wrapped[_WRAPPED_KEY_ID_BYTES:]
    try:
        uuid.UUID(key_id.decode().removeprefix("mrk-"))
        if key_id != key.id.encode():
            raise KMSAnswerError("IncorrectKeyException")
        return bytes(open_sealed(key.secret, sealed, _aad(key, bound)))
    except (IntegrityError, ValueError) as error:
        raise KMSAnswerError("InvalidCiphertextException") from error


def _aad(key: _Key, bound: Mapping[str, str]) -> bytes:
    return json.dumps([key.id, sorted(bound.items())]).encode()


def _private_key(spec: str) -> _Private:
    if spec in _CURVES:
        return ec.generate_private_key(_CURVES[spec])
    return rsa.generate_private_key(65537, int(spec.removeprefix("RSA_")))


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
