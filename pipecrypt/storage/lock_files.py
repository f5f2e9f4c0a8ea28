"""The files that stand for the lock of a directory: who holds it, up to which beat. Taking and losing it: sink_lock.

`<directory>/<n>.json` with rising numbers; whoever created the highest one holds the lock::

    {"holder": "<who>", "write_id": "<32 hex>", "place": "<machine>", "process": n, "started": "<when>",
     "interval_seconds": s, "beat": n}
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import ConflictError, FormatError, StorageError
from pipecrypt.store.inventory import take_inventory
from pipecrypt.store.location import Location
from pipecrypt.store.process_identity import ProcessIdentity
from pipecrypt.store.sink import open_sink
from pipecrypt.store.source import read_small_file
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = [
    "MAX_LOCK_FILES",
    "MAX_LOCK_NUMBER",
    "LockHolder",
    "highest",
    "holders",
    "is_same",
    "numbers",
    "read_holder",
    "write_holder",
    "written_ns",
]

# They begin again at 1 whenever the lock is free, so honest ones stay far below: what has a longer name is not a lock.
MAX_LOCK_NUMBER: Final = 999_999_999
# Those of several runs that died, and of several that begin at once; each is read several times by whoever waits.
MAX_LOCK_FILES: Final = 32
_NAME: Final = re.compile(r"(?P<number>\d{1,9})\.json", re.ASCII)
_MAX_BYTES: Final = 4096
_MAX_TEXT: Final = 512


@dataclass(frozen=True, slots=True)
class LockHolder:
    """What a lock file says. An attacker may have written it: it can keep others out, and nothing else.

    Args:
        number: of the file.
        who: the holder's own name, such as the id of its run.
        write_id: tells this file from another of the same number.
        process: which process it is.
        interval_seconds: between its beats.
        beat: rises while it lives.
    """

    number: int
    who: str
    write_id: str
    process: ProcessIdentity
    interval_seconds: int
    beat: int

    def encode(self) -> bytes:
        """Return the content of the file."""
        members = {
            "holder": self.who,
            "write_id": self.write_id,
            "place": self.process.place,
            "process": self.process.number,
            "started": self.process.started,
            "interval_seconds": self.interval_seconds,
            "beat": self.beat,
        }
        return json.dumps(members).encode() + b"\n"


def highest(directory: Location) -> LockHolder | None:
    """Return the holder with the highest number, or None."""
    for number in sorted(numbers(directory), reverse=True):
        found = read_holder(directory, number)
        if found is not None:
            return found
    return None


def holders(directory: Location) -> dict[int, LockHolder]:
    """Return all that lie there, by their numbers.

    Raises:
        ConflictError: there are more than MAX_LOCK_FILES, or one is not a lock of pipecrypt.
        StorageError: the storage refused or failed.
    """
    there = numbers(directory)
    if len(there) > MAX_LOCK_FILES:
        raise ConflictError(
            f"{directory.display} holds {len(there)} lock files, and no more than {MAX_LOCK_FILES} are looked at",
            hint="runs do not leave so many; if none is writing there, remove them",
        )
    found = {number: read_holder(directory, number) for number in there}
    return {number: holder for number, holder in found.items() if holder is not None}


def is_same(one: LockHolder, other: LockHolder | None) -> bool:
    """Say whether two are the same file's, whatever their beats."""
    return other is not None and (one.number, one.write_id) == (other.number, other.write_id)


def numbers(directory: Location) -> list[int]:
    """Return the numbers of the files that lie there."""
    found = (_NAME.fullmatch(path) for path, _ in take_inventory(directory, lambda _: False))
    return [int(name["number"]) for name in found if name is not None]


def written_ns(directory: Location, number: int) -> int | None:
    """Return when a file was written last, by the clock of the storage; None where that is not known."""
    found = dict(take_inventory(directory, lambda _: False)).get(f"{number}.json")
    return None if found is None else found.mtime_ns


def read_holder(directory: Location, number: int) -> LockHolder | None:
    """Return what one file says, or None if it is not there.

    Raises:
        ConflictError: it is not a lock of pipecrypt.
        StorageError: the storage refused or failed.
    """
    try:
        data = read_small_file(directory.child(f"{number}.json"), _MAX_BYTES)
    except FormatError as error:
        raise StorageError(f"{directory.display} holds a file that is not a lock", hint="remove it") from error
    return None if data is None else _decode(directory, number, data)


def _decode(directory: Location, number: int, data: bytes) -> LockHolder:
    try:
        document = parse_document(data, max_bytes=_MAX_BYTES)
        process = ProcessIdentity(
            document.text("place", max_characters=_MAX_TEXT),
            _at_least(document, "process", 1),  # what is less means several processes where one is asked for
            document.text("started", max_characters=_MAX_TEXT),
        )
        return LockHolder(
            number,
            document.text("holder", max_characters=_MAX_TEXT),
            document.text("write_id", max_characters=_MAX_TEXT),
            process,
            document.integer("interval_seconds"),  # whoever waits bounds it
            _at_least(document, "beat", 0),
        )
    except DocumentError as error:
        place = directory.child(f"{number}.json").display
        raise ConflictError(
            f"{place} is not a lock of pipecrypt: {error}", hint="if no run is writing there, remove it"
        ) from error


def _at_least(document: Document, name: str, least: int) -> int:
    number = document.integer(name)
    if number < least:
        raise DocumentError(f"{name} is less than {least}")
    return number


def write_holder(place: Location, holder: LockHolder, *, overwrite: bool) -> None:
    """Let a file say this; raises as `open_sink`."""
    with open_sink(place, overwrite=overwrite) as sink:
        sink.write(holder.encode())
        sink.publish()
