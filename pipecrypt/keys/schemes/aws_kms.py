"""The key service `aws-kms://`: master keys and signing keys in AWS KMS, called through boto3.

URI forms, and the options they take::

    aws-kms://arn:aws:kms:eu-west-1:111122223333:key/1234abcd-...      nothing is looked up
    aws-kms://arn:aws:kms:eu-west-1:111122223333:alias/pii             looked up with DescribeKey
    aws-kms://alias/pii?region=eu-west-1                               looked up in the caller's own account
    aws-kms://1234abcd-12ab-34cd-56ef-1234567890ab?region=eu-west-1    looked up in the caller's own account

    region=NAME                 where the key is; without, what boto3 finds; an ARN has its own
    profile=NAME                a profile of the shared AWS configuration
    endpoint=URL                another endpoint, such as a VPC endpoint; https, or http on this machine
    max_calls_per_second=N      at most so many calls from this process; 50 without

Extra: `pip install "pipecrypt[aws]"`.
Credentials: what boto3 finds: the environment, a profile, web identity, the container, the instance.
Permissions, on the key itself:

=========================== ==========================================================================
to encrypt                  kms:GenerateDataKey
to decrypt                  kms:Decrypt
to sign                     kms:GetPublicKey, kms:Sign
to read a public key        kms:GetPublicKey
to grant and to rotate to   kms:Encrypt
by an alias or a key id     kms:DescribeKey as well, except to sign and to read a public key
=========================== ==========================================================================

Data files store the key ARN, never an alias: who moves an alias must not decide which key old files ask for.
A multi-Region key opens in each of its regions what it wrapped in another.

What AWS answers is checked here, because who answers is whoever the endpoint leads to:

1. the key that answered is the key that was asked, or its replica in this region;
2. what should be there is there, with the right type and length.

That a signature is one is checked by `signers.make_signatures`; that an unwrapped key is the right one, by sessions.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, pem_text
from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyReferenceError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.schemes.caller import (
    Caller,
    CallRate,
    Failure,
    FailureKind,
    Patience,
    Rule,
    import_extra,
    is_this_machine,
    quiet_loggers,
    take_data_key,
)
from pipecrypt.keys.service import WrappingMasterKey
from pipecrypt.keys.signers import ServiceSigner
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["SERVICE", "AWSKMSService", "AWSMasterKey"]

_DEFAULT_CALLS_PER_SECOND: Final = 50.0
_MAX_CALLS_PER_SECOND: Final = 10_000.0
_OPTIONS: Final = ("region", "profile", "endpoint", "max_calls_per_second")
_KEY_ID: Final = r"[A-Za-z0-9][A-Za-z0-9-]{0,127}"
_ALIAS: Final = r"alias/[A-Za-z0-9/_-]{1,250}"
_ARN: Final = re.compile(
    r"arn:(?P<partition>aws[a-z-]{0,20}):kms:(?P<region>[a-z0-9-]{1,32}):(?P<account>[0-9]{12}):"
    rf"(?:key/(?P<key>{_KEY_ID})|(?P<alias>{_ALIAS}))"
)
_NAME: Final = re.compile(rf"{_KEY_ID}|{_ALIAS}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
_MULTI_REGION: Final = "key/mrk-"
_FORM: Final = "write aws-kms://alias/NAME?region=REGION, or aws-kms:// and the ARN of the key"

# What the API reference allows.
_MAX_WRAPPED_BYTES: Final = 6144
_MAX_PUBLIC_KEY_BYTES: Final = 8192
_MAX_SIGNATURE_BYTES: Final = 6144
_PURPOSE: Final = "kek/1"
_ENCRYPTS, _SIGNS = "ENCRYPT_DECRYPT", "SIGN_VERIFY"
_SYMMETRIC: Final = "SYMMETRIC_DEFAULT"
_ALGORITHMS: Final[Mapping[SignatureAlgorithm, str]] = {
    SignatureAlgorithm.ECDSA_P256: "ECDSA_SHA_256",
    SignatureAlgorithm.ECDSA_P384: "ECDSA_SHA_384",
    SignatureAlgorithm.RSA_PSS: "RSASSA_PSS_SHA_256",
}

# Answers hold keys in the clear; these write whole answers and signed headers into their debug logs.
_LOGGERS: Final = ("botocore.auth", "botocore.credentials", "botocore.endpoint", "botocore.parsers", "botocore.utils")
_MAX_SHOWN_CHARACTERS: Final = 500
_STATE_HINT: Final = "aws kms describe-key shows the state of the key; then run again"
_ENDPOINT_HINT: Final = "check the endpoint: something stands between"
_THROTTLES: Final = frozenset(
    {"ThrottlingException", "Throttling", "ThrottledException", "RequestLimitExceeded", "RequestThrottled",
     "TooManyRequestsException", "SlowDown"}
)  # fmt: skip
# The API reference allows to ask again after these; most come with a status of 500 anyway.
_PASSING: Final = frozenset(
    {"DependencyTimeoutException", "KeyUnavailableException", "KMSInternalException", "InternalFailure",
     "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException"}
)  # fmt: skip
_REFUSED_CREDENTIALS: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
     "InvalidSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
     "NotAuthorized", "NotAuthorizedException", "RequestExpired", "SignatureDoesNotMatch",
     "UnrecognizedClientException"}
)  # fmt: skip
_RULES: Final = (
    Rule(
        kind=FailureKind.NO_LOGIN,
        message="boto3 finds no credentials to sign {action} with ({shown})",
        hint="log in, or set AWS_PROFILE or AWS_ACCESS_KEY_ID; aws sts get-caller-identity shows who you are",
    ),
    Rule(
        kind=FailureKind.LOST,
        message="no answer to {action} came from {shown}",
        hint="check network, region and endpoint, then run again",
        passes=True,
    ),
    Rule(
        codes=_THROTTLES,
        hint="the account calls too often: run fewer workers, give max_calls_per_second, or ask AWS for a higher quota",
        passes=True,
    ),
    Rule(codes=_PASSING, hint=_STATE_HINT, passes=True),
    Rule(statuses=range(500, 600), hint=_STATE_HINT, passes=True),
    Rule(
        codes={"InvalidCiphertextException", "IncorrectKeyException"},
        message="the key encryption key was not wrapped by this key for this dataset",
        error=IntegrityError,
    ),
    Rule(
        codes={"NotFoundException"},
        message="AWS KMS has no such key here",
        hint="check account and region; what was deleted never returns",
        error=KeyNotFoundError,
    ),
    Rule(
        codes={"InvalidKeyUsageException"},
        message="the key is not for {action}",
        hint="name a symmetric key to encrypt, another to sign",
        error=UsageError,
    ),
    Rule(codes={"AccessDeniedException"}, hint="allow kms:{action} on the key to this identity"),
    Rule(
        codes=_REFUSED_CREDENTIALS,
        hint="log in again and check this machine's clock; aws sts get-caller-identity shows who you are",
    ),
    Rule(codes={"DisabledException"}, hint="aws kms enable-key switches it on again"),
    Rule(
        codes={"KMSInvalidStateException"},
        hint="aws kms describe-key shows its state; one that waits for deletion: aws kms cancel-key-deletion, "
        "enable-key",
    ),
    Rule(hint=_STATE_HINT),
)


def parse_key_arn(text: object) -> str | None:
    """Return `text` if it is the ARN of a key, which holds everywhere, never of an alias; else None."""
    match = _ARN.fullmatch(text) if isinstance(text, str) else None
    return None if match is None or match["key"] is None else match[0]


def is_same_key(one: str, other: str) -> bool:
    """Return whether two key ARNs name one key, or the same multi-Region key in two regions."""
    if one == other:
        return True
    (*before, _, account, key), (*others_before, _, others_account, others_key) = one.split(":"), other.split(":")
    return key.startswith(_MULTI_REGION) and (before, account, key) == (others_before, others_account, others_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class AWSKeyPlace:
    """What a key reference says.

    Args:
        text: the reference, for errors.
        name: what to call the key towards AWS: an ARN, a key id, or an alias.
        arn: the key ARN, or None where it has to be looked up.
        region: or None for what boto3 finds; so are `profile` and `endpoint`.
        max_calls_per_second: of this process.
    """

    text: str
    name: str
    arn: str | None
    region: str | None
    profile: str | None
    endpoint: str | None
    max_calls_per_second: float


def read_reference(reference: KeyReference) -> AWSKeyPlace:
    """Return what a key reference says.

    Raises:
        KeyReferenceError: it names no key, or has an option that is unknown or makes no sense.
    """
    reference.check_options(*_OPTIONS)
    name, text = reference.location, reference.text
    arn = _ARN.fullmatch(name)
    if reference.fragment is not None or (arn is None and _NAME.fullmatch(name) is None):
        raise reference.malformed("names no key of AWS KMS", hint=_FORM)
    endpoint = reference.option("endpoint")
    if endpoint is not None:
        check_endpoint(endpoint, text)
    return AWSKeyPlace(
        text=text,
        name=name,
        arn=parse_key_arn(name),
        region=_region(reference, None if arn is None else arn["region"]),
        profile=reference.option("profile"),
        endpoint=endpoint,
        max_calls_per_second=_max_calls(reference),
    )


def check_endpoint(url: str, text: str) -> None:
    """Pass if an endpoint may be asked: answers hold keys in the clear, so http only on this machine.

    Raises:
        KeyReferenceError: it may not.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(host))
    if not host or parts.username is not None or not is_safe:
        raise KeyReferenceError(
            f"{text}: the endpoint is not an https URL without credentials",
            hint="answers hold keys in the clear: use https, or http on localhost",
        )


