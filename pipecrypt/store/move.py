"""Move and remove, by Location."""

from __future__ import annotations

from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store

__all__ = ["move_file", "remove_empty_directories", "remove_if_empty"]


def remove_empty_directories(directory: Location) -> None:
    """Remove a directory and those below it, as far as they hold no file; see `Store.remove_empty_directories`."""
    open_store(directory).remove_empty_directories()


def remove_if_empty(directory: Location) -> None:
    """Remove one local directory, if it holds nothing."""
    open_store(directory).remove_directory()


def move_file(old: Location, new: Location, *, fingerprint: str | None = None) -> None:
    """Give a file another name on the same storage; see `Store.move`."""
    open_store(old).move(new, fingerprint=fingerprint)
