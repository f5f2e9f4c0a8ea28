"""Leaf columns of a schema, and which of them a policy's rules choose."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from pipecrypt.errors import ColumnNotFoundError, FormatError, LimitError, PolicyError, UnlistedColumnError
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy
from pipecrypt.parquet.wire.fields import FileMetaData, SchemaElement
from pipecrypt.parquet.wire.modules import MAX_ORDINALS
from pipecrypt.parquet.wire.thrift import Struct

__all__ = [
    "LeafColumn",
    "choose_keys",
    "leaf_columns",
    "match_columns",
    "physical_type_code",
]

_MAX_SCHEMA_DEPTH = 256
# Each leaf names all that it lies in, so a deep and broad schema takes far more memory than its bytes.
_MAX_NAMES: Final = 1_000_000
_MAX_NAME_CHARACTERS: Final = 8 << 20
_GLOB_CHARACTERS = frozenset("*?[")
_SUGGESTIONS = 3
_REFUSED_HINT = "the policy refuses unlisted columns: list it under a key, or leave it out of the source"
_TYPE_NAMES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")


@dataclass(frozen=True, slots=True)
class LeafColumn:
    """A column that has pages.

    Args:
        path: names from below the schema's root down to the leaf.
        physical_type: Parquet's name of the type.
    """

    path: tuple[str, ...]
    physical_type: str

    @property
    def dotted(self) -> str:
        """The path as users write it."""
        return ".".join(self.path)


def leaf_columns(footer: Struct, what: str) -> tuple[LeafColumn, ...]:
    """Return the leaves of a footer's schema, which is listed depth first, in the order of the column chunks.

    Raises:
        FormatError: the list is not a tree.
        LimitError: more leaves than an encrypted file can number, or more names on their paths than memory should hold.
    """
    schema = footer.structs(FileMetaData.SCHEMA)
    if not schema:
        raise FormatError(f"{what} has no schema")
    leaves: list[LeafColumn] = []
    names = characters = 0
    paths: list[tuple[int, tuple[str, ...]]] = [(_child_count(schema[0], what), ())]  # children to come, path
    for element in schema[1:]:
        while paths and paths[-1][0] == 0:
            paths.pop()
        if not paths or len(paths) > _MAX_SCHEMA_DEPTH:
            raise FormatError(f"{what} has a malformed schema")
        remaining, parent = paths[-1]
        paths[-1] = (remaining - 1, parent)
        path = (*parent, _name(element, what))
        code = element.integer(SchemaElement.TYPE)
        if code is None:
            paths.append((_child_count(element, what), path))
        else:
            names += len(path)
            characters += sum(map(len, path))
            if len(leaves) == MAX_ORDINALS or names > _MAX_NAMES or characters > _MAX_NAME_CHARACTERS:
                raise LimitError(f"{what} has more than {MAX_ORDINALS} columns, or too many names on the way to them")
            if not 0 <= code < len(_TYPE_NAMES):
                raise FormatError(f"{what} has a column of unknown physical type {code}")
            leaves.append(LeafColumn(path, _TYPE_NAMES[code]))
    if any(remaining for remaining, _ in paths):
        raise FormatError(f"{what} has a malformed schema")
    return tuple(leaves)


def _child_count(element: Struct, what: str) -> int:
    count = element.integer(SchemaElement.NUM_CHILDREN) or 0
    if count < 0:
        raise FormatError(f"{what} has a malformed schema")
    return count


def _name(element: Struct, what: str) -> str:
    try:
        return (element.binary(SchemaElement.NAME) or b"").decode()
    except UnicodeDecodeError:
        raise FormatError(f"{what} has a column name that is not UTF-8") from None


def physical_type_code(leaf: LeafColumn) -> int:
    """Return parquet.thrift's number of the leaf's physical type."""
    return _TYPE_NAMES.index(leaf.physical_type)


def match_columns(pattern: str, leaves: Sequence[LeafColumn], what: str) -> list[int]:
    """Return the indexes of the leaves that a pattern names.

    With glob characters in it, a pattern names what it matches as a path, as a root and as a glob, all together: a
    column that is itself named `card_*` must not keep the others from being encrypted.

    Raises:
        ColumnNotFoundError: none; suggests the nearest names.
    """
    found = [index for index, leaf in enumerate(leaves) if _matches(pattern, leaf)]
    if found:
        return found
    if _is_glob(pattern):
        raise ColumnNotFoundError(f"{what}: the glob {pattern!r} matches no column")
    raise ColumnNotFoundError(f"{what} has no column {pattern!r}", hint=_did_you_mean(pattern, leaves))


def _is_glob(pattern: str) -> bool:
    return not _GLOB_CHARACTERS.isdisjoint(pattern)


def _matches(pattern: str, leaf: LeafColumn) -> bool:
    if leaf.dotted == pattern or leaf.dotted.startswith(pattern + "."):
        return True
    return _is_glob(pattern) and any(fnmatchcase(name, pattern) for name in _prefixes(leaf.path))


def _prefixes(path: tuple[str, ...]) -> Iterable[str]:
    return (".".join(path[:length]) for length in range(1, len(path) + 1))


def _did_you_mean(pattern: str, leaves: Sequence[LeafColumn]) -> str:
    names = list(dict.fromkeys(name for leaf in leaves for name in (*_prefixes(leaf.path), leaf.path[-1])))
    # Nothing is nearer than the same name with other spaces around it, however short it is.
    near = [name for name in names if name and name.strip() == pattern.strip()][:_SUGGESTIONS]
    near = near or difflib.get_close_matches(pattern, names, n=_SUGGESTIONS)
    if not near:
        lower = {name.lower(): name for name in names}
        near = [lower[name] for name in difflib.get_close_matches(pattern.lower(), lower, n=_SUGGESTIONS)]
    if not near:
        return ColumnNotFoundError.default_hint
    full = [next((leaf.dotted for leaf in leaves if leaf.path[-1] == name), name) for name in near]
    hint = "did you mean " + " or ".join(dict.fromkeys(repr(name) for name in full)) + "?"
    quoted = next((name for name in full if name != name.strip() or "," in name or name.startswith('"')), None)
    if quoted is None:
        return hint
    option = '"' + quoted.replace('"', '""') + '"'
    return f"{hint} On the command line such a name stands in double quotes: --columns {shlex.quote(option)}"


def choose_keys(policy: EncryptionPolicy, leaves: Sequence[LeafColumn], what: str) -> tuple[str | None, ...]:
    """Return each leaf's master key reference, or None where it stays in plaintext.

    Raises:
        ColumnNotFoundError: a rule that is not optional matches nothing; or none of them does, so that nothing would be
            encrypted.
        PolicyError: two rules give one column different keys.
        UnlistedColumnError: a column would stay in plaintext, and the policy refuses that.
    """
    chosen: list[ColumnRule | None] = [None] * len(leaves)
    for rule in policy.rules:
        if rule.is_optional:
            matched = [index for index, leaf in enumerate(leaves) if _matches(rule.pattern, leaf)]
        else:
            matched = match_columns(rule.pattern, leaves, what)
        for index in matched:
            other = chosen[index]
            if other is not None and other.key_reference != rule.key_reference:
                raise PolicyError(
                    f"{what}: column {leaves[index].dotted!r} would be encrypted under two keys: "
                    f"{other.key_reference} by {other.pattern!r}, {rule.key_reference} by {rule.pattern!r}",
                    hint="narrow one of the two patterns",
                )
            chosen[index] = rule
    if policy.default is None and not any(chosen):
        raise ColumnNotFoundError(
            f"{what} has none of the optional columns: nothing of it would be encrypted",
            hint="list a column that every file has, or give a default key",
        )
    if policy.refuses_unlisted and policy.default is None and None in chosen:
        unlisted = leaves[chosen.index(None)].dotted
        raise UnlistedColumnError(f"{what}: column {unlisted!r} is not listed", hint=_REFUSED_HINT)
    return tuple(policy.default if rule is None else rule.key_reference for rule in chosen)


def covers(policy: EncryptionPolicy, path: tuple[str, ...]) -> bool:
    """Return whether a leaf column is encrypted in every file that has it."""
    leaf = LeafColumn(path, _TYPE_NAMES[0])
    return policy.default is not None or any(_matches(rule.pattern, leaf) for rule in policy.rules)