class AWSMasterKey(WrappingMasterKey):
    """A symmetric KMS key. It holds no key bytes: those never leave AWS.

    The wrapped form of a KEK is the `CiphertextBlob` as AWS made it.

    Args:
        client: of the key's region.
        arn: the key.
    """

    __slots__ = ("_client",)

    def __init__(self, client: _KMSClient, arn: str) -> None:
        """Keep them; nothing is called."""
        super().__init__(arn)
        self._client = client

    def opens_for(self, master_key_id: str) -> bool:
        """Return whether an id from a file names this key, or the same multi-Region key in another region."""
        other = parse_key_arn(master_key_id)
        return other is not None and is_same_key(self.id, other)

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form; one `GenerateDataKey`."""
        answer = self._ask("GenerateDataKey", KeySpec="AES_256", EncryptionContext=_bound(context))
        wrapped = self._wrapped(answer)
        return self._data_key(answer), wrapped

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already; one `Encrypt`."""
        plaintext = bytes(key.expose_key_bytes())
        return self._wrapped(self._ask("Encrypt", Plaintext=plaintext, EncryptionContext=_bound(context)))

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one `Decrypt`.

        Raises:
            KeyServiceError: AWS refused or failed.
            IntegrityError: `wrapped` was not made by this key for `context`.
        """
        if not 1 <= len(wrapped) <= _MAX_WRAPPED_BYTES:
            text = self._client.text
            raise IntegrityError(f"{text}: the wrapped key has {len(wrapped)} bytes, which AWS KMS never makes")
        return self._data_key(self._ask("Decrypt", CiphertextBlob=wrapped, EncryptionContext=_bound(context)))

    def _ask(self, action: str, **parameters: object) -> Mapping[str, object]:
        answer = self._client.ask(action, KeyId=self.id, **parameters)
        self._client.check_key(answer, "KeyId", self.id)
        return answer

    def _wrapped(self, answer: Mapping[str, object]) -> bytes:
        return self._client.read_bytes(answer, "CiphertextBlob", at_most=_MAX_WRAPPED_BYTES)

    def _data_key(self, answer: Mapping[str, object]) -> DataKey:
        # botocore hands out immutable bytes, which nobody can overwrite; they are let go of here.
        key_bytes = self._client.read_bytes(answer, "Plaintext", at_most=DATA_KEY_BYTES)
        refusal = self._client.refusal(f"AWS KMS answered with a key of {len(key_bytes) * 8} bits, not 256")
        return take_data_key(bytearray(key_bytes), refusal)


def _sign(client: _KMSClient, arn: str, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
    """Return a signature of `message`, ECDSA in DER; one `Sign`. Only the digest of the message goes to AWS."""
    answer = client.ask(
        "Sign",
        KeyId=arn,
        Message=algorithm.digest(message),
        MessageType="DIGEST",
        SigningAlgorithm=_ALGORITHMS[algorithm],
    )
    client.check_key(answer, "KeyId", arn)
    return client.read_bytes(answer, "Signature", at_most=_MAX_SIGNATURE_BYTES)


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
        client = self._client(reference)
        return AWSMasterKey(client, client.place.arn or _look_up(client))

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> ServiceSigner:
        """Return a signing key, with one `GetPublicKey`.

        Raises:
            UsageError: the key signs nothing, or in a way that is not known here.
            PipecryptError: as `open_key`.
        """
        client = self._client(reference)
        arn, public_key = _public_key(client)
        return ServiceSigner(public_key, partial(_sign, client, arn, public_key.algorithm))

    def public_keys(self, reference: KeyReference) -> tuple[str, ...]:
        """Return the public key of a signing key; it has one version. Raises what `open_signer` raises."""
        return (_public_key(self._client(reference))[1].pem,)

    def _client(self, reference: KeyReference) -> _KMSClient:
        place = read_reference(reference)
        # One bound for all keys that share a quota; another number is another bound.
        name = (place.profile, place.region, place.endpoint, place.max_calls_per_second)
        with self._lock:
            rate = self._rates.get(name)
            if rate is None:
                rate = self._rates[name] = CallRate(
                    place.max_calls_per_second, clock=self._patience.clock, sleep=self._patience.sleep
                )
        return _open_client(place, self._patience, rate)


SERVICE: Final = AWSKMSService()


class _KMSClient(Caller):
    """boto3's client of one region, and what AWS answers for one key."""

    __slots__ = ("_client", "place")

    def __init__(self, client: Any, place: AWSKeyPlace, patience: Patience, rate: CallRate) -> None:
        super().__init__(
            place.text, "AWS KMS", _RULES, patience=patience, describe=self._described, loggers=_LOGGERS, rate=rate
        )
        self._client = client
        self.place = place

    def ask(self, action: str, **parameters: object) -> Mapping[str, object]:
        """Return the answer to one action, such as `GenerateDataKey`; what it holds is for the caller to check."""
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower()
        answer = self.call(action, lambda: getattr(self._client, method)(**parameters), lambda answer: answer)
        if not isinstance(answer, dict):
            raise self.refusal(f"AWS KMS answered {action} with something else")
        return answer

    def check_key(self, answer: Mapping[str, object], member: str, asked: str) -> None:
        """Pass if the key that was asked answered, or its replica (1)."""
        arn = parse_key_arn(answer.get(member))
        if arn is None or not is_same_key(arn, asked):
            raise self.refusal(f"AWS KMS answered for another key than {asked}", hint=_ENDPOINT_HINT)

    def read_arn(self, answer: Mapping[str, object], member: str) -> str:
        """Return the ARN of the key that the reference names, told by AWS; never that of a replica (1)."""
        arn, place = parse_key_arn(answer.get(member)), self.place
        if arn is None or place.arn not in {None, arn} or place.region not in {None, arn.split(":")[3]}:
            raise self.refusal("AWS KMS answered with another key", hint=_ENDPOINT_HINT)
        return arn

    def read_bytes(self, answer: Mapping[str, object], member: str, *, at_most: int) -> bytes:
        """Return bytes of an answer; they are there, and not too many (2)."""
        value = answer.get(member)
        if not isinstance(value, bytes) or not 1 <= len(value) <= at_most:
            raise self.refusal(f"the answer of AWS KMS has no valid {member}")
        return value

    def _described(self, error: Exception) -> Failure:
        return _describe(error, self._client.meta.endpoint_url)


