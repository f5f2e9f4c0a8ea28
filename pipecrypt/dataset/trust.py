"""Whom a reader trusts and how much it checks, as a caller says it.

It imports nothing heavy, because the command line names the modes in its help. No key is read here: see requirements.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final, Self

from pipecrypt.errors import UsageError

__all__ = ["TRUST_HINT", "TRUST_VARIABLE", "Trust", "VerifyMode", "given_trust", "parse_mode"]

TRUST_VARIABLE: Final = "PIPECRYPT_TRUST"
TRUST_HINT: Final = f"name the public keys of who signs: trust, --trust or {TRUST_VARIABLE}"
# Packages between a user's line and ours.
_BETWEEN: Final = frozenset({"dask", "duckdb", "fsspec", "pandas", "pipecrypt", "polars", "pyarrow"})
_DATASET_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class VerifyMode(StrEnum):
    """How much of a dataset is checked before it is used.

    FULL: also the digest of every whole file, before its first byte is used. READ: statement, list of files and
    footers, and of the data what is read, as it is read. OFF: nothing but what encryption itself authenticates.
    """

    FULL = "full"
    READ = "read"
    OFF = "off"


def parse_mode(text: str) -> VerifyMode:
    """Return the mode that a caller names.

    Raises:
        UsageError: there is no such mode.
    """
    try:
        return VerifyMode(text)
    except ValueError:
        raise UsageError(f"verify is {text!r}", hint='write verify="full", verify="read" or verify="off"') from None


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count, and what must hold of a signed dataset before any of it is used.

    Args:
        keys: the public keys of who may sign: PEM files, PEM texts or key references. Each is one party, with all
            versions of its key. None: those that `PIPECRYPT_TRUST` holds, separated by white space.
        threshold: how many different parties must have signed.
        verify: how much is compared: `"full"`, `"read"` or `"off"`.
        min_version: the lowest version that is accepted.
        dataset_id: 32 hex digits of the dataset that is meant; None for whichever is there.

    Raises:
        UsageError: an option is malformed; no key is read yet.
    """

    keys: Sequence[str] | None = None
    _: KW_ONLY
    threshold: int = 1
    verify: str = VerifyMode.READ
    min_version: int = 1
    dataset_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no dataset could meet, and keep one spelling of the rest."""
        if self.keys is not None:
            _check_keys(self.keys)
            object.__setattr__(self, "keys", tuple(self.keys))
        for what, number in (("the threshold", self.threshold), ("the lowest version", self.min_version)):
            if type(number) is not int or number < 1:
                raise UsageError(f"{what} is {number!r}", hint="give a whole number from 1")
        object.__setattr__(self, "verify", parse_mode(self.verify))
        if self.dataset_id is not None:
            object.__setattr__(self, "dataset_id", _checked_id(self.dataset_id))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the trust that a mapping of its arguments says, as storage options in JSON or YAML do.

        Raises:
            UsageError: it has another name, or an option is malformed.
        """
        names = [each.name for each in fields(cls)]
        for name in options:
            if name not in names:
                raise UsageError(f"a trust has no {name!r}", hint=f"its arguments are {', '.join(names)}")
        return cls(**options)

    @property
    def mode(self) -> VerifyMode:
        """How much is compared."""
        return VerifyMode(self.verify)

    def completed(self, environ: Mapping[str, str]) -> Self:
        """Return the same with the keys of the environment, where the caller named none.

        The variable stands for a whole process, so it is looked at again whenever something is opened: a reader that
        was made before it was set must not go on unchecked.

        Raises:
            UsageError: something is demanded of signatures, and no key is trusted.
        """
        if self.keys is not None:
            return self
        texts = tuple(environ.get(TRUST_VARIABLE, "").split())
        if texts:
            return replace(self, keys=texts)
        demanded = self.threshold != 1 or self.min_version != 1 or self.dataset_id is not None
        if demanded or self.mode is VerifyMode.FULL:
            what = 'verify="full"' if self.mode is VerifyMode.FULL else "what a statement must say"
            raise UsageError(f"{what} is asked for, and no key is trusted", hint=TRUST_HINT)
        return self


def given_trust(
    trust: Trust | Sequence[str] | None,
    *,
    threshold: int | None = None,
    verify: str | None = None,
    min_version: int | None = None,
    dataset_id: str | None = None,
) -> Trust:
    """Return the trust that the caller of a public function gave, of which only the keys may be a list.

    What stands beside it is taken for one more release, with a warning that says what to write.

    Raises:
        UsageError: an option is malformed, or stands beside a trust that says it itself.
    """
    beside = {"threshold": threshold, "verify": verify, "min_version": min_version, "dataset_id": dataset_id}
    options: dict[str, Any] = {name: value for name, value in beside.items() if value is not None}
    if isinstance(trust, Trust):
        if options:
            raise UsageError(f"{next(iter(options))} stands beside a Trust", hint="say it in the Trust")
        return trust
    if options:
        names = " and ".join(f"{name}=" for name in options)
        written = ", ".join(f"{name}={value!r}" for name, value in options.items())
        keys = "" if trust is None else "[...], "
        warnings.warn(
            f"{names} will be removed in the next release: write trust=pipecrypt.Trust({keys}{written})",
            DeprecationWarning,
            stacklevel=_caller_level(),
        )
    return Trust(trust, **options)


def _caller_level() -> int:
    """Return the `stacklevel` of the line that called us, or called a reader that stands on fsspec.

    Python shows a DeprecationWarning only where a user's own code causes it.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    return level


def _checked_id(dataset_id: object) -> str:
    text = dataset_id.lower() if isinstance(dataset_id, str) else ""
    if _DATASET_ID.fullmatch(text) is None:
        raise UsageError(f"{dataset_id!r} is not a dataset id", hint="it has 32 hex digits, as in the report of verify")
    return text


def _check_keys(keys: object) -> None:
    is_list = isinstance(keys, Iterable) and not isinstance(keys, str | bytes)
    if not is_list or not all(isinstance(each, str) for each in keys):  # type: ignore[attr-defined]
        raise UsageError("trust is a list of public keys", hint='write trust=["signing.pub"]')
    if not keys:
        # A list that a program filled with nothing must not turn the checks off.
        raise UsageError("trust names no public key", hint='leave it out, or write trust=Trust(verify="off")')
