"""What a sink says has been done, for whoever has no key to verify it. Nothing may be written on the strength of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipecrypt.dataset.opening.unverified_version import UnverifiedVersion, read_unverified_version
from pipecrypt.manifest.paths import RESERVED_DIRECTORY
from pipecrypt.pipeline.history.journal.history import FoundRun, PastRun, find_runs, read_run
from pipecrypt.pipeline.history.journal.seal import UncheckedSeal
from pipecrypt.pipeline.history.past_runs import DoneFile, done_by, has_written, signed_files
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink import is_directory, sink_is_empty

__all__ = ["NotedWork", "noted_without_keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedWork:
    """What statement and journals say.

    Args:
        done: each output that was written, by path.
        version: what the statement says; None where nothing is signed.
        unfinished: id of the run that waits to be continued, if there is one.
        has_foreign_files: whether files are there that no run wrote.
    """

    done: Mapping[str, DoneFile] = field(default_factory=dict)
    version: UnverifiedVersion | None = None
    unfinished: str | None = None
    has_foreign_files: bool = False


def noted_without_keys(sink: Location, *, is_signed: bool) -> NotedWork:
    """Return what a sink says has been done there.

    Args:
        sink: the directory.
        is_signed: whether the run that asks signs: then only what was signed is done.

    Raises:
        IntegrityError: statement or journal is malformed.
        StorageError: the storage refused or failed.
    """
    if not is_directory(sink):
        return NotedWork()
    runs = find_runs(sink)
    finished = [run for run in runs if run.is_finished]
    last_finished = max((run.run_id for run in finished), default="")
    later = _read(sink, (run for run in runs if not run.is_finished and run.run_id > last_finished))
    waiting = [past.header.run_id for past in later if has_written(sink, past)]
    version = read_unverified_version(sink)
    done = signed_files(() if version is None else version.entries)
    if version is None and not is_signed:
        done = done_by(_read(sink, finished))
    is_known = bool(done) or bool(waiting)
    is_foreign = not is_known and not sink_is_empty(sink, besides=RESERVED_DIRECTORY)
    return NotedWork(
        done=done,
        version=version,
        unfinished=waiting[-1] if waiting else None,
        has_foreign_files=is_foreign or any(not file.task_id for file in done.values()),
    )


def _read(sink: Location, runs: Iterable[FoundRun]) -> Iterator[PastRun]:
    for run in runs:
        past = read_run(sink, run, UncheckedSeal.of(run.blocks)) if run.blocks else None
        if past is not None:
            yield past
