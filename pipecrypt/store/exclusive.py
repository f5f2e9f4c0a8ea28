"""Change and hold places exclusively, by Location."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from pipecrypt.store import operations
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store

__all__ = ["hold_exclusively", "remove_file", "replace_exclusively"]


def replace_exclusively(
    location: Location,
    change: Callable[[bytes | None], bytes | None],
    *,
    max_bytes: int,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Replace a small file; see `operations.replace_exclusively`."""
    operations.replace_exclusively(open_store(location), change, max_bytes=max_bytes, sleep=sleep)


def hold_exclusively(
    location: Location, lock: Location, *, sleep: Callable[[float], None] = time.sleep
) -> AbstractContextManager[object]:
    """Hold a directory or file; see `Store.holding`."""
    return open_store(location).holding(lock, sleep)


def remove_file(location: Location) -> None:
    """Remove a file; see `Store.remove`."""
    open_store(location).remove()
