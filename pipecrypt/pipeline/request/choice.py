"""Find the member of an enumeration that a user named. What the members mean is left to policy and reading."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from pipecrypt.errors import UsageError

__all__ = ["choose"]

_Choice = TypeVar("_Choice", bound=StrEnum)


def choose(kind: type[_Choice], value: str, what: str, *, error: type[UsageError] = UsageError) -> _Choice:
    """Return the member of `kind` that `value` names; `error` is raised where it names none.

    Raises:
        UsageError: it names none; lists those that there are.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise error(f"{what} is {value!r}", hint=f"it is one of {known}") from None
