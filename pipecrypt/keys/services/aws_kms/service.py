"""The key service `aws-kms://`: master keys and signing keys in AWS KMS. Using them is left to keys.

URI form: `aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID`, `aws-kms://alias/NAME?region=REGION`, `aws-kms://ID?region=REGION`;
more forms and the options region, profile, endpoint and max_calls_per_second: see `reference`.
Extra: `pip install "pipecrypt[aws]"`.
Credentials: what boto3 finds: the environment, a profile, web identity, the container, the instance.
Permissions, on the key itself:

=========================== ==========================================================================
to encrypt                  kms:GenerateDataKey
to decrypt                  kms:Decrypt
to sign                     kms:GetPublicKey, kms:Sign
to read a public key        kms:GetPublicKey
to grant and to rotate to    kms:Encrypt
to rewrap inside AWS        kms:ReEncryptFrom on the one key, kms:ReEncryptTo on the other
by an alias or a key id     kms:DescribeKey as well, except to sign and to read a public key
=========================== ==========================================================================

Data files store the key ARN, never an alias: who moves an alias must not decide which key old files ask for.
A multi-Region key opens in each of its regions what it wrapped in another.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, pem_text
from pipecrypt.errors import KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.services.aws_kms.client import KMSClient, open_client
from pipecrypt.keys.services.aws_kms.keys import AWSMasterKey, AWSSigner, answered_bytes
from pipecrypt.keys.services.aws_kms.reference import AWSKeyPlace, KeyARN, read_reference
from pipecrypt.keys.services.retry import CallRate, Patience

__all__ = ["SERVICE", "AWSKMSService"]

_ENCRYPTS, _SIGNS = "ENCRYPT_DECRYPT", "SIGN_VERIFY"
_SYMMETRIC: Final = "SYMMETRIC_DEFAULT"
_MAX_PUBLIC_KEY_BYTES: Final = 8192  # what the API reference allows
_SIGNING: Final = frozenset({SignatureAlgorithm.ECDSA_P256, SignatureAlgorithm.ECDSA_P384, SignatureAlgorithm.RSA_PSS})


class AWSKMSService:
    """The key service of the scheme `aws-kms`.

    Args:
        patience: how long calls may take.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        """Call nothing."""
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._rates: dict[tuple[str | None, str | None, str | None, float], CallRate] = {}

    def open_key(self, reference: KeyReference, credentials: Credentials) -> AWSMasterKey:
        """Return a master key. A key ARN is taken at its word; anything else is looked up, with one `DescribeKey`.

        Raises:
            KeyReferenceError: the reference names no key, or no region is known.
            MissingExtraError: boto3 is not installed.
            KeyNotFoundError: there is no such key.
            KeyServiceError: AWS refused or failed, or the key is switched off.
            UsageError: the key is not a symmetric key.
        """
        place = read_reference(reference)
        client = self._client(place)
        return AWSMasterKey(client, place.arn or _look_up(client, place), place.text)

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> AWSSigner:
        """Return a signing key, with one `GetPublicKey`.

        Raises:
            KeyReferenceError: the reference names no key, or no region is known.
            MissingExtraError: boto3 is not installed.
            KeyNotFoundError: there is no such key.
            KeyServiceError: AWS refused or failed.
            UsageError: the key signs nothing, or in a way that is not known here.
        """
        place = read_reference(reference)
        client = self._client(place)
        arn, public_key = _public_key(client, place)
        return AWSSigner(client, arn, public_key, place.text)

    def public_keys(self, reference: KeyReference) -> tuple[str, ...]:
        """Return the public key of a signing key; it has one version. Raises what `open_signer` raises."""
        place = read_reference(reference)
        return (_public_key(self._client(place), place)[1].pem,)

    def _client(self, place: AWSKeyPlace) -> KMSClient:
        # One bound for all keys that share a quota; another number is another bound.
        name = (place.profile, place.region, place.endpoint, place.max_calls_per_second)
        with self._lock:
            rate = self._rates.get(name)
            if rate is None:
                rate = self._rates[name] = CallRate(
                    place.max_calls_per_second, clock=self._patience.clock, sleep=self._patience.sleep
                )
        return open_client(place, patience=self._patience, rate=rate)


SERVICE: Final = AWSKMSService()


def _look_up(client: KMSClient, place: AWSKeyPlace) -> KeyARN:
    metadata = client.call("DescribeKey", KeyId=place.name).get("KeyMetadata")
    if not isinstance(metadata, dict):
        raise KeyServiceError(f"{place.text}: the answer of AWS KMS describes no key")
    if (metadata.get("KeyUsage"), metadata.get("KeySpec")) != (_ENCRYPTS, _SYMMETRIC):
        raise UsageError(
            f"{place.text} is not a symmetric key, and only such keys wrap others here",
            hint="aws kms create-key without further options makes one",
        )
    if metadata.get("KeyState") != "Enabled":
        raise KeyServiceError(
            f"{place.text}: the key is {ascii(str(metadata.get('KeyState'))[:64])[1:-1]}, not Enabled",
            hint="aws kms enable-key switches it on; if it waits for deletion, aws kms cancel-key-deletion comes first",
        )
    return _own_arn(metadata, "Arn", place)


def _public_key(client: KMSClient, place: AWSKeyPlace) -> tuple[KeyARN, PublicKey]:
    answer = client.call("GetPublicKey", KeyId=place.name)
    arn = _own_arn(answer, "KeyId", place)
    if answer.get("KeyUsage") != _SIGNS:
        raise UsageError(f"{place.text} is a key that signs nothing", hint="aws kms create-key --key-usage SIGN_VERIFY")
    der = answered_bytes(answer, "PublicKey", place.text, at_most=_MAX_PUBLIC_KEY_BYTES)
    public_key = PublicKey(pem_text("PUBLIC KEY", der))
    if public_key.algorithm not in _SIGNING:
        raise UsageError(
            f"{place.text} is a key of {public_key.algorithm}, which is not used with AWS KMS here",
            hint="make a key of the spec ECC_NIST_P256, ECC_NIST_P384 or RSA_3072",
        )
    return arn, public_key


def _own_arn(answer: Mapping[str, object], member: str, place: AWSKeyPlace) -> KeyARN:
    arn = KeyARN.parse(answer.get(member))
    expected = place.arn
    if arn is None or (expected is not None and arn != expected) or (place.region not in {None, arn.region}):
        raise KeyServiceError(
            f"{place.text}: AWS KMS answered with another key", hint="check the endpoint: something stands between"
        )
    return arn
