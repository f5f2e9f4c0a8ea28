"""Listings by name, and which names of them are not data. Comparing them with what was signed: statements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY, is_reserved
from pipecrypt.reading.statements import ShownAs

__all__ = ["beside_glob", "by_name", "kept_beside_data", "name_of", "shown_by_glob", "staged_as"]


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


def shown_by_glob(pattern: str, expression: str, maxdepth: int | None) -> ShownAs:
    """Return how a glob shows files: by their own paths, if they match.

    Args:
        pattern: of paths of the storage.
        expression: the same as a regular expression.
        maxdepth: as fsspec has it, counted from the first `**` on.
    """
    matches = re.compile(expression).match
    slashes = pattern.partition("**")[0].count("/") + maxdepth - 1 if maxdepth and "**" in pattern else None

    def shown_as(file: str) -> str | None:
        is_too_deep = slashes is not None and file.count("/") > slashes
        return None if is_too_deep or not matches(file) else file

    return shown_as


def beside_glob(pattern: str, directory: str) -> Iterator[str]:
    """Yield globs of what is kept beside data in the directories through which a glob leads.

    Each goes no deeper than the glob itself, so a store that keeps its listings is not asked again.

    Args:
        pattern: of paths of the storage.
        directory: the last one before the first part with a wildcard.
    """
    parts = pattern.split("/")
    for count in range(len(directory.split("/")) + 1, len(parts) + 1):
        is_any_depth = parts[count - 1] == "**"
        if count < len(parts) or is_any_depth:
            yield "/".join([*parts[:count], RESERVED_DIRECTORY])
        if is_any_depth:
            return


def kept_beside_data(names: Iterable[str], directory: str, roots: Iterable[str]) -> set[str]:
    """Return which listed names are what pipecrypt keeps beside data.

    Args:
        names: paths of the storage.
        directory: below which they were listed.
        roots: the directories of the datasets that the listing was compared with; elsewhere the names alone tell.
    """
    known, kept = set(roots), set()
    above: dict[str, list[str]] = {}
    for name in names:
        if RESERVED_DIRECTORY not in name:
            continue
        root = _root_of(name, known)
        if root is not None:
            if is_reserved(name[len(root) + 1 :].rstrip("/")):
                kept.add(name)
            continue
        parts = name.removeprefix(directory).lstrip("/").split("/")
        if RESERVED_DIRECTORY in parts:
            above[name] = parts[: parts.index(RESERVED_DIRECTORY)]
    guessed = {tuple(parts) for parts in above.values()}
    # Below the root of a dataset, a directory of data may have that name too.
    others = {name for name, root in above.items() if not any(tuple(root[:n]) in guessed for n in range(len(root)))}
    return kept | others


def _root_of(name: str, roots: set[str]) -> str | None:
    while name not in roots:
        name, slash, _ = name.rpartition("/")
        if not slash:
            return None
    return name
