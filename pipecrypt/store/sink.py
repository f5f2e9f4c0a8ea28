"""Open a new file for publishing, and look at what a sink holds, by Location."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import Kind
from pipecrypt.store.publication import Publication, new_token

__all__ = [
    "Publication",
    "exists",
    "is_directory",
    "is_link",
    "new_token",
    "open_sink",
    "remove_leftovers",
    "remove_leftovers_in",
    "sink_is_empty",
]


def open_sink(
    location: Location, *, overwrite: bool, token: str | None = None, expected_bytes: int | None = None
) -> Publication:
    """Open a new file; see `Store.write`."""
    return open_store(location).write(overwrite=overwrite, token=token, expected_bytes=expected_bytes)


def remove_leftovers(location: Location, token: str) -> None:
    """Remove the temporary files of a run beside a file; see `Store.remove_leftovers`."""
    open_store(location).remove_leftovers(token)


def is_directory(location: Location) -> bool:
    """Say whether a directory is there; see `Entry.is_directory`."""
    return open_store(location).stat().is_directory()


def is_link(location: Location) -> bool:
    """Say whether a symbolic link is at `location`, whether or not the caller named it."""
    entry = open_store(location).stat()
    return entry.follows_link or (entry.exists() and entry.kind is Kind.LINK)


def exists(location: Location) -> bool:
    """Say whether anything is there; see `Entry.exists`."""
    return open_store(location).stat().exists()


def remove_leftovers_in(locations: Iterable[Location], token: str) -> None:
    """Remove the temporary files of a run from the directories of these files, each looked at once."""
    for file in {os.path.dirname(each.url.rstrip("/")): each for each in locations}.values():
        open_store(file).remove_leftovers(token, of_any_name=True)


def sink_is_empty(location: Location, *, besides: str | None = None) -> bool:
    """Say whether nothing is there; see `Store.is_empty`."""
    return open_store(location).is_empty(besides=besides)
