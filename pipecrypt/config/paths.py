"""Relative paths of a configuration: they start from its own directory, wherever pipecrypt is started.

Local paths alone: a source, a sink, and (by keys/reference) the files that key references name. URLs of other storages
are taken as they are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from pipecrypt.config.load import LoadedConfig
from pipecrypt.errors import AccessError, KeyReferenceError, SourceNotFoundError
from pipecrypt.keys.reference import anchored_reference, parse_key_reference
from pipecrypt.store.location import Location
from pipecrypt.store.patterns import has_glob

__all__ = ["anchored_location", "hints_about_paths"]

_log: Final = logging.getLogger(__name__)


def anchored_location(location: Location, directory: str) -> Location:
    """Return a location whose relative path, if it has one, starts from a directory.

    Args:
        location: as it is written; a `/` at its end stays.
        directory: absolute.
    """
    if not location.is_local:
        return location
    path = location.written_path
    if path.startswith(("/", "~")):
        return location
    # By names, which says the same as the file system does: the directory has no links.
    while path in {".", ".."} or path.startswith(("./", "../")):
        step, slash, path = path.partition("/")
        directory = os.path.dirname(directory) if step == ".." else directory
        if not slash:
            return replace(location, url=directory)
    return replace(location, url=f"{directory.rstrip('/')}/{path}")


@contextmanager
def hints_about_paths(loaded: LoadedConfig) -> Iterator[None]:
    """Where a path of the configuration leads nowhere, but would from the current directory, say so.

    An error's hint does, and where nothing else would, because a sink need not exist, a warning.
    """
    try:
        if told := _elsewhere(loaded, loaded.model.sink.url):
            _log.warning("%s", told)
        yield
    except (SourceNotFoundError, AccessError) as error:
        places = [loaded.model.source.url, *map(_path_of, _references(loaded))]
        told = next((text for place in places if (text := _elsewhere(loaded, place))), None)
        if told:
            error.add_hint(told)
        raise


def _elsewhere(loaded: LoadedConfig, written: str | None) -> str | None:
    """Return what to say about a path that is there from the current directory, and not from the configuration's."""
    if written is None:
        return None
    location = Location(written)
    meant = anchored_location(location, loaded.directory)
    if meant == location or not location.is_local or _is_there(meant) or not _is_there(location):
        return None
    return (
        f"relative paths in {loaded.document.name} start from its own directory, {loaded.directory}: "
        f"{written} exists in the current directory, {os.getcwd()}, which is another one"
    )


def _is_there(location: Location) -> bool:
    path = location.local_path
    while has_glob(path) and not os.path.lexists(path):
        path = os.path.dirname(path) or "."
    return os.path.lexists(path)


def _references(loaded: LoadedConfig) -> tuple[str, ...]:
    sign = loaded.model.sign
    return (*loaded.model.keys.values(), *(() if sign is None else sign.keys))


def _path_of(reference: str) -> str | None:
    if anchored_reference(reference, "/") == reference:
        return None
    try:
        return parse_key_reference(reference).location
    except KeyReferenceError:
        return None
