"""A field's value that was not opened. In a file of its own, because mypyc compiles no class that stands on bytes."""

from __future__ import annotations

__all__ = ["Raw"]


class Raw(bytes):
    """A field's value as it was read, not opened."""

    __slots__ = ()
