"""What a statement promises about encryption, and which leaf columns it notes to be in plaintext.

A promise names leaf columns, never patterns: an auditor reads it without knowing how patterns match, and a reader can
say of every column of every file whether it has to be encrypted. As JSON::

    {"footer": {"mode": "plaintext" | "encrypted", "master_keys": [id, ...]},
     "columns": [{"path": ["customer", "email"], "master_keys": [id, ...]}, ...],    sorted by path
     "others": [id, ...] | null,          master keys of all columns that are not listed; null: they are plaintext
     "bind_path": true | false}           every file stores dataset id and path as AAD prefix

A run stops before a column goes out in plaintext that no file had so far, so statements and journals note those that
files had. In a statement they are an annotation of its subject, which in-toto leaves to whoever writes it::

    [{"path": ["id"]}, {"path": ["address", "city"]}, ...]         sorted

Nobody may conclude from the list that other columns are encrypted: that is the promise. More columns than can be noted
are not noted at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

from pipecrypt.parquet.policy import FooterMode
from pipecrypt.vocabulary.documents import Document, DocumentError, cost_of

__all__ = [
    "ClearColumns",
    "JSONObject",
    "PromisedColumn",
    "PromisedPolicy",
    "decode_clear_columns",
    "decode_policy",
    "encode_clear_columns",
    "encode_policy",
    "fits_clear_columns",
]


JSONObject: TypeAlias = dict[str, object]
ColumnPath: TypeAlias = tuple[str, ...]
ClearColumns: TypeAlias = frozenset[ColumnPath]
# Ordinals of columns are signed 16-bit numbers (Encryption.md 4.4.2).
_MAX_COLUMNS: Final = 32_767
_MAX_DEPTH: Final = 64
_MAX_KEYS: Final = 64
_MAX_CHARACTERS: Final = 1024
# Of plaintext columns: a third of what a statement or a block of a journal can hold.
_MAX_CLEAR_BYTES: Final = 1 << 20
# Less than what a reader lets a document take, see documents: there is more in it than the columns.
_LEAST_COST: Final = 640 << 10
_COST_FACTOR: Final = 17
_BYTES_AROUND: Final = 12  # {"path":[]},
_BYTES_AROUND_NAME: Final = 3


@dataclass(frozen=True, slots=True)
class PromisedColumn:
    """A leaf column that is encrypted in every file that has it.

    Args:
        path: from the root to the leaf.
        master_key_ids: sorted; it is encrypted under these only.
    """

    path: ColumnPath
    master_key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromisedPolicy:
    """What is encrypted in every file of a dataset.

    Args:
        footer: whether footers are encrypted.
        footer_key_ids: ids of the master keys of footers, sorted.
        columns: encrypted leaf columns, sorted by path, each once.
        other_key_ids: ids of the master keys of all other columns, sorted; None where those are plaintext.
        bind_path: every file stores dataset id and path.

    Raises:
        DocumentError: unsorted, doubled, empty, or nothing encrypted at all.
    """

    footer: FooterMode
    footer_key_ids: tuple[str, ...]
    columns: tuple[PromisedColumn, ...] = ()
    other_key_ids: tuple[str, ...] | None = None
    bind_path: bool = True
    _keys_of: Mapping[ColumnPath, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what two readers might understand differently."""
        paths = [column.path for column in self.columns]
        if len(paths) > _MAX_COLUMNS:
            raise DocumentError(f"the policy has more than {_MAX_COLUMNS} columns")
        if any(earlier >= later for earlier, later in pairwise(paths)):
            raise DocumentError("the columns of the policy are not sorted, or one occurs twice")
        if not all(0 < len(path) <= _MAX_DEPTH for path in paths):
            raise DocumentError(f"the path of a column has no part, or more than {_MAX_DEPTH}")
        lists = [self.footer_key_ids, *(column.master_key_ids for column in self.columns)]
        for key_ids in lists if self.other_key_ids is None else [*lists, self.other_key_ids]:
            _check_key_ids(key_ids)
        if not self.columns and self.other_key_ids is None:
            raise DocumentError("the policy encrypts no column")
        object.__setattr__(self, "_keys_of", {column.path: column.master_key_ids for column in self.columns})

    def keys_of(self, path: ColumnPath) -> tuple[str, ...] | None:
        """Return the master keys under one of which a leaf column is encrypted, or None if it is plaintext."""
        return self._keys_of.get(path, self.other_key_ids)

    @property
    def master_key_ids(self) -> frozenset[str]:
        """The ids of all master keys that it names."""
        lists = (self.footer_key_ids, self.other_key_ids or (), *self._keys_of.values())
        return frozenset(key_id for key_ids in lists for key_id in key_ids)


