"""A symmetric key and a signing key of AWS KMS. Retries and errors are left to client, references to reference.

What AWS answers is checked here, because who answers is whoever the endpoint leads to:

1. the key that answered is the key that was asked, or its replica in this region;
2. what should be there is there, with the right type and length.

That a signature is one is checked by `signers.make_signatures`; that an unwrapped key is the right one, by sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm
from pipecrypt.errors import IntegrityError, KeyServiceError
from pipecrypt.keys.service import MasterKey
from pipecrypt.keys.services.aws_kms.client import KMSClient
from pipecrypt.keys.services.aws_kms.reference import KeyARN
from pipecrypt.keys.signers import WithPublicKey
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["AWSMasterKey", "AWSSigner", "answered_bytes", "answered_key", "encryption_context"]

# What the API reference allows for CiphertextBlob.
_MAX_WRAPPED_BYTES: Final = 6144
_PURPOSE: Final = "kek/1"
_MAX_SIGNATURE_BYTES: Final = 6144
_ALGORITHMS: Final[Mapping[SignatureAlgorithm, tuple[str, str]]] = {
    SignatureAlgorithm.ECDSA_P256: ("ECDSA_SHA_256", "sha256"),
    SignatureAlgorithm.ECDSA_P384: ("ECDSA_SHA_384", "sha384"),
    SignatureAlgorithm.RSA_PSS: ("RSASSA_PSS_SHA_256", "sha256"),
}


class AWSMasterKey:
    """A symmetric KMS key. It holds no key bytes: those never leave AWS.

    The wrapped form of a KEK is the `CiphertextBlob` as AWS made it.

    Args:
        client: of the key's region.
        arn: the key.
        text: the key reference, for errors.
    """

    __slots__ = ("_arn", "_client", "_text")

    def __init__(self, client: KMSClient, arn: KeyARN, text: str) -> None:
        """Keep them; nothing is called."""
        self._client = client
        self._arn = arn
        self._text = text

    @property
    def id(self) -> str:
        """The key ARN."""
        return str(self._arn)

    def opens_for(self, master_key_id: str) -> bool:
        """Say whether an id from a file names this key, or the same multi-Region key in another region."""
        other = KeyARN.parse(master_key_id)
        return other is not None and self._arn.opens_for(other)

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form; one `GenerateDataKey`.

        Raises:
            KeyServiceError: AWS refused or failed.
            UsageError: the key is for something else.
        """
        answer = self._client.call(
            "GenerateDataKey", KeyId=self.id, KeySpec="AES_256", EncryptionContext=encryption_context(context)
        )
        answered_key(answer, "KeyId", self._arn, self._text)
        wrapped = answered_bytes(answer, "CiphertextBlob", self._text, at_most=_MAX_WRAPPED_BYTES)
        return _data_key(answer, self._text), wrapped

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already; one `Encrypt`.

        Raises:
            KeyServiceError: AWS refused or failed.
        """
        plaintext = bytes(key.expose_key_bytes())
        answer = self._client.call(
            "Encrypt", KeyId=self.id, Plaintext=plaintext, EncryptionContext=encryption_context(context)
        )
        answered_key(answer, "KeyId", self._arn, self._text)
        return answered_bytes(answer, "CiphertextBlob", self._text, at_most=_MAX_WRAPPED_BYTES)

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one `Decrypt`.

        Raises:
            KeyServiceError: AWS refused or failed.
            IntegrityError: `wrapped` was not made by this key for `context`.
        """
        self._check_length(wrapped)
        answer = self._client.call(
            "Decrypt", KeyId=self.id, CiphertextBlob=wrapped, EncryptionContext=encryption_context(context)
        )
        answered_key(answer, "KeyId", self._arn, self._text)
        return _data_key(answer, self._text)

    def rewrap_key(self, wrapped: bytes, context: Context, to: MasterKey) -> bytes | None:
        """Return the key in `wrapped`, wrapped under `to`; one `ReEncrypt`, and no plaintext leaves AWS.

        Returns None where one call cannot do it: `to` is no KMS key of this region and endpoint.

        Raises:
            KeyServiceError: AWS refused or failed.
            IntegrityError: `wrapped` was not made by this key for `context`.
        """
        if not isinstance(to, AWSMasterKey) or to._client.place != self._client.place:
            return None
        self._check_length(wrapped)
        bound = encryption_context(context)
        answer = self._client.call(
            "ReEncrypt",
            CiphertextBlob=wrapped,
            SourceKeyId=self.id,
            SourceEncryptionContext=bound,
            DestinationKeyId=to.id,
            DestinationEncryptionContext=bound,
        )
        answered_key(answer, "SourceKeyId", self._arn, self._text)
        answered_key(answer, "KeyId", to._arn, to._text)
        return answered_bytes(answer, "CiphertextBlob", self._text, at_most=_MAX_WRAPPED_BYTES)

    def __repr__(self) -> str:
        """Show the ARN."""
        return f"<AWSMasterKey {self._arn}>"

    def _check_length(self, wrapped: bytes) -> None:
        if not 1 <= len(wrapped) <= _MAX_WRAPPED_BYTES:
            raise IntegrityError(f"{self._text}: the wrapped key has {len(wrapped)} bytes, which AWS KMS never makes")


