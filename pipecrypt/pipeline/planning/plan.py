"""Decide what a run will do, file by file, before anything is made. Doing it is left to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipecrypt.context import new_dataset_id
from pipecrypt.dataset.listing import CHUNKS_SUFFIX, ENCRYPTED_FILES
from pipecrypt.dataset.sign.sink_checks import check_outside_datasets, check_unsigned_directory, check_unsigned_file
from pipecrypt.dataset.statement.paths import (
    LOCK_DIRECTORY,
    RESERVED_DIRECTORY,
    check_inside,
    check_signable_paths,
    is_reserved,
)
from pipecrypt.documents import DocumentError
from pipecrypt.errors import ConflictError, LinkError, SinkNotEmptyError, UsageError
from pipecrypt.pipeline.planning.checked_sources import compared, find_sources
from pipecrypt.pipeline.planning.output_names import check_output_names
from pipecrypt.pipeline.planning.splitting import Share, shares_of_each
from pipecrypt.pipeline.planning.task_id import task_id
from pipecrypt.pipeline.request.reading import FileReading, Reading
from pipecrypt.pipeline.request.request import DecryptRequest, EncryptRequest
from pipecrypt.pipeline.request.run_options import ExecutorKind, RunOptions
from pipecrypt.pipeline.task.operation import ChunkEncryption, Decryption, Encryption, Ingestion, Operation, Task
from pipecrypt.pipeline.task.output import numbered, sidecar_files, unnumbered
from pipecrypt.sources.formats import (
    MAGIC_BYTES,
    SourceFormat,
    guess_format,
    known_suffixes,
    output_name,
    sniff_format,
)
from pipecrypt.storage.listing import SourceFile, list_sources
from pipecrypt.storage.location import Location
from pipecrypt.storage.overlap import check_disjoint, check_outputs
from pipecrypt.storage.pattern import EVERY_FILE, PARQUET_SUFFIXES, Pattern, all_ending
from pipecrypt.storage.sink import is_directory, is_link, new_token, sink_is_empty
from pipecrypt.storage.sink_lock import HeldLock
from pipecrypt.storage.source import read_start

__all__ = [
    "Plan",
    "make_plan",
    "planned_sources",
    "rolls_over",
    "split_path",
    "statement_places",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do.

    Args:
        name: `encrypt` or `decrypt`.
        tasks: one for each output file, in the order of their paths.
        key_references: all that the run may use.
        also: further master keys that each KEK is wrapped for.
        dataset_id: of the dataset that is written; None where files are decrypted.
        workers: processes that work at once; 1 for none but this one.
        sink: where the outputs go.
        is_single_file: whether `sink` names the one output itself, not the directory of all.
        options: how the run goes about it.
        lock: the run's, of the sink; None where it has none.
    """

    name: str
    tasks: tuple[Task, ...]
    key_references: tuple[str, ...]
    also: tuple[str, ...]
    dataset_id: str | None
    workers: int
    sink: Location
    is_single_file: bool
    options: RunOptions = field(default_factory=RunOptions)
    lock: HeldLock | None = None

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
        tasks = tuple(replace(task, operation=_in_dataset(task.operation, dataset_id)) for task in self.tasks)
        return replace(self, tasks=tasks, dataset_id=dataset_id)


def make_plan(request: EncryptRequest | DecryptRequest) -> Plan:
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
    below = _files_below(request)
    check_disjoint(request.source, request.sink, below)
    sources, signed, is_one_file = find_sources(request, below)
    dataset_id = new_dataset_id() if isinstance(request, EncryptRequest) else None
    is_single_file = _is_single_file(request, len(sources), is_one_file=is_one_file)
    tasks = _tasks(request, sources, dataset_id or "", is_single_file=is_single_file)
    if isinstance(request, DecryptRequest) and request.checks.requirements is not None:
        tasks = compared(tasks, signed)
    if isinstance(request, EncryptRequest) and request.only_tasks is not None:
        tasks = _chosen(tasks, request.only_tasks)
    check_outputs(sources, [task.sink for task in tasks])
    _check_numbered(tasks)
    check_output_names(request.sink, tasks, [task for task in tasks if rolls_over(task.operation)])
    if isinstance(request, EncryptRequest) and not is_single_file:
        _check_reserved(tasks)
    if not request.sink.is_standard_stream:
        _check_statements(request, tasks, is_single_file=is_single_file)
    # A run that keeps a journal looks by itself, while it has the lock, what of it is done already.
    keeps_journal = isinstance(request, EncryptRequest) and request.run.keeps_journal and not is_single_file
    if not request.overwrite and not keeps_journal:
        _check_sink(request.sink, tasks if is_single_file else ())
    if isinstance(request, EncryptRequest):
        name, references = "encrypt", request.policy.engine_policy().key_references()
    else:
        name, references = "decrypt", request.keys
    # What lives in this process's memory cannot be reached from another one.
    is_alone = request.source.is_in_this_process or request.sink.is_in_this_process
    workers = 1 if is_alone else min(request.workers, len(tasks))
    return Plan(
        name=name,
        tasks=tasks,
        key_references=references,
        also=tuple(request.policy.also) if isinstance(request, EncryptRequest) else (),
        dataset_id=dataset_id,
        workers=workers,
        sink=request.sink,
        is_single_file=is_single_file,
        options=request.run if isinstance(request, EncryptRequest) else RunOptions(),
    )


