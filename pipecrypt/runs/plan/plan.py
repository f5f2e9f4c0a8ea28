"""Decide what a run will do, file by file, before anything is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pipecrypt.dataset.signed_sources import list_signed_sources
from pipecrypt.errors import ConflictError, LinkError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.kinds.table import KindChooser
from pipecrypt.runs.output import Target
from pipecrypt.runs.plan.output_checks import check_outputs
from pipecrypt.runs.spec.options import ExecutorKind, RunOptions
from pipecrypt.runs.spec.spec import Spec
from pipecrypt.runs.task import Kind, Task, task_ids
from pipecrypt.store.lease import HeldLease
from pipecrypt.store.listing import check_disjoint, list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.publication import new_token
from pipecrypt.vocabulary.context import new_dataset_id
from pipecrypt.vocabulary.in_flight import map_in_flight

__all__ = ["Plan", "RunKeys", "find_sources", "make_plan"]


@dataclass(frozen=True, slots=True)
class RunKeys:
    """All keys that a run may use, as they travel to each process that does tasks of it.

    Args:
        references: the key references; no others are ever used.
        dataset_id: of the dataset that is written; None where files are decrypted.
        also: key references of further master keys that each KEK is wrapped for.
    """

    references: tuple[str, ...]
    dataset_id: str | None = None
    also: tuple[str, ...] = ()

    def open(self, credentials: Credentials) -> KeySession:
        """Return a session of this process, which makes KEKs of its own."""
        return KeySession(self.references, credentials=credentials, dataset_id=self.dataset_id, also=self.also)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do.

    Args:
        operation: `encrypt` or `decrypt`.
        tasks: one for each output file, in the order of their paths.
        keys: all that the run may use.
        workers: processes that work at once; 1 for none but this one.
        helpers: processes that help this one with each of its files, where it works alone.
        sink: where the outputs go.
        is_single_file: whether `sink` names the one output itself, not the directory of all.
        options: how the run goes about it.
        lock: the run's, of the sink; None where it has none.
    """

    operation: str
    tasks: tuple[Task, ...]
    keys: RunKeys
    workers: int
    sink: Location
    is_single_file: bool
    options: RunOptions = field(default_factory=RunOptions)
    lock: HeldLease | None = None
    helpers: int = 0

    @property
    def dataset_id(self) -> str | None:
        """The id of the dataset that is written; None where files are decrypted."""
        return self.keys.dataset_id

    @property
    def may_travel(self) -> bool:
        """Whether engines elsewhere may carry out the tasks, perhaps twice: the run must hold the lock of its sink."""
        return self.dataset_id is not None and not self.is_single_file

    @property
    def is_on_cluster(self) -> bool:
        """Whether a Dask cluster carries out the tasks."""
        return self.options.executor is ExecutorKind.DASK and self.may_travel

    @property
    def source_bytes(self) -> int:
        """Size of all inputs."""
        return sum(task.input_bytes for task in self.tasks)

    def in_dataset(self, dataset_id: str) -> Plan:
        """Return the plan of writing the same files into a dataset that exists.

        Args:
            dataset_id: bound into keys and pages instead of the one that was planned.
        """
        tasks = tuple(task.with_target(replace(task.target, dataset_id=dataset_id)) for task in self.tasks)
        return replace(self, tasks=tasks, keys=replace(self.keys, dataset_id=dataset_id))


def make_plan(spec: Spec) -> Plan:
    """List and pin the sources, and fix each one's output; nothing is made.

    Where keys are trusted, the sources are those that were signed, and each task holds what its file is compared with.

    Raises:
        NotTrustedError: nothing is signed there, or too few trusted keys signed it.
        IntegrityError: the statement, or which files there are, is not as it was signed.
        SourceNotFoundError: there is no source.
        UsageError: source and sink overlap, two outputs would be at one place, an output's name is too long, or a
            file's format is unknown.
        SinkNotEmptyError: the sink holds something, and nothing may be replaced.
        ConflictError: a signed statement would become false.
        StorageError: the storage refused or failed.
    """
    sources, is_one_file = find_sources(spec)
    is_single_file = _is_single_file(spec, len(sources), is_one_file=is_one_file)
    dataset_id = None if spec.policy is None else new_dataset_id()
    tasks = _tasks(spec, sources, dataset_id, is_single_file=is_single_file)
    if spec.only_tasks is not None:
        tasks = _chosen(tasks, spec.only_tasks)
    check_outputs(spec, [source for source, _ in sources], tasks, is_single_file=is_single_file)
    # What lives in this process's memory cannot be reached from another one.
    is_alone = spec.source.is_in_this_process or spec.sink.is_in_this_process
    workers, helpers = workers_and_helpers(tasks, 1 if is_alone else spec.workers, spec.run)
    return Plan(
        operation=spec.operation,
        tasks=tasks,
        keys=RunKeys(spec.key_references, dataset_id, spec.also),
        workers=workers,
        helpers=helpers,
        sink=spec.sink,
        is_single_file=is_single_file,
        options=spec.run,
    )


