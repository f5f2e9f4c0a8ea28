"""Let one process at a time write to a directory, on any storage that can create a file only if it is absent.

A lease is a file `<directory>/<n>.json` with rising numbers; whoever created the highest one holds it, and writes it
again every few seconds with the next beat::

    {"holder": "<who>", "write_id": "<32 hex>", "place": "<machine>", "process": n, "started": "<when>",
     "interval_seconds": s, "beat": n}

A holder that died stops beating: whoever waited for several intervals in vain creates the next number. So no clock
decides who holds it. A holder that was only asleep finds the next number, or its own file gone, and must stop.

Of a process on this machine the system knows at once whether it runs; that it holds the lease is believed where it has
written its file just now. Any other is watched: a holder that lives writes its file again every few seconds. All files
are watched at the same time, for several of the longest interval that a holder has. So nobody waits for longer than
that, however many files lie there and whatever they say: anybody may have written them, and named any process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Self

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.errors import (
    ConflictError,
    FormatError,
    LockLostError,
    PipecryptError,
    SinkNotEmptyError,
    StorageError,
)
from pipecrypt.store.location import OPTION, Location, transfer_settings
from pipecrypt.store.open import open_store
from pipecrypt.store.process_identity import ProcessIdentity, is_running, this_process
from pipecrypt.vocabulary.documents import DocumentError, parse_document

__all__ = [
    "MAX_LOCK_FILES",
    "MAX_LOCK_NUMBER",
    "HeldLease",
    "Lease",
    "LeaseHolder",
    "LeaseTiming",
    "LeaseWatch",
    "read_holder",
    "write_holder",
]

_log = logging.getLogger(__name__)
_WRITE_ID_BYTES: Final = 16
_TRIES: Final = 6
_LOOK_AGAIN_SECONDS: Final = 1.0
_NANOSECONDS: Final = 1_000_000_000
_HELD_HERE: Final[set[str]] = set()  # write ids of the locks that this process holds
LONGEST_INTERVAL_SECONDS: Final = 10  # between two beats; no holder writes a longer one, and no file is believed more
# They begin again at 1 whenever the lock is free, so honest ones stay far below: what has a longer name is not a lock.
MAX_LOCK_NUMBER: Final = 999_999_999
# Those of several runs that died, and of several that begin at once; each is read several times by whoever waits.
MAX_LOCK_FILES: Final = 32
_NAME: Final = re.compile(r"(?P<number>\d{1,9})\.json", re.ASCII)
_MAX_BYTES: Final = 4096
_MAX_TEXT: Final = 512


# ---- what lies there ----


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
    """Return whether two are the same file's, whatever their beats."""
    return other is not None and (one.number, one.write_id) == (other.number, other.write_id)


def numbers(directory: Location) -> list[int]:
    """Return the numbers of the files that lie there."""
    found = (_NAME.fullmatch(entry.path) for entry in open_store(directory).list(admits=lambda _: False))
    return [int(name["number"]) for name in found if name is not None]


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


def write_holder(directory: Location, holder: LeaseHolder, *, overwrite: bool, is_free: bool = False) -> None:
    """Let the holder's file say this; as `Store.write`."""
    with open_store(directory).write(f"{holder.number}.json", overwrite=overwrite, is_free=is_free) as sink:
        sink.write(holder.encode())
        sink.publish()


def remove_holder(directory: Location, number: int) -> None:
    """Let a file go; raises as `Store.remove`."""
    open_store(directory).remove(f"{number}.json")


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
            if lives and (holder.write_id in _HELD_HERE or self._was_just_written(number)):
                return holder
            if lives is not False and holder not in self._waited_for:
                silent.append(holder)
        return self._watch(silent)

    def _was_just_written(self, number: int) -> bool:
        """Return whether a file is as young as that of a holder that beats; one from the future is watched."""
        source = open_store(self._directory).stat(f"{number}.json").source
        written = None if source is None else source.mtime_ns
        most = self._timing.patience * LONGEST_INTERVAL_SECONDS * _NANOSECONDS
        return written is not None and 0 <= time.time_ns() - written <= most

    def _watch(self, silent: Sequence[LeaseHolder]) -> LeaseHolder | None:
        for _ in range(self._timing.patience):
            if not silent:
                return None
            # The longest of them: each is watched for as many intervals of its own at least.
            longest = max(holder.interval_seconds for holder in silent)
            self._timing.sleep(max(0, min(longest, LONGEST_INTERVAL_SECONDS)))
            now = {holder: read_holder(self._directory, holder.number) for holder in silent}
            changed = next((one for before, one in now.items() if one is not None and one != before), None)
            if changed is not None:
                return changed
            silent = [holder for holder, one in now.items() if one is not None]  # the others were given back
        self._waited_for.update(silent)
        return None


def _is_known_to_live(holder: LeaseHolder) -> bool | None:
    if holder.process == this_process() and holder.write_id not in _HELD_HERE:
        return False  # this process gave it back, and the storage did not take it
    return is_running(holder.process)


