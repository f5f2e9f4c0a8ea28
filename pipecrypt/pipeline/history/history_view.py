"""What a sink says has been done, for whoever has no key to verify it. Nothing may be written on the strength of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipecrypt.dataset.opening.unverified_version import read_unverified_version
from pipecrypt.manifest.paths import RESERVED_DIRECTORY
from pipecrypt.pipeline.history.journal.history import find_runs, read_run
from pipecrypt.pipeline.history.journal.seal import UncheckedSeal
from pipecrypt.pipeline.history.past_runs import has_written
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink import is_directory, sink_is_empty

__all__ = ["NotedWork", "noted_without_keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedWork:
    """What statement and journals say.

    Args:
        done: from the path of each output to the id of its task; empty where it was written without one.
        unfinished: id of the run that waits to be continued, if there is one.
        has_foreign_files: whether files are there that no run wrote.
    """

    done: Mapping[str, str]
    unfinished: str | None
    has_foreign_files: bool


def noted_without_keys(sink: Location) -> NotedWork:
    """Return what a sink says has been done there.

    Raises:
        IntegrityError: statement or journal is malformed.
        StorageError: the storage refused or failed.
    """
    if not is_directory(sink):
        return NotedWork(done={}, unfinished=None, has_foreign_files=False)
    runs = find_runs(sink)
    finished = [run for run in runs if run.is_finished]
    last_finished = max((run.run_id for run in finished), default="")
    later = (run for run in runs if run.blocks and not run.is_finished and run.run_id > last_finished)
    noted = (read_run(sink, run, UncheckedSeal.of(run.blocks)) for run in later)
    waiting = [past.header.run_id for past in noted if past is not None and has_written(sink, past)]
    version = read_unverified_version(sink)
    if version is not None:
        done = {entry.path: entry.task_id or "" for entry in version.entries}
    else:
        past = [read_run(sink, run, UncheckedSeal.of(run.blocks)) for run in finished]
        done = {
            part.path: record.task_id
            for each in past
            if each is not None
            for record in each.records.values()
            for part in record.parts
            if part.path not in each.removes
        }
    is_known = bool(done) or bool(waiting)
    return NotedWork(
        done=done,
        unfinished=waiting[-1] if waiting else None,
        has_foreign_files="" in done.values() or (not is_known and not sink_is_empty(sink, besides=RESERVED_DIRECTORY)),
    )
