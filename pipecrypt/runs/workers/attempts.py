"""Give the files of the attempt whose result counts their places, and remove those of others. Attempts: alone.

Whoever carries tasks out elsewhere may do one twice, at once or later. Each attempt makes other bytes, because its keys
are its own, and only one of them can be what is signed. So each publishes in a directory of its own,
`_pipecrypt/runs/<run>/attempts/<attempt>/`, and the driver alone moves files from there: nothing that comes late or
comes twice touches the dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pipecrypt.errors import PipecryptError, SinkNotEmptyError
from pipecrypt.runs.report.events import FileDone
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers.ledger import Ledger
from pipecrypt.store.exclusive import remove_file
from pipecrypt.store.inventory import take_inventory
from pipecrypt.store.location import Location
from pipecrypt.store.move import move_file, remove_empty_directories
from pipecrypt.store.sink import exists, new_token

__all__ = ["attempt_of", "drop_attempt", "drop_attempts", "put_in_place", "take_result"]

_log: Final = logging.getLogger(__name__)


def attempt_of(task: Task, attempts: Location) -> tuple[Task, str]:
    """Return a task that publishes in a directory of its own, and the directory's name.

    Args:
        task: as its run wants it done.
        attempts: where the run's attempts publish.
    """
    name = new_token() + new_token()
    apart = replace(task.target, sink=attempts.child(name).child(task.path), overwrite=False, is_repeated=False)
    return task.with_target(apart), name


def put_in_place(done: FileDone, task: Task, attempts: Location) -> None:
    """Move the files of an attempt to where the run wants them.

    Args:
        done: what the attempt returned.
        task: as the run wants it done.
        attempts: where the run's attempts publish.

    Raises:
        SinkNotEmptyError: somebody else's file is at one of the places.
        StorageError: the storage refused or failed.
    """
    if done.attempt is None:
        return
    places = {
        part.path: task.sink if part.path == task.path else task.sink.sibling(part.path.rpartition("/")[2])
        for part in done.parts
    }
    for path, place in places.items():
        # Nobody but this driver puts files there while it holds the lock, so looking first is enough.
        if not task.target.overwrite and exists(place) and not _is_our_own(task, path, place):
            raise SinkNotEmptyError(f"{place.display} exists already")
    for path, place in places.items():
        move_file(attempts.child(done.attempt).child(path), place)


def take_result(
    ledger: Ledger, done: FileDone, tasks: Mapping[str, Task], attempts: Location | None
) -> FileDone | None:
    """Take the result of an attempt in, with its files; return None where it does not count.

    Args:
        ledger: of the run.
        done: what the attempt returned.
        tasks: as the run wants them done, by their ids.
        attempts: where the run's attempts publish; None: at the places that tasks name.

    Raises:
        SinkNotEmptyError: somebody else's file is at one of the places.
        StorageError: the storage refused or failed.
    """
    counts = ledger.take(done)
    if attempts is not None and counts is None:
        drop_attempt(done, attempts)
    elif attempts is not None:
        put_in_place(done, tasks[done.task_id], attempts)
    return counts


def drop_attempt(done: FileDone, attempts: Location) -> None:
    """Remove the files of an attempt whose result does not count."""
    if done.attempt is not None:
        drop_attempts(attempts.child(done.attempt))


def drop_attempts(attempts: Location) -> None:
    """Remove what attempts left, as far as it is listed; `clean` removes the rest."""
    try:
        for path, _ in take_inventory(attempts, lambda _: True):
            remove_file(attempts.child(path))
        remove_empty_directories(attempts)
    except PipecryptError as error:
        _log.warning("files of attempts stay in %s: %s", attempts.display, error.message)


def _is_our_own(task: Task, path: str, place: Location) -> bool:
    """Say whether a place is in the run's own directory, and holds what the run wrote there before."""
    return task.target.is_repeated and task.target.is_own_file(place, path)
