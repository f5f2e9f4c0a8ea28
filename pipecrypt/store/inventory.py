"""Look at places and below them, by Location."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from pipecrypt.store.listing import list_in_place
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import Admits, Kind, SourceFile

__all__ = [
    "Admits",
    "Found",
    "Kind",
    "list_in_place",
    "look_at",
    "pin",
    "pin_regular",
    "refuse_links",
    "take_inventory",
]

# A path below the directory, and the file; None for what is not a regular file.
Found: TypeAlias = "tuple[str, SourceFile | None]"


def look_at(location: Location) -> Kind:
    """Return what is at a place; see `Store.stat`."""
    return open_store(location).stat().kind


def pin(location: Location, relative_path: str) -> Found | None:
    """Return one file, or None if nothing or a directory is there; see `Store.stat`."""
    entry = open_store(location).stat()
    if not entry.exists() or entry.kind is Kind.DIRECTORY:
        return None
    return relative_path, None if entry.source is None else replace(entry.source, relative_path=relative_path)


def pin_regular(location: Location, relative_path: str) -> SourceFile | None:
    """Return one regular file; see `Entry.file`."""
    found = open_store(location).stat().file()
    return None if found is None else replace(found, relative_path=relative_path)


def refuse_links(directory: Location, found: Iterable[Found]) -> Iterator[Found]:
    """Yield what an inventory of a directory finds, as far as it is not a link."""
    store = open_store(directory)
    for path, file in found:
        if file is None and not store.is_remote:
            store.stat(path).refuse_link()
        yield path, file


def take_inventory(directory: Location, admits: Admits) -> Iterator[Found]:
    """Yield everything below a directory; see `Store.list`."""
    return ((entry.path, entry.source) for entry in open_store(directory).list(admits=admits))