def _bound(context: Context) -> dict[str, str]:
    """Return what AWS binds to a KEK and writes into CloudTrail: identities only, in the clear.

    A KEK serves all files of a dataset, so the path is not in it. Outside of a dataset there is no id to bind.
    """
    return {"pipecrypt-purpose": _PURPOSE} | ({"pipecrypt-dataset": context.dataset_id} if context.dataset_id else {})


def _open_client(place: AWSKeyPlace, patience: Patience, rate: CallRate) -> _KMSClient:
    """Return a client for the region of a key, with the credentials that boto3 finds. Nothing is called."""
    boto3, config, exceptions = import_extra(
        "of AWS KMS", "the package boto3", "aws", "boto3", "botocore.config", "botocore.exceptions"
    )
    settings = config.Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.answer_seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
        user_agent_extra="pipecrypt",
    )
    with quiet_loggers(_LOGGERS):
        try:
            session = boto3.Session(profile_name=place.profile, region_name=place.region)
            client = session.client("kms", endpoint_url=place.endpoint, config=settings)
        except exceptions.NoRegionError:
            raise KeyReferenceError(
                f"{place.text}: no region is known", hint="append ?region=NAME, or set AWS_REGION"
            ) from None
        except exceptions.ProfileNotFound:
            raise KeyReferenceError(
                f"{place.text}: there is no such profile", hint="aws configure list-profiles shows those there are"
            ) from None
        except Exception as error:
            raise KeyServiceError(
                f"{place.text}: boto3 cannot be set up ({type(error).__name__})",
                hint="check the shared AWS configuration",
            ) from None
    check_endpoint(client.meta.endpoint_url, place.text)
    return _KMSClient(client, place, patience, rate)