_LEAST_CORES: Final = 3  # one process keeps nearly one and a half busy by itself


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def workers_and_helpers(tasks: Sequence[Task], wanted: int, options: RunOptions) -> tuple[int, int]:
    """Return how many processes do tasks of their own, and how many help one that does all.

    Args:
        tasks: what is to be done.
        wanted: how many processes may be at work.
        options: how the run goes about it.
    """
    is_here = options.executor is ExecutorKind.LOCAL and (options.files_in_flight or 1) == 1
    is_few = 0 < len(tasks) < wanted and usable_cores() >= _LEAST_CORES
    if is_here and is_few and all(task.kind.may_be_shared(task) for task in tasks):
        return 1, min(wanted, usable_cores()) - 1
    return max(1, min(wanted, len(tasks))), 0


def find_sources(spec: Spec) -> tuple[list[tuple[SourceFile, Kind]], bool]:
    """Return the sources, each with what is done with it, and whether the caller names one file itself.

    A glob or a directory that happens to hold one file names none: tomorrow it may hold two.

    Raises:
        PipecryptError: as `make_plan`; no sink is touched.
    """
    check_disjoint(spec.source, spec.sink, spec.pattern)
    requirements, kinds = spec.checks.requirements, KindChooser(spec)
    if requirements is None:
        sources = list_sources(spec.source, spec.pattern)
        is_one_file = len(sources) == 1 and sources[0].location == spec.source
        return [(source, kinds.choose(source.location, None)) for source in sources], is_one_file
    found = list_signed_sources(spec.source, requirements, spec.pattern)
    chosen = [(each.source, kinds.choose(each.source.location, each.signed)) for each in found]
    return chosen, len(found) == 1 and found[0].is_named


def _is_single_file(spec: Spec, count: int, *, is_one_file: bool) -> bool:
    """Return whether the sink names the one output itself."""
    sink = spec.sink
    there = open_store(sink).stat() if is_one_file and not sink.names_directory else None
    is_named = there is not None and not there.is_directory()
    if there is not None and there.is_directory() and there.follows_link:
        # Whoever can write beside an output could put it in the output's place.
        raise LinkError(
            f"{sink.display} is a symbolic link to a directory",
            hint=f"to write into that directory, end its name with a slash: {sink.display}/",
        )
    if sink.is_standard_stream and not is_one_file:
        raise UsageError(f"{count} files cannot go to standard output", hint="name one file, or a directory")
    if spec.source.is_standard_stream and not is_named:
        raise UsageError("what comes from standard input has no name", hint="give a file name as the sink")
    return is_named


def _tasks(
    spec: Spec, sources: Sequence[tuple[SourceFile, Kind]], dataset_id: str | None, *, is_single_file: bool
) -> tuple[Task, ...]:
    sink, token, tasks, id_of = spec.sink, new_token(), [], task_ids(spec.key_spellings)
    for (source, whole), parts in zip(sources, _split_kinds(spec, sources), strict=True):
        is_named = is_single_file and not sink.is_standard_stream
        path = sink.name if is_named else whole.output_path(source.relative_path)
        target = Target(
            sink=sink if is_single_file else sink.child(path),
            path=path,
            token=token,
            dataset_id=dataset_id,
            overwrite=spec.overwrite,
        )
        outputs = [(part, target.numbered(index)) for index, part in enumerate(parts)] or [(whole, target)]
        for kind, place in outputs:
            tasks.append(Task(id=id_of(source, place.path, kind), source=source, kind=kind, target=place))
    return tuple(tasks)


def _split_kinds(spec: Spec, sources: Sequence[tuple[SourceFile, Kind]]) -> list[tuple[Kind, ...]]:
    """Return for each source what the tasks that share it would do; nothing for those that stay whole."""
    split_bytes = spec.run.split_bytes
    # Standard output cannot be several files.
    if split_bytes is None or spec.sink.is_standard_stream:
        return [()] * len(sources)
    return list(map_in_flight(lambda each: each[1].split(each[0], split_bytes), sources, name="footers"))


def _chosen(tasks: Sequence[Task], ids: frozenset[str]) -> tuple[Task, ...]:
    """Return the tasks of a saved plan."""
    chosen = tuple(task for task in tasks if task.id in ids)
    if len(chosen) != len(ids):
        raise ConflictError(
            f"{len(ids) - len(chosen)} of {len(ids)} tasks of the saved plan are not what they were",
            hint="a source changed or is gone, or the configuration is another: plan anew",
        )
    return chosen
