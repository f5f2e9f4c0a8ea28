"""Let one process at a time write to a directory, on any storage that can create a file only if it is absent.

A lease is a file with a number, see lease_holders: whoever created the highest one holds it, and writes it again every
few seconds with the next beat. A holder that died stops beating: whoever waited for several intervals in vain creates
the next number. So no clock decides who holds it. A holder that was only asleep finds the next number, or its own file
gone, and must stop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.errors import (
    ConflictError,
    LockLostError,
    PipecryptError,
    SinkNotEmptyError,
    StorageError,
)
from pipecrypt.store.lease_holders import (
    HELD_HERE,
    MAX_LOCK_NUMBER,
    LeaseHolder,
    LeaseTiming,
    LeaseWatch,
    highest,
    holders,
    is_same,
    numbers,
    read_holder,
    remove_holder,
    write_holder,
)
from pipecrypt.store.location import OPTION, Location, transfer_settings
from pipecrypt.store.open import open_store
from pipecrypt.store.process_identity import this_process

__all__ = ["HeldLease", "Lease"]

_log = logging.getLogger(__name__)
_WRITE_ID_BYTES: Final = 16
_TRIES: Final = 6
_LOOK_AGAIN_SECONDS: Final = 1.0


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
        """Pass if it is still held, by one look at the storage.

        Raises:
            ConflictError: another one holds it, or nobody.
            StorageError: the storage refused or failed.
        """
        found = highest(self.directory)
        if found is None or found.write_id != self.write_id:
            raise ConflictError(f"the lock in {self.directory.display} is not held any more by whom this is done for")


class Lease:
    """The lock of a directory, held; a context manager that gives it back.

    Args:
        directory: where the lock files lie.
        who: the name that others are told.
        timing: how long things take.

    Attributes:
        state: what there is of what is done under the lock, for whoever hears that it was lost.

    Raises:
        ConflictError: another process holds it, or took it a moment earlier.
        StorageError: the storage refused or failed.
    """

    def __init__(self, directory: Location, who: str, *, timing: LeaseTiming | None = None) -> None:
        """Take the lock, from a dead holder if need be."""
        self._timing = timing or LeaseTiming()
        self._given = directory
        # A call that is tried for longer than others wait for a beat helps nobody.
        self._directory = _with_deadline(directory, max(self._timing.interval_seconds, 1))
        self._is_lost = False
        self._took_over = False
        self.state = "nothing that this one wrote counts"
        self._last_beat = _seconds_passed()
        self._ends = threading.Event()
        write_id = random_bytes(_WRITE_ID_BYTES).hex()
        interval = self._timing.interval_seconds
        self._beating = threading.Thread(target=self._beat, name="pipecrypt-lock", daemon=True)
        self._tried: LeaseHolder | None = None
        HELD_HERE.add(write_id)
        try:
            self._mine = self._take(LeaseHolder(0, who, write_id, this_process(), interval, 0))
            self._beating.start()
        except BaseException:  # an interrupt too
            HELD_HERE.discard(write_id)
            self._take_back()
            raise

    def check(self) -> None:
        """Pass if this process still holds the lock, by a look at the storage.

        Raises:
            LockLostError: another one took it, thinking that this one had died.
            StorageError: the storage refused or failed.
        """
        self._is_lost = self._is_lost or not self._is_still_mine()
        if self._is_lost:
            raise self._lost()

    def check_quickly(self) -> None:
        """Pass if this process still holds the lock, as far as the last beat knows; ask where that is long ago.

        Raises:
            LockLostError: another one took it, or may have, and the storage does not tell.
        """
        if self._is_lost or self.is_doubtful:
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
    def took_over(self) -> bool:
        """Whether it was taken from a holder that had died, of whom requests may be on their way still."""
        return self._took_over

    @property
    def is_lost(self) -> bool:
        """Whether the last beat found another holder; costs nothing."""
        return self._is_lost

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
        HELD_HERE.discard(self._mine.write_id)
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

    def _place(self, number: int) -> Location:
        return self._directory.child(f"{number}.json")

    def _take(self, wanted: LeaseHolder) -> LeaseHolder:
        watch = LeaseWatch(self._directory, self._timing)
        for attempt in range(_TRIES):
            seen = holders(self._directory)
            living = watch.living(seen)
            if living is not None:
                raise _held(self._directory, living)
            mine = replace(wanted, number=self._next_number(seen))
            if self._create(mine):
                if self._is_alone(mine, seen):
                    self._forget(seen)
                    return mine
                self._remove(mine)
            # Two found a dead holder at once: one of them waits longer.
            self._timing.sleep((attempt + 1) * (1 + random_bytes(1)[0] / 64) / 10)
        raise ConflictError(
            f"{self._directory.display} is wanted by several runs at once", hint="let one run at a time write there"
        )

    def _next_number(self, seen: dict[int, LeaseHolder]) -> int:
        highest_seen = max(seen, default=0)
        if highest_seen >= MAX_LOCK_NUMBER:
            raise ConflictError(
                f"{self._place(highest_seen).display} has the highest number that a lock can have, and nobody answers",
                hint="no run wrote it; if none is writing there, remove it",
            )
        return highest_seen + 1

    def _create(self, mine: LeaseHolder) -> bool:
        self._last_beat = _seconds_passed()
        self._tried = mine
        try:
            write_holder(self._place(mine.number), mine, overwrite=False)
        except SinkNotEmptyError:
            return False
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
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
            self._took_over = True
            _log.warning("%s was locked by %s, which has died", self._directory.display, seen[max(seen)].who)
        for found in seen.values():
            self._remove(found)

    def _remove(self, holder: LeaseHolder) -> None:
        if self._holds(holder):
            remove_holder(self._place(holder.number))

    def _beat(self) -> None:
        while not self._ends.wait(self._timing.interval_seconds):
            try:
                if not self._is_still_mine():
                    self._is_lost = True
                    return
                self._mine = replace(self._mine, beat=self._mine.beat + 1)
                began = _seconds_passed()  # others may see it from now on
                write_holder(self._place(self._mine.number), self._mine, overwrite=True)
                self._last_beat = began
            except PipecryptError as error:
                # The next beat may get through; others wait for several.
                _log.warning("cannot renew the lock in %s: %s", self._directory.display, error.message)


def _seconds_passed() -> float:
    """Return seconds that go on while the process is stopped, and where the system counts them, while it sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _held(directory: Location, holder: LeaseHolder) -> ConflictError:
    return ConflictError(
        f"{directory.display}: run {holder.who!a} is writing there now",
        hint="let it end first: one run at a time writes to a sink",
    )


def _with_deadline(directory: Location, seconds: int) -> Location:
    if not open_store(directory).is_remote:
        return directory
    settings = replace(transfer_settings(directory.options), deadline_seconds=float(seconds))
    return Location(directory.url, {**directory.options, OPTION: settings})
