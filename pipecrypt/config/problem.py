"""What is wrong with a configuration, and where. Finding it is left to the other files of this room."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pipecrypt.errors import ConfigError

__all__ = ["Position", "Problem", "config_error", "nearest_name"]

_MAX_SHOWN = 10


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file, both numbers counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        position: where.
        text: what, lower case, no full stop; never a value that may be a secret.
        hint: what to write instead, or None.
    """

    position: Position
    text: str
    hint: str | None = None


def config_error(name: str, problems: Iterable[Problem]) -> ConfigError:
    """Return one error for all problems of the file `name`, in the order of the file.

    A single problem has its hint on the hint line; several carry theirs in brackets.
    """
    ordered = sorted(problems, key=lambda problem: problem.position)
    if len(ordered) == 1:
        return ConfigError(_place(name, ordered[0]), hint=ordered[0].hint)
    lines = [_place(name, each) + (f" ({each.hint})" if each.hint else "") for each in ordered[:_MAX_SHOWN]]
    if len(ordered) > _MAX_SHOWN:
        lines.append(f"and {len(ordered) - _MAX_SHOWN} more")
    return ConfigError("\n".join(lines), problems=tuple(lines))


def nearest_name(name: str, valid: Iterable[str], taken: Collection[str | int] = ()) -> str:
    """Return a hint: the valid name that is nearest to `name` and not taken yet, or else all valid names."""
    names = list(valid)
    near = difflib.get_close_matches(name.lower(), [each for each in names if each not in taken], n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"valid here: {', '.join(names)}" if names else "nothing can stand here"


def _place(name: str, problem: Problem) -> str:
    return f"{name}:{problem.position.line}:{problem.position.column}: {problem.text}"