def _describe(error: Exception, endpoint: str) -> Failure:
    exceptions, name = importlib.import_module("botocore.exceptions"), type(error).__name__
    response = getattr(error, "response", None)
    answer: Mapping[str, Any] = response if isinstance(response, dict) else {}
    code, metadata = answer.get("Error", {}).get("Code"), answer.get("ResponseMetadata", {})
    if code is None:
        if any(part in name for part in ("Credential", "Token", "SSO", "Profile")):
            return Failure(kind=FailureKind.NO_LOGIN, shown=name)
        if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
            return Failure(kind=FailureKind.LOST, shown=f"{endpoint} ({name})")
        return Failure(kind=FailureKind.NONSENSE, shown=name)
    shown = [_shown(code, 100)]
    if metadata.get("RequestId"):
        shown.append(f"request {_shown(metadata['RequestId'], 64)}")
    if code == "AccessDeniedException":
        # Of a denial only: it names who is denied, and nothing of the request. Other texts may quote signed headers.
        shown.append(_shown(answer["Error"].get("Message"), _MAX_SHOWN_CHARACTERS))
    status = metadata.get("HTTPStatusCode")
    return Failure(status=status if isinstance(status, int) else 0, codes=(str(code),), shown=", ".join(shown))


def _shown(text: object, most: int) -> str:
    return ascii(str(text)[:most])[1:-1]


