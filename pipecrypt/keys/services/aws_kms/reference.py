"""Read references of AWS KMS keys, and compare key ARNs. Asking AWS about them is left to client.

URI forms, and the options they take::

    aws-kms://arn:aws:kms:eu-west-1:111122223333:key/1234abcd-...      nothing is looked up
    aws-kms://arn:aws:kms:eu-west-1:111122223333:alias/pii             looked up with DescribeKey
    aws-kms://alias/pii?region=eu-west-1                               looked up in the caller's own account
    aws-kms://1234abcd-12ab-34cd-56ef-1234567890ab?region=eu-west-1    looked up in the caller's own account

    region=NAME                 where the key is; without, what boto3 finds; an ARN has its own
    profile=NAME                a profile of the shared AWS configuration
    endpoint=URL                another endpoint, such as a VPC endpoint; https, or http on this machine
    max_calls_per_second=N      at most so many calls from this process; 50 without
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from pipecrypt.errors import KeyReferenceError
from pipecrypt.keys.reference import KeyReference

__all__ = ["AWSKeyPlace", "KeyARN", "check_endpoint", "read_reference"]

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
_MULTI_REGION: Final = "mrk-"
_HINT: Final = "write aws-kms://alias/NAME?region=REGION, or aws-kms:// and the ARN of the key"


@dataclass(frozen=True, slots=True)
class KeyARN:
    """The name of a key, never of an alias, that holds everywhere."""

    partition: str
    region: str
    account: str
    key_id: str

    @classmethod
    def parse(cls, text: object) -> Self | None:
        """Return the key ARN that `text` is, or None."""
        match = _ARN.fullmatch(text) if isinstance(text, str) else None
        if match is None or match["key"] is None:
            return None
        return cls(match["partition"], match["region"], match["account"], match["key"])

    def opens_for(self, other: KeyARN) -> bool:
        """Say whether both name one key, or the same multi-Region key in two regions."""
        if self == other:
            return True
        is_multi_region = self.key_id.startswith(_MULTI_REGION)
        ours, theirs = ((each.partition, each.account, each.key_id) for each in (self, other))
        return is_multi_region and ours == theirs

    def __str__(self) -> str:
        """Show it as AWS writes it."""
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:key/{self.key_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AWSKeyPlace:
    """What a key reference says.

    Args:
        text: the reference, for errors.
        name: what to call the key towards AWS: an ARN, a key id, or an alias.
        arn: the key ARN, or None where it has to be looked up.
        region: or None for what boto3 finds.
        profile: or None for what boto3 finds.
        endpoint: or None for what boto3 finds.
        max_calls_per_second: of this process.
    """

    text: str
    name: str
    arn: KeyARN | None
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
        raise KeyReferenceError(f"key reference {text} names no key of AWS KMS", hint=_HINT)
    endpoint = reference.option("endpoint")
    if endpoint is not None:
        check_endpoint(endpoint, text)
    return AWSKeyPlace(
        text=text,
        name=name,
        arn=KeyARN.parse(name),
        region=_region(reference, None if arn is None else arn["region"]),
        profile=reference.option("profile"),
        endpoint=endpoint,
        max_calls_per_second=_rate(reference),
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
    if (
        not host
        or parts.username is not None
        or not (parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(host)))
    ):
        raise KeyReferenceError(
            f"{text}: the endpoint is not an https URL without credentials",
            hint="answers hold keys in the clear: use https, or http on localhost",
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _region(reference: KeyReference, of_arn: str | None) -> str | None:
    region = reference.option("region")
    if region is not None and _REGION.fullmatch(region) is None:
        raise KeyReferenceError(f"key reference {reference.text} has a malformed region", hint=_HINT)
    if of_arn is not None and region not in {None, of_arn}:
        raise KeyReferenceError(
            f"key reference {reference.text} names two regions",
            hint="leave out the option; a replica in another region has an ARN of its own",
        )
    return of_arn or region


def _rate(reference: KeyReference) -> float:
    text = reference.option("max_calls_per_second")
    try:
        rate = _DEFAULT_CALLS_PER_SECOND if text is None else float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= _MAX_CALLS_PER_SECOND:
        raise KeyReferenceError(
            f"key reference {reference.text} has a malformed max_calls_per_second",
            hint=f"give a number above 0, up to {_MAX_CALLS_PER_SECOND:.0f}",
        )
    return rate
