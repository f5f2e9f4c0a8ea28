"""Say who holds the lease of a directory, and which holder lives.

The lease is a file `<directory>/<n>.json` with rising numbers; whoever created the highest one holds it::

    {"holder": "<who>", "write_id": "<32 hex>", "place": "<machine>", "process": n, "started": "<when>",
     "interval_seconds": s, "beat": n}

Of a process on this machine the system knows at once whether it runs; that it holds the lease is believed where it has
written its file just now. Any other is watched: a holder that lives writes its file again every few seconds. All files
are watched at the same time, for several of the longest interval that a holder has. So nobody waits for longer than
that, however many files lie there and whatever they say: anybody may have written them, and named any process.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.errors import ConflictError, FormatError, StorageError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.process_identity import ProcessIdentity, is_running, this_process
from pipecrypt.store.protocol import Entry
from pipecrypt.vocabulary.documents import DocumentError, parse_document

__all__ = [
    "HELD_HERE",
    "LONGEST_INTERVAL_SECONDS",
    "MAX_LOCK_FILES",
    "MAX_LOCK_NUMBER",
    "LeaseHolder",
    "LeaseTiming",
    "LeaseWatch",
    "current_holder",
    "highest",
    "holders",
    "is_same",
    "numbers",
    "read_holder",
    "remove_holder",
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
class LeaseHolder:
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


def highest(directory: Location) -> LeaseHolder | None:
    """Return the holder with the highest number, or None."""
    for number in sorted(numbers(directory), reverse=True):
        found = read_holder(directory, number)
        if found is not None:
            return found
    return None


def holders(directory: Location) -> dict[int, LeaseHolder]:
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


def is_same(one: LeaseHolder, other: LeaseHolder | None) -> bool:
    """Say whether two are the same file's, whatever their beats."""
    return other is not None and (one.number, one.write_id) == (other.number, other.write_id)


def numbers(directory: Location) -> list[int]:
    """Return the numbers of the files that lie there."""
    found = (_NAME.fullmatch(entry.path) for entry in _files(directory))
    return [int(name["number"]) for name in found if name is not None]


def written_ns(directory: Location, number: int) -> int | None:
    """Return when a file was written last, by the clock of the storage; None where that is not known."""
    found = {entry.path: entry.source for entry in _files(directory)}.get(f"{number}.json")
    return None if found is None else found.mtime_ns


def _files(directory: Location) -> Iterator[Entry]:
    return open_store(directory).list(admits=lambda _: False)


def read_holder(directory: Location, number: int) -> LeaseHolder | None:
    """Return what one file says, or None if it is not there.

    Raises:
        ConflictError: it is not a lock of pipecrypt.
        StorageError: the storage refused or failed.
    """
    try:
        data = open_store(directory).read_small(f"{number}.json", max_bytes=_MAX_BYTES)
    except FormatError as error:
        raise StorageError(f"{directory.display} holds a file that is not a lock", hint="remove it") from error
    return None if data is None else _decode(directory, number, data)


def _decode(directory: Location, number: int, data: bytes) -> LeaseHolder:
    try:
        document = parse_document(data, max_bytes=_MAX_BYTES)
        process = ProcessIdentity(
            document.text("place", max_characters=_MAX_TEXT),
            document.integer("process", least=1),  # what is less means several processes where one is asked for
            document.text("started", max_characters=_MAX_TEXT),
        )
        return LeaseHolder(
            number,
            document.text("holder", max_characters=_MAX_TEXT),
            document.text("write_id", max_characters=_MAX_TEXT),
            process,
            document.integer("interval_seconds"),  # whoever waits bounds it
            document.integer("beat", least=0),
        )
    except DocumentError as error:
        place = directory.child(f"{number}.json").display
        raise ConflictError(
            f"{place} is not a lock of pipecrypt: {error}", hint="if no run is writing there, remove it"
        ) from error


def write_holder(place: Location, holder: LeaseHolder, *, overwrite: bool) -> None:
    """Let a file say this; raises as `Store.write`."""
    with open_store(place).write(overwrite=overwrite) as sink:
        sink.write(holder.encode())
        sink.publish()


