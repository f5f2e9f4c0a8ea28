"""Bound how deep JSON is nested before anything parses it. Parsing is left to json_lines.

Arrow's parser calls itself for every level, and where the stack ends the process ends too. So brackets are counted
first, by a few searches over the whole block. Up to the first mistake in a text that is no JSON the count is exact, and
behind it no parser looks.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_DEPTH", "is_too_deep"]

# Parquet's readers take no more levels in a schema.
MAX_DEPTH: Final = 100
_OTHERS: Final = bytes(set(range(256)) - set(b'"[]{}'))
_ONE_KIND: Final = bytes.maketrans(b"[]", b"{}")


def is_too_deep(data: bytes) -> bool:
    """Say whether objects and arrays are nested deeper than `MAX_DEPTH`."""
    brackets, depth = _brackets(data), 0
    while depth <= MAX_DEPTH:
        # The innermost pair of every nesting goes.
        outer = brackets.replace(b"{}", b"")
        if len(outer) == len(brackets):
            break
        brackets, depth = outer, depth + 1
    return depth + len(brackets) > MAX_DEPTH


def _brackets(data: bytes) -> bytes:
    """Return all brackets that stand in no text, as if there were one kind of them."""
    without_escaped = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    # Two quotes side by side can go, whichever texts they belong to: what follows stays inside or outside.
    kept = without_escaped.translate(_ONE_KIND, _OTHERS).replace(b'""', b"")
    return b"".join(kept.split(b'"')[::2])
