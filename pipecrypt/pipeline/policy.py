"""The policy as Python users write it: `pipecrypt.Policy`. What it means for a file is left to parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import TypeVar

from pipecrypt.errors import PolicyError
from pipecrypt.keys.service import check_key_reference
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope

__all__ = ["Policy"]

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Policy:
    """Which columns are encrypted under which master key, and how.

    Args:
        columns: from a column's name, nested path (`customer.email`), root (`customer`) or glob (`card_*`) to the key
            reference of its master key.
        default: key reference for all other columns; None leaves them in plaintext.
        footer: `plaintext`, so that readers without keys can read the other columns, or `encrypted`.
        data_keys: `batch`, one data key per column and row group, or `file`, one per column, which Spark needs.
        footer_key: key reference of the footer's master key; default: `default`, else the first column's.
        uniform: all columns under the footer's data key; takes a default and no columns.
        bind_path: bind dataset id and path into every page; DuckDB reads only files without.

    Raises:
        PolicyError: the policy contradicts itself.
        KeyReferenceError: a key reference is none, or has an unknown scheme.
    """

    columns: Mapping[str, str] | None = field(default=None, hash=False)
    default: str | None = None
    footer: str = "plaintext"
    data_keys: str = "batch"
    _: KW_ONLY
    footer_key: str | None = None
    uniform: bool = False
    bind_path: bool = True

    def __post_init__(self) -> None:
        """Refuse now what would fail at the first file, and keep a copy of the columns that nobody else changes."""
        if self.columns is not None and not isinstance(self.columns, Mapping):
            hint = 'write columns={"email": "keystore://./keys.json#pii"}'
            raise PolicyError("the columns of a policy map each name to a key reference", hint=hint)
        object.__setattr__(self, "columns", dict(self.columns or {}))
        for pattern, reference in (self.columns or {}).items():
            _check_text(pattern, "a column's name")
            _check_text(reference, f"the key reference of column {pattern}")
        for reference in self.engine_policy().key_references():
            check_key_reference(reference)

    def engine_policy(self) -> EncryptionPolicy:
        """Return the policy as the engine takes it.

        Raises:
            PolicyError: the policy contradicts itself.
        """
        return EncryptionPolicy(
            rules=tuple(ColumnRule(pattern, reference) for pattern, reference in (self.columns or {}).items()),
            default=self.default,
            footer=_choose(FooterMode, self.footer, "footer"),
            data_keys=_choose(KeyScope, self.data_keys, "data_keys"),
            footer_key=self.footer_key,
            uniform=self.uniform,
            bind_path=self.bind_path,
        )


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str) or not value:
        raise PolicyError(f"{what} is {value!r}, but must be a text", hint="see pipecrypt.Policy")


def _choose(kind: type[_Choice], value: str, what: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        known = " or ".join(repr(member.value) for member in kind)
        raise PolicyError(f"{what} is {value!r} in the policy", hint=f"it is {known}") from None
