"""Decide what a run will do, file by file, before anything is made. Doing it is left to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipecrypt.context import new_dataset_id
from pipecrypt.errors import SinkNotEmptyError
from pipecrypt.pipeline.request import DecryptRequest, EncryptRequest
from pipecrypt.pipeline.task import Decryption, Encryption, Task
from pipecrypt.storage.listing import SourceFile, list_sources
from pipecrypt.storage.location import Location
from pipecrypt.storage.overlap import check_disjoint, check_outputs
from pipecrypt.storage.sink import is_directory, new_token, sink_is_empty

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do.

    Args:
        name: `encrypt` or `decrypt`.
        tasks: one for each output file, in the order of their paths.
        key_references: all that the run may use.
        dataset_id: of the dataset that is written; None where files are decrypted.
        workers: processes that work at once; 1 for none but this one.
    """

    name: str
    tasks: tuple[Task, ...]
    key_references: tuple[str, ...]
    dataset_id: str | None
    workers: int

    @property
    def source_bytes(self) -> int:
        """Size of all inputs."""
        return sum(task.source.size_bytes for task in self.tasks)


def make_plan(request: EncryptRequest | DecryptRequest) -> Plan:
    """List and pin the sources, and fix each one's output; nothing is made.

    Raises:
        SourceNotFoundError: there is no source.
        UsageError: source and sink overlap, or two outputs would be at one place.
        SinkNotEmptyError: the sink holds something, and nothing may be replaced.
        StorageError: the storage refused or failed.
    """
    check_disjoint(request.source, request.sink)
    sources = list_sources(request.source)
    outputs = _outputs(request, sources)
    check_outputs(sources, [sink for sink, _ in outputs])
    if not request.overwrite and not sink_is_empty(request.sink):
        raise SinkNotEmptyError(f"the sink {request.sink.display} holds something already")
    return _plan(request, sources, outputs)


def _outputs(request: EncryptRequest | DecryptRequest, sources: Sequence[SourceFile]) -> list[tuple[Location, str]]:
    """Return each output and its path below the sink."""
    sink = request.sink
    # A glob or a directory that happens to hold one file does not count: tomorrow it may hold two.
    is_one_file = len(sources) == 1 and sources[0].location == request.source
    if is_one_file and not sink.names_directory and not is_directory(sink):
        return [(sink, sink.name)]
    return [(sink.child(source.relative_path), source.relative_path) for source in sources]


def _plan(
    request: EncryptRequest | DecryptRequest, sources: Sequence[SourceFile], outputs: Sequence[tuple[Location, str]]
) -> Plan:
    operation: Encryption | Decryption
    if isinstance(request, EncryptRequest):
        dataset_id = new_dataset_id()
        policy = request.policy.engine_policy()
        operation, references = Encryption(policy, dataset_id), policy.key_references()
    else:
        dataset_id = None
        operation, references = Decryption(request.aad_prefix), request.keys
    token = new_token()
    tasks = tuple(
        Task(source=source, sink=sink, path=path, operation=operation, overwrite=request.overwrite, token=token)
        for source, (sink, path) in zip(sources, outputs, strict=True)
    )
    # What lives in this process's memory cannot be reached from another one.
    is_alone = request.source.is_in_this_process or request.sink.is_in_this_process
    workers = 1 if is_alone else min(request.workers, len(tasks))
    name = "decrypt" if dataset_id is None else "encrypt"
    return Plan(name=name, tasks=tasks, key_references=references, dataset_id=dataset_id, workers=workers)