def encode_policy(policy: PromisedPolicy) -> JSONObject:
    """Return the promise as members of a JSON object."""
    return {
        "footer": {"mode": policy.footer.value, "master_keys": list(policy.footer_key_ids)},
        "columns": [
            {"path": list(column.path), "master_keys": list(column.master_key_ids)} for column in policy.columns
        ],
        "others": None if policy.other_key_ids is None else list(policy.other_key_ids),
        "bind_path": policy.bind_path,
    }


def decode_policy(document: Document) -> PromisedPolicy:
    """Return the promise that a JSON object holds; it has no other members.

    Raises:
        DocumentError: malformed, or it contradicts itself.
    """
    document.only("footer", "columns", "others", "bind_path")
    footer = document.document("footer")
    footer.only("mode", "master_keys")
    return PromisedPolicy(
        footer=_footer_mode(footer),
        footer_key_ids=_key_ids(footer, "master_keys"),
        columns=tuple(map(_decode_column, document.documents("columns", max_count=_MAX_COLUMNS))),
        other_key_ids=None if document.is_null("others") else _key_ids(document, "others"),
        bind_path=document.boolean("bind_path"),
    )


def _decode_column(document: Document) -> PromisedColumn:
    document.only("path", "master_keys")
    path = document.texts("path", max_count=_MAX_DEPTH, max_characters=_MAX_CHARACTERS)
    return PromisedColumn(path=path, master_key_ids=_key_ids(document, "master_keys"))


def _footer_mode(document: Document) -> FooterMode:
    try:
        return FooterMode(document.text("mode", max_characters=_MAX_CHARACTERS))
    except ValueError as error:
        raise DocumentError("'mode' is neither 'plaintext' nor 'encrypted'") from error


def _key_ids(document: Document, name: str) -> tuple[str, ...]:
    return document.texts(name, max_count=_MAX_KEYS, max_characters=_MAX_CHARACTERS)


def _check_key_ids(key_ids: tuple[str, ...]) -> None:
    if not key_ids or "" in key_ids:
        raise DocumentError("the policy names no master key where one is needed")
    if any(earlier >= later for earlier, later in pairwise(key_ids)):
        raise DocumentError("master key ids of the policy are not sorted, or one occurs twice")


def fits_clear_columns(columns: Collection[ColumnPath]) -> bool:
    """Return whether so many columns, of such names, can be noted."""
    count = total = 0
    for path in columns:
        count += 1
        total += _BYTES_AROUND + sum(len(name.encode()) + _BYTES_AROUND_NAME for name in path)
        if len(path) > _MAX_DEPTH or any(len(name) > _MAX_CHARACTERS for name in path):
            return False
    if count > _MAX_COLUMNS or total > _MAX_CLEAR_BYTES:
        return False
    data = json.dumps(encode_clear_columns(columns), ensure_ascii=False, separators=(",", ":")).encode()
    return cost_of(data) <= max(_LEAST_COST, _COST_FACTOR * len(data))


def encode_clear_columns(columns: Iterable[ColumnPath]) -> list[JSONObject]:
    """Return the columns as members of a JSON array; they fit."""
    return [{"path": list(path)} for path in sorted(columns)]


def decode_clear_columns(document: Document, name: str) -> ClearColumns:
    """Return the columns that a member of a JSON object names.

    Raises:
        DocumentError: malformed.
    """
    found = []
    for each in document.documents(name, max_count=_MAX_COLUMNS):
        each.only("path")
        found.append(each.texts("path", max_count=_MAX_DEPTH, max_characters=_MAX_CHARACTERS))
    if () in found:
        raise DocumentError(f"{name!r} has a column without a name")
    return frozenset(found)