def _chosen(tasks: Sequence[Task], ids: frozenset[str]) -> tuple[Task, ...]:
    """Return the tasks of a saved plan."""
    chosen = tuple(task for task in tasks if task.id in ids)
    if len(chosen) != len(ids):
        raise ConflictError(
            f"{len(ids) - len(chosen)} of {len(ids)} tasks of the saved plan are not what they were",
            hint="a source changed or is gone, or the configuration is another: plan anew",
        )
    return chosen


def planned_sources(request: EncryptRequest) -> tuple[tuple[SourceFile, Operation], ...]:
    """Return the sources of a run and what would be done with each, for a look ahead: no sink is touched.

    Raises:
        PipecryptError: as `make_plan`.
    """
    below = _files_below(request)
    check_disjoint(request.source, request.sink, below)
    return tuple((source, _operation(request, source, "")) for source in list_sources(request.source, below))


def _files_below(request: EncryptRequest | DecryptRequest) -> Pattern:
    """Return which files of a directory are sources."""
    if isinstance(request, DecryptRequest):
        return ENCRYPTED_FILES
    if request.policy.is_chunks:
        return EVERY_FILE
    given = request.reading.format
    return all_ending(known_suffixes(None if given is None else SourceFormat(given)))


def _is_single_file(request: EncryptRequest | DecryptRequest, count: int, *, is_one_file: bool) -> bool:
    """Say whether the sink names the one output itself."""
    sink = request.sink
    is_named = is_one_file and not sink.names_directory and not is_directory(sink)
    if is_one_file and not is_named and not sink.names_directory and is_link(sink):
        # Whoever can write beside an output could put it in the output's place.
        raise LinkError(
            f"{sink.display} is a symbolic link to a directory",
            hint=f"to write into that directory, end its name with a slash: {sink.display}/",
        )
    if sink.is_standard_stream and not is_one_file:
        raise UsageError(f"{count} files cannot go to standard output", hint="name one file, or a directory")
    if request.source.is_standard_stream and not is_named:
        raise UsageError("what comes from standard input has no name", hint="give a file name as the sink")
    return is_named


def _tasks(
    request: EncryptRequest | DecryptRequest,
    sources: Sequence[SourceFile],
    dataset_id: str,
    *,
    is_single_file: bool,
) -> tuple[Task, ...]:
    sink, token = request.sink, new_token()
    spellings = request.key_spellings if isinstance(request, EncryptRequest) else {}
    operations = [_operation(request, source, dataset_id) for source in sources]
    tasks = []
    for source, whole, shares in zip(sources, operations, _shares(request, sources, operations), strict=True):
        path = (
            sink.name if is_single_file and not sink.is_standard_stream else _output_path(whole, source.relative_path)
        )
        target = sink if is_single_file else sink.child(path)
        for operation, output, place in _split(whole, path, target, shares):
            tasks.append(
                Task(
                    id=task_id(source, output, operation, spellings),
                    source=source,
                    sink=place,
                    path=output,
                    operation=operation,
                    overwrite=request.overwrite,
                    token=token,
                )
            )
    return tuple(tasks)


def _shares(
    request: EncryptRequest | DecryptRequest, sources: Sequence[SourceFile], operations: Sequence[Operation]
) -> list[tuple[Share, ...]]:
    """Return for each source how it is split; nothing for those that stay whole."""
    shares: list[tuple[Share, ...]] = [()] * len(sources)
    # Standard output cannot be several files.
    if isinstance(request, DecryptRequest) or request.run.split_bytes is None or request.sink.is_standard_stream:
        return shares
    chosen = [index for index, operation in enumerate(operations) if isinstance(operation, Encryption)]
    found = shares_of_each([sources[index] for index in chosen], request.run.split_bytes)
    for index, of_file in zip(chosen, found, strict=True):
        shares[index] = of_file
    return shares


def _split(
    operation: Operation, path: str, sink: Location, shares: Sequence[Share]
) -> Iterator[tuple[Operation, str, Location]]:
    """Yield what is done, the path and the place of each output; the one output of a file that stays whole."""
    if not shares or not isinstance(operation, Encryption):
        yield operation, path, sink
        return
    for index, share in enumerate(shares):
        part = replace(operation, row_groups=share.row_groups, share_bytes=share.size_bytes)
        yield part, numbered(path, index), sink.sibling(numbered(sink.name, index))


def _check_sink(sink: Location, tasks: Sequence[Task]) -> None:
    """Refuse a sink that holds something; `tasks` where a single file may be split, and have other names."""
    for place in dict.fromkeys([sink, *(task.sink for task in tasks)]):
        if not sink_is_empty(place, besides=LOCK_DIRECTORY):
            raise SinkNotEmptyError(f"the sink {place.display} holds something already")


