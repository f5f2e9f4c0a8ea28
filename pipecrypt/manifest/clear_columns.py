"""Which leaf columns of a dataset are known to be in plaintext, as JSON and back. Comparing: pipeline.

A run stops before a column goes out in plaintext that no file had so far, so statements and journals note those that
files had. In a statement they are an annotation of its subject, which in-toto leaves to whoever writes it::

    [{"path": ["id"]}, {"path": ["address", "city"]}, ...]         sorted

Nobody may conclude from the list that other columns are encrypted: that is the promise. More columns than can be noted
are not noted at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

from pipecrypt.manifest.promise import JSONObject
from pipecrypt.vocabulary.documents import Document, DocumentError, cost_of

__all__ = ["ClearColumns", "decode_clear_columns", "encode_clear_columns", "fits_clear_columns"]

ClearColumns: TypeAlias = frozenset[tuple[str, ...]]
# As for promised columns; and a third of what a statement or a block of a journal can hold.
_MAX_COLUMNS: Final = 32_767
_MAX_DEPTH: Final = 64
_MAX_CHARACTERS: Final = 1024
_MAX_TOTAL_BYTES: Final = 1 << 20
# Less than what a reader lets a document take, see documents: there is more in it than the columns.
_LEAST_COST: Final = 640 << 10
_COST_FACTOR: Final = 17
_BYTES_AROUND: Final = 12  # {"path":[]},
_BYTES_AROUND_NAME: Final = 3


def fits_clear_columns(columns: Collection[tuple[str, ...]]) -> bool:
    """Say whether so many columns, of such names, can be noted."""
    count = total = 0
    for path in columns:
        count += 1
        total += _BYTES_AROUND + sum(len(name.encode()) + _BYTES_AROUND_NAME for name in path)
        if len(path) > _MAX_DEPTH or any(len(name) > _MAX_CHARACTERS for name in path):
            return False
    if count > _MAX_COLUMNS or total > _MAX_TOTAL_BYTES:
        return False
    data = json.dumps(encode_clear_columns(columns), ensure_ascii=False, separators=(",", ":")).encode()
    return cost_of(data) <= max(_LEAST_COST, _COST_FACTOR * len(data))


def encode_clear_columns(columns: Iterable[tuple[str, ...]]) -> list[JSONObject]:
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