class AWSSigner(WithPublicKey):
    """An asymmetric KMS key that signs. The message is digested here; only its digest goes to AWS.

    Args:
        client: of the key's region.
        arn: the key.
        public_key: its public half, as AWS told it.
        text: the key reference, for errors.
    """

    __slots__ = ("_arn", "_client", "_text")

    def __init__(self, client: KMSClient, arn: KeyARN, public_key: PublicKey, text: str) -> None:
        """Keep them."""
        super().__init__(public_key)
        self._client = client
        self._arn = arn
        self._text = text

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`, ECDSA in DER; one `Sign`.

        Raises:
            KeyServiceError: AWS refused or failed.
        """
        algorithm, digest = _ALGORITHMS[self._public_key.algorithm]
        answer = self._client.call(
            "Sign",
            KeyId=str(self._arn),
            Message=hashlib.new(digest, message).digest(),
            MessageType="DIGEST",
            SigningAlgorithm=algorithm,
        )
        answered_key(answer, "KeyId", self._arn, self._text)
        return answered_bytes(answer, "Signature", self._text, at_most=_MAX_SIGNATURE_BYTES)

    def __repr__(self) -> str:
        """Show ARN and public key."""
        return f"<AWSSigner {self._arn} {self.key_id}>"


def encryption_context(context: Context) -> dict[str, str]:
    """Return what AWS binds to a KEK and writes into CloudTrail: identities only, in the clear.

    A KEK serves all files of a dataset, so the path is not in it. Outside of a dataset there is no id to bind.
    """
    bound = {"pipecrypt-purpose": _PURPOSE}
    if context.dataset_id:
        bound["pipecrypt-dataset"] = context.dataset_id
    return bound


def answered_key(answer: Mapping[str, object], member: str, asked: KeyARN, text: str) -> KeyARN:
    """Return the key that answered, which is `asked` or its replica.

    Raises:
        KeyServiceError: another key answered, or none is named.
    """
    arn = KeyARN.parse(answer.get(member))
    if arn is None or not arn.opens_for(asked):
        raise KeyServiceError(
            f"{text}: AWS KMS answered for another key than {asked}",
            hint="check the endpoint: something stands between",
        )
    return arn


def answered_bytes(answer: Mapping[str, object], member: str, text: str, *, at_most: int) -> bytes:
    """Return bytes of an answer.

    Raises:
        KeyServiceError: they are missing, or too many.
    """
    value = answer.get(member)
    if not isinstance(value, bytes) or not 1 <= len(value) <= at_most:
        raise KeyServiceError(f"{text}: the answer of AWS KMS has no valid {member}")
    return value


def _data_key(answer: Mapping[str, object], text: str) -> DataKey:
    # botocore hands out immutable bytes, which nobody can overwrite; they are let go of here.
    key_bytes = answered_bytes(answer, "Plaintext", text, at_most=DATA_KEY_BYTES)
    if len(key_bytes) != DATA_KEY_BYTES:
        raise KeyServiceError(f"{text}: AWS KMS answered with a key of {len(key_bytes) * 8} bits, not 256")
    return DataKey(key_bytes)