def _check_numbered(tasks: Sequence[Task]) -> None:
    """Refuse outputs that a file which is rolled over may come to replace."""
    rolled = {task.path for task in tasks if rolls_over(task.operation)}
    for task in tasks:
        original = unnumbered(task.path)
        if original in rolled and not rolls_over(task.operation):
            raise UsageError(
                f"{task.sink.display} may be one of the files that {original} is rolled over to",
                hint="name the source files apart, or give no size of files",
            )


def _check_reserved(tasks: Sequence[Task]) -> None:
    """Refuse outputs where runs keep what is theirs: nobody would take them for data again."""
    reserved = next((task for task in tasks if is_reserved(task.path.lower())), None)  # some systems ignore case
    if reserved is not None:
        raise UsageError(
            f"{reserved.source.location.display} would be written below {RESERVED_DIRECTORY}/",
            hint="rename that directory, or name the source files by a glob",
        )


def _check_statements(request: EncryptRequest | DecryptRequest, tasks: Sequence[Task], *, is_single_file: bool) -> None:
    """Refuse names that cannot be signed, and files that would make false what is signed already."""
    check_outside_datasets(request.sink)
    if isinstance(request, EncryptRequest) and request.policy.signing is not None:
        check_signable_paths(numbered(task.path, 0) if rolls_over(task.operation) else task.path for task in tasks)
    elif is_single_file:
        for file in statement_places(request.sink, tasks):
            check_unsigned_file(file)
    else:
        paths = [numbered(task.path, 0) if rolls_over(task.operation) else task.path for task in tasks]
        check_unsigned_directory(request.sink, paths, overwrite=request.overwrite)


def statement_places(sink: Location, tasks: Sequence[Task]) -> list[Location]:
    """Return which files of a single source may have a statement beside them already."""
    if any(split_path(task) is not None for task in tasks):
        return [task.sink for task in tasks]
    return sidecar_files(sink, is_numbered=any(rolls_over(task.operation) for task in tasks))


def split_path(task: Task) -> str | None:
    """Return which path the output would have if its source were not split; None where it is not."""
    is_part = isinstance(task.operation, Encryption) and task.operation.row_groups is not None
    return unnumbered(task.path) if is_part else None


def rolls_over(operation: Operation) -> bool:
    """Say whether a task may write several files, numbered."""
    return isinstance(operation, Ingestion) and operation.max_file_bytes is not None


def _in_dataset(operation: Operation, dataset_id: str) -> Operation:
    if isinstance(operation, Decryption):
        raise AssertionError("what is decrypted is of no dataset")
    return replace(operation, dataset_id=dataset_id)


def _operation(request: EncryptRequest | DecryptRequest, source: SourceFile, dataset_id: str) -> Operation:
    if isinstance(request, DecryptRequest):
        return Decryption(request.aad_prefix, mode=request.checks.mode)
    policy = request.policy
    if policy.is_chunks:
        return ChunkEncryption(policy.engine_policy(), dataset_id, policy.chunk_bytes, policy.compresses_chunks)
    reading = _reading(request.reading, source)
    if reading.format is SourceFormat.PARQUET:
        return Encryption(policy.engine_policy(), dataset_id)
    return Ingestion(policy.engine_policy(), dataset_id, reading, policy.encode_options(), request.max_file_bytes)


def _reading(reading: Reading, source: SourceFile) -> FileReading:
    name, display = source.location.name, source.location.display
    if reading.format is None and source.location.is_standard_stream:
        hint = "say which it is: parquet, csv, json, arrow or orc; or encrypt it in chunks"
        raise UsageError("standard input has no name that tells its format", hint=hint)
    if reading.format is None and guess_format(name)[0] is None:
        # Only names that tell nothing cost a look into the file.
        sniffed = sniff_format(read_start(source.location, MAGIC_BYTES))
        return replace(reading, format=None if sniffed is None else sniffed.value).of(name, display)
    return reading.of(name, display)


def _output_path(operation: Operation, relative_path: str) -> str:
    if isinstance(operation, ChunkEncryption):
        return relative_path + CHUNKS_SUFFIX
    if isinstance(operation, Decryption):
        return _restored_path(relative_path)
    path = output_name(relative_path) if isinstance(operation, Ingestion) else relative_path
    if path.endswith(CHUNKS_SUFFIX):
        raise UsageError(
            f"{relative_path!a} is a table, and its name would say {CHUNKS_SUFFIX}",
            hint="rename it: decrypting goes by it",
        )
    return path if path.lower().endswith(PARQUET_SUFFIXES) else f"{path}.parquet"


def _restored_path(relative_path: str) -> str:
    """Return where a file is decrypted to: somebody who can write to the source may call one `...chunks.parquet`."""
    path = relative_path.removesuffix(CHUNKS_SUFFIX)
    try:
        check_inside(path)
    except DocumentError as error:
        raise UsageError(
            f"{relative_path!a} would be decrypted to a name that no file can have: {error}",
            hint="decrypt it by itself, and name the output",
        ) from error
    return path