# ---- a lease that is held ----


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lock that is held elsewhere, for a process that works for its holder.

    Args:
        directory: where the lock files lie.
        write_id: of the holder's file.
    """

    directory: Location
    write_id: str

    def check(self) -> None:
        """Pass if it is still held, by one look at the storage, or by two where somebody came too late to take it.

        Raises:
            ConflictError: another one holds it, or nobody.
            StorageError: the storage refused or failed.
        """
        ids = self._ids()
        if next(ids, None) == self.write_id:
            return
        if self.write_id in ids:
            time.sleep(_LOOK_AGAIN_SECONDS)  # as the holder does, so that both come to the same
            if next(self._ids(), None) == self.write_id:
                return
        raise ConflictError(f"this run no longer holds the lock in {self.directory.display}")

    def _ids(self) -> Iterator[str]:
        """Yield the ids of those who wrote lock files, the highest number first; reads no more of them than asked."""
        for number in sorted(numbers(self.directory), reverse=True):
            holder = read_holder(self.directory, number)
            if holder is not None:
                yield holder.write_id


class Lease:
    """The lock of a directory, held; a context manager that gives it back.

    Args:
        directory: where the lock files lie.
        who: the name that others are told.
        timing: how long things take.
        keeps_apart: whether the storage is known to refuse a second file of one name: then a number that was not
            listed just now is written without another look.

    Attributes:
        state: what there is of what is done under the lock, for whoever hears that it was lost.
        is_lost: whether the last beat found another holder; costs nothing.
        took_over: whether it was taken from a holder that had died, of whom requests may be on their way still.

    Raises:
        ConflictError: another process holds it, or took it a moment earlier.
        StorageError: the storage refused or failed.
    """

    def __init__(
        self, directory: Location, who: str, *, timing: LeaseTiming | None = None, keeps_apart: bool = False
    ) -> None:
        """Take the lock, from a dead holder if need be."""
        self._timing = timing or LeaseTiming()
        self._given = directory
        self._keeps_apart = keeps_apart
        # A call that is tried for longer than others wait for a beat helps nobody.
        self._directory = _with_deadline(directory, max(self._timing.interval_seconds, 1))
        self.is_lost = False
        self.took_over = False
        self.state = "nothing that this one wrote counts"
        self._last_beat = _seconds_passed()
        self._ends = threading.Event()
        write_id = random_bytes(_WRITE_ID_BYTES).hex()
        interval = self._timing.interval_seconds
        self._beating = threading.Thread(target=self._beat, name="pipecrypt-lock", daemon=True)
        self._tried: LeaseHolder | None = None
        self._refused: StorageError | None = None  # what the last attempt to write its file met
        _HELD_HERE.add(write_id)
        try:
            self._mine = self._take(LeaseHolder(0, who, write_id, this_process(), interval, 0))
            self._beating.start()
        except BaseException:  # an interrupt too
            _HELD_HERE.discard(write_id)
            self._take_back()
            raise

    def check(self) -> None:
        """Pass if this process still holds the lock, by a look at the storage.

        Raises:
            LockLostError: another one took it, thinking that this one had died.
            StorageError: the storage refused or failed.
        """
        self.is_lost = self.is_lost or not self._is_still_mine()
        if self.is_lost:
            raise self._lost()

    def check_quickly(self) -> None:
        """Pass if this process still holds the lock, as far as the last beat knows; ask where that is long ago.

        Raises:
            LockLostError: another one took it, or may have, and the storage does not tell.
        """
        if self.is_lost or self.is_doubtful:
            self._check_or_give_up()

    def settle(self, error: PipecryptError | None) -> None:
        """Tell, at the end of what was done under the lock, whether another one took it meanwhile.

        Whatever this process met then, and even if it met nothing, it does not know what the directory holds.

        Args:
            error: that ended it; None where it came to its end.

        Raises:
            LockLostError: another one took it, or may have, and the storage does not tell.
            StorageError: the storage refused or failed.
        """
        if error is None:
            self.check()
        elif not isinstance(error, LockLostError):
            try:
                self._check_or_give_up()
            except LockLostError:
                raise self._lost(error) from error

    def _check_or_give_up(self) -> None:
        try:
            self.check()
        except LockLostError:
            raise
        except PipecryptError as error:
            if self.is_doubtful:
                raise self._lost(error) from error

    def _lost(self, error: PipecryptError | None = None) -> LockLostError:
        end = "" if error is None else f"; it ended with: {error.message}"
        return LockLostError(
            f"{self._directory.display} was taken by another run, or may be, because this one did not answer for long: "
            f"{self.state}{end}"
        )

    @property
    def held(self) -> HeldLease:
        """What tells a process elsewhere of this lock."""
        return HeldLease(self._given, self._mine.write_id)

    @property
    def is_doubtful(self) -> bool:
        """Whether others may take this one for dead, because no beat got through for long; `check` tells."""
        return _seconds_passed() - self._last_beat > self._timing.patience * self._timing.interval_seconds

    def release(self) -> None:
        """Give the lock back. Safe to call twice."""
        if self._ends.is_set():
            return
        self._ends.set()
        self._beating.join()
        _HELD_HERE.discard(self._mine.write_id)
        try:
            # Its own file goes even where the lock was lost: a last beat may have put it back beside the next holder's.
            self._remove(self._mine)
        except PipecryptError as error:
            _log.warning("the lock in %s stays: %s", self._directory.display, error.message)

    def __enter__(self) -> Self:
        """Return the lock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self.release()

    def _take(self, wanted: LeaseHolder) -> LeaseHolder:
        watch = LeaseWatch(self._directory, self._timing)
        for attempt in range(_TRIES):
            seen = holders(self._directory)
            living = watch.living(seen)
            if living is not None:
                raise ConflictError(
                    f"{self._directory.display}: run {living.who!a} is writing there now",
                    hint="let it end first: one run at a time writes to a sink",
                )
            mine = replace(wanted, number=self._next_number(seen))
            if self._create(mine):
                if self._is_alone(mine, seen):
                    self._forget(seen)
                    return mine
                self._remove(mine)
            # Two found a dead holder at once: one of them waits longer.
            self._timing.sleep((attempt + 1) * (1 + random_bytes(1)[0] / 64) / 10)
        if self._refused is not None:
            raise self._refused  # whoever cleans up does so once: there is nowhere to write
        raise ConflictError(
            f"{self._directory.display} is wanted by several runs at once", hint="let one run at a time write there"
        )

    def _next_number(self, seen: dict[int, LeaseHolder]) -> int:
        highest_seen = max(seen, default=0)
        if highest_seen >= MAX_LOCK_NUMBER:
            name = self._directory.child(f"{highest_seen}.json").display
            raise ConflictError(
                f"{name} has the highest number that a lock can have, and nobody answers",
                hint="no run wrote it; if none is writing there, remove it",
            )
        return highest_seen + 1

    def _create(self, mine: LeaseHolder) -> bool:
        self._last_beat = _seconds_passed()
        self._tried, self._refused = mine, None
        try:
            write_holder(self._directory, mine, overwrite=False, is_free=self._keeps_apart)
        except SinkNotEmptyError:
            return False
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self._refused = error
                return False  # whoever cleaned up at this moment took what was not the lock yet: look again
            raise
        return True

    def _take_back(self) -> None:
        """Leave no file that may be there: others would wait for somebody who never came to work."""
        if self._tried is not None:
            with contextlib.suppress(PipecryptError):
                self._remove(self._tried)

    def _is_alone(self, mine: LeaseHolder, seen: dict[int, LeaseHolder]) -> bool:
        """Look once more: numbers begin again at 1, so another process may have taken one below or above.

        A number that was seen may be another process's by now. Only what was written into the file tells.
        """
        now = holders(self._directory)
        others = (found for number, found in now.items() if number != mine.number)
        return all(is_same(found, seen.get(found.number)) for found in others) and is_same(mine, now.get(mine.number))

    def _holds(self, mine: LeaseHolder) -> bool:
        found = read_holder(self._directory, mine.number)
        return found is not None and found.write_id == mine.write_id

    def _is_mine(self) -> bool:
        return max(numbers(self._directory), default=0) == self._mine.number and self._holds(self._mine)

    def _is_still_mine(self) -> bool:
        if self._is_mine():
            return True
        if not self._holds(self._mine):
            return False
        self._timing.sleep(_LOOK_AGAIN_SECONDS)  # whoever came too late takes a higher number back at once
        return self._is_mine()

    def _forget(self, seen: dict[int, LeaseHolder]) -> None:
        if seen:
            self.took_over = True
            _log.warning("%s was locked by %s, which has died", self._directory.display, seen[max(seen)].who)
        for found in seen.values():
            self._remove(found)

    def _remove(self, holder: LeaseHolder) -> None:
        if self._holds(holder):
            remove_holder(self._directory, holder.number)

    def _beat(self) -> None:
        while not self._ends.wait(self._timing.interval_seconds):
            try:
                if not self._is_still_mine():
                    self.is_lost = True
                    return
                self._mine = replace(self._mine, beat=self._mine.beat + 1)
                began = _seconds_passed()  # others may see it from now on
                write_holder(self._directory, self._mine, overwrite=True)
                self._last_beat = began
            except PipecryptError as error:
                # The next beat may get through; others wait for several.
                _log.warning("cannot renew the lock in %s: %s", self._directory.display, error.message)


def _seconds_passed() -> float:
    """Return seconds that go on while the process is stopped, and where the system counts them, while it sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _with_deadline(directory: Location, seconds: int) -> Location:
    if not open_store(directory).is_remote:
        return directory
    settings = replace(transfer_settings(directory.options), deadline_seconds=float(seconds))
    return Location(directory.url, {**directory.options, OPTION: settings})
