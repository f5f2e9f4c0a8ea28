"""Call AWS KMS through boto3: retries, a bound on calls, errors of ours, no key in a log. What is asked: keys.

The one door to boto3, which is imported when a client is made. boto3's own retries are off, so that one budget of
time holds for all tries of a call. Answers hold keys in the clear, and botocore writes whole answers and signed headers
into its debug log; while a call runs, the loggers that do so are silenced in this thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Final

from pipecrypt.errors import (
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeyServiceError,
    MissingExtraError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.services.aws_kms.reference import AWSKeyPlace, check_endpoint
from pipecrypt.keys.services.quiet import quiet_loggers
from pipecrypt.keys.services.retry import CallRate, Patience

__all__ = ["KMSClient", "open_client"]

_SERVICE: Final = "kms"
_SHOWN_CHARACTERS: Final = 500
_METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Decrypt": "decrypt",
        "DescribeKey": "describe_key",
        "Encrypt": "encrypt",
        "GenerateDataKey": "generate_data_key",
        "GetPublicKey": "get_public_key",
        "ReEncrypt": "re_encrypt",
        "Sign": "sign",
    }
)
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
_TALKATIVE: Final = ("botocore.auth", "botocore.credentials", "botocore.endpoint", "botocore.parsers", "botocore.utils")


class KMSClient:
    """A client of one region. Safe to use from several threads.

    Args:
        client: of boto3.
        place: what the key reference says.
        patience: how long a call may take.
        rate: shared by all clients of the same account and region.
        is_lost: says whether an exception means that no answer came.
    """

    __slots__ = ("_client", "_is_lost", "_patience", "_place", "_rate")

    def __init__(
        self,
        client: Any,
        place: AWSKeyPlace,
        *,
        patience: Patience,
        rate: CallRate,
        is_lost: Callable[[Exception], bool],
    ) -> None:
        """Keep them."""
        self._client = client
        self._place = place
        self._patience = patience
        self._rate = rate
        self._is_lost = is_lost

    @property
    def place(self) -> tuple[str, str]:
        """Region and endpoint: what two keys have to share for one call to reach both."""
        meta = self._client.meta
        return str(meta.region_name), str(meta.endpoint_url)

    def call(self, action: str, **parameters: object) -> Mapping[str, object]:
        """Return the answer to one action, such as `GenerateDataKey`; what it holds is for the caller to check.

        Raises:
            KeyNotFoundError: there is no such key here.
            KeyServiceError: AWS refused or failed, or no answer came in time.
            IntegrityError: the ciphertext was not made by this key in this context.
            UsageError: the key is for something else.
        """
        with quiet_loggers(_TALKATIVE):
            try:
                answer = self._patience.call(
                    lambda: self._try(action, parameters), self._passes, f"{action} of {self._place.text}"
                )
            except PipecryptError:
                raise
            except Exception as error:
                # Its text may hold anything, so neither it nor the exception itself goes on.
                raise self._mapped(action, error) from None
        if not isinstance(answer, dict):
            raise KeyServiceError(f"{self._place.text}: AWS KMS answered {action} with something else")
        return answer

    def __repr__(self) -> str:
        """Show the reference only."""
        return f"<KMSClient {self._place.text}>"

    def _try(self, action: str, parameters: Mapping[str, object]) -> object:
        self._rate.wait()
        return getattr(self._client, _METHODS[action])(**parameters)

    def _passes(self, error: Exception) -> bool:
        code, status = _code(error), _status(error)
        return code in _THROTTLES or code in _PASSING or status >= 500 or self._is_lost(error)

    def _mapped(self, action: str, error: Exception) -> PipecryptError:
        text, code = self._place.text, _code(error)
        if code is None:
            return self._without_answer(action, error)
        what = f"{text}: AWS KMS refused {action} ({ascii(code[:100])[1:-1]}{_request(error)})"
        if code in {"InvalidCiphertextException", "IncorrectKeyException"}:
            return IntegrityError(f"{text}: the key encryption key was not wrapped by this key for this dataset")
        if code == "NotFoundException":
            return KeyNotFoundError(
                f"{text}: AWS KMS has no such key here", hint="check account and region; what was deleted never returns"
            )
        if code == "InvalidKeyUsageException":
            return UsageError(
                f"{text}: the key is not for {action}", hint="name a symmetric key to encrypt, another to sign"
            )
        if code == "AccessDeniedException":
            return KeyServiceError(f"{what}: {_message(error)}", hint=f"allow kms:{action} on the key to this identity")
        return KeyServiceError(what, hint=_hint(code))

    def _without_answer(self, action: str, error: Exception) -> PipecryptError:
        text, name = self._place.text, type(error).__name__
        if "Credential" in name or "Token" in name or "SSO" in name or "Profile" in name:
            return KeyServiceError(
                f"{text}: boto3 finds no credentials to sign {action} with ({name})",
                hint="log in, or set AWS_PROFILE or AWS_ACCESS_KEY_ID; aws sts get-caller-identity shows who you are",
            )
        if self._is_lost(error):
            return KeyServiceError(
                f"{text}: no answer to {action} came from {self.place[1]} ({name})",
                hint="check network, region and endpoint, then run again",
            )
        return KeyServiceError(f"{text}: the answer to {action} makes no sense ({name})")


def open_client(place: AWSKeyPlace, *, patience: Patience, rate: CallRate) -> KMSClient:
    """Return a client for the region of a key, with the credentials that boto3 finds. Nothing is called.

    Raises:
        MissingExtraError: boto3 is not installed.
        KeyReferenceError: no region is known, there is no such profile, or the endpoint is none.
        KeyServiceError: the shared AWS configuration cannot be read.
    """
    boto3, config, exceptions = _import_boto3()
    lost = (exceptions.HTTPClientError, exceptions.ConnectionError)
    settings = config.Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.answer_seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
        user_agent_extra="pipecrypt",
    )
    with quiet_loggers(_TALKATIVE):
        try:
            session = boto3.Session(profile_name=place.profile, region_name=place.region)
            client = session.client(_SERVICE, endpoint_url=place.endpoint, config=settings)
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
    return KMSClient(client, place, patience=patience, rate=rate, is_lost=lambda error: isinstance(error, lost))


def _import_boto3() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        modules = [importlib.import_module(name) for name in ("boto3", "botocore.config", "botocore.exceptions")]
    except ImportError as error:
        raise MissingExtraError(
            "keys of AWS KMS need the package boto3", hint='pip install "pipecrypt[aws]"'
        ) from error
    boto3, config, exceptions = modules
    return boto3, config, exceptions


def _error(error: Exception) -> Mapping[str, Any]:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _code(error: Exception) -> str | None:
    code = _error(error).get("Error", {}).get("Code")
    return None if code is None else str(code)


def _status(error: Exception) -> int:
    status = _error(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else 0


def _request(error: Exception) -> str:
    request = _error(error).get("ResponseMetadata", {}).get("RequestId")
    return f", request {ascii(str(request)[:64])[1:-1]}" if request else ""


def _message(error: Exception) -> str:
    # Only of a denial: it names who is denied, and nothing of the request. Other texts may quote signed headers.
    return ascii(str(_error(error).get("Error", {}).get("Message"))[:_SHOWN_CHARACTERS])[1:-1]


def _hint(code: str) -> str:
    if code in _THROTTLES:
        return (
            "the account calls too often: run fewer workers, give max_calls_per_second, or ask AWS for a higher quota"
        )
    if code in _REFUSED_CREDENTIALS:
        return "log in again and check this machine's clock; aws sts get-caller-identity shows who you are"
    if code == "DisabledException":
        return "aws kms enable-key switches it on again"
    if code == "KMSInvalidStateException":
        return (
            "aws kms describe-key shows its state; one that waits for deletion: aws kms cancel-key-deletion, enable-key"
        )
    return "aws kms describe-key shows the state of the key; then run again"
