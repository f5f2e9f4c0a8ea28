"""Tell which holder of the lock of a directory lives. Taking, keeping and losing the lock is left to sink_lock.

Of a process on this machine the system knows at once whether it runs; that it holds the lock is believed where it has
written its file just now. Any other is watched: a holder that lives writes its file again every few seconds. All files
are watched at the same time, for several of the longest interval that a holder has. So nobody waits for longer than
that, however many files lie there and whatever they say: anybody may have written them, and named any process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.store.lease_holders import LeaseHolder, holders, read_holder, written_ns
from pipecrypt.store.location import Location
from pipecrypt.store.process_identity import is_running, this_process

__all__ = ["HELD_HERE", "LONGEST_INTERVAL_SECONDS", "LockTiming", "LockWatch", "current_holder"]

LONGEST_INTERVAL_SECONDS: Final = 10  # between two beats; no holder writes a longer one, and no file is believed more
_NANOSECONDS: Final = 1_000_000_000
HELD_HERE: Final[set[str]] = set()  # write ids of the locks that this process holds


@dataclass(frozen=True, slots=True)
class LockTiming:
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


def current_holder(directory: Location, *, timing: LockTiming | None = None) -> LeaseHolder | None:
    """Return who holds the lock of a directory and lives, or None; may wait for a beat, as LockWatch does.

    Raises:
        ConflictError: there are too many lock files, or one is not a lock.
        StorageError: the storage refused or failed.
    """
    return LockWatch(directory, timing).living()


class LockWatch:
    """Looks for a holder that lives, as often as is asked, and waits only once for each that does not.

    Args:
        directory: where the lock files lie.
        timing: how long things take.
    """

    def __init__(self, directory: Location, timing: LockTiming | None = None) -> None:
        """Look at nothing yet."""
        self._directory = directory
        self._timing = timing or LockTiming()
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
