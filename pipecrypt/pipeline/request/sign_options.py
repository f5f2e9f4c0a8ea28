"""How a policy says that what it writes is signed: keys, digest, validity. Signing is left to dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.dataset.sign.records import SigningOptions
from pipecrypt.dataset.statement.envelope import MAX_SIGNATURES
from pipecrypt.errors import PolicyError, UsageError
from pipecrypt.pipeline.request.choice import choose

__all__ = ["DEFAULT_DIGEST", "listed_signing_keys", "make_signing_options", "parse_validity"]

DEFAULT_DIGEST: Final = DigestAlgorithm.SHA256.value
_MAX_VALIDITY: Final = timedelta(days=36_525)
_VALIDITY: Final = re.compile(r"(?P<count>[1-9][0-9]{0,6})(?P<unit>[dh])", re.ASCII)
_VALIDITY_HINT: Final = "write a number of days or hours, such as 30d or 12h, up to 100 years"
_UNITS: Final = {"d": timedelta(days=1), "h": timedelta(hours=1)}
_choose = partial(choose, error=PolicyError)


def listed_signing_keys(sign: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the key references of signing keys that a script gave as one text or several.

    Raises:
        PolicyError: they are not texts, one stands twice, or they are more than a statement holds.
    """
    if sign is None:
        return ()
    given = (sign,) if isinstance(sign, str) else tuple(sign) if isinstance(sign, Sequence) else None
    if not given or not all(isinstance(each, str) and each for each in given):
        raise PolicyError(
            "sign is a key reference or a list of them", hint='write sign="keystore://./keys.json#signing"'
        )
    for twice in {each for each in given if given.count(each) > 1}:
        raise PolicyError(f"{twice} is to sign twice", hint="name each signing key once")
    if len(given) > MAX_SIGNATURES:
        raise PolicyError(f"{len(given)} keys are to sign", hint=f"a statement has at most {MAX_SIGNATURES} signatures")
    return given


def make_signing_options(
    key_references: tuple[str, ...], digest: str, valid_for: timedelta | None
) -> SigningOptions | None:
    """Return how what a policy writes is signed; None where no key is to sign.

    Raises:
        PolicyError: digest or validity is none, or is given although no key signs.
        MissingExtraError: the package for the digest is not installed.
    """
    algorithm = _choose(DigestAlgorithm, digest, "digest")
    if not key_references:
        if algorithm.value != DEFAULT_DIGEST or valid_for is not None:
            hint = "name a signing key with sign, or leave digest and valid_for out"
            raise PolicyError("digest and valid_for say how to sign, but no key is to sign", hint=hint)
        return None
    Digester(algorithm)  # a missing package shows now, not after the last file
    return SigningOptions(key_references=key_references, digest=algorithm, valid_for=_checked_validity(valid_for))


def parse_validity(text: str) -> timedelta:
    """Return how long a statement is valid, from text such as `30d` or `12h`.

    Raises:
        UsageError: it is not such a text, or more than 100 years.
    """
    found = _VALIDITY.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:40]!a} is not a time to be valid for", hint=_VALIDITY_HINT)
    validity = int(found["count"]) * _UNITS[found["unit"]]
    if validity > _MAX_VALIDITY:
        raise UsageError(f"{text!a} is too long to be valid for", hint=_VALIDITY_HINT)
    return validity


def _checked_validity(valid_for: timedelta | None) -> timedelta | None:
    if valid_for is None:
        return None
    if not isinstance(valid_for, timedelta) or not timedelta() < valid_for <= _MAX_VALIDITY or valid_for.microseconds:
        raise PolicyError(
            "valid_for is not a timedelta of whole seconds up to 100 years", hint="write timedelta(days=30)"
        )
    return valid_for
