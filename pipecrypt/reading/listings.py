"""Listings by name, and which names of them are not data. Comparing them with what was signed: statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipecrypt.manifest.paths import RESERVED_DIRECTORY, is_reserved
from pipecrypt.reading.statements import ShownAs

__all__ = ["by_name", "kept_beside_data", "name_of", "staged_as"]


def name_of(listed: Any) -> str:
    """Return the name of what a file system lists, with or without details."""
    return str(listed["name"] if isinstance(listed, Mapping) else listed)


def by_name(listed: Any) -> dict[str, Any]:
    """Return what a file system lists, by name; of a file that is named itself some say nothing else."""
    if isinstance(listed, Mapping):
        return {str(name): info or {"name": name, "type": "file"} for name, info in listed.items()}
    return {name_of(info): info for info in listed}


def staged_as(staged: Mapping[str, Any], shown_as: ShownAs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield how a listing shows files that are staged: by their places, or by a directory above."""
    for path, info in staged.items():
        shown = shown_as(path)
        if shown is not None:
            yield shown, dict(info) if shown == path else {"name": shown, "size": 0, "type": "directory"}


def kept_beside_data(names: Iterable[str], directory: str, root: str | None) -> set[str]:
    """Return which listed names are what pipecrypt keeps beside data.

    Args:
        names: paths of the storage.
        directory: below which they were listed.
        root: the directory of the dataset that governs it; None if there is none, but perhaps some below.
    """
    if root is not None:
        return {name for name in names if is_reserved(name[len(root) + 1 :].rstrip("/"))}
    above: dict[str, list[str]] = {}
    for name in names:
        parts = name.removeprefix(directory).lstrip("/").split("/")
        if RESERVED_DIRECTORY in parts:
            above[name] = parts[: parts.index(RESERVED_DIRECTORY)]
    roots = {tuple(parts) for parts in above.values()}
    # Below the root of a dataset, a directory of data may have that name too.
    return {name for name, root in above.items() if not any(tuple(root[:n]) in roots for n in range(len(root)))}