def remove_holder(place: Location) -> None:
    """Let a file go; raises as `Store.remove`."""
    open_store(place).remove()


LONGEST_INTERVAL_SECONDS: Final = 10  # between two beats; no holder writes a longer one, and no file is believed more
_NANOSECONDS: Final = 1_000_000_000
HELD_HERE: Final[set[str]] = set()  # write ids of the locks that this process holds


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How long things take.

    Args:
        interval_seconds: between two beats, at most LONGEST_INTERVAL_SECONDS.
        patience: how many of the holder's intervals without a beat tell that it died.
        sleep: waits, in seconds.
    """

    interval_seconds: int = LONGEST_INTERVAL_SECONDS
    patience: int = 3
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False)

    def __post_init__(self) -> None:
        """Refuse what would let others take a holder for dead while it lives."""
        if self.interval_seconds > LONGEST_INTERVAL_SECONDS:
            raise AssertionError(f"nobody waits for beats that are {self.interval_seconds} s apart")


def current_holder(directory: Location, *, timing: LeaseTiming | None = None) -> LeaseHolder | None:
    """Return who holds the lock of a directory and lives, or None; may wait for a beat, as LeaseWatch does.

    Raises:
        ConflictError: there are too many lock files, or one is not a lock.
        StorageError: the storage refused or failed.
    """
    return LeaseWatch(directory, timing).living()


class LeaseWatch:
    """Looks for a holder that lives, as often as is asked, and waits only once for each that does not.

    Args:
        directory: where the lock files lie.
        timing: how long things take.
    """

    def __init__(self, directory: Location, timing: LeaseTiming | None = None) -> None:
        """Look at nothing yet."""
        self._directory = directory
        self._timing = timing or LeaseTiming()
        self._waited_for: set[LeaseHolder] = set()  # in vain, at these beats

    def living(self, seen: Mapping[int, LeaseHolder] | None = None) -> LeaseHolder | None:
        """Return one that lives, or None; waits for `patience` of the longest interval at most.

        All of them count, not the highest alone: that may be of one who came too late and takes it back, above a
        holder that lives.

        Args:
            seen: the holders, by number, where the caller has just read them.

        Raises:
            ConflictError: there are too many lock files, or one is not a lock.
            StorageError: the storage refused or failed.
        """
        found = holders(self._directory) if seen is None else seen
        silent = []
        for number in sorted(found, reverse=True):
            holder = found[number]
            lives = _is_known_to_live(holder)
            if lives and (holder.write_id in HELD_HERE or self._was_just_written(number)):
                return holder
            if lives is not False and holder not in self._waited_for:
                silent.append(holder)
        return self._watch(silent)

    def _was_just_written(self, number: int) -> bool:
        """Say whether a file is as young as that of a holder that beats; one from the future is watched."""
        written = written_ns(self._directory, number)
        most = self._timing.patience * LONGEST_INTERVAL_SECONDS * _NANOSECONDS
        return written is not None and 0 <= time.time_ns() - written <= most

    def _watch(self, silent: Sequence[LeaseHolder]) -> LeaseHolder | None:
        for _ in range(self._timing.patience):
            if not silent:
                return None
            # The longest of them: each is watched for as many intervals of its own at least.
            self._timing.sleep(max(map(_interval_seconds, silent)))
            now = {holder: read_holder(self._directory, holder.number) for holder in silent}
            changed = next((one for before, one in now.items() if one is not None and one != before), None)
            if changed is not None:
                return changed
            silent = [holder for holder, one in now.items() if one is not None]  # the others were given back
        self._waited_for.update(silent)
        return None


def _is_known_to_live(holder: LeaseHolder) -> bool | None:
    if holder.process == this_process() and holder.write_id not in HELD_HERE:
        return False  # this process gave it back, and the storage did not take it
    return is_running(holder.process)


def _interval_seconds(holder: LeaseHolder) -> int:
    return max(0, min(holder.interval_seconds, LONGEST_INTERVAL_SECONDS))
