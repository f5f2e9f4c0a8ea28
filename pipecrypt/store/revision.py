"""Read and replace revisions, by Location."""

from __future__ import annotations

from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import Revision

__all__ = ["Revision", "read_revision", "replace_revision"]


def read_revision(location: Location, max_bytes: int) -> Revision | None:
    """Return a whole small file; see `Store.read_revision`."""
    return open_store(location).read_revision(max_bytes=max_bytes)


def replace_revision(location: Location, data: bytes, *, expected: Revision | None) -> None:
    """Let a small file appear; see `Store.replace`."""
    open_store(location).replace(data, expected=expected)
