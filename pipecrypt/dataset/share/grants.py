"""The grants that lie beside a file and above it: found by readers, added to and removed from by who shares.

They are looked for when a KEK cannot be opened without them, and kept for a while: of a thousand files below one
directory, one reads them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from weakref import WeakKeyDictionary

from pipecrypt.dataset.statement.paths import GRANTS_PATH, GRANTS_SUFFIX
from pipecrypt.errors import FormatError, StorageError
from pipecrypt.keys.grants import MAX_GRANTS_BYTES, Grant, Grants, encode_grants, parse_grants
from pipecrypt.keys.session import FindGrants, KeySession
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.small_files import SmallFiles, directories_above

__all__ = ["GrantCache", "add_grants", "grants_above", "read_grants", "remove_grants"]


_logger = logging.getLogger(__name__)
_AGE_SECONDS: Final = 300.0
_MAX_PLACES: Final = 256


class GrantCache:
    """Grants by the place where they were found, each kept for five minutes. Safe to use from several threads.

    Args:
        clock: a clock that never goes back, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep none."""
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[str, tuple[float, Grants]] = {}

    def at(self, files: SmallFiles, place: str) -> Grants:
        """Return the grants at a place; none where nothing is there or it may not be read, which is logged."""
        name, now = files.display(place), self._clock()
        with self._lock:
            kept = self._places.get(name)
        if kept is not None and now - kept[0] < _AGE_SECONDS:
            return kept[1]
        try:
            found = read_grants(files, place)
        except StorageError as error:
            # Many stores answer so where nothing is, to who may not list. The missing key is the better error.
            _logger.warning("cannot look for grants: %s", error.message)
            found = Grants()
        with self._lock:
            if len(self._places) >= _MAX_PLACES:
                self._places.clear()
            self._places[name] = (now, found)
        return found


_KEPT: Final[WeakKeyDictionary[KeySession, GrantCache]] = WeakKeyDictionary()


def grants_above(session: KeySession, files: SmallFiles, path: str) -> FindGrants:
    """Return what finds grants for a file: beside it, then in the directories above, the nearest first.

    Args:
        session: of the reader; what was found is kept as long as it.
        files: the storage of the file.
        path: of the file.
    """
    kept = _KEPT.setdefault(session, GrantCache())

    def find(kek_id: str) -> Iterator[Grant]:
        for place in _places(path):
            yield from kept.at(files, place).of(kek_id)

    return find


def read_grants(files: SmallFiles, place: str) -> Grants:
    """Return the grants at a place; none if nothing is there.

    Raises:
        FormatError: malformed, or larger than grants may be.
        StorageError: the storage refused or failed.
    """
    return _parse(files.read(place, MAX_GRANTS_BYTES), files.display(place))


def add_grants(location: Location, made: Iterable[Grant]) -> None:
    """Add grants to a file of them, which is made if need be; none that another adds meanwhile is lost.

    Raises:
        ConflictError: another command holds the lock.
        FormatError: there are malformed grants, or too many.
        StorageError: the storage refused or failed.
    """
    added = tuple(made)
    _change(location, lambda grants: grants.with_added(added))


def remove_grants(location: Location, master_key_ids: Iterable[str]) -> int:
    """Remove the grants of master keys, and return how many there were; raises as `add_grants`."""
    ids, before = frozenset(master_key_ids), 0

    def change(grants: Grants) -> Grants:
        nonlocal before
        kept = grants.without(ids)
        before = len(grants.all) - len(kept.all)
        return kept

    _change(location, change)
    return before


def _change(location: Location, change: Callable[[Grants], Grants]) -> None:
    def apply(data: bytes | None) -> bytes | None:
        before = _parse(data, location.display)
        after = change(before)
        return None if after == before else encode_grants(after)

    open_store(location).replace_exclusively(apply, max_bytes=MAX_GRANTS_BYTES)


def _parse(data: bytes | None, name: str) -> Grants:
    try:
        return Grants() if data is None else parse_grants(data)
    except FormatError as error:
        raise FormatError(f"{name}: {error.message}", hint=error.hint) from error


def _places(path: str) -> Iterator[str]:
    yield path + GRANTS_SUFFIX
    for directory in directories_above(path):
        yield f"{directory}/{GRANTS_PATH}"