def _look_up(client: _KMSClient) -> str:
    text = client.place.text
    metadata = client.ask("DescribeKey", KeyId=client.place.name).get("KeyMetadata")
    if not isinstance(metadata, dict):
        raise client.refusal("the answer of AWS KMS describes no key")
    if (metadata.get("KeyUsage"), metadata.get("KeySpec")) != (_ENCRYPTS, _SYMMETRIC):
        raise UsageError(
            f"{text} is not a symmetric key, and only such keys wrap others here",
            hint="aws kms create-key without further options makes one",
        )
    if metadata.get("KeyState") != "Enabled":
        raise client.refusal(
            f"the key is {_shown(metadata.get('KeyState'), 64)}, not Enabled",
            hint="aws kms enable-key switches it on; if it waits for deletion, aws kms cancel-key-deletion comes first",
        )
    return client.read_arn(metadata, "Arn")


def _public_key(client: _KMSClient) -> tuple[str, PublicKey]:
    text = client.place.text
    answer = client.ask("GetPublicKey", KeyId=client.place.name)
    arn = client.read_arn(answer, "KeyId")
    if answer.get("KeyUsage") != _SIGNS:
        raise UsageError(f"{text} is a key that signs nothing", hint="aws kms create-key --key-usage SIGN_VERIFY")
    public_key = PublicKey(
        pem_text("PUBLIC KEY", client.read_bytes(answer, "PublicKey", at_most=_MAX_PUBLIC_KEY_BYTES))
    )
    if public_key.algorithm not in _ALGORITHMS:
        raise UsageError(
            f"{text} is a key of {public_key.algorithm}, which is not used with AWS KMS here",
            hint="make a key of the spec ECC_NIST_P256, ECC_NIST_P384 or RSA_3072",
        )
    return arn, public_key


def _region(reference: KeyReference, of_arn: str | None) -> str | None:
    region = reference.option("region")
    if region is not None and _REGION.fullmatch(region) is None:
        raise reference.malformed("has a malformed region", hint=_FORM)
    if of_arn is not None and region not in {None, of_arn}:
        raise reference.malformed(
            "names two regions", hint="leave out the option; a replica in another region has an ARN of its own"
        )
    return of_arn or region


def _max_calls(reference: KeyReference) -> float:
    text = reference.option("max_calls_per_second")
    try:
        rate = _DEFAULT_CALLS_PER_SECOND if text is None else float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= _MAX_CALLS_PER_SECOND:
        raise reference.malformed(
            "has a malformed max_calls_per_second", hint=f"give a number above 0, up to {_MAX_CALLS_PER_SECOND:.0f}"
        )
    return rate
