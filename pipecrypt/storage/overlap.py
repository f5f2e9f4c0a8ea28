"""Refuse runs that would write among what they read. Planning the outputs is left to pipeline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import UsageError
from pipecrypt.store.filesystem import strip_protocol
from pipecrypt.store.listing import ALL_PARQUET, Pattern, SourceFile, has_glob, split_glob
from pipecrypt.store.location import Location

__all__ = ["check_disjoint", "check_outputs"]

# Options that lead to another store although the URL is the same.
_STORE_OPTIONS: Final = ("endpoint_url", "client_kwargs", "host", "port", "account_name", "connection_string")
_HINT: Final = "choose a sink outside the source"


@dataclass(frozen=True, slots=True)
class _Place:
    store: str
    parts: tuple[str, ...]


def check_disjoint(source: Location, sink: Location, below: Pattern = ALL_PARQUET) -> None:
    """Refuse a sink that is the source or lies inside it, links resolved.

    A sink below the directory of a glob is fine where the glob cannot reach into it.

    Args:
        source: a file, a directory or a glob.
        sink: a file or a directory.
        below: which files of a directory count.

    Raises:
        UsageError: they overlap.
    """
    if source.is_standard_stream or sink.is_standard_stream:
        return
    directory, pattern = _reach(source, below)
    source_place, sink_place = _place(directory), _place(sink)
    if source_place.store != sink_place.store:
        return
    depth = len(source_place.parts)
    if sink_place.parts[:depth] != source_place.parts:
        return
    names = sink_place.parts[depth:]
    if not names and pattern is None:
        raise UsageError(f"the sink {sink.display} is the source", hint=_HINT)
    if pattern is not None and (not names or pattern.admits_directory(names) or pattern.matches(names)):
        raise UsageError(f"the sink {sink.display} lies inside the source {source.display}", hint=_HINT)


def check_outputs(sources: Sequence[SourceFile], outputs: Sequence[Location]) -> None:
    """Refuse outputs that would replace each other or an input, or lie below one another.

    Raises:
        UsageError: two files would be at one place.
    """
    inputs = {_place(file.location) for file in sources if not file.location.is_standard_stream}
    taken: dict[_Place, Location] = {}
    for output in outputs:
        place = _place(output)
        if place in inputs:
            raise UsageError(f"{output.display} is one of the source files", hint=_HINT)
        if place in taken:
            raise UsageError(f"two source files would be written to {output.display}", hint="name them apart")
        taken[place] = output
    for place, output in taken.items():
        for depth in range(1, len(place.parts)):
            if (above := taken.get(_Place(place.store, place.parts[:depth]))) is not None:
                what = f"{above.display} would be a file and the directory of {output.display}"
                raise UsageError(what, hint="name the source files apart")


def _reach(source: Location, below: Pattern) -> tuple[Location, Pattern | None]:
    """Return where a source starts, and what it takes below: None for a single file."""
    if source.is_local:
        if os.path.isdir(source.local_path):
            return source, below
        is_exact = os.path.lexists(source.local_path)
    else:
        is_exact = not has_glob(source.url)
    if is_exact and source.is_local:
        return source, None
    return (source, below) if is_exact else split_glob(source)


def _place(location: Location) -> _Place:
    if location.is_standard_stream:
        return _Place("standard stream", (location.url,))
    if location.is_local:
        return _Place("file", tuple(part for part in os.path.realpath(location.local_path).split("/") if part))
    kind, path = strip_protocol(location)
    options = [f"{name}={location.options[name]}" for name in _STORE_OPTIONS if name in location.options]
    return _Place(" ".join([kind, *options]), tuple(part for part in path.split("/") if part))
