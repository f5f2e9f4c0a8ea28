"""Remove what dead runs left in a sink. Whatever a living run, a signed version or a finished run needs stays.

It takes the lock of the sink, so no run lives meanwhile. It needs no key: what it reads was not authenticated, and so
it removes a data file only where the file itself says that it is of the run that did not finish, and no version or
finished run lists it.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pipecrypt.dataset.signed_file import written_as
from pipecrypt.dataset.staged import finish_version
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.paths import (
    RESERVED_DIRECTORY,
    RUNS_DIRECTORY,
    attempts_path,
    is_reserved,
    parse_run_id,
    run_path,
)
from pipecrypt.dataset.version import read_version
from pipecrypt.errors import IntegrityError, UsageError
from pipecrypt.runs.journal.block import unchecked_seal
from pipecrypt.runs.journal.journal import JournalRef, find_runs, read_blocks, read_header
from pipecrypt.runs.journal.sink_locking import check_unlocked, locked_sink
from pipecrypt.store.location import Location, Place
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.publication import is_temporary
from pipecrypt.store.small_files import locate
from pipecrypt.store.undo import is_undo
from pipecrypt.vocabulary.clock import utc_now
from pipecrypt.vocabulary.in_flight import map_in_flight

__all__ = ["DEFAULT_GRACE", "CleanSummary", "clean", "parse_grace"]

_log = logging.getLogger(__name__)
DEFAULT_GRACE: Final = timedelta(hours=24)
_PROBES: Final = f"{RESERVED_DIRECTORY}/probe-"
_GRACE: Final = re.compile(r"(?P<count>\d{1,7})(?P<unit>[smhd])", re.ASCII)
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSummary:
    """What was removed, or would be.

    Args:
        sink: the directory.
        is_dry_run: whether nothing was touched.
        removed: paths below the sink, sorted.
        removed_bytes: their sizes.
        runs: ids of the runs that left them.
        kept_runs: ids of runs that did not finish, and are younger than the grace period.
        put_in_place: whether files of a signed version were moved to their places.
    """

    sink: str
    is_dry_run: bool
    removed: tuple[str, ...]
    removed_bytes: int
    runs: tuple[str, ...]
    kept_runs: tuple[str, ...]
    put_in_place: bool


def clean(
    sink: Place,
    *,
    grace: timedelta = DEFAULT_GRACE,
    dry_run: bool = False,
    sink_options: dict[str, object] | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> CleanSummary:
    """Remove what runs left in a directory that were killed at least `grace` ago and were not resumed.

    Args:
        sink: the directory; a path or any fsspec URL.
        grace: how long a run may still be resumed.
        dry_run: only say what would be removed.
        sink_options: storage options, for fsspec.
        clock: gives the time in UTC.

    Raises:
        UsageError: there is no such directory.
        ConflictError: a run is writing there now.
        LinkError: a link is where a file or a directory of ours should be; nothing was removed.
        IntegrityError: the statement there is malformed, or a file that it lists is neither staged nor in place.
        StorageError: the storage refused or failed.
    """
    place = Location.of(sink, sink_options)
    if not open_store(place).stat().is_directory():
        raise UsageError(f"{place.display} is not a directory", hint="name the directory that runs write to")
    cleaning = _Cleaning(place, clock(), grace, is_dry_run=dry_run)
    if dry_run:
        check_unlocked(place)
        return cleaning.carry_out()
    with locked_sink(place, "pipecrypt clean"):
        return cleaning.carry_out()


def parse_grace(text: str) -> timedelta:
    """Return a grace period from text such as `24h`, `7d`, `90m` or `0s`.

    Raises:
        UsageError: it is not such a text.
    """
    found = _GRACE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:40]!a} is not a grace period", hint="write a number and a unit: 24h, 7d, 90m, 0s")
    return timedelta(seconds=int(found["count"]) * _UNIT_SECONDS[found["unit"]])


class _Cleaning:
    """One walk over a sink."""

    def __init__(self, sink: Location, now: datetime, grace: timedelta, *, is_dry_run: bool) -> None:
        self._sink = sink
        self._now = now
        self._grace = grace
        self._is_dry_run = is_dry_run
        self._entries: tuple[FileEntry, ...] = ()
        self._listed: frozenset[str] = frozenset()
        self._run: str | None = None
        self._found: dict[str, SourceFile] = {}
        self._files_of: dict[str, list[str]] = {}  # what is in the directory of each run, by run id

    def carry_out(self) -> CleanSummary:
        """Look, and remove; the caller holds the lock."""
        version = read_version(*locate(self._sink), None)
        if version is not None:
            self._entries, self._run = tuple(version.entries.values()), version.manifest.run
            self._listed = frozenset(version.entries)
        self._found = dict(self._look())
        self._files_of = _by_run(self._found)
        put_in_place = self._put_in_place()
        runs = find_runs(self._sink)
        last_finished = max((run.run_id for run in runs if run.is_finished), default="")
        dead = [run for run in runs if not run.is_finished and run.run_id != self._run]
        old, kept = list[JournalRef](), list[JournalRef]()
        for run in dead:
            is_old = run.run_id < last_finished or self._is_past(parse_run_id(run.run_id))
            (old if is_old else kept).append(run)
        doomed = dict.fromkeys([*self._of_runs(old, runs), *self._set_aside(runs), *self._temporary()])
        for path in doomed:
            if not self._is_dry_run:
                open_store(self._found[path].location).remove()
        if not self._is_dry_run:
            open_store(self._sink.child(RUNS_DIRECTORY)).remove_empty_directories()
        return CleanSummary(
            sink=self._sink.display,
            is_dry_run=self._is_dry_run,
            removed=tuple(sorted(doomed)),
            removed_bytes=sum(self._found[path].size_bytes for path in doomed),
            runs=tuple(run.run_id for run in old),
            kept_runs=tuple(run.run_id for run in kept),
            put_in_place=put_in_place,
        )

    def _look(self) -> Iterator[tuple[str, SourceFile]]:
        """Yield the files of the sink. Links among data are the user's own, and stay; none is among what is ours."""
        for entry in open_store(self._sink).list():
            if entry.source is not None:
                yield entry.path, entry.source
            elif is_reserved(entry.path):
                entry.refuse_link()

    def _put_in_place(self) -> bool:
        """Finish a version that was signed: its files are not leftovers, wherever they lie."""
        if self._run is None:
            return False
        prefix = run_path(self._run, "staged/")
        staged = (path for path in self._files_of.get(self._run, ()) if path.startswith(prefix))
        is_due = any(path[len(prefix) :] in self._listed for path in staged)
        if is_due and not self._is_dry_run:
            finish_version(self._sink, self._run, self._entries)
        return is_due

    def _of_runs(self, old: list[JournalRef], runs: tuple[JournalRef, ...]) -> Iterator[str]:
        """Yield what the runs left: their own directories, and data files that never became part of anything."""
        datasets = {dataset_id for run in old for dataset_id in self._dataset_of(run)}
        if datasets:
            needed = self._listed | {path for run in runs if run.is_finished for path in self._noted(run)}
            doubtful = [path for path in self._found if path not in needed and not is_reserved(path)]
            contexts = map_in_flight(lambda path: written_as(self._found[path]), doubtful, name="footers")
            for path, context in zip(doubtful, contexts, strict=True):
                if context is not None and context.dataset_id in datasets:
                    yield path
        # The journal goes last: what it leads to must not be left without it.
        for run in old:
            yield from self._files_of.get(run.run_id, ())

    def _set_aside(self, runs: tuple[JournalRef, ...]) -> Iterator[str]:
        """Yield what is staged by finished runs whose version is not the one that is there, and attempts of all."""
        for run in runs:
            files, is_current = self._files_of.get(run.run_id, ()), run.run_id == self._run
            if run.is_finished or is_current:
                late = attempts_path(run.run_id) + "/"
                yield from (path for path in files if path.startswith(late))
            if run.is_finished and not is_current:
                prefix = run_path(run.run_id, "staged/")
                yield from (path for path in files if path.startswith(prefix))

    def _dataset_of(self, run: JournalRef) -> Iterator[str]:
        # A journal that was damaged leads to the files of its run all the same.
        header = read_header(self._sink, run, lambda name: unchecked_seal([name]))
        if header is not None and not header.is_staged:
            yield header.dataset_id

    def _noted(self, run: JournalRef) -> Iterator[str]:
        """Yield the files that are there and that a run noted, up to where its journal is damaged."""
        try:
            for block in read_blocks(self._sink, run, unchecked_seal(run.blocks)):
                paths = (part.path for record in block.records for part in record.parts)
                yield from (path for path in paths if path in self._found)
        except IntegrityError as error:
            _log.warning("%s", error.message)

    def _temporary(self) -> Iterator[str]:
        """Yield temporary files and probes that are older than the grace period; locks go with their holders."""
        for path, file in self._found.items():
            name = path.rpartition("/")[2]
            is_leftover = (is_temporary(name) and not is_undo(name)) or path.startswith(_PROBES)
            if is_leftover and self._is_old(file):
                yield path

    def _is_old(self, file: SourceFile) -> bool:
        if file.mtime_ns is None:
            return self._grace <= timedelta()  # a store that tells no time: what may be young stays
        return self._is_past(datetime.fromtimestamp(file.mtime_ns / _NANOSECONDS, UTC))

    def _is_past(self, moment: datetime) -> bool:
        # Without a grace period everything is over, whatever clocks say.
        return self._grace <= timedelta() or moment < self._now - self._grace


def _by_run(found: Iterable[str]) -> dict[str, list[str]]:
    """Return the files below the directory of each run; what lies in the place of such a directory is in none."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    prefix = f"{RUNS_DIRECTORY}/"
    for path in found:
        if path.startswith(prefix):
            run_id, _, name = path.removeprefix(prefix).partition("/")
            if name:
                files[run_id].append(path)
    return dict(files)
