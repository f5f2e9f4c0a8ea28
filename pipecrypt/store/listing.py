"""List the files of a source in order, and refuse sinks that lie among them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from pipecrypt.errors import SourceNotFoundError, UsageError
from pipecrypt.store.filesystem import strip_protocol
from pipecrypt.store.location import ALL_PARQUET, PARQUET_SUFFIXES, Location, Pattern, has_glob, split_glob
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import EntryKind, SourceFile
from pipecrypt.store.publication import is_temporary

__all__ = ["check_disjoint", "check_outputs", "find_file", "list_in_place", "list_sources"]

_NO_FILES_HINT: Final = "names that begin with _ or . are skipped; to reach into directories, end a glob with /**"
# Options that lead to another store although the URL is the same.
_STORE_OPTIONS: Final = ("endpoint_url", "client_kwargs", "host", "port", "account_name", "connection_string")
_HINT: Final = "choose a sink outside the source"
_NO_NAMES: Final = frozenset({"", ".", ".."})


def list_sources(location: Location, below: Pattern = ALL_PARQUET) -> tuple[SourceFile, ...]:
    """Return the files that `location` names, in the order of their relative paths.

    Args:
        location: a file, a directory or a glob.
        below: which files of a directory count.

    Raises:
        SourceNotFoundError: nothing is there, or nothing matches.
        NoRegularFileError: something that counts is a named pipe, a socket or a device.
        StorageError: the storage refused or failed.
        UsageError: a name cannot be mirrored under a sink.
    """
    found = list(open_store(location).find_sources(below))
    if not found:
        what = "Parquet file" if below.suffixes == PARQUET_SUFFIXES else "source file"
        hint = None if below.takes_hidden and not has_glob(location.url) else _NO_FILES_HINT
        raise SourceNotFoundError(f"no {what} in {location.display}", hint=hint)
    for file in found:
        _check_relative_path(file)
    return tuple(sorted(found, key=lambda file: file.relative_path))


def find_file(location: Location) -> SourceFile:
    """Return the one file that a location names.

    Raises:
        UsageError: it names a directory or a glob with several.
        SourceNotFoundError: there is none.
    """
    found = list_sources(location)
    if len(found) != 1:
        raise UsageError(f"{location.display} names {len(found)} files", hint="name one of them")
    return found[0]


def list_in_place(location: Location, below: Pattern) -> tuple[SourceFile, ...]:
    """Return the files that a location names, to change or to share them where they are.

    They are those of `list_sources`, but no link below the location is followed.

    Raises:
        LinkError: a link is where such a file, or a directory of such files, could be.
        PipecryptError: as `list_sources`.
    """
    store = open_store(location)
    if store.is_remote or store.stat().kind is not EntryKind.DIRECTORY:
        return list_sources(location, below)
    found = []
    for entry in store.list(admits=below.admits_directory):
        names = tuple(entry.path.split("/"))
        file = entry.file() if below.matches(names) and not is_temporary(names[-1]) else None
        if file is not None:
            found.append(file)
        elif below.admits_directory(names):
            entry.refuse_link()
    return tuple(sorted(found, key=lambda file: file.relative_path)) or list_sources(location, below)


def _check_relative_path(file: SourceFile) -> None:
    parts = file.relative_path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise UsageError(f"{file.location.display} has a name that cannot be mirrored under a sink", hint="rename it")
    try:
        file.relative_path.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{file.location.url!a} has a name that is not valid Unicode", hint="rename it") from error


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
    depth = len(source_place)
    if sink_place[:depth] != source_place:
        return
    names = sink_place[depth:]
    if not names and pattern is None:
        raise UsageError(f"the sink {sink.display} is the source", hint=_HINT)
    if pattern is not None and (not names or pattern.admits_directory(names) or pattern.matches(names)):
        raise UsageError(f"the sink {sink.display} lies inside the source {source.display}", hint=_HINT)


def check_outputs(sources: Sequence[SourceFile], outputs: Sequence[Location]) -> None:
    """Refuse outputs that would replace each other or an input, or lie below one another.

    Raises:
        UsageError: two files would be at one place.
    """
    places = _Places()
    inputs = {places.of(file.location) for file in sources if not file.location.is_standard_stream}
    taken: dict[tuple[str, str, str], Location] = {}
    for output in outputs:
        place = places.of(output)
        if place in inputs:
            raise UsageError(f"{output.display} is one of the source files", hint=_HINT)
        if place in taken:
            raise UsageError(f"two source files would be written to {output.display}", hint="name them apart")
        taken[place] = output
    below = {(store, directory): output for (store, directory, _), output in taken.items()}
    for (store, start), output in below.items():
        directory = start
        while directory.strip("/"):
            directory, _, name = directory.rpartition("/")
            if (above := taken.get((store, directory, name))) is not None:
                what = f"{above.display} would be a file and the directory of {output.display}"
                raise UsageError(what, hint="name the source files apart")


class _Places:
    """Gives each of many places its one name: storage, directory and file name. A directory is resolved once."""

    def __init__(self) -> None:
        """Resolve nothing yet."""
        self._real: dict[str, str] = {}

    def of(self, location: Location) -> tuple[str, str, str]:
        """Return the name of a place."""
        if not location.is_local:
            store, *parts = _place(location)
            return store, "/".join(parts[:-1]), parts[-1] if parts else ""
        directory, name = os.path.split(location.local_path)
        if directory not in self._real:
            self._real[directory] = os.path.realpath(directory)
        path = os.path.join(self._real[directory], name)
        if name in _NO_NAMES or os.path.islink(path):
            path = os.path.realpath(path)
        directory, _, name = path.rpartition("/")
        return "file", directory, name


def _reach(source: Location, below: Pattern) -> tuple[Location, Pattern | None]:
    """Return where a source starts, and what it takes below: None for a single file."""
    if source.is_local and os.path.isdir(source.local_path):
        return source, below
    if source.is_local and os.path.lexists(source.local_path):
        return source, None
    if not source.is_local and not has_glob(source.url):
        return source, below
    return split_glob(source)


def _place(location: Location) -> tuple[str, ...]:
    """Return the one name of a place: its storage, then the parts of its path."""
    if location.is_standard_stream:
        return "standard stream", location.url
    if location.is_local:
        store, path = "file", os.path.realpath(location.local_path)
    else:
        kind, path = strip_protocol(location)
        options = [f"{name}={location.options[name]}" for name in _STORE_OPTIONS if name in location.options]
        store = " ".join([kind, *options])
    return store, *(part for part in path.split("/") if part)
