"""Read the options of transparent reading, given by a caller or left to the environment. Using them is left to views.

`PIPECRYPT_KEYS` holds key references, separated by white space: a comma may stand in a reference, a space only as %20.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.dataset.trust import Trust
from pipecrypt.errors import UsageError
from pipecrypt.parquet.shown import MissingKeys
from pipecrypt.pipeline.calls.files import listed_keys

__all__ = ["KEYS_VARIABLE", "ViewOptions", "check_names", "key_references", "view_options"]

KEYS_VARIABLE: Final = "PIPECRYPT_KEYS"
_HEX: Final = "hex:"


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How files are shown.

    Args:
        keys: key references; None: those of the environment.
        missing: what is shown of columns whose key is missing.
        aad_prefix: of files that do not store it.
        trust: what is checked of signatures.
    """

    keys: tuple[str, ...] | None
    missing: MissingKeys
    aad_prefix: bytes | None
    trust: Trust = field(default_factory=Trust)


def view_options(
    keys: Sequence[str] | None, on_missing_key: str, aad_prefix: str | bytes | None, trust: Trust
) -> ViewOptions:
    """Check what a caller gave.

    Args:
        keys: key references, or None for those of the environment.
        on_missing_key: "error" or "null".
        aad_prefix: bytes; or text, or `hex:` and hex digits.
        trust: what is checked of signatures.

    Raises:
        UsageError: an option is none of that.
    """
    try:
        missing = MissingKeys(on_missing_key)
    except ValueError:
        raise UsageError(
            f"on_missing_key is {on_missing_key!r}", hint='write on_missing_key="error" or on_missing_key="null"'
        ) from None
    return ViewOptions(None if keys is None else listed_keys(keys), missing, _prefix(aad_prefix), trust)


def _prefix(given: str | bytes | None) -> bytes | None:
    if not isinstance(given, str):
        return given
    if not given.startswith(_HEX):
        return given.encode()
    try:
        return bytes.fromhex(given.removeprefix(_HEX))
    except ValueError:
        raise UsageError(f"the AAD prefix {given!r} is not hex", hint="write hex: and pairs of hex digits") from None


def key_references(options: ViewOptions, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the key references to read with."""
    return tuple(environ.get(KEYS_VARIABLE, "").split()) if options.keys is None else options.keys


def check_names(others: Collection[str]) -> None:
    """Refuse options of fsspec's that look like ours: a misspelt one would be taken as not given.

    Raises:
        UsageError: one does.
    """
    for name in others:
        near = difflib.get_close_matches(name, _NAMES, n=1)
        if near and name not in _OF_FSSPEC:
            raise UsageError(f"the file system has no option {name!r}", hint=f"did you mean {near[0]!r}?")


_NAMES: Final = (
    "keys",
    "trust",
    "threshold",
    "verify",
    "min_version",
    "dataset_id",
    "on_missing_key",
    "aad_prefix",
)
_OF_FSSPEC: Final = frozenset({"fo", "fs", "key", "token", "kwargs"})
